"""The cffi binding of the C core: Route, RoundRobin, FanOut, Ticket, WaitSet: as _route.pxi; see _cffi_link."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Optional, TypeVar, Union, final

from memphis_sync._core._cffi_core import ffi, lib
from memphis_sync._core._cffi_view import checked_bytes, sliced, text_of, view_of
from memphis_sync._core._translate import FORKED_TICKET, append_error, checked_count
from memphis_sync.errors import ConfigurationError, ForkedError
from memphis_sync.types import Buffer

if TYPE_CHECKING:
    from typing_extensions import Self  # 3.11 has it in typing

    from memphis_sync._core._cffi_link import Link

Payload = Union[str, Buffer]
Callback = Callable[[Any], object]

PLAIN = frozenset({bytes, str})  # what a round robin takes
PLACES_AT_ONCE = 1024


class Ticket:
    __slots__ = ("_msg_id", "_route", "_ticket")

    _ticket: Any
    _route: Route
    _msg_id: bytes

    def __del__(self, lib: Any = lib, null: Any = ffi.NULL) -> None:
        route = getattr(self, "_route", None)
        if route is not None and lib.mcore_fork_generation() == route.link._generation:
            # Both in one cycle of garbage: no outbox any more to tell.
            lib.mcore_ticket_release(null if route.link._freed else route.link._outbox, self._ticket)

    @property
    def route(self) -> Route:
        return self._route

    @property
    def slot(self) -> int:
        return int(self._ticket.slot)

    def _check(self) -> None:
        if not self._route.link._is_ours():
            raise ForkedError(FORKED_TICKET)

    @property
    def outcome(self) -> int:
        return int(lib.mcore_ticket_outcome(self._ticket))  # in a child: what was known before the fork

    def wait(self, until: Optional[float]) -> int:
        self._check()
        outbox = self._route.link._outbox
        self._ticket.observed = 1
        wait = functools.partial(lib.mcore_ticket_wait, outbox, self._ticket)
        return sliced(until, wait, lambda outcome: outcome == lib.MCORE_PENDING)

    def observe(self) -> int:
        self._check()
        self._ticket.observed = 1
        return int(lib.mcore_ticket_outcome(self._ticket))

    @property
    def sequence(self) -> int:
        return int(self._ticket.sequence)

    @property
    def duplicate(self) -> bool:
        return bool(self._ticket.duplicate)

    @property
    def failure(self) -> tuple[bool, int, int, str]:
        ticket = self._ticket
        text = "" if ticket.text == ffi.NULL else text_of(ticket.text)
        return bool(ticket.was_written), ticket.code, ticket.err_code, text

    @property
    def message_id(self) -> Optional[str]:
        if self._msg_id:
            return self._msg_id.decode()
        if not self._route._route.auto_id:
            return None
        text = ffi.new("char[256]")
        lib.mcore_ticket_id(self._route.link._outbox, self._ticket, text, len(text))
        return text_of(text)


AnyTicket = TypeVar("AnyTicket", bound=Ticket)


def tickets_of(kind: type[AnyTicket], routes: list[Route], msg_id: bytes) -> list[AnyTicket]:
    """Tickets that were not appended yet; the C half of each lies at one place as long as it lives."""
    checked_count(len(routes))
    tickets = []
    for route in routes:
        ticket = kind.__new__(kind)
        ticket._ticket = ffi.new("struct mcore_ticket *")
        ticket._msg_id = msg_id
        ticket._route = route
        tickets.append(ticket)
    return tickets


def append(
    routes: list[Route],
    tickets: Sequence[Ticket],
    payload: Union[Payload, list[bytes]],
    headers: bytes,
    msg_id: bytes,
    timeout_ns: int,
    *,
    watcher: Any = ffi.NULL,
    urgent: bool = False,
    held: bool = False,
) -> int:
    """A message for each route into the outbox of their link: the first slot, or MCORE_E_ENDED of what was held."""
    count = checked_count(len(routes))
    link = routes[0].link
    outbox = link._box()
    checked_bytes(headers=headers, msg_id=msg_id)
    sizes = ffi.NULL
    if isinstance(payload, list):
        if len(payload) != count:
            raise ConfigurationError(f"{len(payload)} payloads for {count} stations")
        sizes = ffi.new("size_t[]", [len(part) for part in payload])
        payload = b"".join(payload)
    data: Any = payload.encode() if type(payload) is str else payload
    parts = ffi.new("struct mcore_route *[]", [route._route for route in routes])
    slots = ffi.new("struct mcore_ticket *[]", [ticket._ticket for ticket in tickets])
    with view_of(data) as view, view_of(headers) as header_view, view_of(msg_id) as id_view:
        spans = [value for each in (view, header_view, id_view) for value in (each, len(each))]
        message = ffi.new("struct mcore_message *", [*spans, timeout_ns, watcher, urgent, sizes])
        put = lib.mcore_outbox_unhold if held else lib.mcore_outbox_append
        slot = int(put(outbox, parts, count, message, slots))
        if slot < 0 and slot != lib.MCORE_E_ENDED:
            found = lib.mcore_outbox_sizes(outbox, parts, count, message)
            raise append_error(slot, count, found.payload, found.block, link.stats())
        return slot


@final
class Route:
    __slots__ = ("_kept", "_route", "fixed", "id_name", "link", "subject", "target")

    _kept: list[Any]  # what the pointers in _route point to
    _route: Any
    link: Link
    subject: bytes
    id_name: bytes
    fixed: bytes
    target: Any

    def __new__(
        cls, link: Link, subject: bytes, id_name: bytes, fixed: bytes, owner: int, auto_id: bool, target: object
    ) -> Self:
        self = super().__new__(cls)
        checked_bytes(subject=subject, id_name=id_name, fixed=fixed)
        self.link = link
        self.subject = subject
        self.id_name = id_name
        self.fixed = fixed
        self.target = target
        self._kept = [ffi.from_buffer("uint8_t[]", part) for part in (subject, id_name, fixed)]
        pairs = (value for part in self._kept for value in (part, len(part)))
        self._route = ffi.new("struct mcore_route *", (*pairs, owner, bool(auto_id)))
        return self

    def frame_size(self, payload_len: int, headers_len: int, msg_id_len: int) -> int:
        lengths = {"payload_len": payload_len, "headers_len": headers_len, "msg_id_len": msg_id_len}
        message = ffi.new("struct mcore_message *", lengths)
        parts = ffi.new("struct mcore_route *[]", [self._route])
        return int(lib.mcore_outbox_sizes(self.link._outbox, parts, 1, message).frames)

    def send(
        self,
        payload: Payload,
        headers: bytes,
        msg_id: bytes,
        timeout_ns: int,
        kind: type[AnyTicket],
        callback: Optional[Callback] = None,
    ) -> AnyTicket:
        tickets = tickets_of(kind, [self], msg_id)
        if callback is None:
            append([self], tickets, payload, headers, msg_id, timeout_ns)
            return tickets[0]
        cookie = ffi.new_handle((tickets[0], callback))
        self.link._watching.add(cookie)
        try:
            append([self], tickets, payload, headers, msg_id, timeout_ns, watcher=cookie)
        except BaseException:
            self.link._watching.discard(cookie)
            raise
        return tickets[0]

    def send_and_wait(
        self, payload: Payload, headers: bytes, msg_id: bytes, timeout_ns: int, kind: type[AnyTicket]
    ) -> AnyTicket:
        tickets = tickets_of(kind, [self], msg_id)
        tickets[0]._ticket.observed = 1
        append([self], tickets, payload, headers, msg_id, timeout_ns, urgent=True)
        lib.mcore_link_push(self.link._link)
        tickets[0].wait(None)
        return tickets[0]


@final
class RoundRobin:
    __slots__ = ("_cycle", "_functions", "_kind", "_link", "_live", "_timeout", "_timeout_ns", "is_plain")

    _functions: Mapping[int, int]
    _kind: type[Ticket]
    _link: Link
    _live: Any
    _timeout: float
    _timeout_ns: int
    _cycle: Iterator[Route]
    is_plain: bool

    def __new__(
        cls,
        routes: list[Route],
        live: Any,
        functions: Mapping[int, int],
        timeout: float,
        timeout_ns: int,
        kind: type[Ticket],
    ) -> Self:
        if not routes:
            raise ConfigurationError("a round robin needs at least one route")
        self = super().__new__(cls)
        self._cycle = itertools.cycle(routes)  # one step of it is one of the interpreter, so threads may share it
        self._link = routes[0].link
        self._live = live
        self._functions = functions
        self._timeout = timeout
        self._timeout_ns = timeout_ns
        self._kind = kind
        self.is_plain = False
        return self

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Route:
        return next(self._cycle)

    def take(
        self,
        message: Any,
        timeout: object,
        headers: object,
        msg_id: object,
        limit: object,
        key: object,
        number: object,
        callback: object,
        wait: bool = False,
    ) -> Optional[Ticket]:
        if self._has_option(timeout, number, headers, msg_id, limit, key, callback) or not self._takes(message):
            self._link._check()  # which is the way to learn of a fork, as sending is
            return None
        route = next(self._cycle)
        send = route.send_and_wait if wait else route.send
        return send(message, b"", b"", self._timeout_ns, self._kind)

    def take_from(
        self, iterator: Iterator[Any], into: list[Any], limit: int, headers: bytes = b""
    ) -> Optional[tuple[Any, ...]]:
        while len(into) < limit:
            item: Any = next(iterator, self)
            if item is self:
                return ()
            if not self._takes(item):
                return (item,)
            try:
                into.append(next(self._cycle).send(item, headers, b"", self._timeout_ns, self._kind))
            except Exception:  # noqa: BLE001  for the caller, who meets it again
                return (item,)
        return None

    def _has_option(self, timeout: object, number: object, *others: object) -> bool:
        return timeout is not self._timeout or number != -1 or any(option is not None for option in others)

    @property
    def _is_free(self) -> bool:
        return not self._functions and self._live.codec is None

    def _takes(self, message: object) -> bool:
        return self.is_plain and type(message) in PLAIN and self._is_free


@final
class FanOut:
    __slots__ = ("_round_robins", "_together", "is_plain")

    _round_robins: list[RoundRobin]
    _together: Callable[[Any], Any]
    is_plain: bool

    def __new__(cls, round_robins: list[RoundRobin], together: Callable[[Any], Any]) -> Self:
        if not round_robins:
            raise ConfigurationError("a fan-out needs at least one round robin")
        self = super().__new__(cls)
        self._round_robins = round_robins
        self._together = together
        self.is_plain = False
        return self

    def take(
        self,
        message: Any,
        timeout: object,
        headers: object,
        msg_id: object,
        limit: object,
        key: object,
        number: object,
        callback: object,
        wait: bool = False,
    ) -> Any:
        first = self._round_robins[0]
        has_option = wait or first._has_option(timeout, number, headers, msg_id, limit, key, callback)
        is_free = all(round_robin._is_free for round_robin in self._round_robins)
        if has_option or not self.is_plain or type(message) not in PLAIN or not is_free:
            first._link._check()
            return None
        routes = [next(round_robin) for round_robin in self._round_robins]
        tickets = routes[0].link.send_all(routes, message, b"", b"", first._timeout_ns, first._kind)
        return self._together(tickets)


def count_delivered(tickets: list[Any], start: int) -> tuple[int, int]:
    place, duplicates = start, 0
    while place < len(tickets) and tickets[place].outcome == lib.MCORE_DELIVERED:
        tickets[place].observe()
        duplicates += tickets[place].duplicate
        place += 1
    return place, duplicates


@final
class WaitSet:
    __slots__ = ("_generation", "_links", "_set", "_tickets")

    _generation: int  # of forks, when it was made
    _set: Any
    _links: set[Link]
    _tickets: tuple[Ticket, ...]  # C points into them

    def __new__(cls, tickets: Iterable[Ticket]) -> Self:
        self = super().__new__(cls)
        self._set = ffi.NULL
        self._generation = lib.mcore_fork_generation()
        self._links = set()
        self._tickets = tuple(tickets)
        self._set = lib.mcore_wait_set_new(len(self._tickets))
        if self._set == ffi.NULL:
            raise MemoryError(f"no memory to wait for {len(self._tickets)} messages")
        for ticket in self._tickets:
            ticket._check()
            link = ticket._route.link
            self._links.add(link)
            ticket._ticket.observed = 1
            lib.mcore_wait_set_add(self._set, link._box(), ticket._ticket)
        return self

    def __del__(self, lib: Any = lib) -> None:
        # In one cycle of garbage a link may have gone first, and with it the lock; then the memory is left as it is.
        if lib.mcore_fork_generation() == self._generation and not any(link._freed for link in self._links):
            lib.mcore_wait_set_free(self._set)

    def wait(self, until: Optional[float]) -> list[int]:
        if lib.mcore_fork_generation() != self._generation:
            raise ForkedError("this wait began before a fork and belongs to the parent process")
        places = ffi.new("uint32_t[]", PLACES_AT_ONCE)
        count = sliced(
            until, lambda ns: lib.mcore_wait_set_wait(self._set, places, PLACES_AT_ONCE, ns), lambda count: not count
        )
        return list(ffi.unpack(places, count)) if count else []
