"""
What both bindings offer, and the one place that says what each name does; stubtest compares it with either of them.

*until* is a moment of ``time.monotonic()``, None without a limit; a moment that has passed only looks. A wait serves
Ctrl-C within 0.3 s. In the child of a fork every call but stop(), close(), wake_reports() and reading raises ForkedError.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Optional, TypeVar, Union, final

from typing_extensions import Self, disjoint_base

from memphis_sync._core._event import Event as Event
from memphis_sync.errors import RemoteProtocolError
from memphis_sync.types import Buffer

_Payload = Union[str, Buffer]
_T = TypeVar("_T", bound=Ticket)
_M = TypeVar("_M", bound=RawMessage)

IMPL: str
RECEIVE_BUFFER_BYTES: int
PING: bytes
PONG: bytes

def murmur3_x86_32(data: Buffer, seed: int = 0) -> int:
    """
    MurmurHash3, x86 variant: 0 <= hash < 2**32, read in little-endian blocks on every host. Memphis partitions with seed
    31. ConfigurationError: *seed* is outside 0..2**32-1.

    Source: Appleby, MurmurHash3.cpp; vectors in tests/unit/codec/vectors/murmur3.json.
    """
def watch_forks() -> None:
    """Starts counting forks; idempotent. MemoryError: the system has no memory for the handler."""
def fork_generation() -> int:
    """How many forks lie between the process that first called watch_forks() and this one; 0 in that process."""
def ring_bell() -> None:
    """Wakes wait_bell(), as the core does by itself: for what may end a wait and is not its business."""
def bell_count() -> int:
    """How often the bell was rung since the first wait_bell() of this process."""
def wait_bell(seen: int, timeout_ns: int) -> int:
    """Waits until bell_count() is another one than *seen*, at most *timeout_ns*, and returns it. Not for a greenlet."""
def wait_as_greenlets(is_here: Callable[[], bool], pause_until: Callable[[int], object]) -> None:
    """Where *is_here* says so, a wait only looks, and calls *pause_until* with its end in ns until the bell rings."""
def keep_forever(thing: object) -> None:
    """No destructor of *thing*, nor of what it refers to, runs any more, also not at the end of the process."""
def encode_connect(json: bytes) -> bytes:
    r"""``CONNECT <json>\r\n``. LocalProtocolError: empty, or more than one line; the text does not show it."""
def encode_sub(subject: bytes, sid: int, queue: bytes = b"") -> bytes:
    r"""
    ``SUB <subject> [queue] <sid>\r\n``. LocalProtocolError: *subject* or *queue* holds blanks or control bytes, or is not
    UTF-8. ConfigurationError: *sid* is outside 0..2**64-1.
    """
def encode_unsub(sid: int, max_msgs: int = 0) -> bytes:
    r"""``UNSUB <sid> [max_msgs]\r\n``: after so many messages, at once with 0. ConfigurationError as encode_sub()."""
def encode_pub(subject: bytes, payload: bytes, reply: bytes = b"") -> bytes:
    r"""``PUB <subject> [reply] <payload_len>\r\n<payload>\r\n``, the length in bytes. Raises as encode_sub()."""
def encode_header(name: bytes, value: bytes) -> bytes:
    r"""
    ``<name>: <value>\r\n``. HeaderError: the name is not printable ASCII or holds ':' or a blank; the value holds CR, LF
    or NUL.
    """
def encode_headers(pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    r"""A block: ``NATS/1.0\r\n``, a line a pair, ``\r\n``; blanks around values get lost. Raises as encode_header()."""
def parse_headers(block: bytes) -> tuple[int, str, list[tuple[str, str]]]:
    """
    Reads a whole header block: status (0 without one), description, and the headers in the order of the wire. Text is
    UTF-8 with surrogateescape; blanks around names and values are gone. HeaderError: it is not a NATS/1.0 header block.
    """

@final
class Parser:
    """
    Reads the server's side of a NATS connection; knows nothing of sockets. One parser belongs to one stream and one thread.

    What it reports depends on the stream alone, not on how it was split: when good frames precede an offending one,
    feed() returns them, keeps the error in `failure`, and the next feed() raises it.

    Args:
        max_payload: Largest payload in bytes, headers included.
        max_control_line: Longest control line in bytes, CRLF excluded; INFO and -ERR may always have 256 KiB.
    """

    def __init__(self, max_payload: int = ..., max_control_line: int = ...) -> None: ...
    @property
    def buffered(self) -> int:
        """Bytes of an incomplete frame that wait for the rest of it."""
    @property
    def failure(self) -> Optional[RemoteProtocolError]:
        """The error that ended the stream, also before feed() has raised it; None while it is sound."""
    def feed(self, data: Buffer) -> list[Event]:
        """
        Takes the next bytes of the stream; returns the frames that are complete now, and keeps the rest.
        RemoteProtocolError: the server broke the protocol; shows up to 64 bytes from the offending frame on.
        LocalProtocolError: the parser has raised before and was not reset.
        """
    def reset(self) -> None:
        """Forgets everything but the limits: for a new stream."""

@final
class Link:
    """
    The outbox and the two loops of one data link.

    Args:
        token: Unique name of the link, 1 or more of ``[A-Za-z0-9]``; its replies go to ``_INBOX.<token>.<slot>``.
        max_bytes, max_messages: Bounds of the outbox, in bytes of encoded frames and in messages.
        window: How many messages may be written and not yet confirmed.
        max_payload: Largest message that the server takes, in bytes, headers included.
        ping_interval_ns: A server that is silent for so long is asked, and given up after twice as long; 0: never.
        retry_attempts: How often a message that nobody listens to is sent again, 0 to 255.
        retry_pause_ns: How long it waits for that.
        sans_io: The bytes are not for the socket as they are (TLS): ``next`` and ``feed`` instead of the two loops.
    """

    token: bytes
    def __new__(
        cls, token: bytes, max_bytes: int, max_messages: int, window: int, max_payload: int, ping_interval_ns: int = 0,
        retry_attempts: int = 0, retry_pause_ns: int = 0, sans_io: bool = False
    ) -> Self: ...
    def attach(self, fd: int, first: bytes, rest: bytes) -> bool:
        """Takes a connected socket; *first* is written first, *rest* was read too far. False once stopped."""
    def detach(self) -> int:
        """Lets the socket go and queues what was in flight again; returns how many messages that were."""
    def read_loop(self) -> tuple[int, int, str]:
        """Reads until the connection ends; returns ``(LinkEnd, errno, text)``. For the reader thread."""
    def send_loop(self) -> bool:
        """Writes and expires until the link is stopped (False) or failures wait to be logged (True). For the sender."""
    def next(self, timeout_ns: int) -> tuple[int, memoryview]:
        """
        The send loop's step, for one thread: waits for bytes to write. Returns a Next and bytes: with BYTES they are valid
        until written(), which must follow; they are empty after wake().
        """
    def written(self, count: int, errno: int = 0) -> None:
        """The first *count* bytes are out; or the socket's *errno*, which ends the connection."""
    def run_timers(self) -> int:
        """Expires deadlines and asks a silent server while the socket is full; returns ns until it is needed again."""
    def wake(self) -> None:
        """Makes ``next`` return, if there is a connection."""
    def feed(self, data: Buffer) -> Optional[tuple[int, int, str]]:
        """The read loop's step: what came, first nothing for attach(). None while it goes on, else as read_loop()."""
    def ended(self, errno: int) -> tuple[int, int, str]:
        """The socket gives no more: its *errno*, 0 when the server closed. Returns what ``read_loop`` would."""
    def stop(self) -> None:
        """Makes both loops return; nothing is written any more."""
    def is_up(self) -> bool:
        """Whether a socket is attached and not known to be broken."""
    def text(self) -> str:
        """The server's last error text, or the bytes that broke the protocol."""
    def control(self, frames: bytes) -> None:
        """Queues whole control frames before all produced messages. ConnectionLostError without a connection."""
    def write(self, frames: bytes) -> None:
        """As control(), and writes at once as push() does."""
    def push(self) -> None:
        """Writes what is queued now if nobody else is writing; with sans_io it wakes the sender."""
    def ping(self) -> int:
        """Queues a PING and returns its number on this connection. ConnectionLostError without a connection."""
    def wait_pong(self, number: int, until: Optional[float]) -> bool:
        """Whether the PONG of that PING has come by then. ConnectionLostError when it never will."""
    def set_max_payload(self, max_payload: int) -> None:
        """What the server takes is known, or has changed."""
    def owner_new(self) -> int:
        """A number under which one producer's backlog is counted."""
    def stats(self) -> dict[str, int]:
        """All counters at one instant, and the bounds."""
    def count_ack(self, body: bytes) -> None:
        """Counts the answer to a message that went another way than RawMessage.respond()."""
    def outstanding(self, owner: int = -1) -> int:
        """Messages of *owner* (-1: of all) that are neither delivered nor failed."""
    def wait_drained(self, owner: int, until: Optional[float], down_to: int = 0) -> int:
        """Waits until no more than *down_to* of *owner* are outstanding (-1: nothing of anybody); returns what is."""
    def marks(self) -> tuple[int, int]:
        """How far messages were accepted until now, for ``wait_marks``."""
    def wait_marks(self, owner: int, marks: tuple[int, int], until: Optional[float]) -> int:
        """Waits until what *owner* (-1: anybody) had accepted at the marks is settled; returns how many are not."""
    def take_failed(self, owner: int = -1) -> int:
        """How many messages of *owner* (-1: of all) failed or were abandoned since the last call for it."""
    def wait_room(self, size: int, until: Optional[float]) -> bool:
        """
        Waits until a frame of *size* bytes fits, with some air; a caller that has waited for a while gets it without.
        False when it does not fit in time. ClosedError after close().
        """
    def close(self) -> None:
        """No append from now on."""
    def abandon(self) -> int:
        """Ends all that is outstanding as abandoned; returns how many."""
    def release(self) -> bool:
        """Gives the memory back, once it is closed, all is settled and both loops have returned; False: not yet."""
    def take_unseen(self) -> tuple[int, str]:
        """``(count, text)`` of failures since the last call that nobody asked about."""
    def take_disbelieved(self) -> tuple[int, str]:
        """``(count, text)`` of answers since the last call that were ignored, and why the last one was."""
    def take_question(self) -> str:
        """The next stream that does not answer, so that the broker is asked whether it exists; "" for none."""
    def answer_question(self, stream: str, answer: int) -> None:
        """The answer to it, a StreamAnswer; each question has one."""
    def send_all(
        self, routes: list[Route], payload: _Payload | list[bytes], headers: bytes, msg_id: bytes, timeout_ns: int,
        kind: type[_T], urgent: bool = False
    ) -> list[_T]:
        """
        Appends one message for each route (at most 64), all or none; the tickets in the order of the routes. A list as
        payload holds one bytes object for each route. Raises as Route.send().
        """
    def hold(
        self, routes: list[Route], size: int, msg_id: bytes, timeout_ns: int, kind: type[_T]
    ) -> Optional[list[_T]]:
        """
        Takes one message for each route (at most 64), all or none, of which nothing is known yet but its *size* in bytes.
        *routes* are of one owner of their own; for the reader of a ticket, until unhold() gives it another. Returns the
        tickets in the order of the routes; None once end_holding() has ended it. Raises as Route.send().
        """
    def unhold(
        self, routes: list[Route], payload: _Payload | list[bytes], headers: bytes, msg_id: bytes, tickets: list[_T]
    ) -> bool:
        """
        Appends held messages, as send_all() does, with the tickets and the deadline that they have. False: they were
        settled meanwhile. After an error of send_all() they are still held.
        """
    def fail_held(self, ticket: Ticket, route: Route, text: str) -> bool:
        """Ends a held message as unsent, with a route whose target says why. False: it was settled before."""
    def held_mark(self) -> int:
        """How many messages were held until now, for ``wait_held``."""
    def wait_held(self, mark: int, until: Optional[float]) -> int:
        """Waits until none of what was held at the mark is held; returns how many are."""
    def end_holding(self, owner: int) -> bool:
        """Ends the holding for an owner, if nothing is held. Whether it has ended."""
    def expire_held(self) -> None:
        """Fails held messages whose time is over."""
    def watch(self, ticket: Ticket, callback: Callable[[Any], object]) -> bool:
        """Has ``wait_reports`` hand out *ticket* with *callback* once it is settled. False: it is settled already."""
    def wait_reports(self, timeout_ns: int) -> list[tuple[Ticket, Callable[[Any], object]]]:
        """For a thread of ours: waits for settled tickets that are watched, in the order of settling."""
    def wake_reports(self) -> None:
        """Makes ``wait_reports`` return."""

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

    link: Link
    subject: bytes
    id_name: bytes
    fixed: bytes
    target: Any
    def __new__(
        cls, link: Link, subject: bytes, id_name: bytes, fixed: bytes, owner: int, auto_id: bool, target: object
    ) -> Self: ...
    def frame_size(self, payload_len: int, headers_len: int, msg_id_len: int) -> int:
        """Bytes that such a message takes in the outbox, at most."""
    def send(
        self, payload: _Payload, headers: bytes, msg_id: bytes, timeout_ns: int, kind: type[_T], callback:
        Optional[Callable[[Any], object]] = None
    ) -> _T:
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
            BufferFullError: The outbox is full; the message was not accepted.
            PayloadTooLargeError: Larger than the server's ``max_payload`` or than the outbox.
            ClosedError: After ``Link.close()``.
        """
    def send_and_wait(self, payload: _Payload, headers: bytes, msg_id: bytes, timeout_ns: int, kind: type[_T]) -> _T:
        """``send``, ahead of other threads' backlog, by this very thread where possible; waits until it is settled."""

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

    is_plain: bool
    def __new__(
        cls, routes: list[Route], live: object, functions: Mapping[int, int], timeout: float, timeout_ns: int, kind:
        type[Ticket]
    ) -> Self: ...
    def __iter__(self) -> Self: ...
    def __next__(self) -> Route: ...
    def take(
        self, message: object, timeout: object, headers: object, msg_id: object, limit: object, key: object, number:
        object, callback: object, wait: bool = False
    ) -> Any:
        """
        Sends a message that is bytes or str and has no options of its own by the next route: what most calls of a
        producer ask for, in one step.

        Args:
            timeout, headers, msg_id, limit, key, number, callback: As the class has it, None, -1, or there is an option.
            wait: As Route.send_and_wait(), or as Route.send().

        Returns:
            The ticket; None for anything else, also while ``is_plain`` is not set: nothing was done then.

        Raises:
            UnicodeEncodeError: The str is no text. Else as Route.send().
        """
    def take_from(
        self, iterator: Iterator[Any], into: list[Any], limit: int, headers: bytes = b""
    ) -> Optional[tuple[Any, ...]]:
        """
        As take(), with header lines, for what an iterator yields, until *limit* tickets stand in *into*: None then, ``()``
        at its end, ``(item,)`` for an item that take() does not take, or refuses with an error: it was not sent."""

@final
class FanOut:
    """
    The round robins of one producer to several stations, for messages that go to all of them. There are 1 to 64, of one
    link, with the same timeout and kind. *together* makes what take() returns from the list of tickets, in their order.
    """

    is_plain: bool
    def __new__(cls, round_robins: list[RoundRobin], together: Callable[[Any], Any]) -> Self: ...
    def take(
        self, message: object, timeout: object, headers: object, msg_id: object, limit: object, key: object, number:
        object, callback: object, wait: bool = False
    ) -> Any:
        """As RoundRobin.take(), for all of them or none; never waits, and takes nothing when it is to."""

def count_delivered(tickets: list[Any], start: int) -> tuple[int, int]:
    """
    Counts off delivered tickets, and notes that somebody knows of them: the first place from *start* on of one that is not
    delivered, or their number; and how many before it the broker had before.
    """

@disjoint_base
class Ticket:
    """How one appended message ended, or that it has not yet. Made by Route; costs nothing when nobody looks."""

    @property
    def route(self) -> Route:
        """The route it was appended to."""
    @property
    def slot(self) -> int:
        """Its number in the log of its link, from 0, or from 2**62 in the express lane."""
    @property
    def outcome(self) -> int:
        """A TicketOutcome; in the child of a fork what was known before it."""
    def wait(self, until: Optional[float]) -> int:
        """Waits for the outcome; returns it, PENDING when it is not known by then."""
    def observe(self) -> int:
        """Notes that somebody knows the outcome, so that a failure is not logged as unseen; returns it."""
    @property
    def sequence(self) -> int:
        """Delivered: the sequence in the stream."""
    @property
    def duplicate(self) -> bool:
        """Delivered: whether the broker had the message before."""
    @property
    def failure(self) -> tuple[bool, int, int, str]:
        """Once settled: whether a socket ever got it; of refused and unknown ones the broker's status, code, and text."""
    @property
    def message_id(self) -> Optional[str]:
        """The id that the message carries; None without one."""

@final
class WaitSet:
    """Waits for many tickets at once, 2**32 - 1 at most, of several links too. One thread uses it."""

    def __new__(cls, tickets: Iterable[Ticket]) -> Self: ...
    def wait(self, until: Optional[float]) -> list[int]:
        """Waits for at least one more settled ticket; the places of the new ones among the tickets, in their order."""

@disjoint_base
class RawMessage:
    """One received message, read from the C core's memory only as far as it is asked. Made by ReceiveBuffer.take()."""

    answer: Any
    owner: Any
    @property
    def subject(self) -> str:
        """The subject it was stored under."""
    @property
    def reply(self) -> str:
        """Where its acknowledgement goes."""
    @property
    def header_block(self) -> bytes:
        """The raw header block; empty without headers."""
    @property
    def payload(self) -> bytes:
        """A copy of the payload."""
    @property
    def payload_len(self) -> int:
        """Length of the payload in bytes."""
    @property
    def age_ns(self) -> int:
        """How long ago it was received, or renewed."""
    def renew(self) -> None:
        """Tells the server that it is being worked on, so that its ack time begins anew. Raises as respond()."""
    def respond(self, body: bytes = b"") -> None:
        """Queues an acknowledgement and returns at once. ConnectionLostError when there is no connection."""

@final
class ReceiveBuffer:
    """
    What the subscription of that number receives; *jetstream*: only messages that the server itself delivers, with an ack
    subject, and statuses.
    """

    link: Link
    sid: int
    dropped: int
    def __new__(cls, link: Link, sid: int, jetstream: bool = False) -> Self: ...
    def expect(self, messages: int, size: int) -> None:
        """
        Takes messages up to this number, counted since the buffer was made, and so many bytes of them at once: subjects,
        replies, headers and payloads. What is beyond is dropped and counted. At first any number, and
        RECEIVE_BUFFER_BYTES.
        """
    def wait(self, messages: int, statuses: int, until: Optional[float]) -> int:
        """
        Waits until so many messages or so many statuses have come since the buffer was made, or for wake(): Error.OK. Else
        Error.TIMEOUT, or Error.CLOSED when the connection ended.
        """
    def wake(self) -> None:
        """Ends a wait() of another thread, or the next one. From any thread."""
    @property
    def is_closed(self) -> bool:
        """Whether its connection has ended: nothing more comes."""
    def take(self, kind: type[_M], owner: object) -> tuple[list[_M], list[tuple[int, str, bytes]]]:
        """
        All that has come: ``(messages, statuses)``, instances of *kind* and ``(status, subject, block)`` tuples.
        ``dropped``, of messages and statuses, is up to date after it.
        """
