"""
A producer: takes messages for one station, or for several at once.

What produce() promises is the produce contract: a blocking produce returns after the broker has stored the message, or
raises; a non-blocking one returns at once, and each message it took ends in exactly one of delivered, failed and
abandoned.
Messages that one thread produces to one partition are stored in that order, blocking and non-blocking alike.
"""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Callable, Literal, NoReturn, Optional, TypeVar, Union

from memphis_sync._base.hints import hint_keywords, wrong_keyword
from memphis_sync._base.refusals import NotAwaited, NotCopied
from memphis_sync._control.requests import DESTROY_S
from memphis_sync._core import FanOut, RoundRobin, Route, encode_header
from memphis_sync._data.outcomes import DELIVERED, PENDING, SLICE_NS, Target, error_of, pub_ack
from memphis_sync._options.checks import as_int, check_callable, check_int, check_seconds
from memphis_sync._protocol.names import publish_subject, stream_name
from memphis_sync._protocol.partitions import check_partition, partition_for_key
from memphis_sync._protocol.payload import message_id, not_utf8, payload_of, size_of
from memphis_sync._schema.produce_check import encode_all, encode_one
from memphis_sync._session import waiting
from memphis_sync.bulk import Bulk, BulkResult, Item, check_iterable
from memphis_sync.delivery import Deliveries, Delivery
from memphis_sync.errors import BufferFullError, ClosedError, ConfigurationError, UndeliveredWarning
from memphis_sync.headers import Headers, encode_user_headers
from memphis_sync.types import FlushResult, PubAck

if TYPE_CHECKING:
    from typing_extensions import Self

    from memphis_sync._producing.registration import Held
    from memphis_sync.client import Memphis
    from memphis_sync.types import StationView


class _Default(float):
    """A default that can be told from the same number given by a caller; a plain float has no identity on PyPy."""


DEFAULT_ACK_WAIT_S: float = _Default(15)  # memphis.py's
DESTROY_FLUSH_S = 15.0  # as long as the messages' own default deadline, so none is left

Appended = TypeVar("Appended")


@hint_keywords(but={"produce"})
class Producer(NotCopied, NotAwaited):
    """
    Produces to one station, or to several at once. Made by ``client.producer()``; may be used by any number of threads.

    As a context manager it is destroyed at the end of the block, after its messages were confirmed.

    Attributes:
        name: Lower case.
        stations: Names of its stations, in the order given.
    """

    _instead = (
        "share it between the threads of a process; in another process, make one with the client that is opened there"
    )

    def __init__(
        self,
        client: Memphis,
        name: str,
        views: tuple[StationView, ...],
        *,
        idempotent: bool = True,
        block_on_full_s: Optional[float] = None,
        ack_timeout_s: float = DEFAULT_ACK_WAIT_S,
        on_delivery: Optional[Callable[[Delivery], object]] = None,
    ) -> None:
        self._client = client
        self._views = views
        self.name = name
        self.stations = tuple(view.name for view in views)
        self._link = client._data_link()
        self._json_writer = client._session.json_writer
        self._owner: int = self._link.core.owner_new()
        self._is_idempotent = idempotent
        self._block_on_full_s = block_on_full_s
        self._timeout_ns = int(ack_timeout_s * 1e9)
        self._on_delivery = on_delivery
        self._id_name = b"msg-id" if self._link.is_memphis else b"Nats-Msg-Id"
        self._fixed = encode_header(b"$memphis_producedBy", name.encode()) + encode_header(
            b"$memphis_connectionId", client.connection_id.encode()
        )
        self._routes = [self._routes_of(view) for view in views]
        self._round_robins = [
            RoundRobin(list(routes.values()), view.live, view.functions, DEFAULT_ACK_WAIT_S, self._timeout_ns, Delivery)
            for view, routes in zip(views, self._routes)
        ]
        self._direct: Union[RoundRobin, FanOut] = (
            self._round_robins[0] if len(views) == 1 else FanOut(self._round_robins, Deliveries)
        )
        self._function_routes: dict[tuple[str, int, int], Route] = {}
        self._is_simple = len(views) == 1
        self._functions = [view.functions for view in views]
        self._live = views[0].live
        for view in views:  # so that the first message does not wait for it
            if view.live.codec is not None:
                view.live.codec.prepare()
        self._is_closed = False
        # Else each message needs a look at what the producer was told.
        self._direct.is_plain = block_on_full_s is None and on_delivery is None

    @property
    def producer_name(self) -> str:
        """The same as `name`."""
        return self.name

    @property
    def station_name(self) -> Union[str, list[str]]:
        """The station, or a list of them when it has several."""
        return self.stations[0] if len(self.stations) == 1 else list(self.stations)

    def _routes_of(self, view: StationView) -> dict[int, Route]:
        return {number: self._route(view, number, None) for number in view.partitions or (0,)}

    def _route(self, view: StationView, partition: int, function_id: Optional[int]) -> Route:
        return Route(
            self._link.core,
            publish_subject(view.internal, partition, function_id).encode(),
            self._id_name,
            self._fixed,
            self._owner,
            self._is_idempotent,
            Target(
                view.name,
                partition,
                stream_name(view.internal, partition),
                self._link,
                len(view.partitions),
                len(self._views),
            ),
        )

    # ---- producing ---------------------------------------------------------------------------------------------

    def produce(
        self,
        message: Any,
        ack_wait_sec: float = DEFAULT_ACK_WAIT_S,
        headers: Union[Headers, Mapping[str, str], None] = None,
        async_produce: Optional[bool] = None,
        nonblocking: bool = False,
        msg_id: Optional[str] = None,
        concurrent_task_limit: Optional[int] = None,
        producer_partition_key: Optional[str] = None,
        producer_partition_number: int = -1,
        *,
        on_delivery: Optional[Callable[[Delivery], object]] = None,
        **unexpected: NoReturn,
    ) -> Any:
        """
        Produces a message.

        Args:
            message: bytes, bytearray, memoryview, str (as UTF-8), dict or list (as JSON), a protobuf message or a
                GraphQL document. It is copied before the call returns, and never changed. On a station with a schema:
                what the schema's kind takes (docs/how-to/schemas.md). The first message after a change of schema waits
                until the new one is compiled.
            ack_wait_sec: How long the broker may take to confirm, in seconds, above 0; then the message has failed.
                Not given, the producer's ``ack_timeout_s`` holds.
            headers: Text to text. Names that begin with ``$memphis`` or ``Nats-`` are reserved.
            async_produce: Deprecated name of *nonblocking*.
            nonblocking: Return at once. The call never waits for the network, nor for room unless the producer has
                ``block_on_full_s``.
            msg_id: The broker stores a message of this id once within the station's idempotency window: in each
                partition, so the partition follows from the id unless a key or a number is given. Without one an
                idempotent producer makes its own.
            concurrent_task_limit: With *nonblocking*: when so many messages of this producer are unconfirmed, wait
                until half of them are.
            producer_partition_key: Messages of one key go to one partition.
            producer_partition_number: The partition itself; 0 and less: by key or *msg_id*, and without both round
                robin. A station of one partition takes any number.
            on_delivery: With *nonblocking*: called once with the Delivery when its outcome is known, on the callbacks
                thread; once for each station. Not given, the producer's own.

        Returns:
            Blocking: a PubAck; for several stations a dict of station to PubAck.
            Non-blocking: a Delivery; for several stations Deliveries.

        Raises:
            ConfigurationError, HeaderError: A bad argument; nothing was taken.
            SchemaError: The message does not match the station's schema (that of any of the stations), or the schema
                cannot be used; nothing was taken, and the broker is told of it.
            PayloadTooLargeError: Larger than the broker takes; nothing was taken.
            BufferFullError: Non-blocking: the outbox is full (and stayed full for ``block_on_full_s``), nothing was
                taken. Blocking: it stayed full for *ack_wait_sec*.
            RejectedError: Blocking: the broker refused the message; it is not stored.
            StationGoneError: Blocking: the station was destroyed; the message is not stored. Raised after the attempts
                of the client's ``no_responders_retry``; a message that is sent again may be stored behind later ones.
            AckTimeoutError: Blocking: no confirmation in time; ``outcome`` says whether it may be stored.
            ProduceError: Blocking: refused, or nobody answered, after an earlier sending of it was lost with its
                connection; ``outcome`` is ``unknown``.
            MultiStationError: Blocking, several stations: at least one did not confirm; ``results`` has each.
            ClosedError, ForkedError: The producer was destroyed, the client closed, or it is the parent process's.
        """
        if unexpected:
            raise wrong_keyword(Producer.produce, unexpected, "Producer.")
        if async_produce is not None:
            warnings.warn("async_produce is deprecated; use nonblocking", DeprecationWarning, stacklevel=2)
            nonblocking = nonblocking or async_produce
        if not nonblocking:
            waiting.forbid_on_own_thread("a blocking produce()")
        try:
            # What most calls ask for, in one step; None when there is more to it.
            delivery = self._direct.take(
                message,
                ack_wait_sec,
                headers,
                msg_id,
                concurrent_task_limit,
                producer_partition_key,
                producer_partition_number,
                on_delivery,
                -1 if nonblocking else SLICE_NS,
            )
            if delivery is not None:
                return delivery if nonblocking else _confirmed(delivery)
        except UnicodeEncodeError as exc:
            raise not_utf8(exc) from exc
        except BufferFullError:
            if nonblocking:
                raise  # else it waits for room below, like any other
        if self._is_closed:
            raise ClosedError(f"{self!r} is destroyed; the message was not taken")
        timeout_ns = self._timeout_ns if ack_wait_sec is DEFAULT_ACK_WAIT_S else ack_wait_ns(ack_wait_sec)
        lines = b"" if headers is None else encode_user_headers(headers)
        id_bytes = b"" if msg_id is None else message_id(msg_id)
        if nonblocking:
            if on_delivery is None:
                on_delivery = self._on_delivery
            else:
                check_callable("on_delivery", on_delivery, is_optional=True)
            if concurrent_task_limit is not None:
                self._wait_below(check_int("concurrent_task_limit", concurrent_task_limit, 1))
        elif on_delivery is not None:
            raise ConfigurationError("on_delivery is given for a blocking produce; it goes with nonblocking=True")
        if not self._is_simple:
            routes = self._choose_all(producer_partition_key, producer_partition_number, id_bytes)
            try:
                payload = encode_all(self._client._session, self.name, self._views, message, headers, routes)
            except UnicodeEncodeError as exc:
                raise not_utf8(exc) from exc
            return self._produce_all(routes, payload, lines, id_bytes, timeout_ns, nonblocking, on_delivery)
        if (
            producer_partition_key is None
            and producer_partition_number == -1
            and not id_bytes
            and not self._functions[0]
        ):
            route = next(self._round_robins[0])
        else:
            route = self._choose(0, producer_partition_key, producer_partition_number, id_bytes)
        codec = self._live.codec
        if codec is not None:
            payload = encode_one(self._client._session, self.name, self._views[0], codec, message, headers, route)
        else:
            kind = type(message)
            payload = message if kind is bytes or kind is str else payload_of(message, self._json_writer)
        try:
            if not nonblocking:
                return self._blocking(route, payload, lines, id_bytes, timeout_ns)
            if on_delivery is not None:
                self._link.start_callbacks()
            return route.send(payload, lines, id_bytes, timeout_ns, Delivery, on_delivery)
        except BufferFullError:
            if not nonblocking or self._block_on_full_s is None:
                raise
            # No lambda, and no comprehension in this function: their variables would cost each call an object apiece.
            return self._when_room(
                functools.partial(route.send, payload, lines, id_bytes, timeout_ns, Delivery, on_delivery),
                [route],
                payload,
                lines,
                id_bytes,
                self._block_on_full_s,
            )
        except UnicodeEncodeError as exc:
            raise not_utf8(exc) from exc

    def produce_many(
        self,
        iterable: Iterable[Any],
        *,
        timeout_s: Optional[float] = None,
        on_error: Literal["raise", "collect"] = "raise",
    ) -> BulkResult:
        """
        Produces everything that an iterable yields, as fast as the broker takes it, and waits for the confirmations.

        Non-blocking underneath, with bounded memory: it waits for room where produce() would raise BufferFullError.

        Args:
            iterable: Payloads as for produce(), or Items, which add key, partition, headers or message id.
            timeout_s: Limit for all together, in seconds; None: each message has the default of produce().
            on_error: ``raise``: stop taking messages at the first failure, wait for the rest and raise. ``collect``:
                go on, and list the failures in the result.

        Returns:
            Counts, failures and the time it took.

        Raises:
            BulkError: With ``raise``: a message failed; the text has its index and how many are stored, and ``result``
                says what became of all that was taken. A BulkSchemaError, which is a SchemaError too, when it did not
                match its station's schema; a BulkItemError, which is a ConfigurationError too, when it could not be
                sent at all: of a wrong type, too large, with a bad header or partition.
            DeadlineError: *timeout_s* is over; ``result`` likewise, the unconfirmed among the failures.
            ConfigurationError: A bad argument, also an *iterable* that yields no messages: a str, bytes, a dict, a
                DataFrame, one Item. Nothing was taken.
            Exception: Whatever *iterable* raises, after what was taken before it is confirmed; that is its ``result``
                then.
        """
        if on_error not in ("raise", "collect"):
            raise ConfigurationError(f"on_error is {on_error!r}; it must be 'raise' or 'collect'")
        if timeout_s is not None:
            check_seconds("timeout_s", timeout_s, allow_zero=False)
        check_iterable(iterable)
        waiting.forbid_on_own_thread("produce_many()")
        return Bulk(self, timeout_s, stop_at_failure=on_error == "raise").run(iterable)

    def _choose_all(self, key: Optional[str], number: int, msg_id: bytes) -> list[Route]:
        return [self._choose(index, key, number, msg_id) for index in range(len(self._views))]

    def _choose(self, index: int, key: Optional[str], number: int, msg_id: bytes) -> Route:
        """
        The route of one station's message: by key, by number, by the user's message id, or the next in turn.

        A broker knows the ids of each partition apart, so the same id has to go to the same partition whoever sends it.
        """
        view = self._views[index]
        chosen = as_int(number)
        if chosen is None:
            raise ConfigurationError(
                f"producer_partition_number is of type {type(number).__name__}; it must be an int: a partition from 1, "
                "or -1 for none"
            )
        if key is not None and not isinstance(key, (str, bytes)):
            raise ConfigurationError(
                f"producer_partition_key is of type {type(key).__name__}; it must be a str or None"
            )
        partition = check_partition(chosen, view.partitions, view.name)
        if partition is not None and key is not None:
            raise ConfigurationError(
                f"Can not use both partition number and partition key: producer_partition_number is {number!r} and "
                "producer_partition_key is given"
            )
        name = key if key is not None else msg_id
        if partition is not None:
            route = self._routes[index][partition]
        elif view.partitions and (name or key is not None):
            route = self._routes[index][partition_for_key(name, view.partitions)]
        else:
            route = next(self._round_robins[index])
        functions = view.functions
        if functions:
            partition = route.target.partition
            function_id = functions.get(partition)
            if function_id is not None:
                place = (view.internal, partition, function_id)
                route = self._function_routes.get(place) or self._function_routes.setdefault(
                    place, self._route(view, partition, function_id)
                )
        return route

    def _blocking(self, route: Route, payload: Any, lines: bytes, id_bytes: bytes, timeout_ns: int) -> PubAck:
        def append() -> Delivery:
            return route.send_and_wait(payload, lines, id_bytes, timeout_ns, Delivery, SLICE_NS)

        try:
            ticket = append()
        except BufferFullError:
            ticket = self._when_room(append, [route], payload, lines, id_bytes, timeout_ns / 1e9)
        return _confirmed(ticket)

    def _when_room(
        self,
        append: Callable[[], Appended],
        routes: list[Route],
        payload: Any,
        lines: bytes,
        id_bytes: bytes,
        wait_s: float,
    ) -> Appended:
        """Calls *append*, which has just met a full outbox, whenever there may be room, for at most *wait_s*."""
        waiting.forbid_on_own_thread("produce() with block_on_full_s")
        deadline = time.monotonic() + wait_s
        payloads = payload if isinstance(payload, list) else [payload] * len(routes)
        size = sum(route.frame_size(size_of(part), len(lines), len(id_bytes)) for route, part in zip(routes, payloads))
        while True:
            left_ns = max(int((deadline - time.monotonic()) * 1e9), 0)
            self._link.core.wait_room(size, min(left_ns, SLICE_NS))
            try:
                return append()
            except BufferFullError:
                if time.monotonic() >= deadline:
                    raise

    def _produce_all(
        self,
        routes: list[Route],
        payload: Any,
        lines: bytes,
        id_bytes: bytes,
        timeout_ns: int,
        nonblocking: bool,
        on_delivery: Optional[Callable[[Delivery], object]],
    ) -> Union[Deliveries, dict[str, PubAck]]:
        try:
            tickets = self._append_all(routes, payload, lines, id_bytes, timeout_ns, wait=not nonblocking)
        except UnicodeEncodeError as exc:
            raise not_utf8(exc) from exc
        deliveries = Deliveries(tickets)
        if not nonblocking:
            self._link.core.push()
            return deliveries.result()
        if on_delivery is not None:
            for delivery in tickets:
                delivery.add_done_callback(on_delivery)
        return deliveries

    def _append_all(
        self, routes: list[Route], payload: Any, lines: bytes, id_bytes: bytes, timeout_ns: int, *, wait: bool
    ) -> list[Delivery]:
        def append() -> list[Delivery]:
            return self._link.core.send_all(routes, payload, lines, id_bytes, timeout_ns, Delivery, wait)

        wait_s = timeout_ns / 1e9 if wait else self._block_on_full_s
        try:
            return append()
        except BufferFullError:
            if not wait_s:
                raise
            return self._when_room(append, routes, payload, lines, id_bytes, wait_s)

    def _send_held(self, held: Held) -> None:
        """Sends what was accepted before this producer was registered; waits for room as long as the message may."""
        routes = self._choose_all(held.key, held.number, held.msg_id)
        try:
            payload = encode_all(self._client._session, self.name, self._views, held.message, held.headers, routes)
        except UnicodeEncodeError as exc:
            raise not_utf8(exc) from exc
        while True:
            try:
                self._link.core.unhold(routes, payload, held.lines, held.msg_id, held.tickets)
            except BufferFullError:
                self._link.core.wait_room(1, SLICE_NS)
            else:
                return

    def _wait_below(self, limit: int) -> None:
        if len(self) < limit:
            return
        waiting.forbid_on_own_thread("produce() with concurrent_task_limit")
        while self._link.core.wait_drained(self._owner, SLICE_NS, limit // 2) > limit // 2:
            pass  # slices, so that Ctrl-C is served

    # ---- backlog and end ---------------------------------------------------------------------------------------

    def flush(self, timeout_s: Optional[float] = None) -> FlushResult:
        """
        Waits until every message of this producer that was accepted so far is confirmed or has failed.

        Args:
            timeout_s: Limit in seconds; None waits as long as the messages' own deadlines.

        Returns:
            How many of them are still outstanding; 0 when all are settled, whatever was produced meanwhile. Its
            ``failed`` says how many messages of this producer have failed since its flush() before.

        Raises:
            OwnThreadError: Called on one of the client's own threads.
        """
        if timeout_s is not None:
            check_seconds("timeout_s", timeout_s)
        waiting.forbid_on_own_thread("flush()")
        return self._link.flush(timeout_s, self._owner)

    def __len__(self) -> int:
        """Messages of this producer that are neither delivered nor failed."""
        return self._link.outstanding(self._owner)

    def __bool__(self) -> bool:
        return True  # a producer without a backlog is still a producer

    def destroy(self, timeout_retries: int = 5) -> None:
        """
        Waits for the messages to be confirmed, then takes the producer off the broker. Idempotent.

        Args:
            timeout_retries: How often a request without an answer is repeated; each waits up to 5 s.

        Raises:
            ServerError: The broker refused.
            DeadlineError, ConnectionLostError: No answer; the producer may be destroyed.
            ClosedError, ForkedError: The client was closed, or belongs to the parent process.

        Warns:
            UndeliveredWarning: Messages were still unconfirmed after 15 s; they stay in the client's outbox.
        """
        timeout_retries = check_int("timeout_retries", timeout_retries, 0, 1000)
        if self._is_closed:
            return
        self._mark_destroyed()
        left = self.flush(DESTROY_FLUSH_S)
        if left:
            warnings.warn(
                f"{left} messages of {self!r} were not confirmed when it was destroyed",
                UndeliveredWarning,
                stacklevel=3,
            )
        client = self._client
        client._producers.discard(self)
        work = client._requests.destroy_producers(self._views, self.name, timeout_retries)
        client._call(work, DESTROY_S, timeout_retries, "destroy()")

    def _at_once(self) -> Producer:
        """The same producer for a caller that waits for room in its own way: BufferFullError comes at once."""
        twin = type(self).__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin._block_on_full_s = None
        return twin

    def _mark_destroyed(self) -> None:
        self._is_closed = True
        self._direct.is_plain = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.destroy()

    def __repr__(self) -> str:
        state = "destroyed" if self._is_closed else "open"
        return f"<Producer {self.name!r} to {', '.join(self.stations)} {state}>"


def _confirmed(ticket: Delivery) -> PubAck:
    """Waits for the outcome of a message: its confirmation, or the error that it ended with."""
    outcome = ticket.outcome
    while outcome == PENDING:
        outcome = ticket.wait(SLICE_NS)
    if outcome == DELIVERED:
        return pub_ack(ticket)
    raise error_of(ticket)


def ack_wait_ns(ack_wait_sec: float) -> int:
    """A caller's *ack_wait_sec*, checked, in nanoseconds."""
    return int(check_seconds("ack_wait_sec", ack_wait_sec, allow_zero=False) * 1_000_000_000)


__all__ = ["BulkResult", "Item", "Producer"]
