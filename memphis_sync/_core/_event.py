"""What the parser reports, and its limits: shared by both bindings."""

from __future__ import annotations

from typing import NamedTuple

DEFAULT_MAX_PAYLOAD = 8 * 1024 * 1024 + 64 * 1024
"""Memphis' own 8 MiB limit for a message, and room for the headers that a broker may add on delivery; bytes."""

MAX_EVENTS = 256
"""Events taken from C in one call; large enough that the call costs nothing a frame, small enough for a cache."""


class Event(NamedTuple):
    """
    One frame from the server.

    Attributes:
        kind: ``INFO``, ``MSG``, ``HMSG``, ``PING``, ``PONG``, ``+OK`` or ``-ERR``.
        sid: Subscription id of MSG and HMSG; 0 for the others.
        subject: Of MSG and HMSG.
        reply: Reply subject; empty when there is none.
        headers: Of HMSG: the block from ``NATS/1.0`` to its empty line.
        payload: Of MSG and HMSG; for INFO the JSON text, for -ERR the text without its quotes.
    """

    kind: str
    sid: int
    subject: bytes
    reply: bytes
    headers: bytes
    payload: bytes


KINDS = ("", "INFO", "MSG", "HMSG", "PING", "PONG", "+OK", "-ERR")
"""Names of enum mcore_event_kind, by number."""
