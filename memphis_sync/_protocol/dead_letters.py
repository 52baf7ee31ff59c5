"""
Dead letters on the wire: how clients report and acknowledge them, and our own requests to list, send and drop them.

The reports have no reply. The requests are ours: Memphis has them in its REST API only. They go page by page, so that
no reply exceeds ``max_payload``: a page says where the next begins, and a payload that has no room in it is fetched by
itself, piece by piece.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Optional, cast

from memphis_sync._core import encode_headers, parse_headers
from memphis_sync._protocol.control import _key, _Request
from memphis_sync.errors import MemphisError, RemoteProtocolError

DeadLetterType = Literal["poison", "schema"]

TYPES: tuple[DeadLetterType, ...] = ("poison", "schema")
POISON, SCHEMA = TYPES

PRODUCED_BY = "$memphis_producedBy"
RESENT = "$memphis_dls"  # in PRODUCED_BY: a message that was a dead letter already
ID, GROUP = "$memphis_pm_id", "$memphis_pm_cg_name"
# Our broker's own, on a message that is sent to a group again: where it lies in the station, when it was stored (in
# nanoseconds since 1970), and whether it is no dead letter, but owed to the group.
PARTITION, SEQUENCE, TIME = "$memphis_sync_partition", "$memphis_sync_sequence", "$memphis_sync_time"
OWED = "$memphis_sync_owed"

MAX_GIVEN_BACK = 5000  # of a request; the largest batch

_NAME = re.compile(r"[\x21-\x39\x3b-\x7e]+\Z")  # of a header: visible ASCII without a colon
_LINE_ENDS = str.maketrans("\r\n\0", "   ")
_SHOWN_BYTES = 64

# Text as memphis.js writes it: two digits for a visible character, one for TAB, LF and CR, which it does not pad.
_UNPADDED = re.compile(r"(?:[2-7][0-9a-f]|[9ad])+\Z")
_UNPADDED_CHARACTER = re.compile(r"[2-7][0-9a-f]|[9ad]")


# ---- reports --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NackedDeadLetter(_Request):
    """
    ``$memphis_nacked_dls``: a consumer cannot use a message.

    Attributes:
        partition: Some clients send 0 for a station without partitions.
        cg_name: The group; clients write it as their users do.
        seq: The message's place in its partition.
    """

    STRUCT: ClassVar[str] = "NackedDlsMessage"

    station_name: str = _key("string")
    error: str = _key("string")
    partition: int = _key("int")
    cg_name: str = _key("string")
    seq: int = _key("uint64")


@dataclass(frozen=True)
class SchemaDeadLetter(_Request):
    """
    ``$memphis_schemaverse_dls``: a producer's message does not match the station's schema.

    Attributes:
        data: The payload in hexadecimal digits; see payload_of().
        report_id: Of our client: the same when a report is made again.
    """

    STRUCT: ClassVar[str] = "SchemaVerseDlsMessage"

    station_name: str = _key("string")
    producer_name: str = _key("string", key="name", inside="producer")
    connection_id: str = _key("string", inside="producer")
    data: str = _key("string", inside="message")
    headers: Mapping[str, str] = field(
        default_factory=dict, metadata={"go": "map[string]string", "key": "", "inside": "message", "struct": ""}
    )
    size: int = _key("int", inside="message")
    validation_error: str = _key("string")
    partition_number: int = _key("int")
    report_id: str = _key("string")


@dataclass(frozen=True)
class DeadLetterAck(_Request):
    """``$memphis_pm_acks``: a group is done with a dead letter that was sent to it again."""

    STRUCT: ClassVar[str] = "PoisonMessageAck"

    id: int = _key("int64")
    cg_name: str = _key("string")


@dataclass(frozen=True)
class MaxDeliveries(_Request):
    """JetStream's advisory that a group has had a message as often as it may."""

    STRUCT: ClassVar[str] = "JSConsumerDeliveryExceededAdvisory"

    stream: str = _key("string")
    consumer: str = _key("string")
    stream_seq: int = _key("uint64")
    deliveries: int = _key("uint64")


@dataclass(frozen=True)
class GroupGone(_Request):
    """
    ``$memphis_sync_dls_group_gone``, the broker's own: a group's durables were deleted.

    Attributes:
        before_ms: Dead letters that the group got later are those of a new group of that name; ms since 1970.
    """

    STRUCT: ClassVar[str] = "GroupGone"

    station_name: str = _key("string")
    cg_name: str = _key("string")
    before_ms: int = _key("int64")


@dataclass(frozen=True)
class GivenBack(_Request):
    """
    ``$memphis_sync_given_back``: a member of a group gives messages back without having looked at them; plain reply.
    One without messages, or with any that were sent again, says that the member is about to leave: when it is answered,
    no more are sent to it.

    Attributes:
        partitions: Of each message; the next two go with it, one for one.
        sequences: Places in the partition.
        deliveries: Which delivery of the message it was, from 1.
        resent: Ids of messages that were sent again.
        kept: The member still has the messages: it tells of them because it may die before it can give them back.
    """

    STRUCT: ClassVar[str] = "GivenBack"

    station_name: str = _key("string")
    cg_name: str = _key("string")
    partitions: tuple[int, ...] = _key("[]int64", ())
    sequences: tuple[int, ...] = _key("[]int64", ())
    deliveries: tuple[int, ...] = _key("[]int64", ())
    resent: tuple[int, ...] = _key("[]int64", ())
    kept: bool = _key("bool")

    @classmethod
    def of(
        cls,
        station: str,
        group: str,
        messages: Sequence[tuple[int, int, int]],
        resent: Sequence[int],
        *,
        kept: bool = False,
    ) -> GivenBack:
        """Makes one of (partition, sequence, delivery) triples."""
        partitions, sequences, deliveries = tuple(zip(*messages)) or ((), (), ())
        return cls(station, group, partitions, sequences, deliveries, tuple(resent), kept)


@dataclass(frozen=True)
class CountOwed(_Request):
    """``$memphis_sync_owed``: how many messages a group is owed; answered with a DeadLetterCountReply."""

    STRUCT: ClassVar[str] = "CountOwed"

    station_name: str = _key("string")
    cg_name: str = _key("string")


def payload_of(digits: str) -> bytes:
    """
    The payload in a report's ``data``.

    memphis.js writes characters below 16 with one digit. Where that makes the number of digits odd, and the rest is
    plain text, it is undone; anything else that is no hexadecimal stays as the text that was sent.
    """
    try:
        return bytes.fromhex(digits) if not any(char.isspace() for char in digits) else digits.encode()
    except ValueError:
        lowered = digits.lower()
    if _UNPADDED.match(lowered):
        return bytes(int(character, 16) for character in _UNPADDED_CHARACTER.findall(lowered))
    return digits.encode("utf-8", "replace")


# ---- headers --------------------------------------------------------------------------------------------------------


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


# ---- requests -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DeadLetterList(_Request):
    """
    ``$memphis_sync_dls_list``; answered by a DeadLetterListReply.

    Attributes:
        type: ``poison``, ``schema``, or "" for both.
        ids: Only these; empty for all.
        after_id: Where the page begins; 0 for the first.
        limit: The most rows of a page; the broker may give fewer.
        with_data: Whether the rows carry what they have room for of headers and payload.
    """

    STRUCT: ClassVar[str] = "listDlsMessagesRequest"

    station_name: str = _key("string")
    username: str = _key("string")
    type: str = _key("string")
    ids: tuple[int, ...] = _key("[]int64", ())
    after_id: int = _key("int64")
    limit: int = _key("int", 100)
    with_data: bool = _key("bool")


@dataclass(frozen=True)
class DeadLetterData(_Request):
    """``$memphis_sync_dls_data``: a piece of a dead letter's headers and payload; answered by a DeadLetterDataReply."""

    STRUCT: ClassVar[str] = "dlsMessageDataRequest"

    station_name: str = _key("string")
    username: str = _key("string")
    id: int = _key("int64")
    offset: int = _key("int64")


@dataclass(frozen=True)
class DeadLetterResend(_Request):
    """``$memphis_sync_dls_resend``: poison ones go to their groups again; answered by a DeadLetterCountReply."""

    STRUCT: ClassVar[str] = "resendPoisonMessagesSchema"

    station_name: str = _key("string")
    username: str = _key("string")
    ids: tuple[int, ...] = _key("[]int64", ())
    after_id: int = _key("int64")


@dataclass(frozen=True)
class DeadLetterDrop(_Request):
    """``$memphis_sync_dls_drop``; answered by a DeadLetterCountReply."""

    STRUCT: ClassVar[str] = "dropDlsMessagesSchema"

    station_name: str = _key("string")
    username: str = _key("string")
    type: str = _key("string")
    ids: tuple[int, ...] = _key("[]int64", ())
    after_id: int = _key("int64")


# ---- replies --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DeadLetterRow:
    """
    One dead letter in a list.

    Attributes:
        time_ns: When the station had stored the message, or the report came in; nanoseconds since 1970.
        size: Bytes of headers and payload.
        header_bytes: How many of them are the header block.
        data: Header block and payload; None when they are to be fetched.
    """

    id: int
    station: str
    type: DeadLetterType
    partition: int
    sequence: int
    producer: str
    groups: tuple[str, ...]
    error: str
    time_ns: int
    size: int
    header_bytes: int
    data: Optional[bytes] = None

    def to_json(self) -> dict[str, Any]:
        """The object as it stands in a reply; ``data`` in base64."""
        data = None if self.data is None else base64.b64encode(self.data).decode()
        return {**asdict(self), "groups": list(self.groups), "data": data}

    @classmethod
    def from_json(cls, value: object) -> DeadLetterRow:
        """
        Reads the object.

        Raises:
            RemoteProtocolError: A member is missing or has another type.
        """
        try:
            row = dict(cast("Mapping[str, Any]", value))
            data = row.get("data")
            row["data"] = None if data is None else base64.b64decode(data, validate=True)
            row["groups"] = tuple(row["groups"]) if isinstance(row["groups"], list) else (None,)
            found = cls(**{item.name: row[item.name] for item in fields(cls)})
            numbers = (found.id, found.partition, found.sequence, found.time_ns, found.size, found.header_bytes)
            texts = (found.station, found.producer, found.error, *found.groups)
            is_typed = all(type(number) is int for number in numbers) and all(isinstance(text, str) for text in texts)
            if is_typed and found.type in TYPES:
                return found
        except (KeyError, TypeError, ValueError, binascii.Error):
            pass
        raise RemoteProtocolError(f"the broker's reply has a dead letter that is none: {str(value)[:_SHOWN_BYTES]!r}")


@dataclass(frozen=True)
class DeadLetterListReply:
    """
    A page.

    Attributes:
        rows: Ascending by id.
        after_id: What the next page begins after; 0 when this is the last.
        error: The broker's text; empty on success.
    """

    rows: tuple[DeadLetterRow, ...] = ()
    after_id: int = 0
    error: str = ""

    def encode(self) -> bytes:
        """The reply's body."""
        rows = [row.to_json() for row in self.rows]
        return _dump({"rows": rows, "after_id": self.after_id, "error": self.error})

    @classmethod
    def decode(cls, body: bytes) -> DeadLetterListReply:
        """Reads a reply's body. Raises RemoteProtocolError when it is none."""
        reply = _load(body)
        rows = reply.get("rows") or []
        if not isinstance(rows, list):
            raise _unexpected(body)
        found = tuple(DeadLetterRow.from_json(row) for row in rows)
        return cls(found, _number(reply, "after_id", body), str(reply.get("error") or ""))


@dataclass(frozen=True)
class DeadLetterDataReply:
    """
    A piece of header block and payload.

    Attributes:
        total: Bytes of the whole.
        error: The broker's text; empty on success.
    """

    data: bytes = b""
    total: int = 0
    error: str = ""

    def encode(self) -> bytes:
        """The reply's body."""
        return _dump({"data": base64.b64encode(self.data).decode(), "total": self.total, "error": self.error})

    @classmethod
    def decode(cls, body: bytes) -> DeadLetterDataReply:
        """Reads a reply's body. Raises RemoteProtocolError when it is none."""
        reply = _load(body)
        try:
            data = base64.b64decode(reply.get("data") or "", validate=True)
        except (TypeError, ValueError) as exc:
            raise _unexpected(body) from exc
        return cls(data, _number(reply, "total", body), str(reply.get("error") or ""))


@dataclass(frozen=True)
class DeadLetterCountReply:
    """
    How many dead letters of a page were sent or dropped, or how many messages a group is owed.

    Attributes:
        after_id: What the next page begins after; 0 when this was the last.
        too_large: Ids of those that have no room for the headers they would be sent with.
        error: The broker's text; empty on success.
    """

    count: int = 0
    after_id: int = 0
    too_large: tuple[int, ...] = ()
    error: str = ""

    def encode(self) -> bytes:
        """The reply's body."""
        return _dump({**asdict(self), "too_large": list(self.too_large)})

    @classmethod
    def decode(cls, body: bytes) -> DeadLetterCountReply:
        """Reads a reply's body. Raises RemoteProtocolError when it is none."""
        reply = _load(body)
        too_large = reply.get("too_large") or []
        if not isinstance(too_large, list) or not all(type(number) is int for number in too_large):
            raise _unexpected(body)
        count, after_id = _number(reply, "count", body), _number(reply, "after_id", body)
        return cls(count, after_id, tuple(too_large), str(reply.get("error") or ""))


def _dump(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _load(body: bytes) -> Mapping[str, Any]:
    try:
        reply = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise _unexpected(body) from exc
    if not isinstance(reply, dict):
        raise _unexpected(body)
    return MappingProxyType(reply)


def _number(reply: Mapping[str, Any], key: str, body: bytes) -> int:
    number = reply.get(key, 0)
    if type(number) is not int or number < 0:
        raise _unexpected(body)
    return number


def _unexpected(body: bytes) -> RemoteProtocolError:
    return RemoteProtocolError(f"the broker's reply about dead letters cannot be read: {body[:_SHOWN_BYTES]!r}")
