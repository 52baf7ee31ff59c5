"""
The cffi binding of the C core: Link, the twin of _link.pxi.

Lifetime: Route, Ticket, ReceiveBuffer and RawMessage hold their Link, which owns the C outbox and link. When all of
them become garbage in one cycle, their destructors run in any order: the Link then frees its receive buffers first,
and a Ticket that comes later than its Link touches nothing but itself.
Fork: the C locks may be held by a thread that does not exist in the child, so nothing of a Link from before a fork is
touched there: calls raise ForkedError, destructors do nothing.
Threads: every call into C releases the GIL, unlike those of the twin that do not wait. So what Python code does between
two calls must stand on single operations of dict and set, which are atomic.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Optional, Union, final

from memphis_sync._core._cffi_core import ffi, lib
from memphis_sync._core._cffi_route import AnyTicket, Callback, Payload, Route, Ticket, append, tickets_of
from memphis_sync._core._cffi_view import checked, checked_bytes, sliced, text_of, view_of
from memphis_sync._core._translate import FORKED_LINK, append_error
from memphis_sync.errors import ClosedError, ConfigurationError, ForkedError
from memphis_sync.types import Buffer

if TYPE_CHECKING:
    from typing_extensions import Self  # 3.11 has it in typing

REPORTS_AT_ONCE = 256
STATS = tuple(name for name, _ in ffi.typeof("struct mcore_stats").fields)


@final
class Link:
    __slots__ = ("_freed", "_generation", "_link", "_outbox", "_receive_buffers", "_watching", "token")

    _freed: bool
    _generation: int  # of forks, when it was made
    _receive_buffers: dict[int, Any]  # C receive buffers that are not freed yet
    _watching: set[Any]  # handles of (ticket, callback): the cookies that the outbox holds
    _link: Any
    _outbox: Any
    token: bytes

    def __new__(
        cls,
        token: bytes,
        max_bytes: int,
        max_messages: int,
        window: int,
        max_payload: int,
        ping_interval_ns: int = 0,
        retry_attempts: int = 0,
        retry_pause_ns: int = 0,
        sans_io: bool = False,
    ) -> Self:
        self = super().__new__(cls)  # as __cinit__ of the twin: there is no Link without its C half
        self._outbox = self._link = ffi.NULL
        self._generation = lib.mcore_fork_generation()
        self.token = token
        self._watching = set()
        self._receive_buffers = {}
        self._freed = False
        checked_bytes(token=token)
        self._outbox = lib.mcore_outbox_new(token, len(token), max_bytes, max_messages, window)
        if self._outbox == ffi.NULL:
            raise MemoryError(f"no memory for an outbox of {max_bytes} bytes and {max_messages} messages")
        lib.mcore_outbox_set_max_payload(self._outbox, max_payload)
        lib.mcore_outbox_set_retry(self._outbox, retry_attempts, retry_pause_ns)
        self._link = lib.mcore_link_new(self._outbox, lib.MCORE_MAX_RECEIVED, ping_interval_ns, sans_io)
        if self._link == ffi.NULL:
            raise MemoryError("no memory for a data link")
        return self

    # lib as an argument, here and below: the module's globals are gone when the interpreter ends.
    def __del__(self, lib: Any = lib) -> None:
        if lib.mcore_fork_generation() == self._generation:
            self._freed = True
            while self._receive_buffers:
                lib.mcore_receive_buffer_free(self._receive_buffers.popitem()[1])
            lib.mcore_link_free(self._link)
            lib.mcore_outbox_free(self._outbox)

    def _is_ours(self) -> bool:
        return bool(lib.mcore_fork_generation() == self._generation)

    def _check(self) -> None:
        if lib.mcore_fork_generation() != self._generation:
            raise ForkedError(FORKED_LINK)

    def _own(self) -> Any:
        self._check()
        return self._link

    def _box(self) -> Any:
        self._check()
        return self._outbox

    def _ended(self, end: int) -> tuple[int, int, str]:
        return end, lib.mcore_link_errno(self._link), self.text()

    # ---- connection --------------------------------------------------------------------------------------------

    def attach(self, fd: int, first: bytes, rest: bytes) -> bool:
        checked_bytes(first=first, rest=rest)
        return bool(lib.mcore_link_attach(self._own(), fd, first, len(first), rest, len(rest)) == lib.MCORE_OK)

    def detach(self) -> int:
        return int(lib.mcore_link_detach(self._own()))

    def read_loop(self) -> tuple[int, int, str]:
        return self._ended(lib.mcore_link_read_loop(self._own()))

    def send_loop(self) -> bool:
        return bool(lib.mcore_link_send_loop(self._own()))

    def next(self, timeout_ns: int) -> tuple[int, memoryview]:
        data, size = ffi.new("uint8_t const **"), ffi.new("size_t *")
        kind = lib.mcore_link_next(self._own(), timeout_ns, data, size)
        view = memoryview(ffi.buffer(data[0], size[0])) if size[0] else memoryview(b"")
        return kind, view.toreadonly()

    def written(self, count: int, errno: int = 0) -> None:
        lib.mcore_link_written(self._own(), count, errno)

    def run_timers(self) -> int:
        return int(lib.mcore_link_run_timers(self._own()))

    def wake(self) -> None:
        lib.mcore_link_wake(self._own())

    def feed(self, data: Buffer) -> Optional[tuple[int, int, str]]:
        view = view_of(data)
        end = lib.mcore_link_feed(self._own(), view, len(view))
        return None if end == lib.MCORE_LINK_GOES_ON else self._ended(end)

    def ended(self, errno: int) -> tuple[int, int, str]:
        return self._ended(lib.mcore_link_ended(self._own(), errno))

    def stop(self) -> None:
        if self._is_ours():
            lib.mcore_link_stop(self._link)

    def is_up(self) -> bool:
        return bool(lib.mcore_link_is_up(self._own()))

    def text(self) -> str:
        text = ffi.new("char[512]")
        lib.mcore_link_text(self._link, text, len(text))
        return text_of(text)

    def control(self, frames: bytes) -> None:
        checked_bytes(frames=frames)
        checked(lib.mcore_link_control(self._own(), frames, len(frames)))

    def write(self, frames: bytes) -> None:
        checked_bytes(frames=frames)
        checked(lib.mcore_link_write(self._own(), frames, len(frames)))

    def push(self) -> None:
        lib.mcore_link_push(self._own())

    def ping(self) -> int:
        return checked(lib.mcore_link_ping(self._own()))

    def wait_pong(self, number: int, until: Optional[float]) -> bool:
        link = self._own()
        result = sliced(until, lambda ns: lib.mcore_link_wait_pong(link, number, ns))
        return bool(result != lib.MCORE_E_TIMEOUT and checked(result) == lib.MCORE_OK)

    # ---- outbox ------------------------------------------------------------------------------------------------

    def set_max_payload(self, max_payload: int) -> None:
        lib.mcore_outbox_set_max_payload(self._box(), max_payload)

    def owner_new(self) -> int:
        return checked(lib.mcore_outbox_owner_new(self._box()))

    def stats(self) -> dict[str, int]:
        stats = ffi.new("struct mcore_stats *")
        lib.mcore_outbox_stats(self._box(), stats)
        return {name: getattr(stats, name) for name in STATS}

    def count_ack(self, body: bytes) -> None:
        checked_bytes(body=body)
        lib.mcore_link_count_ack(self._own(), body, len(body))

    def outstanding(self, owner: int = -1) -> int:
        return int(lib.mcore_outbox_outstanding(self._box(), owner))

    def wait_drained(self, owner: int, until: Optional[float], down_to: int = 0) -> int:
        outbox = self._box()
        lib.mcore_link_push(self._link)
        wait = functools.partial(lib.mcore_outbox_wait_drained, outbox, owner, down_to)
        return sliced(until, wait, lambda count: count > down_to)

    def marks(self) -> tuple[int, int]:
        marks = ffi.new("uint64_t[2]")
        lib.mcore_outbox_marks(self._box(), marks)
        return marks[0], marks[1]

    def wait_marks(self, owner: int, marks: tuple[int, int], until: Optional[float]) -> int:
        outbox, both = self._box(), ffi.new("uint64_t[2]", marks)
        lib.mcore_link_push(self._link)
        return sliced(until, lambda ns: lib.mcore_outbox_wait_marks(outbox, owner, both, ns), bool)

    def take_failed(self, owner: int = -1) -> int:
        return int(lib.mcore_outbox_take_failed(self._box(), owner))

    def wait_room(self, size: int, until: Optional[float]) -> bool:
        outbox = self._box()
        result = sliced(until, lambda ns: lib.mcore_outbox_wait_room(outbox, size, ns))
        if result == lib.MCORE_E_CLOSED:
            raise ClosedError("the client is closed")
        return bool(result == lib.MCORE_OK)

    def close(self) -> None:
        if self._is_ours():
            lib.mcore_outbox_close(self._outbox)

    def abandon(self) -> int:
        return int(lib.mcore_outbox_abandon(self._box()))

    def release(self) -> bool:
        if not lib.mcore_outbox_release(self._box()):
            return False
        lib.mcore_link_release(self._link)
        return True

    def take_unseen(self) -> tuple[int, str]:
        text = ffi.new("char[256]")
        return lib.mcore_outbox_take_unseen(self._box(), text, len(text)), text_of(text)

    def take_disbelieved(self) -> tuple[int, str]:
        text = ffi.new("char[256]")
        return lib.mcore_outbox_take_disbelieved(self._box(), text, len(text)), text_of(text)

    def take_question(self) -> str:
        text = ffi.new("char[]", lib.MCORE_MAX_STREAM)
        return text_of(text) if lib.mcore_outbox_take_question(self._box(), text, len(text)) else ""

    def answer_question(self, stream: str, answer: int) -> None:
        name = stream.encode()
        lib.mcore_outbox_answer_question(self._box(), name, len(name), answer)

    def send_all(
        self,
        routes: list[Route],
        payload: Union[Payload, list[bytes]],
        headers: bytes,
        msg_id: bytes,
        timeout_ns: int,
        kind: type[AnyTicket],
        urgent: bool = False,
    ) -> list[AnyTicket]:
        tickets = tickets_of(kind, routes, msg_id)
        append(routes, tickets, payload, headers, msg_id, timeout_ns, urgent=urgent)
        return tickets

    # ---- held messages -----------------------------------------------------------------------------------------

    def hold(
        self, routes: list[Route], size: int, msg_id: bytes, timeout_ns: int, kind: type[AnyTicket]
    ) -> Optional[list[AnyTicket]]:
        tickets = tickets_of(kind, routes, msg_id)
        slots = ffi.new("struct mcore_ticket *[]", [ticket._ticket for ticket in tickets])
        owner = routes[0]._route.owner
        error = int(lib.mcore_outbox_hold(self._box(), owner, len(routes), size, timeout_ns, slots))
        if error == lib.MCORE_E_ENDED:
            return None
        if error < 0:
            raise append_error(error, len(routes), size, 0, self.stats())
        return tickets

    def unhold(
        self,
        routes: list[Route],
        payload: Union[Payload, list[bytes]],
        headers: bytes,
        msg_id: bytes,
        tickets: Sequence[Ticket],
    ) -> bool:
        if len(tickets) != len(routes):
            raise ConfigurationError(f"{len(tickets)} held messages for {len(routes)} routes")
        before = [ticket._route for ticket in tickets]
        for ticket, route in zip(tickets, routes):
            ticket._route = route  # before it can be settled: its reader asks the route where it went
        try:
            return bool(append(routes, tickets, payload, headers, msg_id, 0, held=True) != lib.MCORE_E_ENDED)
        except BaseException:
            for ticket, route in zip(tickets, before):
                ticket._route = route
            raise

    def fail_held(self, ticket: Ticket, route: Route, text: str) -> bool:
        outbox = self._box()
        if lib.mcore_ticket_outcome(ticket._ticket) != lib.MCORE_PENDING:
            return False
        encoded = text.encode("utf-8", "replace")
        ticket._route = route
        return bool(lib.mcore_outbox_settle_held(outbox, ticket._ticket, lib.MCORE_UNSENT, encoded, len(encoded)))

    def held_mark(self) -> int:
        return int(lib.mcore_outbox_held_mark(self._box()))

    def wait_held(self, mark: int, until: Optional[float]) -> int:
        outbox = self._box()
        return sliced(until, lambda ns: lib.mcore_outbox_wait_held(outbox, mark, ns), bool)

    def end_holding(self, owner: int) -> bool:
        return bool(lib.mcore_outbox_end_holding(self._box(), owner))

    def expire_held(self) -> None:
        lib.mcore_outbox_expire_held(self._box(), lib.mcore_now_ns())

    # ---- reports -----------------------------------------------------------------------------------------------

    def watch(self, ticket: Ticket, callback: Callback) -> bool:
        cookie = ffi.new_handle((ticket, callback))
        self._watching.add(cookie)
        is_watched = lib.mcore_outbox_watch(self._box(), ticket._ticket, cookie)
        if is_watched <= 0:
            self._watching.discard(cookie)
        return checked(is_watched) > 0

    def wait_reports(self, timeout_ns: int) -> list[tuple[Ticket, Callback]]:
        cookies = ffi.new("void *[]", REPORTS_AT_ONCE)
        count = lib.mcore_outbox_wait_reports(self._box(), cookies, REPORTS_AT_ONCE, timeout_ns)
        found = [ffi.from_handle(cookies[i]) for i in range(count)]
        self._watching.difference_update(cookies[0:count])
        return found

    def wake_reports(self) -> None:
        if self._is_ours():
            lib.mcore_outbox_wake_reports(self._outbox)
