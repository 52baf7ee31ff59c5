"""The header blocks of dead letters: as stored, as sent to a group again, and as copied to a dead-letter station."""

from __future__ import annotations

import re
from collections.abc import Mapping

from memphis_sync._core import encode_headers, parse_headers
from memphis_sync.errors import MemphisError

PRODUCED_BY = "$memphis_producedBy"
RESENT = "$memphis_dls"  # in PRODUCED_BY: a message that was a dead letter already
ID, GROUP = "$memphis_pm_id", "$memphis_pm_cg_name"
# Our broker's own, on a message that is sent to a group again: where it lies in the station, when it was stored (in
# nanoseconds since 1970), and whether it is no dead letter, but owed to the group.
PARTITION, SEQUENCE, TIME = "$memphis_sync_partition", "$memphis_sync_sequence", "$memphis_sync_time"
OWED = "$memphis_sync_owed"

_NAME = re.compile(r"[\x21-\x39\x3b-\x7e]+\Z")  # of a header: visible ASCII without a colon
_LINE_ENDS = str.maketrans("\r\n\0", "   ")


def read_headers(block: bytes) -> dict[str, str]:
    """A header block as names and first values; none for an empty block, and for one that no client could read."""
    found: dict[str, str] = {}
    if block:
        try:
            pairs = parse_headers(block)[2]
        except MemphisError:
            return {}
        for name, value in pairs:
            found.setdefault(name, value)
    return found


def sendable_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The same headers without what cannot stand on the wire: names that are none, line ends, what is no UTF-8."""
    return {name: _clean(value) for name, value in headers.items() if _NAME.match(name)}


def write_headers(headers: Mapping[str, str]) -> bytes:
    """A header block; b"" for no headers."""
    pairs = [(name.encode(), value.encode()) for name, value in sendable_headers(headers).items()]
    return encode_headers(pairs) if pairs else b""


def resent_headers(
    headers: Mapping[str, str],
    dead_letter_id: int,
    group: str,
    *,
    partition: int,
    sequence: int,
    time_ns: int,
    is_owed: bool = False,
) -> dict[str, str]:
    """The headers of a message that is sent to a group again."""
    kept = {name: value for name, value in headers.items() if name not in ("producedBy", OWED)}
    own = {PRODUCED_BY: RESENT, ID: str(dead_letter_id), GROUP: group}
    place = {PARTITION: str(partition), SEQUENCE: str(sequence), TIME: str(time_ns)}
    return sendable_headers({**kept, **own, **place, **({OWED: "1"} if is_owed else {})})


def copied_headers(headers: Mapping[str, str], station: str, kind: str, message_id: str) -> dict[str, str]:
    """
    The headers of a dead letter's copy in a dead-letter station.

    JetStream's own headers are commands to the first station (its message id, the sequence it expected); the copy has
    an id of its own instead, so that it is stored once.
    """
    kept = {name: value for name, value in headers.items() if not name.lower().startswith("nats-")}
    return sendable_headers({**kept, "station": station, "type": kind, "Nats-Msg-Id": message_id})


def headers_size(headers: Mapping[str, str]) -> int:
    """Bytes of a header block with these headers."""
    lines = sum(len(name.encode()) + len(value.encode("utf-8", "replace")) + 4 for name, value in headers.items())
    return len(b"NATS/1.0\r\n") + lines + len(b"\r\n")


def _clean(value: str) -> str:
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace").translate(_LINE_ENDS)
