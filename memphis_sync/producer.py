"""
A producer sends messages to one station, or to several at once.

The produce contract: a blocking produce() returns after the broker has stored the message, or raises; a non-blocking
one returns at once, and each accepted message ends in exactly one of delivered, failed and abandoned.
Messages that one thread produces to one partition are stored in that order, blocking and non-blocking alike.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Mapping
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Generic, Literal, NoReturn, Optional, Union, overload

from memphis_sync._base.hints import hint_keywords, wrong_keyword
from memphis_sync._base.in_notebook import InNotebook
from memphis_sync._base.refusals import NotAwaited, NotCopied
from memphis_sync._control.api import DESTROY_S
from memphis_sync._options.checks import check_int, check_seconds
from memphis_sync._producing.rebinding import Rebinding
from memphis_sync._producing.sender import DEFAULT_ACK_WAIT_S, OnDelivery, Sender, confirmed
from memphis_sync._protocol.payload import not_utf8
from memphis_sync._session import waiting
from memphis_sync.bulk import Bulk, BulkResult, Item, check_iterable
from memphis_sync.delivery import Deliveries, Delivery
from memphis_sync.errors import (
    BufferFullError,
    ConfigurationError,
    ForkedError,
    MemphisError,
    UndeliveredWarning,
)
from memphis_sync.headers import encode_user_headers
from memphis_sync.types import FlushResult, Payload, PubAck, PubAcks

if TYPE_CHECKING:
    from typing_extensions import Self, TypeVar, Unpack

    from memphis_sync._producing.cache import ProducerArguments
    from memphis_sync._producing.produce_types import ProduceOptions
    from memphis_sync.client import Memphis
    from memphis_sync.types import StationView

    # What produce() returns, blocking and not: of one station, unless the producer has several.
    Acked_co = TypeVar("Acked_co", bound=Union[PubAck, PubAcks], covariant=True, default=PubAck)
    Pending_co = TypeVar("Pending_co", bound=Union[Delivery, Deliveries], covariant=True, default=Delivery)
else:  # Python before 3.13 has no defaults of type variables
    from typing import TypeVar

    Acked_co, Pending_co = TypeVar("Acked_co", covariant=True), TypeVar("Pending_co", covariant=True)

DESTROY_FLUSH_S = 15.0  # the default deadline of a message


@hint_keywords(but={"produce"})
class Producer(NotCopied, NotAwaited, InNotebook, Generic[Acked_co, Pending_co]):
    """
    Produces to one station, or to several at once. Returned by ``client.producer()``; any number of threads may use it.

    As a context manager it is destroyed at the end of the block, after its messages are confirmed.

    Attributes:
        name: Lower case.
        stations: Names of its stations, in the order given.
    """

    _instead = "share it between threads and with forked children; in another process, create one with the client there"

    _shown = ("name", "stations", "__len__")

    def __init__(self, client: Memphis, views: tuple[StationView, ...], given: ProducerArguments) -> None:
        self._client = client
        self._given = given  # with the whole name
        self._views = views
        self.name = given.producer_name
        self._rebinding = Rebinding()
        self._sender = Sender(
            client._session,
            self.name,
            views,
            idempotent=given.idempotent,
            block_on_full_s=given.block_on_full_s,
            ack_timeout_s=given.ack_timeout_s,
            on_delivery=given.on_delivery,
        )
        self.stations = self._sender.stations
        way = self._sender.way()
        self._direct, self._send, self._room_s = way.direct, way.send, self._sender.block_on_full_s

    def _take_over(self, other: Producer[Acked_co, Pending_co]) -> None:
        """In a forked child: what *other* has registered is this producer's, which has gone out of use."""
        self._views, self._sender, self._send = other._views, other._sender, other._send
        self._direct = other._direct  # last: it says whether there was a fork

    @property
    def producer_name(self) -> str:
        """The same as `name`."""
        return self.name

    @property
    def station_name(self) -> Union[str, list[str]]:
        """The station, or a list of them when it has several."""
        return self.stations[0] if len(self.stations) == 1 else list(self.stations)

    # ---- producing ---------------------------------------------------------------------------------------------

    @overload
    def produce(
        self,
        message: Payload,
        ack_wait_sec: float = ...,
        headers: Optional[Mapping[str, str]] = ...,
        async_produce: None = ...,
        nonblocking: Literal[False] = ...,
        **options: Unpack[ProduceOptions],
    ) -> Acked_co: ...

    @overload
    def produce(
        self,
        message: Payload,
        ack_wait_sec: float = ...,
        headers: Optional[Mapping[str, str]] = ...,
        *,
        nonblocking: Literal[True],
        concurrent_task_limit: Optional[int] = ...,
        on_delivery: Optional[OnDelivery] = ...,
        **options: Unpack[ProduceOptions],
    ) -> Pending_co: ...

    @overload
    def produce(
        self,
        message: Payload,
        ack_wait_sec: float = ...,
        headers: Optional[Mapping[str, str]] = ...,
        async_produce: Optional[bool] = ...,
        nonblocking: bool = ...,
        msg_id: Optional[str] = ...,
        concurrent_task_limit: Optional[int] = ...,
        producer_partition_key: Optional[str] = ...,
        producer_partition_number: int = ...,
        *,
        on_delivery: Optional[OnDelivery] = ...,
    ) -> Union[Acked_co, Pending_co]: ...

    def produce(
        self,
        message: Payload,
        ack_wait_sec: float = DEFAULT_ACK_WAIT_S,
        headers: Optional[Mapping[str, str]] = None,
        async_produce: Optional[bool] = None,
        nonblocking: bool = False,
        msg_id: Optional[str] = None,
        concurrent_task_limit: Optional[int] = None,
        producer_partition_key: Optional[str] = None,
        producer_partition_number: int = -1,
        *,
        on_delivery: Optional[OnDelivery] = None,
        **unexpected: NoReturn,
    ) -> object:
        """
        Produces a message.

        Args:
            message: bytes, bytearray, memoryview, str (as UTF-8), dict or list (as JSON), a protobuf message or a
                GraphQL document. It is copied before the call returns, and never changed. On a station with a schema:
                what the schema's kind accepts (docs/how-to/schemas.md). The first message after a change of schema
                waits until the new one is compiled.
            ack_wait_sec: How long the broker may take to confirm, in seconds, above 0; then the message has failed. By
                default the producer's ``ack_timeout_s``.
            headers: Text to text. Names that begin with ``$memphis`` or ``Nats-`` are reserved.
            async_produce: Deprecated name of *nonblocking*.
            nonblocking: Return at once. The call never waits for the network, nor for space in the queue unless the
                producer has ``block_on_full_s``.
            msg_id: The broker stores a message with this id once within the station's idempotency window, in each
                partition; so the partition follows from the id unless a key or a number is given. Without it an
                idempotent producer creates an id.
            concurrent_task_limit: With *nonblocking*: when this many messages of the producer are unconfirmed, wait
                until half of them are.
            producer_partition_key: Messages with the same key go to the same partition.
            producer_partition_number: The partition; 0 and less: by key or *msg_id*, and without both in turn. A
                station of one partition accepts any number.
            on_delivery: With *nonblocking*: called once with the Delivery when its outcome is known, on the callbacks
                thread; once for each station. By default the producer's own.

        Returns:
            Blocking: a PubAck; for several stations PubAcks, a dict of station to PubAck.
            Non-blocking: a Delivery; for several stations Deliveries.

        Raises:
            ConfigurationError, HeaderError: A bad argument; the message was not accepted.
            SchemaError: The message does not match the station's schema (that of any of the stations), or the schema
                cannot be used; the message was not accepted. A mismatch is reported to the broker.
            PayloadTooLargeError: Larger than the broker accepts; the message was not accepted.
            BufferFullError: Non-blocking: the queue is full (and stayed full for ``block_on_full_s``). Blocking: it
                stayed full for *ack_wait_sec*. The message was not accepted.
            RejectedError: Blocking: the broker refused the message; it is not stored.
            StationGoneError: Blocking: the station was destroyed; the message is not stored. Raised after the attempts
                of the client's ``no_responders_retry``.
            AckTimeoutError: Blocking: no confirmation in time, for example while a cluster elects a leader; ``outcome``
                says whether it may be stored.
            ProduceError: Blocking: refused or without responders, after an earlier attempt was lost with its
                connection; ``outcome`` is ``unknown``.
            MultiStationError: Blocking, several stations: at least one did not confirm; ``results`` has each.
            OwnThreadError: A call that may wait was made on one of the client's own threads.
            ClosedError: The producer was destroyed, or the client was closed.
            ConnectError, AuthenticationError, ServerError: Blocking, and the first call in a forked child, where the
                client connects and the producer is registered anew: that failed, and the next call tries again.
        """
        if unexpected:
            raise wrong_keyword(Producer.produce, unexpected, "Producer.")
        if async_produce is not None:
            warnings.warn("async_produce is deprecated; use nonblocking", DeprecationWarning, stacklevel=2)
            nonblocking = nonblocking or async_produce
        if not nonblocking:
            waiting.forbid_on_own_thread("a blocking produce()")
        try:
            # The common case in one step; None when more is needed.
            delivery = self._direct.take(
                message,
                ack_wait_sec,
                headers,
                msg_id,
                concurrent_task_limit,
                producer_partition_key,
                producer_partition_number,
                on_delivery,
                not nonblocking,
            )
            if delivery is not None:
                return delivery if nonblocking else confirmed(delivery)
        except UnicodeEncodeError as exc:
            raise not_utf8(exc) from exc
        except BufferFullError:
            if nonblocking:
                raise  # a blocking call waits for space below
        except ForkedError:  # which another thread may have mended since
            return self._rebinding.produce(
                self,
                message,
                ack_wait_sec,
                nonblocking,
                headers,
                msg_id,
                concurrent_task_limit,
                producer_partition_key,
                producer_partition_number,
                on_delivery,
            )
        return self._send(
            message,
            ack_wait_sec,
            nonblocking,
            headers,
            msg_id,
            concurrent_task_limit,
            producer_partition_key,
            producer_partition_number,
            on_delivery,
            self._room_s,
        )

    def produce_many(
        self,
        iterable: Iterable[Union[Payload, Item]],
        *,
        timeout_s: Optional[float] = None,
        on_error: Literal["raise", "collect"] = "raise",
    ) -> BulkResult:
        """
        Produces everything that an iterable yields, as fast as the broker accepts it, and waits for the confirmations.

        Memory is bounded: it waits while the queue is full, where a non-blocking produce() would raise BufferFullError.

        Args:
            iterable: Payloads as for produce(), or Items, which add key, partition, headers or message id.
            timeout_s: Limit for all together, in seconds, above 0; None: each message has the default of produce().
            on_error: ``raise``: stop reading at the first failure, wait for the rest and raise. ``collect``: continue,
                and list the failures in the result.

        Returns:
            Counts, failures and the time it took.

        Raises:
            BulkError: With ``raise``: a message failed; the text has its index and how many are stored, and ``result``
                says what became of all accepted messages. A BulkSchemaError, which is also a SchemaError, when it did
                not match its station's schema; a BulkItemError, which is also a ConfigurationError, when it could not
                be sent at all: of a wrong type, too large, with a bad header or partition.
            DeadlineError: Not finished within *timeout_s*; ``result`` has the unconfirmed among the failures.
            ConfigurationError: A bad argument, also an *iterable* that is not one of messages: a str, bytes, a dict, a
                DataFrame, a single Item. Nothing was accepted.
            OwnThreadError: Called on one of the client's own threads.
            Exception: Whatever *iterable* raises, after the messages before it are settled; it has their ``result``.
        """
        if on_error not in ("raise", "collect"):
            raise ConfigurationError(f"on_error is {on_error!r}; it must be 'raise' or 'collect'")
        if timeout_s is not None:
            check_seconds("timeout_s", timeout_s, allow_zero=False)
        check_iterable(iterable)
        waiting.forbid_on_own_thread("produce_many()")
        return Bulk(self._rebinding.sender(self), timeout_s, stop_at_failure=on_error == "raise").run(iterable)

    def produce_each(
        self, messages: Iterable[Payload], *, headers: Optional[Mapping[str, str]] = None
    ) -> list[Union[Pending_co, MemphisError]]:
        """
        A non-blocking produce() of each message, for a small part of its cost: where the outcomes of many messages are
        wanted one by one.

        Args:
            messages: As for produce(), of any number.
            headers: Of every message, as for produce().

        Returns:
            For each message, in order, its Delivery, or the error with which produce() would have refused it. After a
            BufferFullError no other one was tried: they all have it, and may be passed again later in their order.

        Raises:
            ConfigurationError, HeaderError: A bad argument; nothing was accepted.
        """
        check_iterable(messages)
        lines = encode_user_headers(headers)
        way = self._rebinding.sender(self).way()
        iterator = iter(messages)
        found: list[Union[Pending_co, MemphisError]] = []
        while True:
            rest = way.take_from(iterator, found, sys.maxsize, lines)
            if not rest:
                return found
            try:
                found.append(self.produce(rest[0], headers=headers, nonblocking=True))
            except BufferFullError as exc:  # one behind it might find room, and be stored before it
                return [*found, exc, *(exc for _ in iterator)]
            except MemphisError as exc:
                found.append(exc)

    # ---- backlog and end ---------------------------------------------------------------------------------------

    def flush(self, timeout_s: Optional[float] = None) -> FlushResult:
        """
        Waits until every message of this producer that was accepted so far is confirmed or has failed.

        Args:
            timeout_s: Limit in seconds; None: until the messages' own deadlines.

        Returns:
            How many of them are still unconfirmed; 0 when all are settled, whatever was produced meanwhile. Its
            ``failed`` says how many messages of this producer have failed since its previous flush().

        Raises:
            OwnThreadError: Called on one of the client's own threads.
        """
        if timeout_s is not None:
            check_seconds("timeout_s", timeout_s)
        waiting.forbid_on_own_thread("flush()")
        if not self._sender.is_inherited:
            return self._sender.link.flush(timeout_s, self._sender.owner)
        # Until it is registered in this process, its messages are held, and counted with those of the client.
        return FlushResult() if self._rebinding.under_way() is None else self._client.flush(timeout_s)

    def __len__(self) -> int:
        """How many messages of this producer are unconfirmed."""
        if not self._sender.is_inherited:
            return self._sender.link.core.outstanding(self._sender.owner)
        registration = self._rebinding.under_way()
        return 0 if registration is None else len(registration)

    def __bool__(self) -> bool:
        return True  # a producer without a backlog is still a producer

    def destroy(self, timeout_retries: int = 5) -> None:
        """
        Waits until its messages are confirmed, then removes the producer from the broker. Idempotent. In a forked child
        it removes only what the child has registered by using the producer; that of the parent stays.

        Args:
            timeout_retries: How often a request without a reply is repeated, 0 to 1000; each waits up to 5 s.

        Raises:
            ConfigurationError: *timeout_retries* is out of range.
            OwnThreadError: Called on one of the client's own threads.
            ServerError: The broker refused.
            DeadlineError, ConnectionLostError: No reply; the producer may be destroyed.
            ClosedError: The client was closed.

        Warns:
            UndeliveredWarning: Messages were still unconfirmed after 15 s; they remain in the client's queue.
        """
        timeout_retries = check_int("timeout_retries", timeout_retries, 0, 1000)
        if self._sender.is_closed:
            return
        if self._sender.is_inherited and self._rebinding.under_way() is None:
            self._sender.close()  # this process has registered none
            return
        sender = self._rebinding.sender(self)
        sender.close()
        left = self.flush(DESTROY_FLUSH_S)
        if left:
            warnings.warn(
                f"{left} messages of {self!r} were not confirmed when it was destroyed",
                UndeliveredWarning,
                stacklevel=3,
            )
        client = self._client
        client._producers.discard(self)
        work = partial(client._requests.destroy_producers, self._views, self.name, timeout_retries)
        client._requests.run(work, timeout_retries, "destroy()", DESTROY_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.destroy()

    def __repr__(self) -> str:
        return repr(self._sender)


__all__ = ["BulkResult", "Item", "Producer"]
