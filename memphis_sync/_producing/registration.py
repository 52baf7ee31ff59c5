"""
A producer that is being registered, and the messages that are accepted for it meanwhile.

Nothing is known yet of the station's partitions, schema and functions, so a copy of the message is kept as the caller
gave it, and becomes a frame once the producer is there. It counts in the outbox from the call on, and its deadline runs
from there; the C core holds its ticket.

What the calling thread does here takes no lock and waits for nothing, for it may be a signal handler or a destructor
that interrupted the same call. One thread registers and then hands over, in the order of the calls. Whether a message
is held or goes the direct way is decided by the C core in one step: the direct way opens when nothing is held any more.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Optional, Union

from memphis_sync._base import waits
from memphis_sync._base.logs import Log
from memphis_sync._base.threads import Latch, handing_over
from memphis_sync._core import Route
from memphis_sync._data.outcomes import PENDING, UNSENT, Target, reason_of
from memphis_sync._producing.observing import Told
from memphis_sync._producing.sender import OnDelivery, ack_wait_ns, check_on_delivery, confirmed
from memphis_sync._protocol.json_text import JsonWriter
from memphis_sync._protocol.payload import message_id, not_utf8, payload_of, size_of
from memphis_sync._session import Session, waiting
from memphis_sync.delivery import Deliveries, Delivery
from memphis_sync.errors import BufferFullError, ForkedError, MemphisError, TransportError, _rebuild
from memphis_sync.headers import Headers, Outgoing, encode_user_headers
from memphis_sync.types import PubAck

if TYPE_CHECKING:
    from memphis_sync.producer import Producer

log = Log("memphis_sync.produce")

EXPIRE_S = 0.02  # how often held messages are looked at for deadlines
AT_DEADLINE_S = 0.005  # how often a caller looks whose message is at its deadline
FIRST_PAUSE_S, MAX_PAUSE_S = 0.05, 0.5  # between two attempts of a registration
FRAME_BYTES = 256  # what a frame takes besides payload, headers and id, about
UNKNOWN_SIZE = 1024  # counted for a message whose size shows only when its schema is known


class Held(NamedTuple):
    """One message as it was given, for one station or several."""

    tickets: list[Delivery]
    message: Any
    headers: Optional[dict[str, str]]
    lines: bytes
    msg_id: bytes
    key: Optional[str]
    number: int


# The user's own json_default is called once, when the message is sent: what it makes of an iterator is gone then.
_SIZER = JsonWriter(lambda value: "_" * len(value) if isinstance(value, (bytes, bytearray, memoryview)) else None)


class Ended(Exception):  # noqa: N818  control flow between this module and the client
    """The registration has failed and takes no messages any more: the next one begins anew."""


class Registration:
    """
    One registration of a producer.

    Args:
        session: The client's.
        stations: Names of the stations.
        register: Registers the producer; on a thread of its own.
        on_end: Called with this and the producer, or with None when it has failed.
        block_on_full_s: As of the producer.
    """

    def __init__(
        self,
        session: Session,
        stations: tuple[str, ...],
        register: Callable[[], Producer[Any, Any]],
        on_end: Callable[[Registration, Optional[Producer[Any, Any]]], None],
        block_on_full_s: Optional[float],
    ) -> None:
        self._session = session
        self._stations = stations
        self._register = register
        self._on_end = on_end
        self._block_on_full_s = block_on_full_s
        self._link = session.outbox()
        self._core = self._link.core
        self._owner: int = self._core.owner_new()
        self._targets = [Target(station, 0, "", self._link, 0, len(stations)) for station in stations]
        self._routes = [self._route(target) for target in self._targets]
        self._held: deque[Held] = deque()
        self._is_over = Latch()
        self._error: Optional[MemphisError] = None
        self._producer: Optional[Producer[Any, Any]] = None
        self._has_ended = False

    def _route(self, target: Target) -> Route:
        return Route(self._core, b"", b"", b"", self._owner, False, target)

    # ---- the caller's side -------------------------------------------------------------------------------------------

    def produce(
        self,
        message: Any,
        ack_wait_sec: float,
        headers: Union[Headers, Mapping[str, str], None],
        async_produce: None,
        nonblocking: bool,
        msg_id: Optional[str],
        *,
        producer_partition_key: Optional[str],
        producer_partition_number: int,
        on_delivery: Optional[OnDelivery],
    ) -> Any:
        """
        Holds a message; see Producer.produce(), which is called in the same way.

        Raises:
            Ended: It takes no messages any more, for the producer is there, or could not be registered.
        """
        wait_ns = ack_wait_ns(ack_wait_sec)
        is_in_file = self._link.file is not None  # where a held message is not: the call waits until it is a frame
        if not nonblocking or is_in_file:
            waiting.forbid_on_own_thread("a blocking produce()" if not nonblocking else "produce() with an outbox file")
        if on_delivery is not None:
            check_on_delivery(on_delivery, nonblocking=nonblocking)
        deadline = time.monotonic() + wait_ns / 1e9
        lines = encode_user_headers(headers)
        id_bytes = b"" if msg_id is None else message_id(msg_id)
        kept = self._snapshot(message)
        size = self._size(kept) + len(lines) + len(id_bytes) + FRAME_BYTES
        wait_s = self._block_on_full_s if nonblocking else wait_ns / 1e9
        tickets = self._hold(size, id_bytes, deadline, wait_s)
        plain = None if headers is None else dict(headers.items())
        observers, told = self._session.options.observing, None
        try:  # it is accepted; whatever an observer does, it is handed over
            if observers:
                outgoing = Outgoing(headers, nonblocking=nonblocking)
                told = Told(observers, self._stations, 1, outgoing)
                lines, plain = encode_user_headers(outgoing), dict(outgoing) or None
        finally:
            self._held.append(
                Held(tickets, kept, plain, lines, id_bytes, producer_partition_key, producer_partition_number)
            )
        if not nonblocking:
            return self._observed_outcome(told, tickets, deadline)
        if told is not None:
            told.follow(tickets)
        if is_in_file:
            self._link.wait_held(deadline)
        if on_delivery is not None:
            for ticket in tickets:
                ticket.add_done_callback(on_delivery)
        return tickets[0] if len(tickets) == 1 else Deliveries(tickets)

    def _hold(self, size: int, msg_id: bytes, deadline: float, wait_s: Optional[float]) -> list[Delivery]:
        until = None if wait_s is None else time.monotonic() + wait_s
        while True:
            left_ns = max(int((deadline - time.monotonic()) * 1e9), 0)
            try:
                tickets = self._core.hold(self._routes, size, msg_id, left_ns, Delivery)
            except BufferFullError:
                if until is None or time.monotonic() >= until:
                    raise
                waiting.forbid_on_own_thread("produce() with block_on_full_s")
                self._core.wait_room(size, until)
            except ForkedError:  # it was begun in the parent process, and goes on there
                self._on_end(self, None)
                raise Ended from None
            else:
                if tickets is None:
                    raise Ended
                return tickets

    def _observed_outcome(
        self, told: Optional[Told], tickets: list[Delivery], deadline: float
    ) -> Union[PubAck, dict[str, PubAck]]:
        if told is None:
            return self._outcome(tickets, deadline)
        try:
            outcome = self._outcome(tickets, deadline)
        except BaseException as exc:
            told.settled(exc)
            raise
        told.settled(outcome)
        return outcome

    def _outcome(self, tickets: list[Delivery], deadline: float) -> Union[PubAck, dict[str, PubAck]]:
        """Waits for a message's outcome; the registration is part of its time."""
        for ticket in tickets:
            while ticket.observe() == PENDING:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    self._core.expire_held()  # a frame is expired by the sender
                ticket.wait(max(deadline, time.monotonic() + AT_DEADLINE_S))
        first = tickets[0]
        if first.outcome == UNSENT:
            raise reason_of(first)  # as the registration, or the producer, would have raised it here
        if len(tickets) > 1:
            return Deliveries(tickets).result()
        return confirmed(first)

    def _snapshot(self, message: Any) -> Any:
        """The message as it is now, whatever its owner does to it later."""
        if isinstance(message, str):
            try:
                message.encode()
            except UnicodeEncodeError as exc:
                raise not_utf8(exc) from exc
            return message
        if isinstance(message, bytes):
            return message
        if isinstance(message, (bytearray, memoryview)):
            return bytes(message)
        if not isinstance(message, (dict, list)):
            payload_of(message, self._session.json_writer)  # raises for what no station takes
        return _copied(message)

    def _size(self, message: Any) -> int:
        try:
            return size_of(payload_of(message, _SIZER))
        except (MemphisError, UnicodeEncodeError):
            return UNKNOWN_SIZE  # only its schema can write it

    def __len__(self) -> int:
        """How many messages are held."""
        return int(self._core.outstanding(self._owner))

    def __bool__(self) -> bool:
        return True

    def wait_below(self, limit: int) -> None:
        """Waits, when *limit* messages are held, until half of them are."""
        if self._core.outstanding(self._owner) >= limit:
            waiting.forbid_on_own_thread("produce() with concurrent_task_limit")
            self._core.wait_drained(self._owner, None, limit // 2)

    def join(self) -> None:
        """
        Waits until the producer is there.

        Raises:
            MemphisError: It could not be registered.
        """
        waiting.forbid_on_own_thread("the registration of a producer")
        while not self._is_over.wait(waiting.LOOK_S):
            self._session.check()
        if self._error is not None:
            raise _rebuild(*self._error.__reduce__()[1])

    # ---- the registering thread's side -------------------------------------------------------------------------------

    def start(self) -> None:
        """Begins; from any thread, also from a destructor. Raises ClosedError."""
        self._session.loop.post(self._begin)

    def _begin(self) -> None:
        try:
            self._session.start_registration(self._run)
        except RuntimeError as exc:  # the interpreter ends and takes no new threads
            self._fail(MemphisError(f"the producer cannot be registered any more: {exc}"))
            return
        self._expire()

    def _expire(self) -> None:
        self._core.expire_held()
        if not self._has_ended:
            asyncio.get_running_loop().call_later(EXPIRE_S, self._expire)

    def _run(self) -> None:
        with handing_over(self._session.callbacks.post):
            try:
                producer = self._registered()
                self._hand_over(producer)
            except MemphisError as exc:
                self._fail(exc)
            except BaseException as exc:  # noqa: BLE001  whatever it is, the messages are owed an outcome
                self._session.callbacks.failed("the registration of a producer", exc)
                self._fail(MemphisError(f"{type(exc).__name__}: {exc}"))

    def _registered(self) -> Producer[Any, Any]:
        """The producer; while the broker is away, as long as a message waits for it."""
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                return self._register()
            except TransportError as exc:
                if not exc.retryable or self._session.is_closing or self._core.outstanding(self._owner) == 0:
                    raise
                log.debug("%r: registering a producer again: %s", self._session.label, exc)
            waits.sleep(pause_s)
            pause_s = min(2 * pause_s, MAX_PAUSE_S)

    def _hand_over(self, producer: Producer[Any, Any]) -> None:
        self._producer = producer
        self._take_each(lambda held: self._send(producer, held))
        self._on_end(self, producer)
        self._has_ended = True
        self._is_over.set()

    def _fail(self, error: MemphisError) -> None:
        self._on_end(self, None)  # first: who comes now begins anew
        self._error = error
        self._is_over.set()
        self._has_ended = self._session.is_closing
        if self._has_ended:
            return  # close() abandons what is held, and counts it
        self._take_each(lambda held: self._fail_one(held, error))
        self._has_ended = True

    def _take_each(self, use: Callable[[Held], None]) -> None:
        """Uses what is held, until nothing is and nothing will be."""
        while True:
            try:
                held = self._held.popleft()
            except IndexError:
                if self._core.end_holding(self._owner):
                    return
                waits.sleep(0.001)  # its caller is just about to put it there
            else:
                use(held)

    def _send(self, producer: Producer[Any, Any], held: Held) -> None:
        try:
            producer._sender.send_held(held)
        except MemphisError as exc:
            self._fail_one(held, exc)
        except Exception as exc:  # noqa: BLE001  of the message's own methods: it alone has failed
            self._fail_one(held, MemphisError(f"{type(exc).__name__}: {exc}"))

    def _fail_one(self, held: Held, error: MemphisError) -> None:
        # Its parts: a traceback would lead back to the ticket, which the garbage collector does not know of.
        _, parts = error.__reduce__()
        for ticket, target in zip(held.tickets, self._targets):
            self._core.fail_held(ticket, self._route(target._replace(reason=parts)), str(error))


def _copied(message: Any) -> Any:
    """A copy, in which what has none, as a generator or a lock, stays what it is."""
    made: dict[int, Any] = {}  # by the original's place in memory: one may be there twice, or hold itself

    def copied(value: Any) -> Any:
        if id(value) in made:
            return made[id(value)]
        if type(value) is dict:
            pairs: dict[Any, Any] = {}
            made[id(value)] = pairs
            pairs.update((key, copied(item)) for key, item in value.items())
            return pairs
        if type(value) is list:
            items: list[Any] = []
            made[id(value)] = items
            items.extend(copied(item) for item in value)
            return items
        if type(value) is tuple:
            return tuple(copied(item) for item in value)
        try:
            return memoryview(value.tobytes()) if isinstance(value, memoryview) else copy.deepcopy(value)
        except Exception:  # noqa: BLE001  of the user's own types
            return value

    try:
        return copied(message)
    except Exception:  # noqa: BLE001  nested too deep, or changed meanwhile: who writes it says so
        return message
