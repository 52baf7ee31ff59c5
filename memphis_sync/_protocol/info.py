"""
How a connection begins: the server's greeting, ``INFO {...}``, and the client's login, ``CONNECT {...}``. Read and made
in one place, so that both links refuse the same input and send the same login.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from memphis_sync._core import encode_connect
from memphis_sync.errors import RemoteProtocolError
from memphis_sync.types import VERSION, Credentials

DEFAULT_MAX_PAYLOAD = 1024 * 1024  # of a server that names none
MAX_MAX_PAYLOAD = 2**31 - 1  # nats-server keeps it in an int32
MAX_FRAMES = 100  # of a handshake: servers send INFO, PONG, and seldom a PING or another INFO between
_SHOWN = 64


@dataclass(frozen=True)
class ServerInfo:
    """
    What a link needs of it.

    Attributes:
        max_payload: Largest message that the server accepts, headers included, in bytes.
        tls_required: Whether it wants TLS from here on.
        is_memphis: Whether it is a Memphis broker: only those have ``connection_id`` (protocol reference 1.1).
        fields: All that it says.
    """

    max_payload: int = DEFAULT_MAX_PAYLOAD
    tls_required: bool = False
    is_memphis: bool = False
    fields: dict[str, Any] = field(default_factory=dict)


def parse_info(text: bytes) -> ServerInfo:
    """
    Takes the JSON behind ``INFO``.

    Raises:
        RemoteProtocolError: It is not a JSON object, or a field that matters has a value that cannot be.
    """
    try:
        info = json.loads(text)
    except (ValueError, RecursionError):  # not JSON, or nested thousands of levels deep
        raise RemoteProtocolError("its INFO is not JSON") from None
    if not isinstance(info, dict):
        raise RemoteProtocolError("its INFO is not a JSON object")
    max_payload = info.get("max_payload", DEFAULT_MAX_PAYLOAD)
    if isinstance(max_payload, bool) or not isinstance(max_payload, int) or not 0 < max_payload <= MAX_MAX_PAYLOAD:
        raise RemoteProtocolError(
            f"max_payload in its INFO is {_short(max_payload)}; it must be a whole number from 1 to {MAX_MAX_PAYLOAD}"
        )
    tls_required = info.get("tls_required", False)
    if not isinstance(tls_required, bool):
        raise RemoteProtocolError(f"tls_required in its INFO is {_short(tls_required)}; it must be true or false")
    urls = info.get("connect_urls")
    if urls is not None and not (isinstance(urls, list) and all(map(_is_address, urls))):
        raise RemoteProtocolError("connect_urls in its INFO are not addresses as host:port")
    return ServerInfo(max_payload, tls_required, "connection_id" in info, info)


def _is_address(value: Any) -> bool:
    try:
        parts = urlsplit(f"nats://{value}")
        return isinstance(value, str) and bool(parts.hostname) and parts.port is not None
    except ValueError:
        return False


def login_options(credentials: Credentials, connection_id: str) -> dict[str, Any]:
    """Name and login as nats-py's connect() takes them; user and name are Memphis' (protocol reference 1.2, 1.3)."""
    name = f"{connection_id}::{credentials.identity}"
    if credentials.token is not None:
        return {"name": name, "token": credentials.token}
    return {"name": name, "user": credentials.login, "password": credentials.password or ""}


def connect_request(credentials: Credentials, connection_id: str) -> bytes:
    """The CONNECT frame of the data link. Source: NATS client protocol."""
    options = login_options(credentials, connection_id)
    words = {"token": "auth_token", "password": "pass"}
    fields = {
        "verbose": False,
        "pedantic": False,
        "headers": True,
        "no_responders": True,
        "echo": True,
        "protocol": 1,
        "lang": "python3",
        "version": VERSION,  # which the server shows in its list of connections
        **{words.get(name, name): value for name, value in options.items()},
    }
    return encode_connect(json.dumps(fields).encode())


def _short(value: Any) -> str:
    if not isinstance(value, (str, int, float, type(None))):
        return f"of type {type(value).__name__}"
    if isinstance(value, int) and value.bit_length() > 8 * _SHOWN:  # Python refuses to write out the longest
        return f"a number of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
