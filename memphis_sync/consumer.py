"""
A consumer: takes messages from all partitions of a station for its group.

Three ways to read, which may be mixed: fetch() returns a batch, ``for message in consumer:`` never ends by itself, and
consume() calls a function on a thread of its own.
"""

from __future__ import annotations

import inspect
import logging
import time
from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Callable, Optional, Union

from memphis_sync._link import Binding, PullSession
from memphis_sync._runtime import Runtime, primitives
from memphis_sync._wire.names import durable_name, stream_name
from memphis_sync._wire.partitions import check_partition, partition_for_key
from memphis_sync.errors import (
    ClosedError,
    ConfigurationError,
    ConnectionLostError,
    DeadlineError,
    MemphisError,
    UsageError,
)
from memphis_sync.message import Message
from memphis_sync.options import MAX_BATCH_SIZE, check_bool, check_int, check_seconds
from memphis_sync.types import StationView

if TYPE_CHECKING:
    from typing_extensions import Self

    from memphis_sync.client import Memphis

log = logging.getLogger("memphis_sync.consume")

Handler = Callable[["list[Message]", Optional[MemphisError], Any], object]

MIN_WAIT_S = 0.1  # the floor of memphis.py's batch_max_time_to_wait_ms
LONG_POLL_S = 0.5  # a pull ends with its first message, so this costs no latency; it is how soon a stop is seen
_OUTAGE_PAUSE_S = 0.2
_STOP_S = 5.0


class Consumer:
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
        bindings = [Binding(number, stream_name(view.internal, number), durable) for number in view.partitions or (0,)]
        self._session = PullSession(client._data_link(), bindings, Message, self)
        # Messages that an iteration has fetched and not handed out, each with the time when the broker sends it again.
        self._buffer: deque[tuple[float, Message]] = deque()
        self._is_destroyed = False
        self._stop = primitives.Event()  # replaced by each consume()
        self._iterations_ended = False
        self._thread: Optional[primitives.Thread] = None
        self._thread_lock = primitives.Lock()  # guards _thread and _stop

    # ---- reading ----------------------------------------------------------------------------------------------------

    def fetch(
        self,
        batch_size: int = 10,
        consumer_partition_key: Optional[str] = None,
        consumer_partition_number: int = -1,
        prefetch: bool = False,
        *,
        timeout_s: Optional[float] = None,
    ) -> list[Message]:
        """
        Takes what is there, from all partitions, each call beginning with another one.

        Args:
            batch_size: At most so many messages, 1 to 5000.
            consumer_partition_key: Read only the partition that this key belongs to.
            consumer_partition_number: Read only this partition; -1 for all.
            prefetch: Accepted for code written for memphis.py. It has no effect: a message that is fetched before it is
                asked for uses up its ack time in the client's memory.
            timeout_s: How long to wait for a first message, in seconds; ``batch_max_time_to_wait_ms`` by default.

        Returns:
            1 to batch_size messages as soon as any partition has some; [] when there was none in time.

        Raises:
            ConfigurationError: An argument is out of its bounds, or key and number are both given.
            StationNotFoundError: The station or the group was destroyed.
            ConnectionLostError: The data link went down; what was on its way is delivered again.
            ClosedError, ForkedError: The client was closed or the consumer destroyed, or it belongs to the parent
                process.
        """
        check_int("batch_size", batch_size, 1, MAX_BATCH_SIZE)
        check_bool("prefetch", prefetch)
        if timeout_s is None:
            wait_s = max(MIN_WAIT_S, self.batch_max_time_to_wait_ms / 1000)
        else:
            wait_s = check_seconds("timeout_s", timeout_s)
        only = self._choose(consumer_partition_key, consumer_partition_number)
        self.check_open()
        found = self._take_buffered(batch_size) if only is None else []
        if found:
            return found
        return self._pull(only, batch_size, wait_s)

    def __iter__(self) -> Iterator[Message]:
        """
        Messages from all partitions, for ever: ends at stop_consume(), destroy() or the client's close().

        Outages are waited out. Messages that were fetched and not handed out when the loop was left are the first ones
        of the next iteration or fetch().

        Raises:
            StationNotFoundError: The station or the group was destroyed by somebody else.
            ForkedError: The consumer belongs to the parent process.
        """
        self.check_open()
        self._iterations_ended = False
        while not (self._iterations_ended or self._is_destroyed or self.runtime.is_ending):
            ready = self._take_buffered(1)
            if ready:
                yield ready[0]
                continue
            try:
                batch = self._pull(None, self.batch_size, LONG_POLL_S)
            except ClosedError:
                return
            except (ConnectionLostError, DeadlineError) as exc:
                log.debug("%r: %s", self, exc)
                time.sleep(_OUTAGE_PAUSE_S)
                continue
            expires = time.monotonic() + self.max_ack_time_ms / 1000
            self._buffer.extend((expires, message) for message in batch)

    def consume(
        self,
        callback: Handler,
        consumer_partition_key: Optional[str] = None,
        consumer_partition_number: int = -1,
        *,
        context: Any = None,
    ) -> None:
        """
        Calls ``callback(messages, error, context)`` for each batch, on a thread of its own, until stop_consume().

        Args:
            callback: A plain function. *messages* holds 1 to ``batch_size`` messages and *error* is None, or *messages*
                is empty and *error* says what went wrong (once for each outage). An exception in it is logged and
                handed to it as *error*; consuming goes on. It may block, and may call anything, close() included.
            consumer_partition_key: Read only the partition that this key belongs to.
            consumer_partition_number: Read only this partition; -1 for all.
            context: As set_context(), when it is not None.

        Raises:
            ConfigurationError: *callback* cannot be called or is a coroutine function, or key and number are both
                given.
            UsageError: consume() is running already.
            ClosedError, ForkedError: As fetch().
        """
        if not callable(callback) or _is_coroutine_function(callback):
            raise ConfigurationError(
                f"callback is {callback!r}; it must be a plain function of (messages, error, context), not a coroutine"
            )
        only = self._choose(consumer_partition_key, consumer_partition_number)
        self.check_open()
        with self._thread_lock:
            if self._thread is not None and self._thread.is_alive() and not self._stop.is_set():
                raise UsageError(f"{self!r} is consuming already; call stop_consume() first")
            if context is not None:
                self.context = context
            self._stop = primitives.Event()
            self._thread = self.runtime.start_thread("consume", self._run, callback, only, self._stop)

    def stop_consume(self, timeout_s: float = _STOP_S) -> bool:
        """
        Ends consume() and iterations after the message or batch at hand. Called by the callback it does not wait.

        Args:
            timeout_s: How long to wait for the callback to return, in seconds.

        Returns:
            False when the callback was still running at the limit.
        """
        check_seconds("timeout_s", timeout_s)
        self._iterations_ended = True
        with self._thread_lock:
            thread = self._thread
            self._stop.set()
        if thread is None or thread.ident == primitives.current_thread_id():
            return True
        thread.join(timeout_s)
        return not thread.is_alive()

    def set_context(self, context: Any) -> None:
        """Sets what consume() hands to its callback as third argument."""
        self.context = context

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
        check_int("timeout_retries", timeout_retries, 0, 1000)
        if self._is_destroyed:
            return
        self.check_open()
        self.stop_consume()
        self._return_buffered()
        self._client._destroy_consumer(self, timeout_retries)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.stop_consume()
        if not self._is_destroyed and not self.runtime.is_closing:
            self._return_buffered()

    def __repr__(self) -> str:
        state = "destroyed" if self._is_destroyed else "closed" if self.runtime.is_closing else "open"
        return f"<Consumer {self.consumer_name!r} of {self.station_name!r} group={self.consumer_group} {state}>"

    @property
    def runtime(self) -> Runtime:
        """The client's threads and links; for the package's own use."""
        return self._client._runtime

    def check_open(self) -> None:
        """
        Raises unless the consumer can be used here and now.

        Raises:
            ClosedError: It was destroyed, or its client was closed.
            ForkedError: It belongs to the parent process.
        """
        self.runtime.check()
        if self._is_destroyed:
            raise ClosedError(f"{self!r} takes no calls any more")

    # ---- inside -----------------------------------------------------------------------------------------------------

    def _choose(self, key: Union[str, bytes, None], number: int) -> Optional[int]:
        """The one partition that key or number name; None for all."""
        if key is not None and not isinstance(key, (str, bytes)):
            raise ConfigurationError(
                f"consumer_partition_key is of type {type(key).__name__}; it must be a str or None"
            )
        check_int("consumer_partition_number", number, -1)
        if key is not None and number != -1:
            raise ConfigurationError(
                f"Can not use both partition number and partition key: consumer_partition_number is {number} and "
                "consumer_partition_key is given"
            )
        partitions = self._view.partitions
        if key is not None:
            return partition_for_key(key, partitions) if partitions else None
        return None if number == -1 else check_partition(number, partitions, self.station_name)

    def _pull(self, only: Optional[int], batch_size: int, wait_s: float) -> list[Message]:
        return self._session.fetch(batch_size, wait_s, only)  # type: ignore[return-value]  # of the kind it was given

    def _take_buffered(self, limit: int) -> list[Message]:
        found: list[Message] = []
        while len(found) < limit:
            try:
                expires, message = self._buffer.popleft()
            except IndexError:
                break
            if expires > time.monotonic():  # else the broker has sent it again already
                found.append(message)
        return found

    def _return_buffered(self) -> None:
        """Gives messages that nobody has seen back to the group, for another member at once."""
        for message in self._take_buffered(len(self._buffer)):
            try:
                message.nack()
            except MemphisError as exc:
                log.debug("%r: giving a message back: %s", self, exc)  # it comes back after its ack time anyway
        self._session.close()

    def _mark_destroyed(self) -> None:
        self._is_destroyed = True
        self._iterations_ended = True
        self._stop.set()

    def _run(self, callback: Handler, only: Optional[int], stop: primitives.Event) -> None:
        """The consume thread."""
        is_failing = False
        while not (stop.is_set() or self.runtime.is_ending):
            try:
                messages = self._pull(only, self.batch_size, LONG_POLL_S)
            except MemphisError as exc:
                if stop.is_set() or self._is_destroyed or self.runtime.is_ending:
                    return
                if not is_failing:
                    is_failing = True
                    log.warning("%r: %s", self, exc)
                    self._hand_out(callback, [], exc)
                stop.wait(_OUTAGE_PAUSE_S if exc.retryable else LONG_POLL_S)
                continue
            is_failing = False
            if messages:
                self._hand_out(callback, messages, None)
            # A full batch means that more is waiting. After an empty one the long poll was the pause.
            if messages and len(messages) < self.batch_size:
                stop.wait(self.pull_interval_ms / 1000)

    def _hand_out(self, callback: Handler, messages: list[Message], error: Optional[MemphisError]) -> None:
        try:
            callback(messages, error, self.context)
        except Exception as exc:
            log.exception("%r: the callback failed", self)
            if error is None:
                failure = MemphisError(f"the callback of {self!r} failed: {type(exc).__name__}")
                failure.__cause__ = exc
                self._hand_out(callback, [], failure)


def _is_coroutine_function(callback: object) -> bool:
    return inspect.iscoroutinefunction(callback) or inspect.iscoroutinefunction(getattr(callback, "__call__", None))  # noqa: B004
