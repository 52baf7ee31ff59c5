"""
The cffi binding of the C core: Link. With _cffi_route, _cffi_wait_set and _cffi_receive_buffer it is the twin of
_link.pxi, name by name.

Lifetime: Route, Ticket, ReceiveBuffer and RawMessage hold their Link, which owns the C outbox and link. When all of
them become garbage in one cycle, their destructors run in any order: the Link then frees its receive buffers first,
and a Ticket that comes later than its Link touches nothing but itself.
Fork: the C locks may be held by a thread that does not exist in the child, so nothing of a Link from before a fork is
touched there: calls raise ForkedError, destructors do nothing.
Threads: every call into C releases the GIL, unlike those of the twin that do not wait. So what Python code does between
two calls must stand on single operations of dict and list, which are atomic; see Watchers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Optional, Union, final

from memphis_sync._core._cffi_core import ffi, lib
from memphis_sync._core._cffi_route import AnyTicket, Callback, Payload, Route, Ticket, Watcher, ticket_of
from memphis_sync._core._cffi_view import checked_bytes, view_of
from memphis_sync.errors import ClosedError, ConfigurationError, ConnectionLostError, ForkedError, LocalProtocolError
from memphis_sync.types import Buffer

if TYPE_CHECKING:
    from typing_extensions import Self  # 3.11 has it in typing

MAX_ROUTES = 64  # of one message, as in the twin
MAX_REPORTS = 256  # slots taken from C in one call
LATE_NS = 1_000_000  # how long to wait for a sender that is between append and registration
LEAST_FRAME_LIMIT = 64 * 1024 * 1024  # what the server sends may be larger than what it takes: stored messages, headers
STATS = tuple(name for name, _ in ffi.typeof("struct mcore_stats").fields)


class Watchers:
    """
    Who waits for which slot, without a lock: a destructor may come in anywhere and use it too.

    A slot's list is taken with pop(), so it has one taker. An adder may meet a list that was just taken: it then looks
    whether its entry is still in it; if so, nobody will see that list again and it adds to a new one.
    """

    def __init__(self) -> None:
        self._lists: dict[int, list[Watcher]] = {}

    def add(self, slot: int, watcher: Watcher) -> None:
        """Registers the watcher for the slot."""
        while True:
            entries = self._lists.setdefault(slot, [])
            entries.append(watcher)
            if self._lists.get(slot) is entries or not self._removed(entries, watcher):
                return

    def take_back(self, slot: int, watcher: Watcher) -> bool:
        """Whether the watcher was still there; False: somebody has taken it."""
        entries = self._lists.get(slot)
        return entries is not None and self._removed(entries, watcher)

    def take(self, slot: int) -> Optional[list[tuple[Ticket, Callback]]]:
        """All watchers of a slot; None when there are none yet."""
        entries = self._lists.pop(slot, None)
        taken = []
        while entries:
            try:
                watcher = entries.pop(0)
            except IndexError:  # taken back this very moment
                break
            taken.append((watcher.ticket, watcher.callback))
        return None if entries is None else taken

    @staticmethod
    def _removed(entries: list[Watcher], watcher: Watcher) -> bool:
        try:
            entries.remove(watcher)
        except ValueError:
            return False
        return True


@final
class Link:
    """
    The outbox and the two loops of one data link.

    Args:
        token: Unique name of the link, 1 or more of ``[A-Za-z0-9]``; its replies go to ``_INBOX.<token>.<slot>``.
        max_bytes: Bound of the outbox in bytes of encoded frames.
        max_messages: Bound of the outbox in messages.
        window: How many messages may be written and not yet confirmed.
        max_payload: Largest payload that either side takes, in bytes, headers included.
        ping_interval_ns: A server that is silent for so long is asked, and given up after twice as long; 0: never.
        retry_attempts: How often a message that nobody listens to is sent again, 0 to 255.
        retry_pause_ns: How long it waits for that.

    Raises:
        MemoryError: The system gave no memory for the outbox.
    """

    __slots__ = (
        "_freed",
        "_generation",
        "_late",
        "_link",
        "_outbox",
        "_receive_buffers",
        "_watchers",
        "max_payload",
        "token",
    )

    _freed: bool
    _generation: int  # of forks, when it was made
    _receive_buffers: dict[int, Any]  # C receive buffers that are not freed yet
    _late: list[int]  # slots that were reported before anybody had registered for them
    _link: Any
    _outbox: Any
    _watchers: Watchers
    max_payload: int
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
        """As __cinit__ of the twin: there is no Link without its C half."""
        self = super().__new__(cls)
        self._outbox = self._link = ffi.NULL
        self._generation = lib.mcore_fork_generation()
        self.token = token
        self.max_payload = max_payload
        self._watchers = Watchers()
        self._late = []
        self._receive_buffers = {}
        self._freed = False
        checked_bytes(token=token)
        self._outbox = lib.mcore_outbox_new(token, len(token), max_bytes, max_messages, window)
        if self._outbox == ffi.NULL:
            raise MemoryError(f"no memory for an outbox of {max_bytes} bytes and {max_messages} messages")
        lib.mcore_outbox_set_retry(self._outbox, retry_attempts, retry_pause_ns)
        self._link = lib.mcore_link_new(self._outbox, max(LEAST_FRAME_LIMIT, max_payload), ping_interval_ns, sans_io)
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
            raise ForkedError("this client was opened before a fork; open one in the child process")

    def _raise_for(self, result: int) -> None:
        if result == lib.MCORE_E_CLOSED:
            raise ConnectionLostError("the data link has no connection at the moment")
        if result == lib.MCORE_E_MEMORY:
            raise MemoryError("no memory for control frames")
        if result != 0:
            raise LocalProtocolError(f"the C core refused a control frame ({result})")

    # ---- connection --------------------------------------------------------------------------------------------

    def attach(self, fd: int, first: bytes, rest: bytes) -> bool:
        """Takes a connected socket; *first* is written first, *rest* was read too far. False once stopped."""
        self._check()
        checked_bytes(first=first, rest=rest)
        return bool(lib.mcore_link_attach(self._link, fd, first, len(first), rest, len(rest)) == 0)

    def detach(self) -> int:
        """Lets the socket go and queues what was in flight again; returns how many messages that were."""
        self._check()
        return int(lib.mcore_link_detach(self._link))

    def read_loop(self) -> tuple[int, int, str]:
        """Reads until the connection ends; returns ``(end, errno, text)``. For the reader thread."""
        self._check()
        end = lib.mcore_link_read_loop(self._link)
        return end, lib.mcore_link_errno(self._link), self.text()

    def send_loop(self) -> bool:
        """Writes and expires until the link is stopped (False) or failures wait to be logged (True). For the sender."""
        self._check()
        return bool(lib.mcore_link_send_loop(self._link))

    def next(self, timeout_ns: int) -> tuple[int, memoryview]:
        """
        The send loop's step, for one thread: waits for bytes to write.

        Returns:
            ``(2, bytes)`` to write, valid until ``written()``, which must follow; they are empty after ``wake()``.
            ``(0, empty)`` once stopped, ``(1, empty)`` when failures wait to be logged, ``(3, empty)`` after
            *timeout_ns*.
        """
        self._check()
        data, size = ffi.new("uint8_t const **"), ffi.new("size_t *")
        kind = lib.mcore_link_next(self._link, timeout_ns, data, size)
        view = memoryview(ffi.buffer(data[0], size[0])) if size[0] else memoryview(b"")
        return kind, view.toreadonly()

    def written(self, count: int, errno: int = 0) -> None:
        """The first *count* bytes are out; or the socket's *errno*, which ends the connection."""
        self._check()
        lib.mcore_link_written(self._link, count, errno)

    def run_timers(self) -> int:
        """Expires deadlines and asks a silent server while the socket is full; returns ns until it is needed again."""
        self._check()
        return int(lib.mcore_link_run_timers(self._link))

    def wake(self) -> None:
        """Makes ``next`` return, if there is a connection."""
        self._check()
        lib.mcore_link_wake(self._link)

    def feed(self, data: Buffer) -> Optional[tuple[int, int, str]]:
        """
        The read loop's step: bytes that the server sent; none at all first, for what ``attach`` was given.

        Returns:
            None while the connection goes on, else as ``read_loop``.
        """
        self._check()
        view = view_of(data)
        end = lib.mcore_link_feed(self._link, view, len(view))
        if end == lib.MCORE_LINK_GOES_ON:
            return None
        return end, lib.mcore_link_errno(self._link), self.text()

    def ended(self, errno: int) -> tuple[int, int, str]:
        """The socket gives no more: its *errno*, 0 when the server closed. Returns what ``read_loop`` would."""
        self._check()
        end = lib.mcore_link_ended(self._link, errno)
        return end, lib.mcore_link_errno(self._link), self.text()

    def stop(self) -> None:
        """Makes both loops return; nothing is written any more."""
        if self._is_ours():
            lib.mcore_link_stop(self._link)

    def is_up(self) -> bool:
        """Whether a socket is attached and not known to be broken."""
        self._check()
        return bool(lib.mcore_link_is_up(self._link))

    def text(self) -> str:
        """The server's last error text, or the bytes that broke the protocol."""
        text = ffi.new("char[512]")
        lib.mcore_link_text(self._link, text, len(text))
        return bytes(ffi.string(text)).decode("utf-8", "replace")

    def control(self, frames: bytes) -> None:
        """Queues whole control frames before all produced messages. ConnectionLostError without a connection."""
        self._check()
        checked_bytes(frames=frames)
        self._raise_for(lib.mcore_link_control(self._link, frames, len(frames)))

    def write(self, frames: bytes) -> None:
        """As control(), and writes at once as push() does."""
        self._check()
        checked_bytes(frames=frames)
        self._raise_for(lib.mcore_link_write(self._link, frames, len(frames)))

    def push(self) -> None:
        """Writes what is queued now if nobody else is writing; with sans_io it wakes the sender."""
        self._check()
        lib.mcore_link_push(self._link)

    def ping(self) -> int:
        """Queues a PING and returns its number on this connection. ConnectionLostError without a connection."""
        self._check()
        number = int(lib.mcore_link_ping(self._link))
        if number < 0:
            self._raise_for(number)
        return number

    def wait_pong(self, number: int, timeout_ns: int) -> bool:
        """Whether the PONG of that PING has come within *timeout_ns*. ConnectionLostError when it never will."""
        self._check()
        result = lib.mcore_link_wait_pong(self._link, number, timeout_ns)
        if result == lib.MCORE_E_TIMEOUT:
            return False
        self._raise_for(result)
        return True

    # ---- outbox ------------------------------------------------------------------------------------------------

    def owner_new(self) -> int:
        """A number under which one producer's backlog is counted."""
        self._check()
        owner = lib.mcore_outbox_owner_new(self._outbox)
        if owner < 0:
            raise MemoryError("no memory for another producer")
        return int(owner)

    def stats(self) -> dict[str, int]:
        """All counters at one instant, as a dict."""
        self._check()
        stats = ffi.new("struct mcore_stats *")
        lib.mcore_outbox_stats(self._outbox, stats)
        return {name: getattr(stats, name) for name in STATS}

    def outstanding(self, owner: int = -1) -> int:
        """Messages of *owner* (-1: of all) that are neither delivered nor failed."""
        self._check()
        return int(lib.mcore_outbox_outstanding(self._outbox, owner))

    def wait_drained(self, owner: int, timeout_ns: int, down_to: int = 0) -> int:
        """Waits until no more than *down_to* of *owner* are outstanding (-1: nothing of anybody); returns what is."""
        self._check()
        lib.mcore_link_push(self._link)
        return int(lib.mcore_outbox_wait_drained(self._outbox, owner, down_to, timeout_ns))

    def marks(self) -> tuple[int, int]:
        """How far messages were accepted until now, for ``wait_marks``."""
        self._check()
        marks = ffi.new("uint64_t[2]")
        lib.mcore_outbox_marks(self._outbox, marks)
        return marks[0], marks[1]

    def wait_marks(self, owner: int, marks: tuple[int, int], timeout_ns: int) -> int:
        """Waits until what *owner* (-1: anybody) had accepted at the marks is settled; returns how many are not."""
        self._check()
        lib.mcore_link_push(self._link)
        return int(lib.mcore_outbox_wait_marks(self._outbox, owner, ffi.new("uint64_t[2]", marks), timeout_ns))

    def take_failed(self, owner: int = -1) -> int:
        """How many messages of *owner* (-1: of all) failed or were abandoned since the last call for it."""
        self._check()
        return int(lib.mcore_outbox_take_failed(self._outbox, owner))

    def wait_room(self, size: int, timeout_ns: int) -> bool:
        """Waits until a frame of *size* bytes fits, with some air. False when it does not in time."""
        self._check()
        result = lib.mcore_outbox_wait_room(self._outbox, size, timeout_ns)
        if result == lib.MCORE_E_CLOSED:
            raise ClosedError("the client is closed")
        return bool(result == 0)

    def close(self) -> None:
        """No append from now on."""
        if self._is_ours():
            lib.mcore_outbox_close(self._outbox)

    def abandon(self) -> int:
        """Ends all that is outstanding as abandoned; returns how many."""
        self._check()
        return int(lib.mcore_outbox_abandon(self._outbox))

    def release(self) -> bool:
        """Gives the memory back, once it is closed, all is settled and both loops have returned; False: not yet."""
        self._check()
        if not lib.mcore_outbox_release(self._outbox):
            return False
        lib.mcore_link_release(self._link)
        return True

    def take_unseen(self) -> tuple[int, str]:
        """``(count, text)`` of failures since the last call that nobody asked about."""
        self._check()
        text = ffi.new("char[256]")
        count = lib.mcore_outbox_take_unseen(self._outbox, text, len(text))
        return count, bytes(ffi.string(text)).decode("utf-8", "replace")

    def take_disbelieved(self) -> tuple[int, str]:
        """``(count, text)`` of answers since the last call that were ignored, and why the last one was."""
        self._check()
        text = ffi.new("char[256]")
        count = lib.mcore_outbox_take_disbelieved(self._outbox, text, len(text))
        return count, bytes(ffi.string(text)).decode("utf-8", "replace")

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
        """
        Appends one message for each route (at most 64), all or none; the tickets in the order of the routes. A list as
        payload holds one bytes object for each route.
        """
        if not 1 <= len(routes) <= MAX_ROUTES:
            raise ConfigurationError(f"a producer takes 1 to {MAX_ROUTES} stations at once, not {len(routes)}")
        tickets = [ticket_of(kind, route, msg_id) for route in routes]
        parts = ffi.new("struct mcore_route *[]", [route._route for route in routes])
        slots = ffi.new("struct mcore_ticket *[]", [ticket._ticket for ticket in tickets])
        joined, sizes = _joined(payload, len(routes))
        routes[0]._append(parts, joined, headers, msg_id, timeout_ns, slots, urgent=urgent, sizes=sizes)
        return tickets

    # ---- reports -----------------------------------------------------------------------------------------------

    def hold(
        self, routes: list[Route], size: int, msg_id: bytes, timeout_ns: int, kind: type[AnyTicket]
    ) -> Optional[list[AnyTicket]]:
        """
        Takes one message for each route (at most 64), all or none, of which nothing is known yet but its size.

        Args:
            routes: Of one owner of their own; for the reader of a ticket, until unhold() gives it another.
            size: Bytes that one of them counts with.
            msg_id, timeout_ns, kind: As of Route.send().

        Returns:
            The tickets in the order of the routes; None once end_holding() has ended it.

        Raises:
            BufferFullError, PayloadTooLargeError, ClosedError, ForkedError: As Route.send().
        """
        if not 1 <= len(routes) <= MAX_ROUTES:
            raise ConfigurationError(f"a producer takes 1 to {MAX_ROUTES} stations at once, not {len(routes)}")
        self._check()
        tickets = [ticket_of(kind, route, msg_id) for route in routes]
        slots = ffi.new("struct mcore_ticket *[]", [ticket._ticket for ticket in tickets])
        owner = routes[0]._route.owner
        error = int(lib.mcore_outbox_hold(self._outbox, owner, len(routes), size, timeout_ns, slots))
        if error == lib.MCORE_E_ENDED:
            return None
        if error < 0:
            routes[0]._raise_full(error, len(routes), size)
        return tickets

    def unhold(
        self,
        routes: list[Route],
        payload: Union[Payload, list[bytes]],
        headers: bytes,
        msg_id: bytes,
        tickets: Sequence[Ticket],
    ) -> bool:
        """
        Appends held messages, as send_all() does, with the tickets and the deadline that they have.

        Returns:
            False: they were settled meanwhile.

        Raises:
            BufferFullError, PayloadTooLargeError, ForkedError: As send_all(); they are still held.
        """
        if not 1 <= len(routes) <= MAX_ROUTES or len(tickets) != len(routes):
            raise ConfigurationError(f"{len(tickets)} held messages for {len(routes)} routes")
        joined, sizes = _joined(payload, len(routes))
        before = [ticket._route for ticket in tickets]
        for ticket, route in zip(tickets, routes):
            ticket._route = route  # before it can be settled: its reader asks the route where it went
        parts = ffi.new("struct mcore_route *[]", [route._route for route in routes])
        slots = ffi.new("struct mcore_ticket *[]", [ticket._ticket for ticket in tickets])
        try:
            return routes[0]._append(parts, joined, headers, msg_id, 0, slots, sizes=sizes, held=True) >= 0
        except BaseException:
            for ticket, route in zip(tickets, before):
                ticket._route = route
            raise

    def fail_held(self, ticket: Ticket, route: Route, text: str) -> bool:
        """Ends a held message as unsent, with a route whose target says why. False: it was settled before."""
        self._check()
        if lib.mcore_ticket_outcome(ticket._ticket) != 0:
            return False
        encoded = text.encode("utf-8", "replace")
        ticket._route = route
        return bool(lib.mcore_outbox_settle_held(self._outbox, ticket._ticket, lib.MCORE_UNSENT, encoded, len(encoded)))

    def held_mark(self) -> int:
        """How many messages were held until now, for ``wait_held``."""
        self._check()
        return int(lib.mcore_outbox_held_mark(self._outbox))

    def wait_held(self, mark: int, timeout_ns: int) -> int:
        """Waits until none of what was held at the mark is held; returns how many are."""
        self._check()
        return int(lib.mcore_outbox_wait_held(self._outbox, mark, timeout_ns))

    def end_holding(self, owner: int) -> bool:
        """Ends the holding for an owner, if nothing is held. Whether it has ended."""
        self._check()
        return bool(lib.mcore_outbox_end_holding(self._outbox, owner))

    def expire_held(self) -> None:
        """Fails held messages whose time is over."""
        self._check()
        lib.mcore_outbox_expire_held(self._outbox, lib.mcore_now_ns())

    def watch(self, ticket: Ticket, callback: Callback) -> bool:
        """Has ``wait_reports`` hand out *ticket* with *callback* once it is settled. False: it is settled already."""
        self._check()
        slot = int(lib.mcore_ticket_number(ticket._ticket))
        watcher = Watcher(ticket, callback)
        self._watchers.add(slot, watcher)
        if lib.mcore_outbox_report(self._outbox, ticket._ticket):
            return True
        # Settled meanwhile. Either an earlier watcher's report takes this one along, or it is taken back here.
        return not self._watchers.take_back(slot, watcher)

    def wait_reports(self, timeout_ns: int) -> list[tuple[Ticket, Callback]]:
        """Waits for settled tickets that are watched; a list of ``(ticket, callback)``, empty after *timeout_ns*."""
        self._check()
        slots = ffi.new("uint64_t[]", MAX_REPORTS)
        if self._late:
            timeout_ns = LATE_NS
        count = lib.mcore_outbox_wait_reports(self._outbox, slots, MAX_REPORTS, timeout_ns)
        numbers, self._late = [*self._late, *ffi.unpack(slots, max(count, 0))], []
        found: list[tuple[Ticket, Callback]] = []
        for number in numbers:
            watchers = self._watchers.take(number)
            if watchers is None:
                self._late.append(number)
            else:
                found += watchers
        return found

    def wake_reports(self) -> None:
        """Makes ``wait_reports`` return."""
        if self._is_ours():
            lib.mcore_outbox_wake_reports(self._outbox)


def _joined(payload: Any, count: int) -> tuple[Any, Any]:
    """The payloads of *count* stations one behind the other, and their sizes; one for all is given back with NULL."""
    if not isinstance(payload, list):
        return payload, ffi.NULL
    if len(payload) != count:
        raise ConfigurationError(f"{len(payload)} payloads for {count} stations")
    return b"".join(payload), ffi.new("size_t[]", [len(part) for part in payload])
