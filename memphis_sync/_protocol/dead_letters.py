"""
Dead letters on the wire: how clients report and acknowledge them, and our own requests to list, send and drop them.

The reports go to a queue; a Memphis broker answers none. The requests are ours: Memphis has them in its REST API only.
They go page by page, so that no reply exceeds ``max_payload``: a page says where the next begins, and a payload that
has no room in it is fetched by itself, piece by piece.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Optional

from memphis_sync._protocol.body import BASE64, Body, Codec, JsonReply, PlainReply, R, Request, StoredReply, key

if TYPE_CHECKING:
    from typing_extensions import Self

DeadLetterType = Literal["poison", "schema"]

TYPES: tuple[DeadLetterType, ...] = ("poison", "schema")
POISON, SCHEMA = TYPES

MAX_GIVEN_BACK = 5000  # of a request; the largest batch

# Text as memphis.js writes it: two digits for a visible character, one for TAB, LF and CR, which it does not pad.
_UNPADDED = re.compile(r"(?:[2-7][0-9a-f]|[9ad])+\Z")
_UNPADDED_CHARACTER = re.compile(r"[2-7][0-9a-f]|[9ad]")


# ---- reports --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class UnusableMessage(Body):
    """
    A consumer cannot use a message.

    Attributes:
        partition: Some clients send 0 for a station without partitions.
        cg_name: The group; clients write it as their users do.
        seq: The message's place in its partition.
    """

    STRUCT = "NackedDlsMessage"

    station_name: str = key("string")
    error: str = key("string")
    partition: int = key("int")
    cg_name: str = key("string")
    seq: int = key("uint64")


@dataclass(frozen=True)
class NackedDeadLetter(UnusableMessage, Request[StoredReply]):
    """The report of official clients, who do not ask whether it has come."""

    SUBJECT = "$memphis_nacked_dls"


@dataclass(frozen=True)
class DeadLetterReport(UnusableMessage, Request[PlainReply]):
    """The report to our own broker, answered when the message is kept."""

    SUBJECT = "$memphis_sync_dls_report"


@dataclass(frozen=True)
class SchemaDeadLetter(Request[StoredReply]):
    """
    A producer's message does not match the station's schema.

    A Memphis broker stores a payload that is not whole bytes in hexadecimal in pieces, or dies of it.

    Attributes:
        data: The payload in hexadecimal digits; see payload_of().
        report_id: Of our client, for our broker: the same when a report is made again.
    """

    SUBJECT = "$memphis_schemaverse_dls"
    STRUCT = "SchemaVerseDlsMessage"

    station_name: str = key("string")
    producer_name: str = key("string", key="name", inside="producer")
    connection_id: str = key("string", inside="producer")
    data: str = key("string", inside="message")
    headers: Mapping[str, str] = key("map[string]string", dict, inside="message")
    size: int = key("int", inside="message")
    validation_error: str = key("string")
    partition_number: int = key("int")
    report_id: str = key("string", omit_empty=True)

    @classmethod
    def of(
        cls,
        station_internal: str,
        partition: int,
        producer: str,
        connection_id: str,
        payload: bytes,
        headers: Mapping[str, str],
        error: str,
        *,
        is_memphis: bool,
    ) -> Self:
        """Makes one; *headers* are the user's, the client's own are added."""
        own = {"$memphis_producedBy": producer, "$memphis_connectionId": connection_id}
        return cls(
            station_name=station_internal,
            producer_name=producer,
            connection_id=connection_id,
            data=payload.hex(),
            headers={**headers, **own},
            size=len(payload),
            validation_error=error,
            partition_number=partition,
            report_id="" if is_memphis else uuid.uuid4().hex,
        )


@dataclass(frozen=True)
class DeadLetterAck(Request[StoredReply]):
    """A group is done with a dead letter that was sent to it again."""

    SUBJECT = "$memphis_pm_acks"
    STRUCT = "PoisonMessageAck"

    id: int = key("int64")
    cg_name: str = key("string")


@dataclass(frozen=True)
class MaxDeliveries(Body):
    """JetStream's advisory that a group has had a message as often as it may; stream and durable follow the subject."""

    SUBJECT = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES"
    STRUCT = "JSConsumerDeliveryExceededAdvisory"

    stream: str = key("string")
    consumer: str = key("string")
    stream_seq: int = key("uint64")
    deliveries: int = key("uint64")


@dataclass(frozen=True)
class GroupGone(Body):
    """
    The broker's own: a group's durables were deleted.

    Attributes:
        before_ms: Dead letters that the group got later are those of a new group of that name; ms since 1970.
    """

    SUBJECT = "$memphis_sync_dls_group_gone"
    STRUCT = "GroupGone"

    station_name: str = key("string")
    cg_name: str = key("string")
    before_ms: int = key("int64")


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


# ---- replies --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DeadLetterRow(Body):
    """
    One dead letter in a list.

    Attributes:
        time_ns: When the station had stored the message, or the report came in; nanoseconds since 1970.
        size: Bytes of headers and payload.
        header_bytes: How many of them are the header block.
        data: Header block and payload; None when they are to be fetched.
    """

    STRUCT = "row"

    id: int = key("int64")
    station: str = key("string")
    type: DeadLetterType = key("string")
    partition: int = key("int64")
    sequence: int = key("int64")
    producer: str = key("string")
    groups: tuple[str, ...] = key("[]string")
    error: str = key("string")
    time_ns: int = key("int64")
    size: int = key("int64")
    header_bytes: int = key("int64")
    data: Optional[bytes] = key(BASE64)


def _rows(value: Any) -> tuple[DeadLetterRow, ...]:
    rows = tuple(DeadLetterRow.from_json(row) for row in value or ())
    if not all(row.type in TYPES for row in rows):
        raise ValueError("a dead letter is of an unknown type")
    return rows


@dataclass(frozen=True)
class DeadLetterListReply(JsonReply):
    """
    A page.

    Attributes:
        rows: Ascending by id.
        after_id: What the next page begins after; 0 when this is the last.
    """

    rows: tuple[DeadLetterRow, ...] = key(Codec(_rows, lambda rows: [row.to_json() for row in rows]), ())
    after_id: int = key("uint64")
    error: str = key("string")


@dataclass(frozen=True)
class DeadLetterDataReply(JsonReply):
    """
    A piece of header block and payload.

    Attributes:
        total: Bytes of the whole.
    """

    data: bytes = key(Codec(lambda text: BASE64.read(text or ""), BASE64.write), b"")
    total: int = key("uint64")
    error: str = key("string")


@dataclass(frozen=True)
class DeadLetterCountReply(JsonReply):
    """
    How many dead letters of a page were sent or dropped, or how many messages a group is owed.

    Attributes:
        after_id: What the next page begins after; 0 when this was the last.
        too_large: Ids of those that have no room for the headers they would be sent with.
    """

    count: int = key("uint64")
    after_id: int = key("uint64")
    too_large: tuple[int, ...] = key("[]int64")
    error: str = key("string")


# ---- requests -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GivenBack(Request[PlainReply]):
    """
    A member of a group gives messages back without having looked at them. One without messages, or with any that were
    sent again, says that the member is about to leave: when it is answered, no more are sent to it.

    Attributes:
        partitions: Of each message; the next two go with it, one for one.
        sequences: Places in the partition.
        deliveries: Which delivery of the message it was, from 1.
        resent: Ids of messages that were sent again.
        kept: The member still has the messages: it tells of them because it may die before it can give them back.
    """

    SUBJECT = "$memphis_sync_given_back"
    STRUCT = "GivenBack"

    station_name: str = key("string")
    cg_name: str = key("string")
    partitions: tuple[int, ...] = key("[]int64")
    sequences: tuple[int, ...] = key("[]int64")
    deliveries: tuple[int, ...] = key("[]int64")
    resent: tuple[int, ...] = key("[]int64")
    kept: bool = key("bool")

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

    def parts(self) -> Iterator[GivenBack]:
        """The same in requests of up to MAX_GIVEN_BACK messages; itself when it has none."""
        for at in range(0, max(len(self.sequences), len(self.resent), 1), MAX_GIVEN_BACK):
            lists = (self.partitions, self.sequences, self.deliveries, self.resent)
            partitions, sequences, deliveries, resent = (each[at : at + MAX_GIVEN_BACK] for each in lists)
            yield replace(self, partitions=partitions, sequences=sequences, deliveries=deliveries, resent=resent)


@dataclass(frozen=True)
class CountOwed(Request[DeadLetterCountReply]):
    """How many messages come to a group again that are no dead letters yet."""

    SUBJECT = "$memphis_sync_owed"
    STRUCT = "CountOwed"

    station_name: str = key("string")
    cg_name: str = key("string")


@dataclass(frozen=True)
class _DeadLetterRequest(Request[R]):
    INSTEAD = (
        "the broker does not offer dead letters to clients: a Memphis broker has them in its REST API and its web "
        "console only (POST /api/stations/resendPoisonMessages and dropDlsMessages)"
    )

    station_name: str = key("string")
    username: str = key("string")


@dataclass(frozen=True)
class DeadLetterList(_DeadLetterRequest[DeadLetterListReply]):
    """
    A page of a station's dead letters.

    Attributes:
        type: ``poison``, ``schema``, or "" for both.
        ids: Only these; empty for all.
        after_id: Where the page begins; 0 for the first.
        limit: The most rows of a page; the broker may give fewer.
        with_data: Whether the rows carry what they have room for of headers and payload.
    """

    SUBJECT = "$memphis_sync_dls_list"
    STRUCT = "listDlsMessagesRequest"

    type: str = key("string")
    ids: tuple[int, ...] = key("[]int64")
    after_id: int = key("int64")
    limit: int = key("int", 100)
    with_data: bool = key("bool")


@dataclass(frozen=True)
class DeadLetterData(_DeadLetterRequest[DeadLetterDataReply]):
    """A piece of a dead letter's headers and payload."""

    SUBJECT = "$memphis_sync_dls_data"
    STRUCT = "dlsMessageDataRequest"

    id: int = key("int64")
    offset: int = key("int64")


@dataclass(frozen=True)
class DeadLetterResend(_DeadLetterRequest[DeadLetterCountReply]):
    """Sends a page of poison ones to their groups again."""

    SUBJECT = "$memphis_sync_dls_resend"
    STRUCT = "resendPoisonMessagesSchema"

    ids: tuple[int, ...] = key("[]int64")
    after_id: int = key("int64")


@dataclass(frozen=True)
class DeadLetterDrop(_DeadLetterRequest[DeadLetterCountReply]):
    """Removes a page of dead letters for good."""

    SUBJECT = "$memphis_sync_dls_drop"
    STRUCT = "dropDlsMessagesSchema"

    type: str = key("string")
    ids: tuple[int, ...] = key("[]int64")
    after_id: int = key("int64")
