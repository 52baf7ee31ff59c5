"""
Moves a message from produce() into the outbox: its partition, its schema, its frame, and waiting for space.

What most calls ask for goes the short way, RoundRobin.take() and FanOut.take() of the C core. All else comes here.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Callable, Optional, TypeVar, Union

from memphis_sync._core import FanOut, RoundRobin, Route, encode_header, fork_generation
from memphis_sync._data.outcomes import DELIVERED, Target, error_of, pub_ack
from memphis_sync._options.arguments import check_place
from memphis_sync._options.checks import check_callable, check_int, check_seconds
from memphis_sync._producing.observing import Observed
from memphis_sync._producing.schema_check import encode_all, encode_one
from memphis_sync._protocol.names import publish_subject, stream_name
from memphis_sync._protocol.partitions import partition_for_key
from memphis_sync._protocol.payload import message_id, not_utf8, payload_of, size_of
from memphis_sync._session import Session, waiting
from memphis_sync.delivery import Deliveries, Delivery
from memphis_sync.errors import BufferFullError, ClosedError, ConfigurationError
from memphis_sync.headers import encode_user_headers
from memphis_sync.types import PubAck, PubAcks, StationView

if TYPE_CHECKING:
    from memphis_sync._producing.registration import Held


class _Default(float):
    """A default that can be told from the same number given by a caller; a plain float has no identity on PyPy."""


DEFAULT_ACK_WAIT_S: float = _Default(15)  # memphis.py's

OnDelivery = Callable[[Delivery], object]
Frame = tuple[Any, bytes, bytes]  # payload, or one for each route; header lines; message id
Sent = TypeVar("Sent")


class Sender:
    """
    Sends the messages of one producer.

    Args:
        session: The client's.
        name: Of the producer.
        views: Its stations.
        idempotent: As of Memphis.producer(), like the next three.

    Attributes:
        owner: What the outbox counts its messages under.
        direct: The short way.
        stations: Names of its stations, in the order given.
        round_robins: The same for each station alone.
        routes: For each station, by partition.
        observers: Of the client.
        is_closed: Whether it takes nothing any more.
    """

    def __init__(
        self,
        session: Session,
        name: str,
        views: tuple[StationView, ...],
        *,
        idempotent: bool,
        block_on_full_s: Optional[float],
        ack_timeout_s: float,
        on_delivery: Optional[OnDelivery],
    ) -> None:
        self._session = session
        self._name = name
        self._views = views
        self.stations = tuple(view.name for view in views)
        self.link = link = session.data_link()
        self.owner: int = link.core.owner_new()
        self._is_idempotent = idempotent
        self.block_on_full_s = block_on_full_s
        self._timeout_ns = int(ack_timeout_s * 1e9)
        self._on_delivery = on_delivery
        self.json_writer = session.json_writer
        self.observers = session.options.observing
        self._sync = link.file.sync if link.file is not None and link.file.syncs_each else None
        self._fixed = encode_header(b"$memphis_producedBy", name.encode()) + encode_header(
            b"$memphis_connectionId", session.connection_id.encode()
        )
        self.routes = [{number: self._route(view, number) for number in view.partitions or (0,)} for view in views]
        self.round_robins = [
            RoundRobin(list(routes.values()), view.live, view.functions, DEFAULT_ACK_WAIT_S, self._timeout_ns, Delivery)
            for view, routes in zip(views, self.routes)
        ]
        self.direct: Union[RoundRobin, FanOut] = (
            self.round_robins[0] if len(views) == 1 else FanOut(self.round_robins, Deliveries)
        )
        self._function_routes: dict[tuple[str, int, int], Route] = {}
        self._only = views[0] if len(views) == 1 else None
        for view in views:  # so that the first message does not wait for it
            if view.live.codec is not None:
                view.live.codec.prepare()
        self.is_closed = False
        # Else each message needs a look at what the producer was told.
        self.direct.is_plain = block_on_full_s is None and on_delivery is None and self._sync is None

    def close(self) -> None:
        """It takes nothing any more."""
        self.is_closed = True
        self.direct.is_plain = False

    def way(self) -> Union[Sender, Observed]:
        """What a producer's messages go through: its sender, unless somebody observes them."""
        return Observed(self, self.observers) if self.observers else self

    @property
    def is_inherited(self) -> bool:
        """Whether it was made before a fork, in the parent process."""
        return fork_generation() != self._session.generation

    def __repr__(self) -> str:
        state = "destroyed" if self.is_closed else "open"
        return f"<Producer {self._name!r} to {', '.join(self.stations)} {state}>"

    # ---- sending ----------------------------------------------------------------------------------------------------

    def send(
        self,
        message: Any,
        ack_wait_sec: float,
        nonblocking: bool,
        headers: Optional[Mapping[str, str]],
        msg_id: Optional[str],
        limit: Optional[int],
        key: Optional[str],
        number: int,
        on_delivery: Optional[OnDelivery],
        room_s: Optional[float],
        *,
        syncs: bool = True,
    ) -> Any:
        """
        Sends one message; see Producer.produce(), whose arguments these are.

        Args:
            room_s: How long a non-blocking call waits for room; None: not at all. A blocking one has *ack_wait_sec*.
            syncs: Whether fsync="produce" applies; not for who waits for the confirmation anyway.
        """
        if self.is_closed:
            raise ClosedError(f"{self!r} is destroyed; the message was not accepted")
        timeout_ns = self._timeout_ns if ack_wait_sec is DEFAULT_ACK_WAIT_S else ack_wait_ns(ack_wait_sec)
        lines = b"" if headers is None else encode_user_headers(headers)
        id_bytes = b"" if msg_id is None else message_id(msg_id)
        if on_delivery is not None:
            check_on_delivery(on_delivery, nonblocking=nonblocking)
        if not nonblocking:
            room_s = timeout_ns / 1e9
        else:
            if on_delivery is None:
                on_delivery = self._on_delivery
            if limit is not None:
                self.wait_below(check_int("concurrent_task_limit", limit, 1))
        view = self._only
        try:
            if view is None:
                routes = [self._choose(index, key, number, id_bytes) for index in range(len(self._views))]
                payload = encode_all(self._session, self._name, self._views, message, headers, routes)
                frame = payload, lines, id_bytes
                return self._send_all(routes, frame, timeout_ns, nonblocking, on_delivery, room_s)
            if key is None and number == -1 and not id_bytes and not view.functions:
                route = next(self.round_robins[0])
            else:
                route = self._choose(0, key, number, id_bytes)
            codec = view.live.codec
            if codec is not None:
                payload = encode_one(self._session, self._name, view, codec, message, headers, route)
            else:
                kind = type(message)
                payload = message if kind is bytes or kind is str else payload_of(message, self.json_writer)
            try:
                if not nonblocking:
                    return confirmed(route.send_and_wait(payload, lines, id_bytes, timeout_ns, Delivery))
                if on_delivery is not None:
                    self.link.callbacks.start()
                ticket = route.send(payload, lines, id_bytes, timeout_ns, Delivery, on_delivery)
                if syncs and self._sync is not None:
                    self._sync()
                return ticket
            except BufferFullError:
                if room_s is None:
                    raise
                # No lambda in this function: its variables would cost each call an object apiece.
                frame = payload, lines, id_bytes
                append = functools.partial(route.send, *frame, timeout_ns, Delivery, on_delivery)
                if not nonblocking:
                    append = functools.partial(route.send_and_wait, *frame, timeout_ns, Delivery)
                ticket = self._when_room(append, [route], frame, room_s)
                if nonblocking and syncs and self._sync is not None:
                    self._sync()
                return ticket if nonblocking else confirmed(ticket)
        except UnicodeEncodeError as exc:
            raise not_utf8(exc) from exc

    def take_from(
        self, iterator: Iterator[Any], into: list[Any], limit: int, lines: bytes
    ) -> Optional[tuple[Any, ...]]:
        """Sends what is plain enough for the short way; see RoundRobin.take_from() of the C core."""
        return self.round_robins[0].take_from(iterator, into, limit, lines)

    def _send_all(
        self,
        routes: list[Route],
        frame: Frame,
        timeout_ns: int,
        nonblocking: bool,
        on_delivery: Optional[OnDelivery],
        room_s: Optional[float],
    ) -> Union[Deliveries, PubAcks]:
        core = self.link.core
        append = functools.partial(core.send_all, routes, *frame, timeout_ns, Delivery, not nonblocking)
        try:
            tickets = append()
        except BufferFullError:
            if not room_s:
                raise
            tickets = self._when_room(append, routes, frame, room_s)
        deliveries = Deliveries(tickets)
        if not nonblocking:
            core.push()
            return deliveries.result()
        if self._sync is not None:
            self._sync()
        if on_delivery is not None:
            for delivery in tickets:
                delivery.add_done_callback(on_delivery)
        return deliveries

    def send_held(self, held: Held) -> None:
        """Sends what was accepted before this producer was registered; waits for room as long as the message may."""
        routes = [self._choose(index, held.key, held.number, held.msg_id) for index in range(len(self._views))]
        try:
            payload = encode_all(self._session, self._name, self._views, held.message, held.headers, routes)
        except UnicodeEncodeError as exc:
            raise not_utf8(exc) from exc
        while True:
            try:
                self.link.core.unhold(routes, payload, held.lines, held.msg_id, held.tickets)
            except BufferFullError:
                self.link.core.wait_room(1, None)
            else:
                return

    # ---- where to ---------------------------------------------------------------------------------------------------

    def _route(self, view: StationView, partition: int, function_id: Optional[int] = None, lines: bytes = b"") -> Route:
        stream = stream_name(view.internal, partition)
        return Route(
            self.link.core,
            publish_subject(view.internal, partition, function_id).encode(),
            self.link.id_name,
            self._fixed + lines,
            self.owner,
            self._is_idempotent,
            Target(view.name, partition, stream, self.link, len(view.partitions), len(self._views)),
        )

    def _choose(self, index: int, key: Optional[str], number: int, msg_id: bytes) -> Route:
        """
        The route of one station's message: by key, by number, by the user's message id, or the next in turn.

        A broker knows the ids of each partition apart, so the same id has to go to the same partition whoever sends it.
        """
        view = self._views[index]
        partition = None
        if number != -1 or (key is not None and type(key) is not str):  # else there is nothing to check
            partition = check_place("producer", key, number, view.partitions, view.name)
        name = key if key is not None else msg_id
        if partition is not None:
            route = self.routes[index][partition]
        elif view.partitions and (name or key is not None):
            route = self.routes[index][partition_for_key(name, view.partitions)]
        else:
            route = next(self.round_robins[index])
        if key is not None and self.link.key_header:
            line = encode_header(self.link.key_header.encode(), key.encode().hex().encode())
            return self._route(view, route.target.partition, lines=line)
        if view.functions:
            partition = route.target.partition
            function_id = view.functions.get(partition)
            if function_id is not None:
                place = (view.internal, partition, function_id)
                route = self._function_routes.get(place) or self._function_routes.setdefault(
                    place, self._route(view, partition, function_id)
                )
        return route

    # ---- waiting ----------------------------------------------------------------------------------------------------

    def _when_room(self, append: Callable[[], Sent], routes: list[Route], frame: Frame, wait_s: float) -> Sent:
        """Calls *append*, which has just met a full outbox, whenever there may be room, for at most *wait_s*."""
        waiting.forbid_on_own_thread("produce() with block_on_full_s")
        deadline = time.monotonic() + wait_s
        payload, lines, id_bytes = frame
        payloads = payload if isinstance(payload, list) else [payload] * len(routes)
        size = sum(route.frame_size(size_of(part), len(lines), len(id_bytes)) for route, part in zip(routes, payloads))
        while True:
            self.link.core.wait_room(size, deadline)
            try:
                return append()
            except BufferFullError:
                if time.monotonic() >= deadline:
                    raise

    def wait_below(self, limit: int, until: Optional[float] = None) -> None:
        """Waits, when *limit* messages are unconfirmed, until half of them are; *until* is by ``time.monotonic()``."""
        if self.link.core.outstanding(self.owner) < limit:
            return
        waiting.forbid_on_own_thread("produce() with concurrent_task_limit")
        self.link.core.wait_drained(self.owner, until, limit // 2)


def confirmed(ticket: Delivery) -> PubAck:
    """The confirmation of a settled message, or the error that it ended with."""
    if ticket.outcome == DELIVERED:
        return pub_ack(ticket)
    raise error_of(ticket)


def check_on_delivery(on_delivery: object, *, nonblocking: bool) -> None:
    """Raises ConfigurationError unless it may be given with this call of produce()."""
    if not nonblocking:
        raise ConfigurationError("on_delivery is given for a blocking produce; it goes with nonblocking=True")
    check_callable("on_delivery", on_delivery, is_optional=True)


def ack_wait_ns(ack_wait_sec: float) -> int:
    """A caller's *ack_wait_sec*, checked, in nanoseconds."""
    return int(check_seconds("ack_wait_sec", ack_wait_sec, allow_zero=False) * 1_000_000_000)
