"""
The threads of Consumer.consume(): each fetches a batch, passes it to the callback, and fetches the next one.

They refer to neither the consumer nor its client, and to the callback only while they call it: a client that the
program has forgotten can be collected, whatever its callbacks refer to, and that ends them.
"""

from __future__ import annotations

import time
import weakref
from typing import TYPE_CHECKING, Any, Callable, Optional

from memphis_sync._base import primitives, threads
from memphis_sync._base.interactive import is_interactive
from memphis_sync._base.logs import Log
from memphis_sync._base.threads import Latch
from memphis_sync._consuming.observing import handling
from memphis_sync._consuming.portion import LONG_POLL_S, OUTAGE_PAUSE_S, Portion
from memphis_sync._consuming.reader import END_S
from memphis_sync._options.checks import check_int
from memphis_sync._session import waiting
from memphis_sync.errors import MemphisError, StationNotFoundError, UsageError
from memphis_sync.message import Message
from memphis_sync.messages import Messages

if TYPE_CHECKING:
    from memphis_sync.consumer import Consumer

log = Log("memphis_sync.consume")

Handler = Callable[["list[Message]", Optional[MemphisError], Any], object]

MAX_WORKERS = 256
OUTAGE_S = 0.5  # so long without a connection is an error for the callback
GONE_PAUSE_S = 1.0  # until a station that is gone is looked for again: it may be made anew


# What consumes in this process; adding, removing and copying are atomic.
_running: set[Consuming] = set()


class Context:
    """The third argument of a callback, which may be changed while it is called."""

    def __init__(self) -> None:
        self.value: object = {}


class Receiver:
    """
    What the messages of one consume() go to. It is kept by the consumer's client, and by nothing that its threads
    refer to.

    Args:
        callback: Called with them.
        context: The callback's third argument.
        kept_in: Of the client.
    """

    def __init__(self, callback: Handler, context: Context, kept_in: set[Receiver]) -> None:
        self.callback = callback
        self.context = context
        self._kept_in = kept_in
        kept_in.add(self)

    def drop(self) -> None:
        """The client keeps it no longer."""
        self._kept_in.discard(self)


class Consuming:
    """
    One consume() from its start to its end.

    Args:
        consumer: Whose messages.
        receiver: What they go to; held weakly.
        only: The one partition to read; None for all.
        workers: How many threads.
    """

    def __init__(self, consumer: Consumer, receiver: Receiver, only: Optional[int], workers: int) -> None:
        self._reader = reader = consumer._reader
        self._consumer = weakref.ref(consumer, lambda _: reader.wake())
        self._receiver = weakref.ref(receiver)
        self._batch_size, self._pull_interval_s = consumer.batch_size, consumer.pull_interval_ms / 1000
        self._only = only
        self._stop = Latch()
        self._lock = primitives.Lock()  # guards the next three, which the workers share
        self._is_failing = False
        self._failed_at = 0.0
        self._pause_until = 0.0
        self._workers = workers
        self._threads: list[primitives.Thread] = []
        self._is_started = False
        self._is_followed = False  # by another consume() of the same member of the same group

    def start(self) -> None:
        """Starts the threads. What they do it in place of ends (see is_superseded)."""
        mine = self._reader.source
        for other in list(_running):
            theirs = other._reader.source
            if (mine.place, mine.session.generation) == (theirs.place, theirs.session.generation):
                other._is_followed = True
                other._reader.wake()
        _running.add(self)
        try:
            for _ in range(self._workers):
                self._threads.append(self._reader.session.start_thread("consume", self._run))
        except BaseException:
            self._stop.set()
            self._end()
            raise
        self._is_started = True

    @property
    def is_running(self) -> bool:
        """Whether it goes on: not told to stop, and its threads are alive, or about to be started."""
        is_to_go_on = not self._stop.is_set() and not self.is_superseded
        return is_to_go_on and (not self._is_started or any(thread.is_alive() for thread in self._threads))

    @property
    def is_superseded(self) -> bool:
        """
        Whether the same member of the group has a newer consume(), and this one is left over: nobody refers to its
        consumer, or, where cells are run again, perhaps only a result that IPython keeps, or a traceback.
        """
        return self._is_followed and (self._consumer() is None or is_interactive())

    def tell_to_stop(self) -> None:
        """Ends each thread after the batch at hand; does not wait."""
        self._stop.set()

    @property
    def is_mine(self) -> bool:
        """Whether the calling thread is one of its threads."""
        return any(thread.ident == primitives.current_thread_id() for thread in self._threads)

    def join(self, timeout_s: float) -> bool:
        """Waits for the threads unless it is one of them that asks. False: one was still running at the limit."""
        if self.is_mine:
            return True
        return not threads.join(self._threads, time.monotonic() + timeout_s)

    def is_over(self) -> bool:
        """Whether nothing more is to be handed out."""
        reader = self._reader
        is_told = self._stop.is_set() or self.is_superseded or reader.source.is_inherited  # the callback has forked
        return is_told or reader.source.is_destroyed or reader.session.is_ending

    def _end(self) -> None:
        _running.discard(self)
        receiver = self._receiver()
        if receiver is not None:
            receiver.drop()

    def _run(self) -> None:
        reading = self._reader.begin()
        try:
            self._hand_out_portions()
        finally:
            self._end()
            self._reader.end_reading(reading)

    def _hand_out_portions(self) -> None:
        while True:
            try:
                self._read_and_hand_out()
            except BaseException as exc:
                if self._reader.source.is_inherited:
                    raise
                # Nobody else would meet it, and consuming would end in silence.
                self._reader.session.callbacks.failed(f"consume() of {self._reader.source!r}", exc)
                self._stop.wait(OUTAGE_PAUSE_S)
            if self.is_over():
                return

    def _read_and_hand_out(self) -> None:
        reader = self._reader
        portion = Portion(self._batch_size, reader.ack_time_s)
        while not self.is_over():
            pause_s = self._pause_until - time.monotonic()
            if pause_s > 0:
                self._stop.wait(min(pause_s, LONG_POLL_S))
                continue
            try:
                messages = reader.take_portion(portion, self._only, outage_s=OUTAGE_S, is_over=self.is_over)
            except MemphisError as exc:
                if self.is_over():
                    break
                self._fail(exc)
                continue
            # A look that only waited for another worker's, or for the broker, does not mean that all is well again.
            if messages or reader.pulls.answered_at > self._failed_at:
                self._is_failing = False
            if not messages:
                continue
            # After an empty batch the long poll was the pause.
            is_more = portion.is_held or reader.holds_more or self._is_more_behind(messages, portion.size)
            if not is_more and self._pull_interval_s:
                self._pause_until = time.monotonic() + self._pull_interval_s
                reader.pulls.rest(is_idle=True)
            started = time.monotonic()
            self._hand_out(messages, None)
            portion.handled(len(messages), time.monotonic() - started)

    def _is_more_behind(self, messages: list[Message], asked_for: int) -> bool:
        """Whether a partition had more when it delivered its last one of these, or was not asked for lack of room."""
        if len(messages) >= self._batch_size:
            return True
        seen = set()
        for message in reversed(messages):
            meta = message.metadata
            if meta is not None and meta.stream not in seen:
                seen.add(meta.stream)
                if meta.pending:
                    return True
        partitions = 1 if self._only is not None else len(self._reader.source.view.partitions)
        return len(messages) >= asked_for and len(seen) < partitions

    def _fail(self, error: MemphisError) -> None:
        with self._lock:
            is_news = not self._is_failing
            self._is_failing = True
            self._failed_at = time.monotonic()
            pause_s = GONE_PAUSE_S if isinstance(error, StationNotFoundError) else OUTAGE_PAUSE_S
            self._pause_until = time.monotonic() + pause_s
        if is_news:
            log.warning("%r: %s", self._reader.source, error)
            self._hand_out(Messages(), error)

    def _hand_out(self, messages: list[Message], error: Optional[MemphisError]) -> None:
        receiver, source = self._receiver(), self._reader.source
        if receiver is None:
            return  # the client was forgotten, and is about to end
        raised = self._reader.session.callbacks.call(
            receiver.callback,
            messages,
            error,
            receiver.context.value,
            log=log,
            about=f"{source!r}: the callback failed",
        )
        if raised is not None and error is None:
            failure = MemphisError(f"the callback of {source!r} failed: {type(raised).__name__}")
            failure.__cause__ = raised
            self._hand_out(Messages(), failure)


def begin(consumer: Consumer, callback: Handler, only: Optional[int], context: object, workers: int) -> None:
    """Consumer.consume(), with its callback and partition checked."""
    consumer.check_open()
    workers = check_int("workers", workers, 1, MAX_WORKERS)
    with consumer._consuming_lock:
        if consumer._consuming is not None and consumer._consuming.is_running:
            raise UsageError(f"{consumer!r} is consuming already; call stop_consume() first")
        if context is not None:
            consumer.context = context
        callback = handling(consumer._source, callback)
        receiver = Receiver(callback, consumer._context, consumer._client._consumers.receivers)
        consuming = consumer._consuming = Consuming(consumer, receiver, only, workers)
    consuming.start()


def stop(consumer: Consumer, timeout_s: float) -> bool:
    """Consumer.stop_consume()."""
    waiting.forbid_on_own_thread("stop_consume()")
    if consumer._source.is_inherited:
        return True  # nothing reads in this process
    reader = consumer._reader
    reader.is_stopped = True
    with consumer._consuming_lock:
        consuming = consumer._consuming
        was_running = consuming is not None and consuming.is_running
        if consuming is not None:
            consuming.tell_to_stop()
    reader.wake()
    has_ended = consuming is None or consuming.join(timeout_s)
    if not was_running and not reader.readings and not consumer.is_destroyed and not reader.session.is_ending:
        reader.return_untouched(time.monotonic() + END_S)  # otherwise the reading thread does so
    return has_ended
