"""The cffi binding of the C core: Route and Ticket. See _cffi_link for what holds for all of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, Optional, TypeVar, Union, final

from memphis_sync._core._cffi_core import ffi, lib
from memphis_sync._core._cffi_view import checked_bytes, view_of
from memphis_sync._core._translate import frames_of
from memphis_sync.errors import (
    BufferFullError,
    ClosedError,
    ConfigurationError,
    LocalProtocolError,
    PayloadTooLargeError,
)
from memphis_sync.types import Buffer

if TYPE_CHECKING:
    from typing_extensions import Self  # 3.11 has it in typing

    from memphis_sync._core._cffi_link import Link

Payload = Union[str, Buffer]
Callback = Callable[[Any], object]

PLAIN = frozenset({bytes, str})  # what a round robin takes


class Ticket:
    """How one appended message ended, or that it has not yet. Made by Route; costs nothing when nobody looks."""

    __slots__ = ("_msg_id", "_route", "_ticket")

    _ticket: Any
    _route: Route
    _msg_id: bytes

    def __del__(self, lib: Any = lib) -> None:
        route = getattr(self, "_route", None)
        if route is not None and lib.mcore_fork_generation() == route.link._generation:
            link = route.link
            if link._freed:  # both in one cycle of garbage: no outbox any more to tell
                lib.mcore_free(self._ticket.text)
                lib.mcore_free(self._ticket.held)
            else:
                lib.mcore_ticket_release(link._outbox, self._ticket)

    @property
    def route(self) -> Route:
        """The route it was appended to."""
        return self._route

    @property
    def slot(self) -> int:
        """Its number in the log of its link, from 0, or from 2**62 in the express lane."""
        return int(self._ticket.slot)

    @property
    def outcome(self) -> int:
        """0 pending, 1 delivered, 2 refused, 3 no responders, 4 expired, 5 abandoned, 6 unknown, 7 unsent."""
        self._route.link._check()
        return int(lib.mcore_ticket_outcome(self._ticket))

    def wait(self, timeout_ns: int) -> int:
        """Waits for the outcome at most *timeout_ns*; returns it, 0 when it is still pending."""
        link = self._route.link
        link._check()
        self._ticket.observed = 1
        return int(lib.mcore_ticket_wait(link._outbox, self._ticket, timeout_ns))

    def observe(self) -> int:
        """Notes that somebody knows the outcome, so that a failure is not logged as unseen; returns it."""
        self._route.link._check()
        self._ticket.observed = 1
        return int(lib.mcore_ticket_outcome(self._ticket))

    @property
    def sequence(self) -> int:
        """Delivered: the sequence in the stream."""
        return int(self._ticket.sequence)

    @property
    def duplicate(self) -> bool:
        """Delivered: whether the broker had the message before."""
        return bool(self._ticket.duplicate)

    @property
    def was_written(self) -> bool:
        """Whether the frame was given to the socket at least once. Valid once settled."""
        return bool(self._ticket.was_written)

    @property
    def code(self) -> int:
        """Refused, unknown: the broker's HTTP-like status."""
        return int(self._ticket.code)

    @property
    def err_code(self) -> int:
        """Refused, unknown: JetStream's error code."""
        return int(self._ticket.err_code)

    @property
    def text(self) -> str:
        """Refused, unknown: the broker's text, as it stood in the JSON."""
        text = self._ticket.text
        return "" if text == ffi.NULL else bytes(ffi.string(text)).decode("utf-8", "replace")

    @property
    def message_id(self) -> Optional[str]:
        """The id that the message carries; None without one."""
        if self._msg_id:
            return self._msg_id.decode()
        if self._route._route.auto_id:
            mark = "e" if self.slot >> lib.MCORE_EXPRESS_BIT else ""
            number = self.slot & ((1 << lib.MCORE_EXPRESS_BIT) - 1)
            return f"{self._route.link.token.decode()}-{mark}{number}"
        return None


AnyTicket = TypeVar("AnyTicket", bound=Ticket)


def ticket_of(kind: type[AnyTicket], route: Route, msg_id: bytes) -> AnyTicket:
    """A ticket that was not appended yet; its C half lies at one place as long as it lives."""
    ticket = kind.__new__(kind)
    ticket._ticket = ffi.new("struct mcore_ticket *")
    ticket._msg_id = msg_id
    ticket._route = route
    return ticket


class Watcher:
    """One interest in a ticket; compared by identity, so that list.remove() runs no foreign code."""

    __slots__ = ("callback", "ticket")

    def __init__(self, ticket: Ticket, callback: Callback) -> None:
        self.ticket = ticket
        self.callback = callback


@final
class Route:
    """
    The constant part of the frames of one producer to one partition.

    Args:
        link: The link that sends them.
        subject: Where they go, ``<station>$<partition>.final``.
        id_name: Header of the message id, ``Nats-Msg-Id`` or ``msg-id``.
        fixed: Header lines of each message, line ends included.
        owner: The producer's number, of ``Link.owner_new()``.
        auto_id: Whether a message without an id of its own gets one.
        target: Anything; for the reader of a ticket.
    """

    __slots__ = ("_kept", "_parts", "_route", "fixed", "id_name", "link", "subject", "target")

    _kept: list[Any]  # what the pointers in _route point to
    _parts: Any  # a C array of this one route
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
        self._route = ffi.new("struct mcore_route *")
        self._route.subject, self._route.id_name, self._route.fixed = self._kept
        self._route.subject_len, self._route.id_name_len, self._route.fixed_len = map(len, self._kept)
        self._route.owner = owner
        self._route.auto_id = bool(auto_id)
        self._parts = ffi.new("struct mcore_route *[]", [self._route])
        return self

    def _append(
        self,
        parts: Any,
        payload: Payload,
        headers: bytes,
        msg_id: bytes,
        timeout_ns: int,
        slots: Any,
        *,
        report: bool = False,
        urgent: bool = False,
        sizes: Any = ffi.NULL,
        held: bool = False,
    ) -> int:
        self.link._check()
        checked_bytes(headers=headers, msg_id=msg_id)
        data: Any = payload.encode() if type(payload) is str else payload
        with view_of(data) as view, view_of(headers) as header_view, view_of(msg_id) as id_view:
            message = ffi.new("struct mcore_message *")
            message.payload, message.payload_len = view, len(view)
            message.headers, message.headers_len = header_view, len(header_view)
            message.msg_id, message.msg_id_len = id_view, len(id_view)
            message.timeout_ns = timeout_ns
            message.report = report
            message.urgent = urgent
            message.parts = sizes
            self._check_size(message, len(view) if sizes == ffi.NULL else max(sizes))
            append = lib.mcore_outbox_unhold if held else lib.mcore_outbox_append
            slot = int(append(self.link._outbox, parts, len(parts), message, slots))
            if slot < 0 and not (held and slot == lib.MCORE_E_ENDED):
                self._raise_full(slot, len(parts), message.payload_len)
            return slot

    def _check_size(self, message: Any, size: int) -> None:
        # 12: NATS/1.0, its line end and the empty line; 26: the line of an automatic id with the longest slot number.
        block = 12 + len(self.fixed) + message.headers_len
        if message.msg_id_len > 0:
            block += len(self.id_name) + 4 + message.msg_id_len
        elif self._route.auto_id:
            block += len(self.id_name) + 26 + len(self.link.token)
        if size + block > self.link.max_payload:
            raise PayloadTooLargeError(
                f"message of {size} bytes with {block} bytes of headers: the broker takes at most "
                f"max_payload={self.link.max_payload} bytes for both"
            )

    def _raise_full(self, error: int, count: int, size: int) -> NoReturn:
        if error == lib.MCORE_E_CLOSED:
            raise ClosedError("the client is closed; the message was not taken")
        stats = self.link.stats()
        if error == lib.MCORE_E_TOO_LARGE:
            raise PayloadTooLargeError(
                f"message of {size} bytes: {frames_of(count)} larger than the whole outbox "
                f"(outbox_max_bytes={stats['max_bytes']})"
            )
        if error == lib.MCORE_E_TOO_MANY:
            raise ConfigurationError(
                f"a message for {count} stations is {count} messages, and the outbox takes "
                f"outbox_max_messages={stats['max_messages']}; raise this option of connect()"
            )
        if error == lib.MCORE_E_MEMORY:
            raise MemoryError("no memory for another message")
        if error in (lib.MCORE_E_FULL_BYTES, lib.MCORE_E_FULL_MESSAGES):
            raise BufferFullError(
                f"the outbox is full: {stats['queued'] + stats['in_flight']} messages wait for the broker, and it "
                f"takes outbox_max_messages={stats['max_messages']} in outbox_max_bytes={stats['max_bytes']}; raise "
                "these options of connect(), or let produce() wait for room: block_on_full_s of the producer, or "
                "produce_many()"
            )
        raise LocalProtocolError(f"the C core refused a message ({error})")

    def frame_size(self, payload_len: int, headers_len: int, msg_id_len: int) -> int:
        """Bytes that such a message takes in the outbox, at most."""
        message = ffi.new("struct mcore_message *")
        message.payload_len = payload_len
        message.headers_len = headers_len
        message.msg_id_len = msg_id_len
        return int(lib.mcore_outbox_frame_size(self.link._outbox, self._route, message))

    def send(
        self,
        payload: Payload,
        headers: bytes,
        msg_id: bytes,
        timeout_ns: int,
        kind: type[AnyTicket],
        callback: Optional[Callback] = None,
    ) -> AnyTicket:
        """
        Appends one message and returns its ticket at once.

        Args:
            payload: bytes, str (UTF-8), or an object with the buffer interface; copied.
            headers: The user's header lines, line ends included.
            msg_id: The message id; empty: the route's rule.
            timeout_ns: From now to the message's deadline.
            kind: Ticket, or a subclass without state of its own: what to return.
            callback: If given, ``Link.wait_reports`` hands it out with the settled ticket.

        Raises:
            BufferFullError: No room; the message was not taken.
            PayloadTooLargeError: Larger than the server's ``max_payload`` or than the outbox.
            ClosedError: After ``Link.close()``.
            ForkedError: The link is from before a fork.
        """
        ticket = ticket_of(kind, self, msg_id)
        slots = ffi.new("struct mcore_ticket *[]", [ticket._ticket])
        self._append(self._parts, payload, headers, msg_id, timeout_ns, slots, report=callback is not None)
        if callback is not None:
            self.link._watchers.add(ticket.slot, Watcher(ticket, callback))
        return ticket

    def send_and_wait(
        self, payload: Payload, headers: bytes, msg_id: bytes, timeout_ns: int, kind: type[AnyTicket], slice_ns: int
    ) -> AnyTicket:
        """``send``, ahead of other threads' backlog, by this very thread where possible; waits at most *slice_ns*."""
        ticket = ticket_of(kind, self, msg_id)
        ticket._ticket.observed = 1
        slots = ffi.new("struct mcore_ticket *[]", [ticket._ticket])
        self._append(self._parts, payload, headers, msg_id, timeout_ns, slots, urgent=True)
        lib.mcore_link_push(self.link._link)
        lib.mcore_ticket_wait(self.link._outbox, ticket._ticket, slice_ns)
        return ticket


@final
class RoundRobin:
    """
    The routes of one producer to one station, in turn: an iterator without end.

    Args:
        routes: At least one.
        live: Has an attribute ``codec``; take() takes nothing while that is not None.
        functions: take() takes nothing while there are any.
        timeout: What take() must be given as *timeout*, by identity, and what that means in nanoseconds.
        kind: As of Route.send().
    """

    __slots__ = ("_cycle", "_functions", "_kind", "_live", "_timeout", "_timeout_ns", "is_plain")

    _functions: Mapping[int, int]
    _kind: type[Ticket]
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
        wait_ns: int = -1,
    ) -> Optional[Ticket]:
        """
        Sends a message that is bytes or str and has no options of its own by the next route: what most calls of a
        producer ask for, in one step.

        Args:
            message: Anything.
            timeout: See the class.
            headers, msg_id, limit, key, callback: None, or there is an option.
            number: -1, or there is an option.
            wait_ns: 0 or more: as Route.send_and_wait(), for so long; below: as Route.send().

        Returns:
            The ticket; None for anything else, also while ``is_plain`` is not set: nothing was done then.

        Raises:
            UnicodeEncodeError: The str is no text.
            BufferFullError, PayloadTooLargeError, ClosedError, ForkedError: As Route.send().
        """
        if self._has_option(timeout, number, headers, msg_id, limit, key, callback) or not self._takes(message):
            return None
        if wait_ns >= 0:
            return next(self._cycle).send_and_wait(message, b"", b"", self._timeout_ns, self._kind, wait_ns)
        return self._send(message)

    def take_from(self, iterator: Iterator[Any], into: list[Any], limit: int) -> Optional[tuple[Any, ...]]:
        """
        As take() without options, for what an iterator yields: until *limit* tickets stand in *into*.

        Returns:
            None at the limit and ``()`` at the iterator's end. ``(item,)`` for an item that take() does not take, or
            refuses with an error: it was not sent.

        Raises:
            Exception: Whatever the iterator raises; *into* holds the tickets of what came before.
        """
        while len(into) < limit:
            item = next(iterator, self)
            if item is self:
                return ()
            if not self._takes(item):
                return (item,)
            try:
                into.append(self._send(item))
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

    def _send(self, message: Any) -> Ticket:
        return next(self._cycle).send(message, b"", b"", self._timeout_ns, self._kind)


@final
class FanOut:
    """
    The round robins of one producer to several stations, for messages that go to all of them.

    Args:
        round_robins: 1 to 64, of one link, and with the same timeout and kind.
        together: What take() returns is made by it from the list of tickets, in the order of the round robins.
    """

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
        wait_ns: int = -1,
    ) -> Any:
        """As RoundRobin.take(), for all of them or none; never waits, and takes nothing when it is to."""
        first = self._round_robins[0]
        if wait_ns >= 0 or first._has_option(timeout, number, headers, msg_id, limit, key, callback):
            return None
        if (
            not self.is_plain
            or type(message) not in PLAIN
            or not all(round_robin._is_free for round_robin in self._round_robins)
        ):
            return None
        routes = [next(round_robin) for round_robin in self._round_robins]
        tickets = routes[0].link.send_all(routes, message, b"", b"", first._timeout_ns, first._kind)
        return self._together(tickets)


def count_delivered(tickets: list[Any], start: int) -> tuple[int, int]:
    """
    Counts off delivered tickets, and notes that somebody knows of them.

    Returns:
        ``(place, duplicates)``: the first place from *start* on whose ticket is not delivered, or their number; and how
        many of those before it the broker had before.
    """
    place, duplicates = start, 0
    while place < len(tickets) and tickets[place].outcome == lib.MCORE_DELIVERED:
        tickets[place].observe()
        duplicates += tickets[place].duplicate
        place += 1
    return place, duplicates
