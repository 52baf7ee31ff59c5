"""
A message as a consumer receives it.

The C core creates these objects, up to thousands in a fetch, without __init__: everything but the raw parts is computed
when it is used. ``reply`` is JetStream's ack subject and contains all metadata:
``$JS.ACK.<stream>.<group>.<delivered>.<stream sequence>.<consumer sequence>.<time, ns>.<pending>``, with domain and
account before the stream and a random token at the end on servers that have a domain.
"""

from __future__ import annotations

import functools
import time
from contextlib import AbstractContextManager
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Optional, cast

from memphis_sync._base.completion import HidesCore
from memphis_sync._base.hints import hint_keywords
from memphis_sync._base.in_notebook import InNotebook
from memphis_sync._base.logs import Log
from memphis_sync._base.refusals import NotCopied
from memphis_sync._consuming.source import Source
from memphis_sync._control.dead_letters import tell
from memphis_sync._core import RawMessage, parse_headers
from memphis_sync._options.checks import check_seconds, check_str
from memphis_sync._options.handling import delay_ns
from memphis_sync._protocol.dead_letters import DeadLetterReport, NackedDeadLetter
from memphis_sync._protocol.names import split_stream
from memphis_sync._protocol.stored import time_of
from memphis_sync._schema.live import decoded, json_of
from memphis_sync._session import waiting
from memphis_sync.errors import ConnectionLostError, HeaderError, MemphisError, StationNotFoundError, UsageError
from memphis_sync.headers import is_own

if TYPE_CHECKING:
    from typing_extensions import Self

log = Log("memphis_sync.consume")

_ACK, NAK, _TERM, _WORKING = b"+ACK", b"-NAK", b"+TERM", b"+WPI"
_NO_RESPONDERS = 503
DEAD_LETTER_S = 20.0  # as for a creation: enough for a restart of the broker
CONFIRM_S = 5.0


class Metadata(NamedTuple):
    """
    JetStream's metadata of a delivery.

    Attributes:
        stream: Name of the partition's JetStream stream.
        delivered: How often the message has been delivered to the group, from 1.
        sequence: Number in the partition, from 1.
        time_ns: When the broker stored it, in nanoseconds since 1970.
        pending: How many messages of the partition have not been delivered to the group yet.
    """

    stream: str
    delivered: int
    sequence: int
    time_ns: int
    pending: int


@hint_keywords(but={"ack", "nack"})
class Message(HidesCore, NotCopied, InNotebook, RawMessage):
    """
    A message. Acknowledge it with ack() within the consumer's ``max_ack_time_ms``, or it is delivered again.

    Any thread may acknowledge it. Acknowledgements are sent without waiting for the broker, several at a time.

    As a context manager it is acknowledged at the end of the block, or given back with nack() when the block raised,
    unless the block has done either::

        for message in consumer:
            with message:
                handle(message.data)
    """

    _instead = (
        "acknowledge it in the process that fetched it; pass .data, .headers, .station, .partition, .sequence instead"
    )

    _shown = ("station", "partition", "sequence", "timesent", "headers", "data")
    _from_core = frozenset({"header_block"})
    _is_counted = True  # among the deliveries that the client has received
    __slots__ = ()

    @property
    def is_dead_letter(self) -> bool:
        """Whether it is a dead letter that was sent again, see DeadLetter."""
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
        The payload decoded by the station's current schema.

        Args:
            as_dict: Return a protobuf message as a dict (names as in the schema, 64-bit integers as text and bytes as
                base64, as in protobuf's JSON mapping) instead of a message object.

        Returns:
            The JSON value for json and avro, a str for graphql, a message object for protobuf; without a schema a
            bytearray, as get_data().

        Raises:
            SchemaError: The payload does not match the schema, or the schema cannot be used here.
        """
        return decoded(self.owner.view.live.codec, self.payload, as_dict=as_dict)

    def json(self) -> Any:
        """
        The payload as a JSON value, whatever the station's schema.

        Raises:
            SchemaError: It is not JSON: RFC 8259, so without NaN.
        """
        return json_of(self.payload)

    def get_headers(self) -> Optional[dict[str, str]]:
        """
        All headers, including those of client and broker; None without any. The first value of a name counts.

        Raises:
            HeaderError: The header block is not valid; no official client sends one like that.
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
        """The headers that the producing program has set; empty without any. Raises as get_headers()."""
        return {name: value for name, value in (self.get_headers() or {}).items() if not is_own(name)}

    # ---- where it comes from ----------------------------------------------------------------------------------------

    @property
    def metadata(self) -> Optional[Metadata]:
        """JetStream's metadata; None for a dead letter that was sent again, which has none."""
        return parse_ack_subject(self.reply)

    @property
    def station(self) -> str:
        """Name of the station, lower case."""
        return self._source.view.name

    @property
    def group(self) -> str:
        """Name of the consumer group that has it."""
        return self._source.consumer_group

    @property
    def partition(self) -> Optional[int]:
        """Number of the partition; 0 on a station without partitions. None on a ResentMessage of a Memphis broker."""
        return split_stream(parse_ack_subject(self.reply).stream)[1]

    @property
    def sequence(self) -> Optional[int]:
        """Number in the partition, from 1; None as for partition."""
        return parse_ack_subject(self.reply).sequence

    def get_sequence_number(self) -> Optional[int]:
        """The same as `sequence`."""
        return self.sequence

    @property
    def delivered(self) -> int:
        """How often the message has been delivered to the group: 1 at first, one more after each redelivery."""
        return parse_ack_subject(self.reply).delivered

    @property
    def timesent(self) -> Optional[datetime]:
        """When the broker stored the message, UTC, to the microsecond; None as for partition."""
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
        Acknowledges the message: the group will not get it again.

        Args:
            wait: Return only when the broker has the acknowledgement: then the message is never delivered again,
                whatever happens to this process. Costs a round trip. Without it the call does not wait, and an
                acknowledgement that is lost with the connection or the process means another delivery.
            timeout_s: With *wait*: how long, in seconds, above 0.

        Raises:
            UsageError: ack(), nack(), delay() or dead_letter() was called before.
            ConnectionLostError: The data link is down; the broker will deliver the message again. With *wait* also
                when it went down before the confirmation arrived.
            DeadlineError: With *wait*: no confirmation in time. As after any error of a call with *wait*, the broker
                may have the acknowledgement; the call may be repeated.
            StationNotFoundError: With *wait*: the station or the group was destroyed.
            ConfigurationError: With *wait*: *timeout_s* is out of range.
            OwnThreadError: With *wait*: called on one of the client's own threads.
            ClosedError, ForkedError: The client was closed, or the message was fetched before a fork, in the parent.
        """
        if wait:
            self._confirm(timeout_s)
            return
        # The hot path: as _respond(), without the call.
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
        """Gives the message back; the group gets it again at once. Does not wait. Raises as ack()."""
        self._respond("nack", NAK)

    def delay(self, delay: Optional[float] = None, *, delay_ms: Optional[int] = None) -> None:
        """
        Gives the message back; the group gets it again later. Does not wait.

        Args:
            delay: Seconds, 0 to 86400.
            delay_ms: The same in milliseconds. Pass exactly one of the two.

        Raises:
            ConfigurationError: The delay is out of range.
            UsageError: Both or neither are given; or as ack().
            ConnectionLostError, ClosedError, ForkedError: As ack().
        """
        self._respond("delay", b'%s {"delay": %d}' % (NAK, delay_ns(delay, delay_ms)))

    def in_progress(self) -> None:
        """Restarts the ack time of a message that takes longer. May be called repeatedly. Raises as ack()."""
        self._check_unanswered()
        self._source.check_open()
        self.respond(_WORKING)

    def dead_letter(self, reason: str, *, timeout_s: float = DEAD_LETTER_S) -> None:
        """
        Makes the message a dead letter, with *reason*; the group will not get it again.

        Waits until the broker has stored it, and asks again while there is no reply; only then the message is taken
        from the group, so that it cannot be lost in between. After an error the message still belongs to the group: it
        is delivered again after its ack time, and the call may be repeated; the dead letter is stored once. (A Memphis
        broker only confirms that it has read the report.) On a station with ``send_poison_msg_to_dls=False`` nothing is
        stored, and the message is only removed from the group.

        Args:
            reason: Stored with it.
            timeout_s: How long to wait for the broker's confirmation, in seconds, above 0; also through a restart of
                the broker.

        Raises:
            ConfigurationError: *reason* is not a str, or *timeout_s* is out of range.
            UsageError: ack(), nack(), delay() or dead_letter() was called before, or the station has no partitions (a
                broker cannot store its dead letters).
            ServerError: The broker cannot store it.
            DeadlineError: No confirmation in time; the broker may have stored it.
            ConnectionLostError: The broker has stored it, but the connection was lost before the message was removed
                from the group.
            OwnThreadError: Called on one of the client's own threads.
            ClosedError, ForkedError: As ack().
        """
        check_str("reason", reason)
        check_seconds("timeout_s", timeout_s, allow_zero=False)
        self._check_unanswered()
        meta = parse_ack_subject(self.reply)
        partition = split_stream(meta.stream)[1]
        if not partition:
            raise UsageError(f"station {self.station!r} has no partitions, so a broker cannot store its dead letters")
        deadline = time.monotonic() + timeout_s
        self._report(reason, partition, meta.sequence, timeout_s)
        session = self._source.session
        try:
            self._respond("dead_letter", _TERM)
        except ConnectionLostError:  # the control link may be up already, or be back first
            left_s = max(0.0, deadline - time.monotonic())
            session.call(lambda: session.control.publish(self.reply, _TERM, left_s), left_s, "dead_letter()")
            self._settled("dead_letter", _TERM)

    def processing(self) -> AbstractContextManager[None]:
        """For ``with message.processing():`` around what handles it, which observers are told. It answers nothing."""
        return self._source.observers.processing([self])

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
        except MemphisError as exc:  # the block's error matters more; the message is delivered again anyway
            log.debug("%r: nack: %s", self, exc)

    @property
    def _source(self) -> Source:
        return cast("Source", self.owner)

    def _report(self, reason: str, partition: int, sequence: int, timeout_s: float) -> None:
        """Returns when the broker has stored the dead letter."""
        source = self._source
        source.check_open()
        session = source.session
        is_memphis = session.data_link().is_memphis
        kind = NackedDeadLetter if is_memphis else DeadLetterReport
        report = kind(source.view.internal, reason, partition, source.consumer_group, sequence)
        work = functools.partial(tell, session.control, report, timeout_s, "dead_letter()", is_memphis=is_memphis)
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
            raise StationNotFoundError(f"{self!r}: the station or the consumer group was destroyed", code=reply.status)
        self._settled("ack", _ACK)

    def _settled(self, answer: str, body: bytes) -> None:
        """It was answered otherwise than by respond(), which counts it."""
        if self._is_counted:
            self._source.session.data_link().core.count_ack(body)
        self.answer = answer


def readable_headers(message: Message) -> Optional[dict[str, str]]:
    """The user's headers; None when the header block is not valid, which may come from any client."""
    try:
        return message.headers
    except HeaderError:
        return None


@functools.lru_cache(maxsize=16)  # who asks for one of a message's numbers asks for the others next
def parse_ack_subject(reply: str) -> Metadata:
    """
    Reads an ack subject, in either of its two forms.

    Raises:
        UsageError: *reply* is not an ack subject, so the message did not come from a station's partition.
    """
    tokens = reply.split(".")
    first = 4 if len(tokens) >= 11 else 2  # with domain and account before the stream
    if len(tokens) < 9 or tokens[:2] != ["$JS", "ACK"]:
        raise UsageError(f"{reply!r} is not an ack subject; the message does not come from a station")
    stream, _, *numbers = tokens[first : first + 7]
    if not all(number.isdecimal() for number in numbers):
        raise UsageError(f"{reply!r} is not an ack subject: some of its numbers are not numbers")
    delivered, sequence, _, time_ns, pending = map(int, numbers)
    return Metadata(stream, delivered, sequence, time_ns, pending)
