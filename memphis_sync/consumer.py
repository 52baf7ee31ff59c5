"""
A consumer: takes messages from all partitions of a station for its group.

Four ways to read, which may be mixed: fetch() returns a batch, ``for message in consumer:`` never ends by itself,
read_all() ends with what the station holds, and consume() calls a function on threads of its own. Dead letters that
somebody resends to the group come among the messages.
"""

from __future__ import annotations

import contextlib
import functools
import time
import weakref
from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Callable, Optional, Union

from memphis_sync._base import primitives
from memphis_sync._base.hints import hint_keywords
from memphis_sync._base.logs import Log
from memphis_sync._base.refusals import NotAwaited, NotCopied
from memphis_sync._base.threads import handing_over
from memphis_sync._consuming.consume_loop import LONG_POLL_S, OUTAGE_PAUSE_S, Consuming, Handler
from memphis_sync._consuming.give_back import GIVE_BACK_S, nack, report_untouched, return_untouched
from memphis_sync._consuming.portion import LULL_S, Portion
from memphis_sync._consuming.read_to_end import ReadToEnd
from memphis_sync._consuming.resent import MAX_MESSAGES as MAX_RESENT, ResentMessage, ResentQueue
from memphis_sync._control.requests import DESTROY_S, JS_S
from memphis_sync._core import fork_generation
from memphis_sync._data import GroupPartition, PullConsumer
from memphis_sync._options.checks import MAX_BATCH_SIZE, check_bool, check_callable, check_int, check_seconds
from memphis_sync._protocol.names import durable_name, stream_name
from memphis_sync._protocol.partitions import check_partition, partition_for_key
from memphis_sync._session import Session, waiting
from memphis_sync.errors import (
    ClosedError,
    ConfigurationError,
    ConnectionLostError,
    DeadlineError,
    MemphisError,
    StationNotFoundError,
    UsageError,
)
from memphis_sync.message import Message, Messages, Source
from memphis_sync.types import StationView

if TYPE_CHECKING:
    from typing_extensions import Self

    from memphis_sync._control import Subscription
    from memphis_sync.client import Memphis

log = Log("memphis_sync.consume")

MIN_WAIT_S = 0.1  # the floor of memphis.py's batch_max_time_to_wait_ms
MAX_WORKERS = 256
_STOP_S = 5.0
READ_ALL_BATCH = 500
READ_ALL_S = 30.0
_TO_END_S = 0.1  # how long read_all() waits for a message before it asks whether this is the end
_END_S = 0.05  # how long an end waits for messages on their way, when it is to be quick
_RENEW_AT = 0.1  # share of the ack time after which what waits for its turn is looked at again
_LOOKED_THROUGH = 32  # messages; of more than that only the first is looked at for having been delivered before
_UNHEARD_S = 10.0  # for so long a broker that could not be told is not asked again before each message
_LOOK_S = 2.0  # for the question whether a group is still there


@hint_keywords()
class Consumer(NotCopied, NotAwaited):
    """
    A member of a consumer group; made by ``client.consumer()``. May be used by several threads.

    As a context manager it stops consuming at the end of the block. It does not destroy the consumer: the group, with
    its position in the station, stays for the next start. destroy() is the call that ends the group.

    Attributes:
        station_name: Lower case.
        consumer_name: Lower case.
        consumer_group: Lower case; the consumer's name when none was given.
        batch_size: How many messages consume() and iteration take at once.
        pull_interval_ms: consume() pauses this long after a pull that found less than a full batch.
        batch_max_time_to_wait_ms: How long fetch() waits for a first message.
        max_ack_time_ms: How long a message may stay without an answer until it is delivered again.
        max_msg_deliveries: How often a message is delivered before it becomes a dead letter.
        MAX_BATCH_SIZE: The most messages that one fetch may ask for.
    """

    _instead = (
        "share it between the threads of a process; in another process, make one with the client that is opened there"
    )

    MAX_BATCH_SIZE = MAX_BATCH_SIZE

    def __init__(
        self,
        client: Memphis,
        view: StationView,
        *,
        name: str,
        group: str,
        pull_interval_ms: int,
        batch_size: int,
        batch_max_time_to_wait_ms: int,
        max_ack_time_ms: int,
        max_msg_deliveries: int,
    ) -> None:
        self._client = client
        self._view = view
        self._source = Source(client._session, view, name, group)
        self.station_name = view.name
        self.consumer_name = name
        self.consumer_group = group
        self.pull_interval_ms = pull_interval_ms
        self.batch_size = batch_size
        self.batch_max_time_to_wait_ms = batch_max_time_to_wait_ms
        self.max_ack_time_ms = max_ack_time_ms
        self.max_msg_deliveries = max_msg_deliveries
        self.context: Any = {}
        durable = durable_name(group)
        self._bindings = [
            GroupPartition(number, stream_name(view.internal, number), durable) for number in view.partitions or (0,)
        ]
        self._pulls = PullConsumer(
            client._data_link(),
            self._bindings,
            Message,
            self._source,
            ack_time_s=self.ack_time_s,
            look_for=functools.partial(_look_for, self._source),
        )
        self._dead_letters = ResentQueue(self._source, self._pulls.wake)
        client._session.readers.add(self)
        # Messages that an iteration has fetched and not handed out yet, and until when they need no second look.
        self._buffer: deque[Message] = deque()
        self._fresh_until = 0.0
        self._unsubscribe: Optional[weakref.finalize[[Subscription], Consumer]] = None  # from dead letters
        self._iterations_ended = False
        self._readings: set[object] = set()  # one for each iteration and each worker of consume() that is not over
        self._keep_until = 0.0
        self._consuming: Optional[Consuming] = None
        self._consuming_lock = primitives.RLock()  # guards _consuming; held for no more than a look

    # ---- reading ----------------------------------------------------------------------------------------------------

    def fetch(
        self,
        batch_size: int = 10,
        consumer_partition_key: Optional[str] = None,
        consumer_partition_number: int = -1,
        prefetch: bool = False,
        *,
        timeout_s: Optional[float] = None,
    ) -> Messages:
        """
        Takes what is there, from all partitions, each call beginning with another one. Dead letters that were resent to
        the group come first, whatever partition is asked for, and end the wait.

        Args:
            batch_size: At most so many messages, 1 to 5000.
            consumer_partition_key: Read only the partition that this key belongs to.
            consumer_partition_number: Read only this partition; 0 and less for all. A station of one partition takes
                any number.
            prefetch: Ask for the next batch, of the same size, before returning, so that the next call finds it here. A
                message that waited for long in between gets its ack time anew when it is returned; one whose time is
                nearly over is not returned at all: the broker delivers it again.
            timeout_s: How long to wait for a first message, in seconds; ``batch_max_time_to_wait_ms`` by default. The
                call takes no longer, but for a tenth of a second.

        Returns:
            1 to batch_size messages as soon as any partition has some; [] when none came in time. That says nothing of
            what the station holds: a slow network or a busy broker gives [] as well. read_all() reads to the end.

        Raises:
            ConfigurationError: An argument is out of its bounds, or key and number are both given.
            StationNotFoundError: The station or the group was destroyed.
            ConnectionLostError: The data link went down; what was on its way is delivered again.
            DeadlineError: The broker has answered nothing for 5 s, in this call and those before it: it hangs.
            ClosedError, ForkedError: The client was closed or the consumer destroyed, or it belongs to the parent
                process.
        """
        batch_size = check_int("batch_size", batch_size, 1, MAX_BATCH_SIZE)
        check_bool("prefetch", prefetch)
        if timeout_s is None:
            wait_s = max(MIN_WAIT_S, self.batch_max_time_to_wait_ms / 1000)
        else:
            wait_s = check_seconds("timeout_s", timeout_s)
        only = self._choose(consumer_partition_key, consumer_partition_number)
        self.check_open()
        if self._buffer and only is None:
            found = self._take_buffered(batch_size)
            if found:
                return Messages(found)
        return Messages(self.read(only, batch_size, wait_s, prefetch))

    def __iter__(self) -> Iterator[Message]:
        """
        Messages from all partitions, for ever: ends at stop_consume(), destroy() or the client's close().

        Takes messages in portions that fit the loop: one to begin with, then as many as it handles in a tenth of a
        second, ``batch_size`` at most. When the loop is left, those that it has not seen go back to the group at once.
        Outages are waited out.

        Raises:
            StationNotFoundError: The station or the group was destroyed by somebody else.
            ForkedError: The consumer belongs to the parent process.
        """
        self.check_open()
        self._iterations_ended = False
        session, buffer = self.session, self._buffer
        portion = Portion(self.batch_size, self.ack_time_s)
        taken, taken_at = 0, 0.0
        reading = self._begin_reading()
        try:
            while not (self._iterations_ended or session._is_ending):
                if buffer:
                    if time.monotonic() < self._fresh_until:
                        try:
                            message = buffer.popleft()
                        except IndexError:  # another thread was faster
                            continue
                        yield message
                        continue
                    self._refresh()
                    continue
                if taken:
                    portion.handled(taken, time.monotonic() - taken_at)
                filled = self._fill(portion)
                if filled is None:
                    return
                taken, taken_at = filled, time.monotonic()
        finally:
            self._end_reading(reading)

    def read_all(
        self,
        consumer_partition_key: Optional[str] = None,
        consumer_partition_number: int = -1,
        *,
        batch_size: int = READ_ALL_BATCH,
        timeout_s: float = READ_ALL_S,
    ) -> Iterator[Message]:
        """
        Reads all that the station holds for the group at this call, and then ends.

        ::

            for message in consumer.read_all():
                handle(message.data)
                message.ack()

        What arrives meanwhile may come as well. It ends by what
        the broker says of the group, and never because nothing came for a while. What another member has in hand counts
        as read once that one has answered it; should it have died, the message comes here after its ack time. It takes
        messages in portions, and gives back what it has not handed out, as iteration does.

        Args:
            consumer_partition_key: Read only the partition that this key belongs to.
            consumer_partition_number: Read only this partition; 0 and less for all. A station of one partition takes
                any number.
            batch_size: How many messages it takes at once at most, 1 to 5000.
            timeout_s: How long the broker may bring nothing, though it holds more, before DeadlineError; in seconds,
                above 0. Outages are waited out within it.

        Returns:
            An iterator; it asks the broker with the first message. stop_consume(), destroy() and the client's close()
            end it before the end.

        Raises:
            ConfigurationError: An argument is out of its bounds, or key and number are both given.
            DeadlineError, ConnectionLostError: Not read to the end: nothing came for *timeout_s*.
            StationNotFoundError: The station or the group was destroyed.
            ClosedError, ForkedError: As fetch().
        """
        check_int("batch_size", batch_size, 1, MAX_BATCH_SIZE)
        check_seconds("timeout_s", timeout_s, allow_zero=False)
        only = self._choose(consumer_partition_key, consumer_partition_number)
        self.check_open()
        return self._read_all(only, batch_size, timeout_s)

    def _read_all(self, only: Optional[int], batch_size: int, timeout_s: float) -> Iterator[Message]:
        self._iterations_ended = False
        bindings = [binding for binding in self._bindings if only in (None, binding.partition)]
        to_end = ReadToEnd(self._source, bindings, self.ack_time_s, timeout_s)
        portion = Portion(batch_size, self.ack_time_s)
        reading, is_failed = self._begin_reading(), False
        try:
            while not self._is_to_end_iterations():
                try:
                    found = self.take_portion(portion, only, wait_s=_TO_END_S, is_over=self._is_to_end_iterations)
                except (ConnectionLostError, DeadlineError) as exc:
                    to_end.check_time(str(exc))
                    time.sleep(OUTAGE_PAUSE_S)
                    continue
                if not found:
                    if to_end.is_reached():
                        return
                    continue
                started = time.monotonic()
                self._fresh_until = min(self._fresh_until if self._buffer else float("inf"), self._next_look())
                self._buffer.extend(found)
                while self._buffer and not self._is_to_end_iterations():
                    if time.monotonic() >= self._fresh_until:
                        self._refresh()
                        continue
                    try:
                        message = self._buffer.popleft()
                    except IndexError:  # another thread was faster
                        continue
                    to_end.hand_out(message)
                    yield message
                portion.handled(len(found), time.monotonic() - started)
                if to_end.is_reached_meanwhile():
                    return
                if to_end.is_near:
                    portion.rest()
        except (ConnectionLostError, DeadlineError):
            is_failed = True
            raise
        finally:
            self._end_reading(reading, is_hurried=is_failed)

    def _is_to_end_iterations(self) -> bool:
        return self._iterations_ended or self.session.is_ending

    def consume(
        self,
        callback: Handler,
        consumer_partition_key: Optional[str] = None,
        consumer_partition_number: int = -1,
        *,
        context: Any = None,
        workers: int = 1,
    ) -> None:
        """
        Calls ``callback(messages, error, context)`` for each batch, on threads of its own, until stop_consume().

        A batch is a portion that fits the callback: one message to begin with, then as many as it handles in a tenth of
        a second, ``batch_size`` at most; one again after a pause. So a program that dies costs few messages one of
        their deliveries. A program that needs full batches, whatever they take, reads them with fetch().

        Args:
            callback: A plain function. *messages* holds 1 to ``batch_size`` messages and *error* is None, or *messages*
                is empty and *error* says what went wrong (once for each outage). Whatever it raises, SystemExit
                included, is logged, counted in ``stats().callback_errors`` and handed to it as *error*; consuming goes
                on. It may block, and may call anything, close() included.
                What it has not answered in its ack time is delivered again.
            consumer_partition_key: Read only the partition that this key belongs to.
            consumer_partition_number: Read only this partition; 0 and less for all. A station of one partition takes
                any number.
            context: As set_context(), when it is not None.
            workers: How many threads call it, 1 to 256; each has one batch at a time, so at most so many are under way.
                With 1 the messages of a partition come in its order; with more, batches are handled side by side, and
                the order holds only within each. An error is handed to one of them.

        Raises:
            ConfigurationError: *callback* cannot be called with three arguments, or is a coroutine function or a
                generator; *workers* is out of its bounds; or key and number are both given.
            UsageError: consume() is running already.
            ClosedError, ForkedError: As fetch().
        """
        check_callable("callback", callback, parameters="messages, error, context")
        only = self._choose(consumer_partition_key, consumer_partition_number)
        self.check_open()
        workers = check_int("workers", workers, 1, MAX_WORKERS)
        with self._consuming_lock:
            if self._consuming is not None and self._consuming.is_running:
                raise UsageError(f"{self!r} is consuming already; call stop_consume() first")
            if context is not None:
                self.context = context
            consuming = self._consuming = Consuming(self, callback, only, workers)
        consuming.start()

    def stop_consume(self, timeout_s: float = _STOP_S) -> bool:
        """
        Ends consume() and iterations after the message or batch at hand; messages that nobody has seen go back to the
        group at once. Called by the callback it does not wait.

        Args:
            timeout_s: How long to wait for the callback to return on all its threads, in seconds.

        Returns:
            False when the callback was still running at the limit.
        """
        check_seconds("timeout_s", timeout_s)
        waiting.forbid_on_own_thread("stop_consume()")
        self._iterations_ended = True
        with self._consuming_lock:
            consuming = self._consuming
            was_running = consuming is not None and consuming.is_running
            if consuming is not None:
                consuming.tell_to_stop()
        self._pulls.wake()
        has_ended = consuming is None or consuming.join(timeout_s)
        if not was_running and not self._readings and not self.is_destroyed and not self.session.is_ending:
            self._return_untouched(time.monotonic() + _END_S)  # else who was reading does so
        return has_ended

    def stop(self, timeout_s: float = _STOP_S) -> bool:
        """The same as stop_consume()."""
        return self.stop_consume(timeout_s)

    def set_context(self, context: Any) -> None:
        """Sets what consume() hands to its callback as third argument."""
        self.context = context

    @property
    def dls_messages(self) -> list[ResentMessage]:
        """The dead letters that wait for the next fetch, iteration or callback; a copy."""
        return self._dead_letters.waiting()

    # ---- ending -----------------------------------------------------------------------------------------------------

    def destroy(self, timeout_retries: int = 5) -> None:
        """
        Stops, and takes the consumer out of its group; the broker ends the group with its last member. Idempotent.

        Args:
            timeout_retries: How often a request without an answer is repeated; each waits up to 5 s.

        Raises:
            ServerError: The broker refused.
            DeadlineError, ConnectionLostError: No answer; the consumer may be destroyed.
            ClosedError, ForkedError: The client was closed, or belongs to the parent process.
        """
        timeout_retries = check_int("timeout_retries", timeout_retries, 0, 1000)
        if self.is_destroyed:
            return
        self.check_open()
        self.stop_consume()
        self._return_untouched(time.monotonic() + GIVE_BACK_S, is_waiting=True, is_last=True)
        client = self._client
        work = client._requests.destroy_consumer(self._view, self.consumer_name, timeout_retries)
        client._call(work, DESTROY_S, timeout_retries, "destroy()")
        client._consumers.discard(self)
        self._mark_destroyed()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.stop_consume()
        if not self.is_destroyed and not self.session.is_closing:
            self._return_untouched(time.monotonic() + GIVE_BACK_S, is_waiting=True)

    def __repr__(self) -> str:
        return repr(self._source)

    @property
    def is_destroyed(self) -> bool:
        """Whether destroy() has taken it out of its group."""
        return self._source.is_destroyed

    @property
    def ack_time_s(self) -> float:
        """``max_ack_time_ms`` in seconds."""
        return self.max_ack_time_ms / 1000

    @property
    def session(self) -> Session:
        """The client's threads and links; for the package's own use."""
        return self._source.session

    def check_open(self) -> None:
        """
        Raises unless the consumer can be used here and now.

        Raises:
            ClosedError: It was destroyed, or its client was closed.
            ForkedError: It belongs to the parent process.
        """
        self._source.check_open()

    def read(
        self,
        only: Optional[int],
        limit: int,
        wait_s: float,
        ahead: bool,
        *,
        outage_s: float = float("inf"),
        is_over: Callable[[], bool] = lambda: False,
    ) -> list[Message]:
        """
        Dead letters if there are any, else messages; for the package's own use, as the two after it.

        Args:
            only: The one partition to read; None for all.
            limit: At most so many.
            wait_s: How long to wait for a first one.
            ahead: Ask for the next ones before returning.
            outage_s: How much of *wait_s* it waits for a connection, when there is none.
            is_over: True ends the wait; asked after each stop(), too.

        Raises:
            MemphisError: As fetch().
        """
        waiting.forbid_on_own_thread("fetch()")
        letters, session = self._dead_letters, self.session
        deadline = time.monotonic() + wait_s

        def is_enough() -> bool:
            return bool(letters) or self.is_destroyed or session.is_ending or is_over()

        while True:
            if letters:
                found = letters.take(limit)
                if found:
                    return found
            try:
                received = self._pulls.fetch(
                    limit,
                    max(deadline - time.monotonic(), 0.0),
                    only,
                    ahead=ahead,
                    outage_s=outage_s,
                    is_over=is_enough,
                )
            except ConnectionLostError:
                if letters:
                    continue
                raise
            if received or is_over() or (not letters and time.monotonic() >= deadline):
                return received
            self.check_open()
            if session.is_ending:
                raise ClosedError(f"{self!r}: the client is being closed")

    def rest(self, *, is_idle: bool = False) -> None:
        """Asks for nothing ahead any more; *is_idle*: the partitions had nothing more."""
        self._pulls.rest(is_idle=is_idle)

    def _hear_dead_letters(self, deadline: Optional[float] = None) -> None:
        requests = self._client._requests
        work = requests.hear_dead_letters(self._view, self._source.group_internal, self._dead_letters.put)
        try:
            if deadline is None:
                subscription = self.session.call(work, JS_S, "consumer()")
            else:
                subscription = self.session.loop.call(work, max(deadline - time.monotonic(), 0.0), "consumer()")
        except MemphisError as exc:
            with handing_over(self.session.callbacks.post):  # others may wait for this consumer
                log.warning("%r gets no dead letters: %s", self, exc)  # all else works without
            return
        # Also when it is forgotten: in its queue group it would take dead letters that another member could have.
        self._unsubscribe = weakref.finalize(self, requests.end_subscription, subscription)
        self._unsubscribe.atexit = False

    # ---- inside -----------------------------------------------------------------------------------------------------

    def _choose(self, key: Union[str, bytes, None], number: int) -> Optional[int]:
        """The one partition that key or number name; None for all."""
        if key is not None and not isinstance(key, (str, bytes)):
            raise ConfigurationError(
                f"consumer_partition_key is of type {type(key).__name__}; it must be a str or None"
            )
        partitions = self._view.partitions
        chosen = check_int("consumer_partition_number", number, -(2**63))
        partition = check_partition(chosen, partitions, self.station_name)
        if key is not None and partition is not None:
            raise ConfigurationError(
                f"Can not use both partition number and partition key: consumer_partition_number is {number} and "
                "consumer_partition_key is given"
            )
        return partition_for_key(key, partitions) if key is not None and partitions else partition

    @property
    def holds_more(self) -> bool:
        """Whether messages were received that wait for the next portion."""
        return bool(self._pulls.holds or self._dead_letters)

    @property
    def answered_at(self) -> float:
        """When the broker last said what a partition holds, be it nothing; by ``time.monotonic()``."""
        return self._pulls.answered_at

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
        What a handler gets next; [] when there was nothing for a while. For the package's own use, as those above.

        Args:
            portion: Its portion.
            only: The one partition to read; None for all.
            wait_s: How long to wait for a first one; None: for long, or a short while if there were some just now.
            outage_s: As read().
            is_over: As read().

        Raises:
            MemphisError: As fetch().
        """
        if wait_s is None:
            wait_s = LULL_S if portion.size > 1 else LONG_POLL_S
        try:
            found = self.read(only, portion.size, wait_s, portion.is_ahead, outage_s=outage_s, is_over=is_over)
        except ConnectionLostError:
            if portion.size == 1:
                raise
            found = []  # an outage is a pause; the next look waits for its end
        if not found:
            if portion.is_ahead:
                self._pulls.rest(is_idle=True)
            portion.rest()
            return found
        if found[0].is_dead_letter:
            self._dead_letters.put_back(found[1:])  # type: ignore[arg-type]  # where they come from
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
        link = self._client._data_link()
        with contextlib.suppress(ConnectionLostError):  # the acks of those before it are not to die with it either
            link.core.wait_pong(link.core.ping(), int(LULL_S * 1e9))
        is_alone = len(found) == 1 and not self._pulls.is_expecting
        if is_alone or link.is_memphis or time.monotonic() < self._keep_until:
            return found
        others: list[Message] = found[count:]
        others += self._pulls.take_untouched(time.monotonic() + GIVE_BACK_S)
        try:
            is_told = not others or self.session.call(
                report_untouched(self._source, link, others, is_kept=True), GIVE_BACK_S, "reading"
            )
        except MemphisError as exc:
            log.debug("%r: %s", self, exc)
            is_told = False
        if not is_told:
            self._keep_until = time.monotonic() + _UNHEARD_S
        # A last delivery would be the end of it for the server; what was told makes good for it.
        last = self.max_msg_deliveries if is_told else 1
        nack([message for message in others if message.delivered < last])
        self._pulls.put_back([message for message in others if message.delivered >= last])
        return found[:count]

    def _fill(self, portion: Portion) -> Optional[int]:
        """Takes a portion into the buffer and returns its size; None when the iteration has ended."""
        try:
            batch = self.take_portion(portion, None, is_over=lambda: self._iterations_ended)
        except ClosedError:
            return None
        except (ConnectionLostError, DeadlineError) as exc:
            log.debug("%r: %s", self, exc)
            time.sleep(OUTAGE_PAUSE_S)
            return 0
        self._fresh_until = min(self._fresh_until if self._buffer else float("inf"), self._next_look())
        self._buffer.extend(batch)
        return len(batch)

    def _next_look(self) -> float:
        return time.monotonic() + _RENEW_AT * self.ack_time_s

    def _refresh(self) -> None:
        """Lets go of what the buffer held for too long, and gives the rest its ack time anew."""
        kept = self._take_buffered(len(self._buffer))
        self._fresh_until = self._next_look()
        self._buffer.extend(kept)

    def _take_buffered(self, limit: int) -> list[Message]:
        found: list[Message] = []
        while len(found) < limit:
            try:
                found.append(self._buffer.popleft())
            except IndexError:
                break
        return self._pulls.fresh(found)

    # ---- giving back ------------------------------------------------------------------------------------------------

    def _begin_reading(self) -> object:
        """An iteration, or a worker of consume(), begins; what is returned is for _end_reading()."""
        reading = object()
        self._readings.add(reading)
        return reading

    def _end_reading(self, reading: object, *, is_hurried: bool = False) -> None:
        """It has ended; the last one gives back what it has left. Also on the way out of a destructor."""
        self._readings.discard(reading)
        if not self._readings and not self.is_destroyed:
            is_hurried = is_hurried or self._iterations_ended or self.session.is_ending
            self._return_untouched(time.monotonic() + (_END_S if is_hurried else GIVE_BACK_S))

    def _return_untouched(self, deadline: float, *, is_waiting: bool = False, is_last: bool = False) -> None:
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
            messages = self._take_buffered(len(self._buffer))
            letters = [message for message in messages if isinstance(message, ResentMessage)]
            if is_last:
                messages += self._dead_letters.take(MAX_RESENT)
            else:
                messages = [message for message in messages if not message.is_dead_letter]
                self._dead_letters.put_back(letters)
            messages += self._pulls.take_untouched(deadline)
            if not messages:
                return
            link = self._client._data_link()

            async def work() -> None:
                await return_untouched(self._source, link, messages)

            if is_waiting:
                session.call(work(), GIVE_BACK_S, "giving messages back")
            else:
                session.spawn(work, is_awaited=True)
        except DeadlineError as exc:
            log.debug("%r: %s", self, exc)
        except MemphisError as exc:  # the client's threads have ended, or it is one of them that asks
            log.debug("%r: %s", self, exc)
            nack(messages)

    def _wake(self) -> None:
        self._pulls.wake()

    def _end(self, deadline: float) -> None:
        if self.is_destroyed:
            return
        self._return_untouched(deadline, is_last=True)
        subscribed = None if self._unsubscribe is None else self._unsubscribe.detach()
        if subscribed is None:
            return
        subscription, session = subscribed[2][0], self.session
        try:
            requests, link = self._client._requests, self._client._data_link()
        except MemphisError:  # the client has ended, and the subscription with it
            return

        async def leave() -> None:
            control = session.control
            if control.is_memphis or not control.is_connected:
                return
            await report_untouched(self._source, link, [])
            await requests.drain_subscription(subscription, max(0.0, deadline - time.monotonic()))
            letters = self._dead_letters.take(MAX_RESENT)
            if letters:
                await report_untouched(self._source, link, letters)

        with contextlib.suppress(MemphisError):  # the client's threads have ended
            session.spawn(leave, is_awaited=True)

    def _mark_destroyed(self) -> None:
        self._source.is_destroyed = True
        if self._unsubscribe is not None:
            self._unsubscribe()
        self._iterations_ended = True
        self._pulls.wake()


def _look_for(
    source: Source, binding: GroupPartition, answer: Callable[[Optional[StationNotFoundError]], None]
) -> None:
    """
    Asks whether a group whose pulls have no answer is still there; *answer* is called on the loop.

    It has no reference to the consumer: its pulls have this function, and who hears dead letters has its pulls, so a
    forgotten consumer could not be collected otherwise.
    """

    async def look() -> None:
        destroyed = None
        try:
            await source.session.control.js_api(f"CONSUMER.INFO.{binding.stream}.{binding.durable}", None, _LOOK_S)
        except StationNotFoundError as exc:
            destroyed = StationNotFoundError(
                f"{binding.stream}: the station or the consumer group is gone ({exc.description})",
                code=exc.code,
                err_code=exc.err_code,
                description=exc.description,
            )
            destroyed.__cause__ = exc
        except MemphisError as exc:
            log.debug("%r: %s", source, exc)  # nobody can tell at the moment
        finally:
            answer(destroyed)

    source.session.spawn(look)
