"""The server's greeting, ``INFO {...}``: read in one place, so that both links refuse the same nonsense."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from memphis_sync.errors import RemoteProtocolError

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
    """

    max_payload: int = DEFAULT_MAX_PAYLOAD
    tls_required: bool = False
    is_memphis: bool = False


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
    return ServerInfo(max_payload, tls_required, "connection_id" in info)


def _short(value: Any) -> str:
    if not isinstance(value, (str, int, float, type(None))):
        return f"of type {type(value).__name__}"
    if isinstance(value, int) and value.bit_length() > 8 * _SHOWN:  # Python refuses to write out the longest
        return f"a number of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
