"""
A message as a consumer receives it.

The C core makes these objects, thousands for each fetch, without running __init__: everything but the raw parts is read
from them when it is asked for. ``reply`` is JetStream's ack subject and holds all the metadata:
``$JS.ACK.<stream>.<group>.<delivered>.<stream sequence>.<consumer sequence>.<time, ns>.<pending>``, with domain and
account before the stream and a random token at the end on servers that have a domain.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, NamedTuple, Optional, cast

from memphis_sync._codec import RawMessage, parse_headers
from memphis_sync._runtime.schemas import decoded
from memphis_sync._wire import subjects
from memphis_sync._wire.names import split_stream
from memphis_sync.errors import ConnectionLostError, UsageError
from memphis_sync.headers import is_own
from memphis_sync.options import check_seconds, check_str

if TYPE_CHECKING:
    from memphis_sync.consumer import Consumer

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_NAK, _TERM, _WORKING = b"-NAK", b"+TERM", b"+WPI"
_DEAD_LETTER_S = 5.0


class Metadata(NamedTuple):
    """
    What JetStream says about a delivery.

    Attributes:
        stream: JetStream name of the partition.
        delivered: How many times the message has been delivered to the group, from 1.
        sequence: Place in the partition, from 1.
        time_ns: When the broker stored it, nanoseconds since 1970.
        pending: How many messages of the partition the group has not seen yet.
    """

    stream: str
    delivered: int
    sequence: int
    time_ns: int
    pending: int


class Message(RawMessage):
    """
    A message, to be acknowledged with ack() within the consumer's ``max_ack_time_ms``; else it is delivered again.

    It may be acknowledged from any thread. Acknowledgements are sent without waiting for the broker.
    """

    __slots__ = ()

    # ---- content ----------------------------------------------------------------------------------------------------

    @property
    def data(self) -> bytes:
        """The payload."""
        return self.payload

    def get_data(self) -> bytearray:
        """The payload as a copy that the caller may change."""
        return bytearray(self.payload)

    def get_data_deserialized(self, *, as_dict: bool = False) -> Any:
        """
        The payload decoded by the schema that the station has now.

        Args:
            as_dict: A protobuf message as a dict (names as in the schema, 64-bit integers as text and bytes as base64,
                after protobuf's JSON mapping) instead of as a message object.

        Returns:
            What the JSON says for json and avro, a str for graphql, a message object for protobuf; without a schema a
            bytearray, as get_data().

        Raises:
            SchemaError: The payload does not match the schema, or the schema cannot be used here.
        """
        return decoded(self._consumer._view.live.codec, self.payload, as_dict=as_dict)

    def get_headers(self) -> Optional[dict[str, str]]:
        """All headers, those of client and broker included; None without any. The first value of a name counts."""
        block = self.header_block
        if not block:
            return None
        found: dict[str, str] = {}
        for name, value in parse_headers(block)[2]:
            found.setdefault(name, value)
        return found or None

    @property
    def headers(self) -> dict[str, str]:
        """What the producer's program put on the message; empty without any."""
        return {name: value for name, value in (self.get_headers() or {}).items() if not is_own(name)}

    # ---- where it comes from ----------------------------------------------------------------------------------------

    @property
    def metadata(self) -> Metadata:
        """Everything that the ack subject tells."""
        return parse_ack_subject(self.reply)

    @property
    def station(self) -> str:
        """Name of the station, lower case."""
        return self._consumer.station_name

    @property
    def partition(self) -> int:
        """Number of the partition; 0 on a station without partitions."""
        return split_stream(self.metadata.stream)[1]

    @property
    def sequence(self) -> int:
        """Place in the partition, from 1."""
        return self.metadata.sequence

    def get_sequence_number(self) -> int:
        """The same as `sequence`."""
        return self.metadata.sequence

    @property
    def delivered(self) -> int:
        """How many times the message has been delivered to the group: 1 at first, more after each redelivery."""
        return self.metadata.delivered

    @property
    def timesent(self) -> datetime:
        """When the broker stored the message, UTC, to the microsecond."""
        return _EPOCH + timedelta(microseconds=self.metadata.time_ns // 1000)

    def get_timesent(self) -> datetime:
        """The same as `timesent`."""
        return self.timesent

    # ---- answering --------------------------------------------------------------------------------------------------

    @property
    def is_answered(self) -> bool:
        """Whether ack(), nack(), delay() or dead_letter() was called."""
        return self.answer is not None

    def ack(self) -> None:
        """
        The message is done; the group will not see it again. Does not wait.

        Raises:
            UsageError: It was answered before.
            ConnectionLostError: The data link is down; the broker will deliver the message again.
            ClosedError, ForkedError: The client was closed, or belongs to the parent process.
        """
        self._respond("ack", b"")

    def nack(self) -> None:
        """The message could not be used; the group gets it again at once. Does not wait. Raises as ack()."""
        self._respond("nack", _NAK)

    def delay(self, delay: float) -> None:
        """
        The message could not be used yet; the group gets it again later. Does not wait.

        Args:
            delay: Seconds, from 0 to a day.

        Raises:
            ConfigurationError: *delay* is out of its bounds.
            UsageError, ConnectionLostError, ClosedError, ForkedError: As ack().
        """
        nanoseconds = int(check_seconds("delay", delay) * 1_000_000_000)
        self._respond("delay", b'%s {"delay": %d}' % (_NAK, nanoseconds))

    def in_progress(self) -> None:
        """Still at work: the ack time starts anew. May be called again and again. Raises as ack()."""
        if self.is_answered:
            raise UsageError(f"{self!r} was already answered with {self.answer}")
        self._consumer.check_open()
        self.respond(_WORKING)

    def dead_letter(self, reason: str) -> None:
        """
        The message can never be used: it goes to the dead-letter store with *reason*, and the group will not see it
            again.

        Waits until the broker has the report; only then the message is ended, so that it cannot get lost in between.

        Raises:
            UsageError: It was answered before, or the station has no partitions (the broker cannot store such a
            report). DeadlineError, ConnectionLostError: The report did not reach the broker; the message is still open.
            ClosedError, ForkedError: As ack().
        """
        check_str("reason", reason)
        if self.is_answered:
            raise UsageError(f"{self!r} was already answered with {self.answer}")
        station, partition = split_stream(self.metadata.stream)
        if not partition:
            raise UsageError(f"station {self.station!r} has no partitions, so a broker cannot keep its dead letters")
        report = {
            "station_name": station,
            "error": reason,
            "partition": partition,
            "cg_name": self._consumer.consumer_group,
            "seq": self.metadata.sequence,
        }
        runtime = self._consumer.runtime
        body = json.dumps(report).encode()
        runtime.call(
            runtime.control.publish(subjects.NACKED_DEAD_LETTERS, body, _DEAD_LETTER_S), _DEAD_LETTER_S, "dead_letter()"
        )
        self._respond("dead_letter", _TERM)

    def __repr__(self) -> str:
        meta = self.metadata
        number = split_stream(meta.stream)[1]
        where = f"{self.station}[{number}]" if number else self.station
        return f"<Message {where} seq={meta.sequence} {self.payload_len} bytes>"

    def __len__(self) -> int:
        return self.payload_len

    def __bool__(self) -> bool:
        return True  # an empty payload is a message too

    @property
    def _consumer(self) -> Consumer:
        return cast("Consumer", self.owner)

    def _respond(self, answer: str, body: bytes) -> None:
        # The path of each message: what is usual costs two looks, and only what goes wrong asks for the reason.
        if self.answer is not None:
            raise UsageError(f"{self!r} was already answered with {self.answer}")
        if self.owner._is_destroyed:
            self._consumer.check_open()
        try:
            self.respond(body)
        except ConnectionLostError:
            self._consumer.check_open()
            raise
        self.answer = answer


def parse_ack_subject(reply: str) -> Metadata:
    """
    Reads an ack subject, in either of its two forms.

    Raises:
        UsageError: *reply* is no ack subject, so the message did not come from a station's partition.
    """
    tokens = reply.split(".")
    first = 4 if len(tokens) >= 11 else 2  # with domain and account before the stream
    if len(tokens) < 9 or tokens[:2] != ["$JS", "ACK"]:
        raise UsageError(f"{reply!r} is no ack subject; the message does not come from a station")
    stream, _, delivered, sequence, _, time_ns, pending = tokens[first : first + 7]
    return Metadata(stream, int(delivered), int(sequence), int(time_ns), int(pending))
