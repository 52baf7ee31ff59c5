"""The threads of Consumer.consume(): each fetches a batch, passes it to the callback, and fetches the next one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Callable, Optional

from memphis_sync._base import primitives
from memphis_sync._base.logs import Log
from memphis_sync._base.threads import Latch
from memphis_sync._consuming.portion import LONG_POLL_S, OUTAGE_PAUSE_S, Portion
from memphis_sync.errors import MemphisError, StationNotFoundError
from memphis_sync.message import Message, Messages

if TYPE_CHECKING:
    from memphis_sync.consumer import Consumer

log = Log("memphis_sync.consume")

Handler = Callable[["list[Message]", Optional[MemphisError], Any], object]

OUTAGE_S = 0.5  # so long without a connection is an error for the callback
GONE_PAUSE_S = 1.0  # until a station that is gone is looked for again: it may be made anew


class Consuming:
    """
    One consume() from its start to its end.

    Args:
        consumer: Whose messages.
        callback: What gets them.
        only: The one partition to read; None for all.
        workers: How many threads.
    """

    def __init__(self, consumer: Consumer, callback: Handler, only: Optional[int], workers: int) -> None:
        self._consumer = consumer
        self._reader = consumer._reader
        self._callback = callback
        self._only = only
        self._stop = Latch()
        self._lock = primitives.Lock()  # guards the next three, which the workers share
        self._is_failing = False
        self._failed_at = 0.0
        self._pause_until = 0.0
        self._workers = workers
        self._threads: list[primitives.Thread] = []
        self._is_started = False

    def start(self) -> None:
        """Starts the threads."""
        try:
            for _ in range(self._workers):
                self._threads.append(self._reader.session.start_thread("consume", self._run))
        except BaseException:
            self._stop.set()
            raise
        self._is_started = True

    @property
    def is_running(self) -> bool:
        """Whether it goes on: not told to stop, and its threads are alive, or about to be started."""
        return not self._stop.is_set() and (not self._is_started or any(thread.is_alive() for thread in self._threads))

    def tell_to_stop(self) -> None:
        """Ends each thread after the batch at hand; does not wait."""
        self._stop.set()

    def join(self, timeout_s: float) -> bool:
        """Waits for the threads unless it is one of them that asks. False: one was still running at the limit."""
        if any(thread.ident == primitives.current_thread_id() for thread in self._threads):
            return True
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def is_over(self) -> bool:
        """Whether nothing more is to be handed out."""
        reader = self._reader
        return self._stop.is_set() or reader.source.is_destroyed or reader.session.is_ending

    def _run(self) -> None:
        reading = self._reader.begin()
        try:
            self._hand_out_portions()
        finally:
            self._reader.end_reading(reading)

    def _hand_out_portions(self) -> None:
        while True:
            try:
                self._read_and_hand_out()
            except BaseException as exc:  # noqa: BLE001  nobody else would meet it, and consuming would end in silence
                self._reader.session.callbacks.failed(f"consume() of {self._consumer!r}", exc)
                self._stop.wait(OUTAGE_PAUSE_S)
            if self.is_over():
                return

    def _read_and_hand_out(self) -> None:
        consumer, reader = self._consumer, self._reader
        portion = Portion(consumer.batch_size, reader.ack_time_s)
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
            if not is_more and consumer.pull_interval_ms:
                self._pause_until = time.monotonic() + consumer.pull_interval_ms / 1000
                reader.pulls.rest(is_idle=True)
            started = time.monotonic()
            self._hand_out(messages, None)
            portion.handled(len(messages), time.monotonic() - started)

    def _is_more_behind(self, messages: list[Message], asked_for: int) -> bool:
        """Whether a partition had more when it delivered its last one of these, or was not asked for lack of room."""
        if len(messages) >= self._consumer.batch_size:
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
            log.warning("%r: %s", self._consumer, error)
            self._hand_out(Messages(), error)

    def _hand_out(self, messages: list[Message], error: Optional[MemphisError]) -> None:
        consumer = self._consumer
        raised = self._reader.session.callbacks.call(
            self._callback, messages, error, consumer.context, log=log, about=f"{consumer!r}: the callback failed"
        )
        if raised is not None and error is None:
            failure = MemphisError(f"the callback of {consumer!r} failed: {type(raised).__name__}")
            failure.__cause__ = raised
            self._hand_out(Messages(), failure)
