"""
A consumer reads messages from all partitions of a station for its group.

Five ways to read, which may be mixed: fetch() returns a batch, ``for message in consumer:`` never ends, read_all() ends
when the station has no more for the group, run() calls a function with each message, and consume() calls one on
separate threads. Dead letters that are resent to the group arrive among the messages.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Callable, Optional, TypeVar, Union

from memphis_sync._base import primitives
from memphis_sync._base.hints import hint_keywords
from memphis_sync._base.in_notebook import InNotebook
from memphis_sync._base.refusals import NotAwaited, NotCopied
from memphis_sync._consuming import consume_loop, receipts, run_loop
from memphis_sync._consuming.give_back import GIVE_BACK_S
from memphis_sync._consuming.observing import new_reader
from memphis_sync._consuming.registering import join_again, leave
from memphis_sync._consuming.resent import ResentMessage
from memphis_sync._consuming.run_loop import RunArguments, WaitArguments
from memphis_sync._consuming.source import Source
from memphis_sync._options.arguments import ConsumerArguments, check_place
from memphis_sync._options.checks import MAX_BATCH_SIZE, check_bool, check_callable, check_int, check_seconds
from memphis_sync._options.rows import method_takes
from memphis_sync._protocol.partitions import partition_for_key
from memphis_sync._session.single_flight import SingleFlight
from memphis_sync.errors import MemphisError
from memphis_sync.message import Message
from memphis_sync.messages import Messages
from memphis_sync.types import StationView

if TYPE_CHECKING:
    from typing_extensions import Self

    from memphis_sync.client import Memphis

Context = TypeVar("Context")
MIN_WAIT_S = 0.1  # the floor of memphis.py's batch_max_time_to_wait_ms
_STOP_S = 5.0
READ_ALL_BATCH = 500
READ_ALL_S = 30.0


@hint_keywords()
class Consumer(NotCopied, NotAwaited, InNotebook):
    """
    A member of a consumer group; returned by ``client.consumer()``. Several threads may use it.

    As a context manager it stops consuming at the end of the block. That does not destroy the consumer: the group keeps
    its position in the station for the next start, until destroy().

    Attributes:
        station_name: Lower case.
        consumer_name: Lower case.
        consumer_group: Lower case; the consumer's name when none was given.
        batch_size: How many messages consume() and iteration fetch at once, at most.
        pull_interval_ms: How long consume() pauses after a fetch of less than a full batch.
        batch_max_time_to_wait_ms: How long fetch() waits for a first message.
        max_ack_time_ms: How long a message may be unacknowledged before it is delivered again.
        max_msg_deliveries: How often a message is delivered before it becomes a dead letter.
        MAX_BATCH_SIZE: The largest ``batch_size`` of a fetch.
    """

    _instead = "share it between threads and with forked children; in another process, create one with the client there"

    _shown = ("batch_size", "pull_interval_ms", "max_ack_time_ms", "max_msg_deliveries")
    MAX_BATCH_SIZE = MAX_BATCH_SIZE

    def __init__(self, client: Memphis, view: StationView, given: ConsumerArguments) -> None:
        self._client = client
        self._given = given  # with the whole name
        self.station_name = view.name
        self.consumer_name = given.consumer_name
        self.consumer_group = given.consumer_group or given.consumer_name
        self.pull_interval_ms = given.pull_interval_ms
        self.batch_size = given.batch_size
        self.batch_max_time_to_wait_ms = given.batch_max_time_to_wait_ms
        self.max_ack_time_ms = given.max_ack_time_ms
        self.max_msg_deliveries = given.max_msg_deliveries
        self._context = consume_loop.Context()
        self._joining: SingleFlight[bool] = SingleFlight("the registration of a consumer")
        self._bind(view)

    def _bind(self, view: StationView) -> None:
        """Sets up what belongs to one process."""
        client = self._client
        source = Source(client._session, view, self.consumer_name, self.consumer_group)
        self._view = view
        self._reader = new_reader(
            source,
            client._requests,
            ack_time_s=self.max_ack_time_ms / 1000,
            max_deliveries=self.max_msg_deliveries,
        )
        self._consuming: Optional[consume_loop.Consuming] = None
        self._consuming_lock = primitives.RLock()  # guards _consuming; held only briefly
        self._source = source  # last: it says whether there was a fork

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
        Fetches messages from all partitions, beginning with another one in each call. Dead letters that were resent to
        the group come first, whichever partition is chosen, and end the wait.

        Args:
            batch_size: How many messages at most, 1 to 5000.
            consumer_partition_key: Read only the partition of this key.
            consumer_partition_number: Read only this partition; 0 and less for all. A station of one partition accepts
                any number.
            prefetch: Request the next batch, of the same size, before returning, so that it is ready for the next call.
                A message that has waited long gets its full ack time again when it is returned; one whose ack time is
                nearly over is not returned: the broker delivers it again.
            timeout_s: How long to wait for a first message, in seconds, 0 or more; by default
                ``batch_max_time_to_wait_ms``. The call ends at most a tenth of a second later.

        Returns:
            1 to batch_size messages as soon as any partition has some; [] when none arrived in time. [] does not mean
            that the station is empty: the network may be slow or the broker busy. read_all() reads to the end.

        Raises:
            ConfigurationError: An argument is not allowed, or key and number are both given.
            StationNotFoundError: The station or the group was destroyed.
            ConnectionLostError: The data link went down; messages that were on their way are delivered again.
            DeadlineError: The broker has not replied for 5 s, in this call and those before it.
            OwnThreadError: Called on one of the client's own threads.
            ClosedError: The client was closed, or the consumer destroyed.
            MemphisError: As consumer(), for the first call in a forked child, which registers the consumer anew; the
                next one tries again.
        """
        batch_size = check_int("batch_size", batch_size, 1, MAX_BATCH_SIZE)
        check_bool("prefetch", prefetch)
        if timeout_s is None:
            wait_s = max(MIN_WAIT_S, self.batch_max_time_to_wait_ms / 1000)
        else:
            wait_s = check_seconds("timeout_s", timeout_s)
        only = self._choose(consumer_partition_key, consumer_partition_number)
        self.check_open()
        reader = self._reader
        found = reader.take_buffered(batch_size) if reader.buffer and only is None else []
        return Messages(found or reader.read(only, batch_size, wait_s, prefetch))

    def __iter__(self) -> Iterator[Message]:
        """
        Yields messages from all partitions until stop_consume(), destroy() or the client's close().

        Fetches messages in portions that fit the loop: at first one, then as many as it handles in a tenth of a second,
        ``batch_size`` at most. When the loop ends, messages that it has not seen go back to the group at once. It waits
        through outages.

        Raises:
            StationNotFoundError: The station or the group was destroyed by somebody else.
            ForkedError: It began before a fork, and this is the child: begin another iteration there.
        """
        self.check_open()
        return self._reader.messages(self, self.batch_size)

    def read_all(
        self,
        consumer_partition_key: Optional[str] = None,
        consumer_partition_number: int = -1,
        *,
        batch_size: int = READ_ALL_BATCH,
        timeout_s: float = READ_ALL_S,
    ) -> Iterator[Message]:
        """
        Reads everything that the station holds for the group at this call, and then ends.

        ::

            for message in consumer.read_all():
                handle(message.data)
                message.ack()

        Messages that arrive meanwhile may be included. It ends when the broker reports that the group has nothing left,
        and never because nothing arrived for a while. A message that another member has counts as read once that member
        has acknowledged it; if the member died, the message is delivered here after its ack time. Messages are fetched
        in portions, and given back when they were not yielded, as in an iteration.

        Args:
            consumer_partition_key, consumer_partition_number: As of fetch().
            batch_size: How many messages it fetches at once, at most, 1 to 5000.
            timeout_s: How long nothing may arrive, though the station has more, before DeadlineError; in seconds, above
                0. It waits through outages within this time.

        Returns:
            An iterator; it sends the first request when it is used. stop_consume(), destroy() and the client's close()
            end it early.

        Raises:
            ConfigurationError: An argument is not allowed, or key and number are both given.
            DeadlineError, ConnectionLostError: Not read to the end: nothing arrived for *timeout_s*.
            StationNotFoundError: The station or the group was destroyed.
            ClosedError: As fetch().
        """
        check_int("batch_size", batch_size, 1, MAX_BATCH_SIZE)
        check_seconds("timeout_s", timeout_s, allow_zero=False)
        only = self._choose(consumer_partition_key, consumer_partition_number)
        self.check_open()
        return self._reader.messages(self, batch_size, only, to_end_s=timeout_s)

    def consume(
        self,
        callback: Callable[[list[Message], Optional[MemphisError], Context], object],
        consumer_partition_key: Optional[str] = None,
        consumer_partition_number: int = -1,
        *,
        context: Optional[Context] = None,
        workers: int = 1,
    ) -> None:
        """
        Calls ``callback(messages, error, context)`` for each batch, on separate threads, until stop_consume().

        It also ends with the client, which is closed when the program no longer refers to it, nor to anything made with
        it. A consumer that the program does not refer to goes on while its client is open, until there is a consume()
        of the same station, group and name in this process. At a prompt and in notebooks that next consume() takes its
        place in any case.

        A batch is a portion that fits the callback: at first one message, then as many as it handles in a tenth of a
        second, ``batch_size`` at most; one again after a pause. So a program that dies costs few messages one of their
        deliveries. A program that needs full batches, however long they take, reads them with fetch().

        Args:
            callback: A plain function. Either *messages* holds 1 to ``batch_size`` messages and *error* is None, or
                *messages* is empty and *error* says what went wrong (once for each outage). Whatever it raises,
                SystemExit included, is logged, counted in ``stats().callback_errors`` and passed to it as *error*;
                consuming continues. It may block, and may call anything, close() included.
                Messages that it has not acknowledged within their ack time are delivered again.
            consumer_partition_key, consumer_partition_number: As of fetch().
            context: As set_context(), when it is not None.
            workers: How many threads call it, 1 to 256; each has one batch at a time. With 1 the messages of a
                partition come in its order; with more, batches are handled at the same time, and the order holds only
                within each. An error is passed to one of them.

        Raises:
            ConfigurationError: *callback* cannot be called with three arguments, or is a coroutine function or a
                generator; *workers* is out of range; or key and number are both given.
            UsageError: consume() is running already.
            ClosedError: As fetch().
        """
        check_callable("callback", callback, parameters="messages, error, context")
        only = self._choose(consumer_partition_key, consumer_partition_number)
        consume_loop.begin(self, callback, only, context, workers)

    @method_takes(RunArguments)
    def run(self, given: RunArguments) -> int:
        """
        Calls a function with each message, on the calling thread, for programs that do nothing else.

            consumer.run(lambda message: handle(message.data), stop_signals=(signal.SIGTERM,))

        Messages come one by one, in portions that fit the function, as in an iteration. It returns after the current
        message when it is told to by a signal, by stop() or by the client's close(); what was not handled goes back to
        the group. It waits through outages. Several threads may call it, each for messages of its own.

        An error of the function is logged with its traceback, without the payload, counted in
        ``stats().callback_errors``, and settled as *on_error* says. What is no Exception, as KeyboardInterrupt or
        SystemExit, gives the message back and ends run(). A dead letter that was sent again stays one, whatever
        *on_error* says; an owed message (ResentMessage) is sent again after the group's ack time, without a pause.

        Returns:
            How many messages the function was called with.

        Raises:
            ConfigurationError: An argument is not allowed.
            UsageError: *stop_signals* is given, and this is not the main thread.
            StationNotFoundError: The station or the group was destroyed.
            ClosedError, OwnThreadError: As fetch().
            Exception: What the function raised, with ``on_error="stop"``.
        """
        return run_loop.run(self, given)

    @method_takes(WaitArguments)
    def wait(self, given: WaitArguments) -> bool:
        """
        Waits until consume() has ended on all its threads: for a main thread that has nothing else to do.

            consumer.consume(lambda messages, error, context: [handle(message.data) for message in messages])
            consumer.wait(stop_signals=(signal.SIGTERM,))

        Returns:
            False at the limit; consuming goes on.

        Raises:
            ConfigurationError: An argument is not allowed.
            UsageError: consume() was not called in this process, or wait() is called by the callback; or *stop_signals*
                is given, and this is not the main thread.
            OwnThreadError: Called on one of the client's own threads.
        """
        return run_loop.wait(self, given)

    def stop_consume(self, timeout_s: float = _STOP_S) -> bool:
        """
        Ends consume() and iterations after the current message or batch; messages that were not seen go back to the
        group at once. When the callback calls it, it does not wait.

        Args:
            timeout_s: How long to wait for the callback to return on all its threads, in seconds, 0 or more.

        Returns:
            False when the callback was still running at the limit.

        Raises:
            ConfigurationError: *timeout_s* is out of range.
            OwnThreadError: Called on one of the client's own threads.
        """
        return consume_loop.stop(self, check_seconds("timeout_s", timeout_s))

    def stop(self, timeout_s: float = _STOP_S) -> bool:
        """The same as stop_consume()."""
        return self.stop_consume(timeout_s)

    def set_context(self, context: object) -> None:
        """Sets the third argument of consume()'s callback."""
        self.context = context

    @property
    def context(self) -> object:
        """The third argument of consume()'s callback."""
        return self._context.value

    @context.setter
    def context(self, context: object) -> None:
        self._context.value = context

    @property
    def dls_messages(self) -> list[ResentMessage]:
        """The resent dead letters that wait for the next fetch, iteration or callback; a copy."""
        return [] if self._source.is_inherited else self._reader.letters.waiting()

    # ---- answering later --------------------------------------------------------------------------------------------

    def receipt(self, message: Message) -> str:
        """
        A text with which restore() answers a message later, also in another process.

        Args:
            message: One that this consumer has returned.

        Raises:
            UsageError: It was not fetched by this consumer.
        """
        return receipts.receipt_of(self._source, message)

    def restore(self, receipt: str) -> Message:
        """
        A message to be answered, from its receipt: ``consumer.restore(receipt).ack()``. It has no payload and no
        headers. Each of its answers waits until the broker has it, 5 s at most.

        A broker does not know who answers, nor whether a message was delivered again meanwhile: an answer after the ack
        time ends the newer delivery, too. So keep the time with the receipt, and do not answer late.

        Args:
            receipt: From receipt(), of any consumer of the group. It is not signed: do not take it from others unless
                you know that it has not been changed.

        Raises:
            ConfigurationError: *receipt* is not a str.
            UsageError: It is not a receipt, or that of a message of another station or group.
            ClosedError: As fetch().
        """
        self.check_open()
        return receipts.restore(self._source, receipt)

    # ---- ending -----------------------------------------------------------------------------------------------------

    def destroy(self, timeout_retries: int = 5) -> None:
        """
        Stops consuming and leaves the group; the broker removes a group with its last member. Idempotent. In a forked
        child that has not used the consumer the parent remains a member.

        Args:
            timeout_retries: How often a request without a reply is repeated, 0 to 1000; each waits up to 5 s.

        Raises:
            ConfigurationError: *timeout_retries* is out of range.
            OwnThreadError: Called on one of the client's own threads.
            ServerError: The broker refused.
            DeadlineError, ConnectionLostError: No reply; the consumer may be destroyed.
            ClosedError: The client was closed.
        """
        timeout_retries = check_int("timeout_retries", timeout_retries, 0, 1000)
        leave(self, timeout_retries)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.stop_consume()
        if not self.is_destroyed and not self._source.session.is_closing:
            self._reader.return_untouched(time.monotonic() + GIVE_BACK_S, is_waiting=True)

    def __repr__(self) -> str:
        return repr(self._source)

    @property
    def is_destroyed(self) -> bool:
        """Whether destroy() was called."""
        return self._source.is_destroyed

    @property
    def ack_time_s(self) -> float:
        """``max_ack_time_ms`` in seconds."""
        return self.max_ack_time_ms / 1000

    def check_open(self) -> None:
        """
        Raises unless the consumer can be used. In a forked child the first call registers it anew.

        Raises:
            ClosedError: It was destroyed, or its client was closed.
            MemphisError: As consumer(), for the first call in a child; the next one tries again.
        """
        if self._source.is_inherited and not self._source.is_destroyed:
            self._joining.get("here", lambda: join_again(self))
        self._source.check_open()

    def _choose(self, key: Union[str, bytes, None], number: int) -> Optional[int]:
        """The one partition that key or number selects; None for all."""
        partitions = self._view.partitions
        partition = check_place("consumer", key, number, partitions, self.station_name)
        return partition_for_key(key, partitions) if key is not None and partitions else partition

    def _mark_destroyed(self) -> None:
        self._reader.mark_destroyed()
