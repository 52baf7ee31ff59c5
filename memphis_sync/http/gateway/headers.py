"""
Which HTTP headers become headers of the message.

All do, as in Memphis' own gateway, with their canonical names and the first value of each; but never what is about the
connection, the login, the encoding of the body, or this gateway's own. A message's readers must not find a token in it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Optional

from starlette.requests import Request

from memphis_sync import Headers

OWN_PREFIX = "memphis-"
IDS = ("idempotency-key", "msg-id")
_NEVER = frozenset(
    {
        "authorization",
        "connection",
        "content-encoding",  # the body is stored decoded
        "content-length",
        "cookie",
        "expect",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        *IDS,
    }
)


@lru_cache(4096)
def canonical(name: str) -> Optional[str]:
    """``x-my-header`` as ``X-My-Header``; None for what is not the message's."""
    if name in _NEVER or name.startswith(OWN_PREFIX):
        return None
    return "-".join(part[:1].upper() + part[1:] for part in name.split("-"))


def as_text(value: bytes) -> str:
    """A header's value: UTF-8, and latin-1 when it is not."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def message_headers(request: Request) -> Headers:
    """
    The headers of a request that its messages get.

    Raises:
        HeaderError: A name is one of the broker's own.
    """
    raw = request.scope["headers"]
    # What the header Connection names is about the connection, too: RFC 9110, 7.6.1.
    named = [value for name, value in raw if name == b"connection"]
    hop = {part.strip().lower() for value in named for part in value.decode("latin-1").split(",")}
    found = Headers()
    for name_bytes, value_bytes in raw:
        name = name_bytes.decode("latin-1")
        shown = canonical(name)
        if shown is None or shown in found or name in hop:
            continue
        found[shown] = as_text(value_bytes)
    return found
