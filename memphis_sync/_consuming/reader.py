"""
What one consumer reads from: its pulls, resent dead letters, and messages that were fetched and wait to be returned.

fetch(), iterations, read_all() and the threads of consume() all read here, side by side if the program wants that.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections import deque
from collections.abc import Generator
from typing import Callable, Optional

from memphis_sync._base import waits
from memphis_sync._base.logs import Log
from memphis_sync._consuming.give_back import GIVE_BACK_S, nack, report_untouched, return_untouched
from memphis_sync._consuming.membership import Membership, look_for
from memphis_sync._consuming.observed_message import message_kind
from memphis_sync._consuming.portion import LULL_S, OUTAGE_PAUSE_S, Portion
from memphis_sync._consuming.read_to_end import ReadToEnd
from memphis_sync._consuming.resent import MAX_MESSAGES as MAX_RESENT, ResentMessage, ResentQueue
from memphis_sync._consuming.source import Source
from memphis_sync._consuming.until import Until
from memphis_sync._control.api import Requests
from memphis_sync._core import fork_generation
from memphis_sync._data import GroupPartition, PullConsumer
from memphis_sync._data.pull_consumer import never
from memphis_sync._protocol.names import stream_name
from memphis_sync._session import waiting
from memphis_sync.errors import ClosedError, ConnectionLostError, DeadlineError, ForkedError, MemphisError
from memphis_sync.message import Message

log = Log("memphis_sync.consume")

_TO_END_S = 0.1  # how long read_all() waits for a message before it asks whether this is the end
END_S = 0.05  # how long an end waits for messages on their way, when it is to be quick
_RENEW_AT = 0.1  # share of the ack time after which what waits for its turn is looked at again
_LOOKED_THROUGH = 32  # messages; of more than that only the first is looked at for having been delivered before
_BEGUN_BEFORE = (
    "this iteration began before the process was forked, and goes on in the parent process; begin another one"
)
_UNHEARD_S = 10.0  # for so long a broker that could not be told is not asked again before each message


class Reader:
    """
    The reading of one consumer, by any number of threads. It leads to no consumer: see Source.

    Args:
        source: The consumer.
        requests: Its client's.
        ack_time_s: How long the broker waits for an answer to a message.
        max_deliveries: How often it delivers one.

    Attributes:
        letters: Dead letters that were sent again, and wait to be read.
        membership: Its place among those who get them.
        buffer: Messages that an iteration has fetched and not handed out yet.
        readings: One for each iteration and each worker of consume() that is not over.
        is_stopped: Whether iterations are to end.
    """

    def __init__(self, source: Source, requests: Requests, *, ack_time_s: float, max_deliveries: int) -> None:
        self.source = source
        self.session = session = source.session
        self.ack_time_s = ack_time_s
        self._max_deliveries = max_deliveries
        view, durable = source.view, source.group_internal
        self._bindings = [
            GroupPartition(number, stream_name(view.internal, number), durable) for number in view.partitions or (0,)
        ]
        self.pulls = PullConsumer(
            session.data_link(),
            self._bindings,
            message_kind(source, Message),
            source,
            ack_time_s=ack_time_s,
            look_for=functools.partial(look_for, source),
        )
        self.letters = ResentQueue(source, self.pulls.wake)
        self.membership = Membership(source, requests, self.letters)
        self.buffer: deque[Message] = deque()
        self._fresh_until = 0.0  # until then the buffer needs no second look
        self.readings: set[object] = set()
        self.is_stopped = False
        self._keep_until = 0.0
        session.readers.add(self)

    # ---- taking -----------------------------------------------------------------------------------------------------

    def read(
        self,
        only: Optional[int],
        limit: int,
        wait_s: float,
        ahead: bool,
        *,
        outage_s: float = float("inf"),
        is_over: Callable[[], bool] = never,
    ) -> list[Message]:
        """
        Dead letters if there are any, else messages.

        Args:
            only: The one partition to read; None for all.
            limit: At most so many.
            wait_s: How long to wait for a first one.
            ahead: Ask for the next ones before returning.
            outage_s: How much of *wait_s* it waits for a connection, when there is none.
            is_over: True ends the wait; asked after each stop(), too.

        Raises:
            MemphisError: As Consumer.fetch().
        """
        waiting.forbid_on_own_thread("fetch()")
        source, letters, session = self.source, self.letters, self.session
        deadline = time.monotonic() + wait_s

        def is_enough() -> bool:
            return bool(letters) or source.is_destroyed or session.is_ending or is_over()

        while True:
            if letters:
                found = letters.take(limit)
                if found:
                    return found
            left_s = max(deadline - time.monotonic(), 0.0)
            try:
                received = self.pulls.fetch(limit, left_s, only, ahead=ahead, outage_s=outage_s, is_over=is_enough)
            except ConnectionLostError:
                if letters:
                    continue
                raise
            if received or is_over() or (not letters and time.monotonic() >= deadline):
                return received
            source.check_open()
            if session.is_ending:
                raise ClosedError(f"{source!r}: the client is being closed")

    _read = read  # for what may be put back in part

    def take_portion(
        self,
        portion: Portion,
        only: Optional[int],
        *,
        wait_s: Optional[float] = None,
        outage_s: float = float("inf"),
        is_over: Callable[[], bool],
    ) -> list[Message]:
        """
        What a handler gets next; [] when there was nothing for a while. As read(), but for these.

        Args:
            portion: How much it gets.
            wait_s: None: for long, or a short while if there were some just now.
        """
        if wait_s is None:
            wait_s = portion.look_s
        try:
            found = self._read(only, portion.size, wait_s, portion.is_ahead, outage_s=outage_s, is_over=is_over)
        except ConnectionLostError:
            if portion.size == 1:
                raise
            found = []  # an outage is a pause; the next look waits for its end
        if not found:
            if portion.is_ahead:
                self.pulls.rest(is_idle=True)
            portion.rest()
            return found
        if found[0].is_dead_letter:
            self._put_back(found[1:])
            return self._part(found[:1], 1, portion)
        looked_at = found if len(found) <= _LOOKED_THROUGH else found[:1]
        for at, message in enumerate(looked_at):
            if message.delivered > 1:
                return self._part(found, max(at, 1), portion)
        return found

    def _part(self, found: list[Message], count: int, portion: Portion) -> list[Message]:
        """
        A message that was delivered before may be the one that its handler died with, so it is handed out with no other
        one in hand: should the program die again, that costs nobody else a delivery.
        """
        portion.hold()
        link = self.session.data_link()
        with contextlib.suppress(ConnectionLostError):  # the acks of those before it are not to die with it either
            link.core.wait_pong(link.core.ping(), time.monotonic() + LULL_S)
        is_alone = len(found) == 1 and not self.pulls.is_expecting
        if is_alone or link.is_memphis or time.monotonic() < self._keep_until:
            return found
        others = found[count:] + self.pulls.take_untouched(time.monotonic() + GIVE_BACK_S)
        try:
            is_told = not others or self.session.call(
                lambda: report_untouched(self.source, link, others, is_kept=True), GIVE_BACK_S, "reading"
            )
        except MemphisError as exc:
            log.debug("%r: %s", self.source, exc)
            is_told = False
        if not is_told:
            self._keep_until = time.monotonic() + _UNHEARD_S
        # A last delivery would be the end of it for the server; what was told makes good for it.
        last = self._max_deliveries if is_told else 1
        nack([message for message in others if message.delivered < last])
        self.pulls.put_back([message for message in others if message.delivered >= last])
        return found[:count]

    @property
    def holds_more(self) -> bool:
        """Whether messages were received that wait for the next portion."""
        return bool(self.pulls.holds or self.letters)

    # ---- handing out one by one -------------------------------------------------------------------------------------

    def messages(
        self,
        keep: object,
        most: int,
        only: Optional[int] = None,
        *,
        to_end_s: Optional[float] = None,
        until: Optional[Until] = None,
    ) -> Generator[Message, None, None]:
        """
        One message after the other, in portions that fit who handles them.

        Args:
            keep: The consumer, which is not forgotten while the loop goes on.
            most: How many to take at once, at most.
            only: The one partition to read; None for all.
            to_end_s: Ends as read_all(), with this limit; None: goes on for ever, and waits outages out.
            until: When it is over besides.

        Raises:
            MemphisError: As iteration, or as read_all().
        """
        self.is_stopped = False
        session, buffer, to_end, generation = self.session, self.buffer, None, fork_generation()
        if to_end_s is not None:
            bindings = [binding for binding in self._bindings if only in (None, binding.partition)]
            to_end = ReadToEnd(self.source, bindings, self.ack_time_s, to_end_s)
        portion, until = Portion(most, self.ack_time_s), until or Until()
        taken, taken_at = 0, 0.0
        reading, is_failed = self.begin(), False
        try:
            while not (self.is_stopped or until.is_told or session.is_ending):
                if buffer:
                    if time.monotonic() < self._fresh_until:
                        try:
                            message = buffer.popleft()
                        except IndexError:  # another thread was faster
                            continue
                        if to_end is not None:
                            to_end.hand_out(message)
                        yield message
                        if fork_generation() != generation:  # what it has fetched is the parent's
                            raise ForkedError(_BEGUN_BEFORE)
                        continue
                    self._refresh()
                    continue
                if taken:
                    portion.handled(taken, time.monotonic() - taken_at)
                    if to_end is not None:
                        if to_end.is_reached_meanwhile():
                            return
                        if to_end.is_near:
                            portion.rest()
                    until.restart()
                taken, taken_at = self._fill(portion, only, to_end, until), time.monotonic()
                if taken:
                    continue
                if until.is_idle(self.pulls.answered_at) or (
                    to_end is not None and (self._is_over() or to_end.is_reached())
                ):
                    return
        except ClosedError:
            if to_end is not None:
                raise
        except GeneratorExit:  # the loop was left
            raise
        except BaseException:  # an outage, or Ctrl-C: nothing is waited for any more
            is_failed = True
            raise
        finally:
            self.end_reading(reading, is_hurried=is_failed)

    def _fill(self, portion: Portion, only: Optional[int], to_end: Optional[ReadToEnd], until: Until) -> int:
        """Takes a portion into the buffer and returns its size; after an outage it asks again."""

        def is_over() -> bool:
            return self._is_over() or until.is_told

        while not is_over():
            wait_s = until.look_s(portion.look_s if to_end is None else _TO_END_S)
            try:
                batch = self.take_portion(portion, only, wait_s=wait_s, is_over=is_over)
            except (ConnectionLostError, DeadlineError) as exc:
                log.debug("%r: %s", self.source, exc)
                until.restart()
                if to_end is not None:
                    to_end.check_time(str(exc))
                waits.sleep(OUTAGE_PAUSE_S)
                continue
            if batch:
                self._fresh_until = min(self._fresh_until if self.buffer else float("inf"), self._next_look())
                self.buffer.extend(batch)
            return len(batch)
        return 0

    def _is_over(self) -> bool:
        return self.is_stopped or self.session.is_ending

    def _next_look(self) -> float:
        return time.monotonic() + _RENEW_AT * self.ack_time_s

    def _refresh(self) -> None:
        """Lets go of what the buffer held for too long, and gives the rest its ack time anew."""
        kept = self.take_buffered(len(self.buffer))
        self._fresh_until = self._next_look()
        self.buffer.extend(kept)

    def take_buffered(self, limit: int) -> list[Message]:
        """Up to *limit* of what an iteration has fetched and not handed out; nothing whose ack time is nearly over."""
        found: list[Message] = []
        while len(found) < limit:
            try:
                found.append(self.buffer.popleft())
            except IndexError:
                break
        return self.pulls.fresh(found)

    # ---- giving back ------------------------------------------------------------------------------------------------

    def begin(self) -> object:
        """An iteration, or a worker of consume(), begins; what is returned is for end_reading()."""
        reading = object()
        self.readings.add(reading)
        return reading

    def end_reading(self, reading: object, *, is_hurried: bool = False) -> None:
        """It has ended; the last one gives back what it has left. Also on the way out of a destructor."""
        self.readings.discard(reading)
        if not self.readings and not self.source.is_destroyed:
            is_hurried = is_hurried or self._is_over()
            self.return_untouched(time.monotonic() + (END_S if is_hurried else GIVE_BACK_S))

    def return_untouched(self, deadline: float, *, is_waiting: bool = False, is_last: bool = False) -> None:
        """
        Gives messages that nobody has seen back to the group, for another member at once.

        Args:
            deadline: For what is on its way, by ``time.monotonic()``.
            is_waiting: Return when the broker has them.
            is_last: Dead letters too, which else wait for the next one who reads.
        """
        session = self.session
        if fork_generation() != session.generation:
            return  # they are the parent's
        messages: list[Message] = []
        try:
            messages = self._put_back(self.take_buffered(len(self.buffer)))
            if is_last:
                messages += self.letters.take(MAX_RESENT)
            messages += self.pulls.take_untouched(deadline)
            if not messages:
                return
            work = functools.partial(return_untouched, self.source, session.data_link(), messages)
            if is_waiting:
                session.call(work, GIVE_BACK_S, "giving messages back")
            else:
                session.spawn(work, is_awaited=True)
        except DeadlineError as exc:
            log.debug("%r: %s", self.source, exc)
        except MemphisError as exc:  # the client's threads have ended, or it is one of them that asks
            log.debug("%r: %s", self.source, exc)
            nack(messages)

    def _put_back(self, messages: list[Message]) -> list[Message]:
        """Keeps the dead letters among *messages* for the next one who reads, and returns the others."""
        self.letters.put_back([message for message in messages if isinstance(message, ResentMessage)])
        return [message for message in messages if not isinstance(message, ResentMessage)]

    def wake(self) -> None:
        """Makes what waits for messages ask whether it is over; nothing in a forked child. Also in a destructor."""
        if not self.source.is_inherited:
            self.pulls.wake()

    def end(self, deadline: float) -> None:
        """Begins to give back what nobody has looked at; by *deadline* on the monotonic clock."""
        if not self.source.is_destroyed:
            self.return_untouched(deadline, is_last=True)
            self.membership.leave(deadline)

    def mark_destroyed(self) -> None:
        """The consumer is out of its group: nothing more is read."""
        self.source.is_destroyed = True
        self.membership.end()
        self.is_stopped = True
        self.pulls.wake()
