"""
A message as a consumer receives it.

The C core makes these objects, thousands for each fetch, without running __init__: everything but the raw parts is read
from them when it is asked for. ``reply`` is JetStream's ack subject and holds all the metadata:
``$JS.ACK.<stream>.<group>.<delivered>.<stream sequence>.<consumer sequence>.<time, ns>.<pending>``, with domain and
account before the stream and a random token at the end on servers that have a domain.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Optional, TypedDict, cast

from memphis_sync._base.hints import hint_keywords
from memphis_sync._base.logs import Log
from memphis_sync._base.refusals import NotAwaited, NotCopied
from memphis_sync._consuming.source import Source
from memphis_sync._control.dead_letters import tell
from memphis_sync._core import RawMessage, parse_headers
from memphis_sync._options.checks import MAX_TIME_MS, check_int, check_seconds, check_str
from memphis_sync._protocol.dead_letters import DeadLetterReport, NackedDeadLetter
from memphis_sync._protocol.json_text import NotJsonError, read_json
from memphis_sync._protocol.names import split_stream
from memphis_sync._schema.live import decoded
from memphis_sync._session import waiting
from memphis_sync.errors import (
    ConnectionLostError,
    HeaderError,
    MemphisError,
    StationNotFoundError,
    UsageError,
)
from memphis_sync.headers import is_own

if TYPE_CHECKING:
    from typing_extensions import Self

log = Log("memphis_sync.consume")

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_ACK, NAK, _TERM, _WORKING = b"+ACK", b"-NAK", b"+TERM", b"+WPI"
_NO_RESPONDERS = 503
DEAD_LETTER_S = 20.0  # as a creation: a broker that is restarted is back by then
CONFIRM_S = 5.0


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


@hint_keywords(but={"ack", "nack"})
class Message(NotCopied, RawMessage):
    """
    A message, to be acknowledged with ack() within the consumer's ``max_ack_time_ms``; else it is delivered again.

    It may be acknowledged from any thread. Acknowledgements are sent without waiting for the broker, some together.

    As a context manager it acknowledges itself at the end of the block, and gives itself back with nack() when the
    block raised; one that was answered in the block is left as it is::

        for message in consumer:
            with message:
                handle(message.data)
    """

    _instead = (
        "it is answered where it was fetched; hand on what it says: .data, .headers, .station, .partition, .sequence"
    )

    __slots__ = ()

    @property
    def is_dead_letter(self) -> bool:
        """Whether the broker sends it again from the dead letters: see DeadLetter."""
        return False

    # ---- content ----------------------------------------------------------------------------------------------------

    @property
    def data(self) -> bytes:
        """The payload."""
        return self.payload

    def get_data(self) -> bytearray:
        """The payload as a copy that the caller may change."""
        return bytearray(self.payload)

    def get_data_deserialized(self, *, as_dict: bool = False) -> object:
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
        return decoded(self.owner.view.live.codec, self.payload, as_dict=as_dict)

    def get_headers(self) -> Optional[dict[str, str]]:
        """
        All headers, those of client and broker included; None without any. The first value of a name counts.

        Raises:
            HeaderError: What came in their place is not a header block; no official client sends such.
        """
        block = self.header_block
        if not block:
            return None
        found: dict[str, str] = {}
        for name, value in parse_headers(block)[2]:
            found.setdefault(name, value)
        return found or None

    @property
    def headers(self) -> dict[str, str]:
        """What the producer's program put on the message; empty without any. Raises as get_headers()."""
        return {name: value for name, value in (self.get_headers() or {}).items() if not is_own(name)}

    # ---- where it comes from ----------------------------------------------------------------------------------------

    @property
    def metadata(self) -> Optional[Metadata]:
        """Everything that the ack subject tells; None on a message that was sent again, which has none."""
        return parse_ack_subject(self.reply)

    @property
    def station(self) -> str:
        """Name of the station, lower case."""
        return self._source.view.name

    @property
    def partition(self) -> Optional[int]:
        """Number of the partition; 0 on a station without partitions. None on a ResentMessage of a Memphis broker."""
        return split_stream(parse_ack_subject(self.reply).stream)[1]

    @property
    def sequence(self) -> Optional[int]:
        """Place in the partition, from 1; None as partition."""
        return parse_ack_subject(self.reply).sequence

    def get_sequence_number(self) -> Optional[int]:
        """The same as `sequence`."""
        return self.sequence

    @property
    def delivered(self) -> int:
        """How many times the message has been delivered to the group: 1 at first, more after each redelivery."""
        return parse_ack_subject(self.reply).delivered

    @property
    def timesent(self) -> Optional[datetime]:
        """When the broker stored the message, UTC, to the microsecond; None as partition."""
        return time_of(parse_ack_subject(self.reply).time_ns)

    def get_timesent(self) -> Optional[datetime]:
        """The same as `timesent`."""
        return self.timesent

    # ---- answering --------------------------------------------------------------------------------------------------

    @property
    def is_answered(self) -> bool:
        """Whether ack(), nack(), delay() or dead_letter() was called."""
        return self.answer is not None

    def ack(self, *, wait: bool = False, timeout_s: float = CONFIRM_S) -> None:
        """
        The message is done; the group will not see it again.

        Args:
            wait: Return only when the broker has it: then the message is never delivered again, whatever happens to
                this process. Costs a round trip. Without it the call does not wait: an ack that is lost with the
                connection or the process lets the message be delivered once more.
            timeout_s: With *wait*: how long, in seconds; above 0.

        Raises:
            UsageError: It was answered before.
            ConnectionLostError: The data link is down; the broker will deliver the message again. With *wait* also when
                it ended before the broker's word came.
            DeadlineError: With *wait*: no word from the broker in time. As after any error of a call with *wait*, the
                broker may have the ack; the call may be repeated.
            StationNotFoundError: With *wait*: the station or the group is gone.
            ClosedError, ForkedError: The client was closed, or belongs to the parent process.
        """
        if wait:
            self._confirm(timeout_s)
            return
        # The path of each message: as _respond(), without a call of its own for it.
        if self.answer is not None or self.owner.is_destroyed:
            self._check_unanswered()
            self._source.check_open()
        try:
            self.respond()
        except ConnectionLostError:
            self._source.check_open()
            raise
        self.answer = "ack"

    def nack(self) -> None:
        """The message could not be used; the group gets it again at once. Does not wait. Raises as ack()."""
        self._respond("nack", NAK)

    def delay(self, delay: Optional[float] = None, *, delay_ms: Optional[int] = None) -> None:
        """
        The message could not be used yet; the group gets it again later. Does not wait.

        Args:
            delay: Seconds, from 0 to a day.
            delay_ms: The same in milliseconds. Exactly one of the two is given.

        Raises:
            ConfigurationError: The delay is out of its bounds.
            UsageError: It was answered before, or not exactly one of the two is given.
            ConnectionLostError, ClosedError, ForkedError: As ack().
        """
        self._respond("delay", b'%s {"delay": %d}' % (NAK, delay_ns(delay, delay_ms)))

    def in_progress(self) -> None:
        """Still at work: the ack time starts anew. May be called again and again. Raises as ack()."""
        self._check_unanswered()
        self._source.check_open()
        self.respond(_WORKING)

    def dead_letter(self, reason: str, *, timeout_s: float = DEAD_LETTER_S) -> None:
        """
        The message can never be used: it goes to the dead-letter store with *reason*, and the group will not see it
        again.

        Waits until the broker keeps it, asking again while nobody answers; only then the message is ended, so that it
        cannot get lost in between. After any error the message is still the group's own: it is not ended, comes again
        after its ack time, and the call may be repeated; the dead letter is there once. (A Memphis broker only ever
        says that it has read the report.) On a station that was made with ``send_poison_msg_to_dls=False`` nothing is
        kept, and the message is only ended.

        Args:
            reason: Kept with it.
            timeout_s: How long to wait for the broker's word, in seconds, above 0; restarts of the broker are waited
                out within it.

        Raises:
            UsageError: It was answered before, or the station has no partitions (the broker cannot store such a
                report).
            ServerError: The broker cannot keep it.
            DeadlineError: The broker did not say in time that it keeps the message; it may have it.
            ConnectionLostError: The broker keeps the message, but the connection was lost and could not end it in time.
            ClosedError, ForkedError: As ack().
        """
        check_str("reason", reason)
        check_seconds("timeout_s", timeout_s, allow_zero=False)
        self._check_unanswered()
        meta = parse_ack_subject(self.reply)
        partition = split_stream(meta.stream)[1]
        if not partition:
            raise UsageError(f"station {self.station!r} has no partitions, so a broker cannot keep its dead letters")
        deadline = time.monotonic() + timeout_s
        self._report(reason, partition, meta.sequence, timeout_s)
        session = self._source.session
        try:
            self._respond("dead_letter", _TERM)
        except ConnectionLostError:  # the control link may be back already, or come back first
            left_s = max(0.0, deadline - time.monotonic())
            session.call(session.control.publish(self.reply, _TERM, left_s), left_s, "dead_letter()")
            self.answer = "dead_letter"

    def __repr__(self) -> str:
        meta = parse_ack_subject(self.reply)
        number = split_stream(meta.stream)[1]
        where = f"{self.station}[{number}]" if number else self.station
        return f"<Message {where} seq={meta.sequence} {self.payload_len} bytes>"

    def __len__(self) -> int:
        return self.payload_len

    def __bool__(self) -> bool:
        return True  # an empty payload is a message too

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        if self.answer is not None:
            return
        if error is None:
            self.ack()
            return
        try:
            self.nack()
        except MemphisError as exc:  # the block's own error counts; without an answer the message comes back anyway
            log.debug("%r: nack: %s", self, exc)

    @property
    def _source(self) -> Source:
        return cast("Source", self.owner)

    def _report(self, reason: str, partition: int, sequence: int, timeout_s: float) -> None:
        """Returns when the broker keeps the dead letter."""
        source = self._source
        source.check_open()
        session = source.session
        is_memphis = session.data_link().is_memphis
        kind = NackedDeadLetter if is_memphis else DeadLetterReport
        report = kind(source.view.internal, reason, partition, source.consumer_group, sequence)
        work = tell(session.control, report, timeout_s, "dead_letter()", is_memphis=is_memphis)
        session.call(work, timeout_s, "dead_letter()")

    def _check_unanswered(self) -> None:
        if self.answer is not None:
            raise UsageError(f"{self!r} was already answered with {self.answer}")

    def _respond(self, answer: str, body: bytes) -> None:
        self._check_unanswered()
        if self.owner.is_destroyed:
            self._source.check_open()
        try:
            self.respond(body)
        except ConnectionLostError:
            self._source.check_open()
            raise
        self.answer = answer

    def _confirm(self, timeout_s: float) -> None:
        check_seconds("timeout_s", timeout_s, allow_zero=False)
        waiting.forbid_on_own_thread("ack(wait=True)")
        self._check_unanswered()
        self._source.check_open()
        link = self._source.session.data_link()
        reply = link.replies.request(self.reply.encode(), _ACK, timeout_s)
        if reply.status == _NO_RESPONDERS:
            raise StationNotFoundError(f"{self!r}: the station or the consumer group is gone", code=reply.status)
        self.answer = "ack"


class MessageDict(TypedDict):
    """A message as a plain dict; see Messages.to_dicts()."""

    station: str
    partition: Optional[int]
    sequence: Optional[int]
    time: Optional[datetime]
    headers: dict[str, str]
    data: object


class Messages(NotAwaited, list[Message]):
    """What a fetch returns: a list of messages that also shows itself as plain dicts."""

    __slots__ = ()

    def to_dicts(self) -> list[MessageDict]:
        """
        One dict for each message, for a table or a frame: ``pandas.DataFrame(batch.to_dicts())``.

        Returns:
            Keys ``station``, ``partition``, ``sequence``, ``time`` (the last three may be None on a message that was
            sent again, see ResentMessage), ``headers`` (the user's; empty where they cannot be read) and ``data``:
            what the payload says as JSON; else its text, else, not being UTF-8, its bytes. No message makes it fail.
        """
        return [
            {
                "station": message.station,
                "partition": message.partition,
                "sequence": message.sequence,
                "time": message.timesent,
                "headers": readable_headers(message) or {},
                "data": _readable(message.payload),
            }
            for message in self
        ]


def readable_headers(message: Message) -> Optional[dict[str, str]]:
    """The user's headers; None when the block is not what NATS calls one: a message of any client may have such."""
    try:
        return message.headers
    except HeaderError:
        return None


def _readable(payload: bytes) -> object:
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return payload
    try:
        return read_json(text)
    except NotJsonError:
        return text


def time_of(time_ns: int) -> datetime:
    """Nanoseconds since 1970 as a time, UTC, to the microsecond."""
    return _EPOCH + timedelta(microseconds=time_ns // 1000)


def delay_ns(delay: Optional[float], delay_ms: Optional[int]) -> int:
    """The delay that one of the two arguments gives, in nanoseconds."""
    if (delay is None) == (delay_ms is None):
        raise UsageError("exactly one of delay (seconds) and delay_ms is to be given")
    if delay_ms is not None:
        return check_int("delay_ms", delay_ms, 0, MAX_TIME_MS) * 1_000_000
    return int(check_seconds("delay", delay) * 1_000_000_000)


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
    stream, _, *numbers = tokens[first : first + 7]
    if not all(number.isdecimal() for number in numbers):
        raise UsageError(f"{reply!r} is no ack subject: it has no numbers where they belong")
    delivered, sequence, _, time_ns, pending = map(int, numbers)
    return Metadata(stream, delivered, sequence, time_ns, pending)
