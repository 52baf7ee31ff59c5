"""
Dead letters that the broker has sent again, for the consumers of their group.

They come over the control link, as plain messages without an ack of JetStream's: one is done when the broker has been
told its number. Whatever happens to one here, the broker keeps it until then and can send it again.

Source: protocol reference 7.3, 7.4.
"""

from __future__ import annotations

import functools
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Callable, NoReturn, Optional

from memphis_sync._base.logs import Log
from memphis_sync._consuming.observed_message import message_kind
from memphis_sync._consuming.source import Source
from memphis_sync._control.dead_letters import tell
from memphis_sync._core import encode_headers
from memphis_sync._options.checks import check_seconds, check_str
from memphis_sync._options.handling import delay_ns
from memphis_sync._protocol import subjects
from memphis_sync._protocol.dead_letter_headers import GROUP, ID, OWED, PARTITION, SEQUENCE, TIME
from memphis_sync._protocol.dead_letters import DeadLetterAck
from memphis_sync._protocol.stored import time_of
from memphis_sync.errors import UsageError
from memphis_sync.message import CONFIRM_S, DEAD_LETTER_S, Message

if TYPE_CHECKING:
    from datetime import datetime

log = Log("memphis_sync.consume")

MAX_MESSAGES = 10_000  # as memphis.py; and no more bytes than an outbox holds by default
MAX_BYTES = 64 * 1024 * 1024
_LOG_EVERY_S = 1.0


class ResentMessage(Message):
    """
    A message that the broker sends again: a dead letter that was resent, or a message that members of the group gave
    back unprocessed (`is_owed`). fetch(), iteration and consume() return it among the others, once.

    It is not a delivery of a partition: `metadata` is None and `delivered` is 0. `partition`, `sequence` and `timesent`
    say where the message is in the station; they are None on a Memphis broker, which does not send them.

    ack() ends it. Without it the broker keeps a dead letter until it is resent, and sends an owed message again after
    the group's ack time; each time counts as a delivery. So on an owed message nack(), delay() and in_progress() have
    no effect, and dead_letter() works as usual; on a dead letter all four raise a UsageError.
    """

    __slots__ = ("_headers", "_payload", "group", "id", "owner")

    owner: Source
    id: int
    group: str
    _headers: dict[str, str]
    _payload: bytes

    @classmethod
    def of(cls, owner: Source, payload: bytes, headers: Mapping[str, str]) -> ResentMessage:
        """
        Creates one from what the broker published.

        Raises:
            ValueError: The header with its group or its number is missing, or the latter is not a number.
        """
        if ID not in headers or GROUP not in headers:
            raise ValueError(f"a dead letter without the headers {ID} and {GROUP}")
        self = cls.__new__(cls)
        self.owner = owner
        self.id = int(headers[ID])
        self.group = headers[GROUP]
        self._headers = dict(headers)
        self._payload = payload
        return self

    # ---- what it is -------------------------------------------------------------------------------------------------

    @property
    def is_dead_letter(self) -> bool:
        """True, also for an owed message."""
        return True

    @property
    def payload(self) -> bytes:
        """The payload."""
        return self._payload

    @property
    def payload_len(self) -> int:
        """Length of the payload in bytes."""
        return len(self._payload)

    @property
    def subject(self) -> str:
        """The subject to which it was published."""
        return subjects.dls(self.owner.view.internal, self.owner.group_internal)

    @property
    def reply(self) -> str:
        """Empty: it has no ack subject."""
        return ""

    @property
    def header_block(self) -> bytes:
        """The headers as on the wire."""
        lines = encode_headers((name.encode(), value.encode()) for name, value in self._headers.items())
        return b"NATS/1.0\r\n" + lines + b"\r\n"

    @property
    def age_ns(self) -> int:
        """0: no ack time runs."""
        return 0

    def get_headers(self) -> Optional[dict[str, str]]:
        """All headers, including those of client and broker."""
        return dict(self._headers)

    @property
    def metadata(self) -> None:
        """None."""
        return

    @property
    def partition(self) -> Optional[int]:
        """Number of the partition; None on a Memphis broker."""
        return self._number(PARTITION)

    @property
    def sequence(self) -> Optional[int]:
        """Number in the partition, from 1; None on a Memphis broker."""
        return self._number(SEQUENCE)

    @property
    def delivered(self) -> int:
        """0: it is not a delivery of a partition."""
        return 0

    @property
    def timesent(self) -> Optional[datetime]:
        """When the broker stored the message, UTC, to the microsecond; None on a Memphis broker."""
        time_ns = self._number(TIME)
        return None if time_ns is None else time_of(time_ns)

    @property
    def is_owed(self) -> bool:
        """Whether it is an owed message and not a dead letter: the group gave deliveries of it back unprocessed."""
        return OWED in self._headers

    def __repr__(self) -> str:
        return f"<ResentMessage {self.id} of {self.station} {self.payload_len} bytes>"

    # ---- answering --------------------------------------------------------------------------------------------------

    def ack(self, *, wait: bool = False, timeout_s: float = CONFIRM_S) -> None:
        """
        Acknowledges the message; the broker removes it.

        Always waits until the broker has the acknowledgement, and asks again while there is no reply: a lost one would
        not be repeated. (A Memphis broker only confirms that it has read it.)

        Args:
            wait: Ignored, see above.
            timeout_s: How long, in seconds, above 0; also through a restart of the broker.

        Raises:
            ConfigurationError: *timeout_s* is out of range.
            UsageError: ack(), nack(), delay() or dead_letter() was called before.
            DeadlineError: No confirmation in time; the call may be repeated.
            ConnectionLostError: It did not reach the broker; the call may be repeated.
            OwnThreadError: Called on one of the client's own threads.
            ClosedError, ForkedError: The client was closed, or the message was fetched before a fork, in the parent.
        """
        check_seconds("timeout_s", timeout_s, allow_zero=False)
        self._check_unanswered()
        self.owner.check_open()
        session = self.owner.session
        ack, is_memphis = DeadLetterAck(self.id, self.group), session.data_link().is_memphis
        work = functools.partial(tell, session.control, ack, timeout_s, "ack()", is_memphis=is_memphis)
        session.call(work, timeout_s, "ack()")
        self.answer = "ack"

    def nack(self) -> None:
        """Leaves an owed message, which is sent again after the group's ack time; otherwise raises UsageError."""
        self._leave("nack")

    def delay(self, delay: Optional[float] = None, *, delay_ms: Optional[int] = None) -> None:
        """Checks the delay, and then does as nack()."""
        if self.is_owed:
            delay_ns(delay, delay_ms)
        self._leave("delay")

    def in_progress(self) -> None:
        """Does nothing for an owed message, which may be sent again meanwhile; otherwise raises UsageError."""
        self._check_unanswered()
        if not self.is_owed:
            self._refuse("in_progress")

    def dead_letter(self, reason: str, *, timeout_s: float = DEAD_LETTER_S) -> None:
        """As Message.dead_letter() for an owed message; raises UsageError for a dead letter."""
        check_str("reason", reason)
        check_seconds("timeout_s", timeout_s, allow_zero=False)
        partition, sequence = self.partition, self.sequence
        if not self.is_owed or partition is None or sequence is None:
            self._refuse("dead_letter")
        self._check_unanswered()
        self._report(reason, partition, sequence, timeout_s)
        self.answer = "dead_letter"

    def respond(self, body: bytes = b"") -> None:
        """Raises UsageError: it has no ack subject."""
        self._refuse("respond")

    def _leave(self, what: str) -> None:
        if not self.is_owed:
            self._refuse(what)
        self._check_unanswered()
        self.owner.check_open()
        self.answer = what

    def _number(self, name: str) -> Optional[int]:
        text = self._headers.get(name, "")
        return int(text) if text.isascii() and text.isdigit() else None

    def _refuse(self, what: str) -> NoReturn:
        raise UsageError(
            f"cannot {what} DLS message: {self!r} was sent again from the dead letters; ack() it, or the "
            "broker keeps it"
        )


class ResentQueue:
    """
    The resent messages of one consumer until they are read. The loop thread fills it, any thread empties it.

    When the queue is full, further ones are left to the broker, which still has them, and the log says how many.

    Args:
        owner: What they carry as ``owner``.
        on_arrival: Called with nothing after each one.
    """

    def __init__(self, owner: Source, on_arrival: Callable[[], object]) -> None:
        self._owner = owner
        self._kind = message_kind(owner, ResentMessage)
        self._on_arrival = on_arrival
        # No lock: the loop would wait for it, and whoever holds it may have been interrupted by a signal handler.
        self._letters: deque[ResentMessage] = deque()
        self._bytes = 0  # of the letters, as the loop knows
        self._taken: deque[int] = deque()  # bytes of those that were taken since it last looked; less than 0: put back
        self._refused = 0
        self._log_at = 0.0

    def put(self, payload: bytes, headers: dict[str, str]) -> None:
        """Adds one, unless the queue is full."""
        letter = self._kind.of(self._owner, payload, headers)
        while self._taken:
            self._bytes -= self._taken.popleft()
        if len(self._letters) < MAX_MESSAGES and self._bytes + len(payload) <= MAX_BYTES:
            self._letters.append(letter)
            self._bytes += len(payload)
            self._on_arrival()
        else:
            self._refused += 1
            now = time.monotonic()
            if now >= self._log_at:
                self._log_at = now + _LOG_EVERY_S
                log.warning(
                    "%r: %d dead letters wait to be read, and the queue is full; %d were left to the broker",
                    self._owner,
                    len(self._letters),
                    self._refused,
                )

    def take(self, limit: int) -> list[Message]:
        """Up to *limit* of them; each goes to one caller only."""
        taken: list[Message] = []
        while self._letters and len(taken) < limit:
            try:
                letter = self._letters.popleft()
            except IndexError:  # another thread was faster
                break
            self._taken.append(letter.payload_len)
            taken.append(letter)
        return taken

    def put_back(self, letters: Sequence[ResentMessage]) -> None:
        """Puts back what take() returned and nobody has seen."""
        self._letters.extendleft(reversed(letters))
        self._taken.extend(-letter.payload_len for letter in letters)

    def __len__(self) -> int:
        return len(self._letters)

    def waiting(self) -> list[ResentMessage]:
        """A copy of what waits."""
        return list(self._letters.copy())
