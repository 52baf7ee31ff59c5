"""
One client's threads and links: everything that belongs to one process, behind one reference.

A Session never refers to its client, so a client that is forgotten can be collected while its session sends what is
left.
"""

from __future__ import annotations

import contextlib
import sys
import time
import uuid
import weakref
from collections.abc import Coroutine, Iterator
from typing import Any, Callable, Optional, Protocol, TypeVar

from memphis_sync._base import primitives
from memphis_sync._base.interactive import is_interactive
from memphis_sync._base.interpreters import check_threads
from memphis_sync._base.logs import ERROR, INFO, Log
from memphis_sync._base.threads import Section, handing_over, join
from memphis_sync._base.uwsgi import check_uwsgi
from memphis_sync._control import ControlLink
from memphis_sync._control.api import Requests
from memphis_sync._control.failure_reporter import FailureReporter
from memphis_sync._control.station_registry import StationRegistry
from memphis_sync._data import Callbacks, Change, DataLink, LinkName, Outages
from memphis_sync._options.table import ConnectOptions
from memphis_sync._protocol.json_text import JsonWriter
from memphis_sync._session import fork, shutdown, waiting
from memphis_sync._session.closing import close_steps, leave_file
from memphis_sync._session.event_loop import LoopThread
from memphis_sync._session.opening import new_data_link, open_control
from memphis_sync._session.recovery import recover
from memphis_sync.errors import ClosedError, MemphisError, UsageError
from memphis_sync.types import FlushResult, LinkEvent, Stats

log = Log("memphis_sync.control")
T = TypeVar("T")
_REPORTS_S = 1.0  # for what a client that could not be opened has to say
_ANSWER_S = 0.05  # for a thread that has nothing to do to say so
_GRACE_S = 1.0  # a coroutine has deadlines of its own; the caller's wait ends a little later, as a second net


class Reader(Protocol):
    """What the end of a client asks of its consumers."""

    def wake(self) -> None:
        """Makes what waits for messages ask whether it is over."""

    def end(self, deadline: float) -> None:
        """Begins to give back what nobody has looked at; by *deadline* on the monotonic clock."""


class Session:
    """
    The threads and links of one client.

    Args:
        options: What connect() was told.
        forget_station: A method of the client; called on the loop with the internal name of one that was removed.

    Attributes:
        is_ending: close() has begun: nothing more is fetched, but what was fetched may still be acknowledged.
        is_closing: The client can no longer be used.
        is_closed: close() has done all it does.
        left: How many messages close() has given up.
    """

    def __init__(self, options: ConnectOptions, forget_station: weakref.WeakMethod[Callable[[str], None]]) -> None:
        shutdown.check_opening()
        check_uwsgi()
        check_threads()
        fork.watch_forks()
        self.generation = fork.fork_generation()
        self.options = options
        self.label = options.name
        self.exit_timeout_s = options.exit_timeout_s
        self.connection_id = str(uuid.uuid4())
        self.requests = Requests(self)
        self.opened_at = f" (opened at {primitives.caller()})" if sys.flags.dev_mode else ""
        number = self.number = primitives.next_number()
        self.callbacks = Callbacks(number, options)
        self.outages = Outages(options.name, options.reconnect_interval_ms, self._notify)
        self.json_writer = JsonWriter(options.json_default)
        with handing_over(self.callbacks.post):  # asyncio logs a loop that is made, and a handler may be connecting
            self.loop = LoopThread(number, self.callbacks.post, self.callbacks.failed)
        self.reports = FailureReporter(self.loop)
        self._forget_station = forget_station
        self._control: Optional[ControlLink] = None
        self._stations: Optional[StationRegistry] = None
        self._data: Optional[DataLink] = None
        self._made: dict[str, DataLink] = {}  # has _data as its one value: setdefault() makes it once, without a lock
        self._connecting = Section("connecting")  # guards the two above
        self._opening = Section("the opening of the data link")  # guards opening _data, which is done once
        self._filing = Section("the opening of the outbox file")  # the same for the file, which is opened before
        self._ending = Section("close()")  # guards the steps of close(); each can be repeated
        self.readers: weakref.WeakSet[Reader] = weakref.WeakSet()  # consumers that are not forgotten
        self._threads: list[primitives.Thread] = []  # only appended to; close() joins them
        self._registrations: list[primitives.Thread] = []  # changed on the loop alone
        self.is_ending = False
        self.is_closing = False
        self.is_closed = False
        self.left = 0
        self._mark: Optional[list[Any]] = None
        fork.watch(self)

    # ---- opening ----------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Connects. Raises as connect(); nothing is left running then, and the session cannot be used."""
        try:
            self.connect()
        except BaseException:
            self.close(0.0) if self._control else self.drop()  # the first: what was recovered could not be sent
            raise
        shutdown.register(self)

    def connect(self, deadline: Optional[float] = None) -> None:
        """
        Opens the control link unless it is open: in a forked child only the first use of the client does.

        Args:
            deadline: By ``time.monotonic()``; None: what connect() was told.

        Raises:
            ConfigurationError: The outbox file cannot be used; nothing was opened.
            ConnectError, AuthenticationError: See ControlLink.connect; the next call tries again.
            DeadlineError: Not before *deadline*; the same.
            ClosedError, ForkedError: As check().
        """
        if self._stations is not None:
            return
        waiting.forbid_on_own_thread("connecting")
        with self._connecting.begin(), handing_over(self.callbacks.post):
            self.check()
            if self._stations is None:
                if self.options.outbox:
                    self.outbox()
                limit_s = self.options.wait_s + self.options.timeout_ms / 1000 + _GRACE_S
                if deadline is not None:
                    limit_s = min(limit_s, max(deadline - time.monotonic(), 0.0))
                self.loop.call(self._connect, limit_s, "connect()")
                recover(self)

    async def _connect(self) -> None:
        self._control, self._stations = await open_control(self, self._on_station_removed)

    def _on_station_removed(self, internal: str) -> None:
        forget = self._forget_station()
        if forget is not None:
            forget(internal)

    def _notify(self, link: LinkName, change: Change, address: str, reason: str, attempts: int, seconds: float) -> None:
        """A link's changes, for the user's callables."""

        def event() -> LinkEvent:
            stats = self.stats()
            return LinkEvent(self.label, link, address, reason, attempts, seconds, stats.queued + stats.in_flight)

        self.callbacks.notify(change, event)

    @property
    def control(self) -> ControlLink:
        """The control link."""
        assert self._control is not None, "open() comes first"
        return self._control

    @property
    def stations(self) -> StationRegistry:
        """What is known of the stations in use."""
        assert self._stations is not None, "open() comes first"
        return self._stations

    def data_link(self, deadline: Optional[float] = None) -> DataLink:
        """
        The data link, opened by the first call.

        Args:
            deadline: For opening it, by ``time.monotonic()``; None: what connect() was told.

        Raises:
            ConnectError: It could not be opened; the next call tries again.
            ClosedError, ForkedError: As check().
        """
        self.check()
        link = self._data
        if link is not None and link.is_open:
            return link
        waiting.forbid_on_own_thread("opening the data link")
        self.connect(deadline)
        with self._opening.begin(), handing_over(self.callbacks.post):
            self.check()
            if self.outages.end_reason:
                raise ClosedError(f"the client {self.label!r} has ended ({self.outages.end_reason}); open a new one")
            link = self.outbox()
            if not link.is_open:
                until = time.monotonic() + self.options.timeout_ms / 1000
                try:
                    link.open(until if deadline is None else min(until, deadline))
                except BaseException:
                    # Interrupted between two steps: the next call begins with another one.
                    if link.has_ended and not self.is_closing:
                        self._made.clear()
                        self._data = None
                    raise
            return link

    def outbox(self) -> DataLink:
        """
        The data link, open or not: it can hold messages. Waits for nothing, and takes no lock, unless it is in a file.

        Raises:
            ConfigurationError: The outbox file cannot be used.
            ClosedError, ForkedError: As check().
        """
        self.check()
        link = self._data
        if link is None and self.options.outbox:
            with self._filing.begin():
                return self._data or self._new_outbox()
        return link or self._new_outbox()

    def _new_outbox(self) -> DataLink:
        link = self._made.setdefault("data", new_data_link(self))
        self.callbacks.attach(link.core)
        self._data = link
        return link

    @property
    def is_connected(self) -> bool:
        """Whether both links are up, or the control link while there is no data link yet."""
        control, data = self._control, self._data
        return control is not None and control.is_connected and (data is None or not data.is_open or data.is_up())

    @property
    def state(self) -> str:
        """``connected``, ``reconnecting``, ``closed``, or ``not connected`` yet."""
        if self.is_closing or self.outages.end_reason:
            return "closed"
        if self._stations is None:
            return "not connected"
        return "connected" if self.is_connected else "reconnecting"

    @property
    def description(self) -> str:
        """Name, state and backlog, for the client's repr()."""
        stats, control = self.stats(), self._control
        address = self.options.addresses[0] if control is None else control.address
        who = f"{address} user={self.options.credentials.username}"
        return f"{self.label!r} {self.state} {who} queued={stats.queued} in_flight={stats.in_flight}"

    def ping(self, timeout_s: float) -> float:
        """One round trip on each link at most *timeout_s* long; gives the longer of the two, in seconds."""
        self.check()
        self.connect()
        deadline = time.monotonic() + timeout_s
        took_s = self.call(lambda: self.control.ping(timeout_s), timeout_s, "ping()")
        data = self._data
        if data is None or not data.is_open:
            return took_s
        return max(took_s, data.ping(max(deadline - time.monotonic(), 0.001)))

    # ---- using ------------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """
        Raises unless the client can be used here and now.

        Raises:
            ClosedError: close() was called.
            ForkedError: The client was opened before a fork.
        """
        if fork.fork_generation() != self.generation:
            fork.check(self.generation, f"the client {self.label!r}")
        if self.is_closing:
            raise ClosedError(f"the client {self.label!r} is closed")

    def checked(self) -> Session:
        """The session itself. Raises as check()."""
        self.check()
        return self

    def call(self, work: Callable[[], Coroutine[Any, Any, T]], timeout_s: Optional[float], what: str) -> T:
        """Runs a coroutine on the loop; see LoopThread.call. *timeout_s* is the coroutine's own limit."""
        self.check()
        self.connect()
        return self.loop.call(work, None if timeout_s is None else timeout_s + _GRACE_S, what)

    def spawn(self, work: Callable[[], Coroutine[Any, Any, None]], *, is_awaited: bool = False) -> None:
        """
        Starts a coroutine on the loop that nobody waits for, but close(), when *is_awaited*; see LoopThread.spawn.
        Raises as check().
        """
        self.check()
        self.loop.spawn(work, is_awaited=is_awaited)

    def start_thread(self, kind: str, run: Callable[..., Any], *args: Any) -> primitives.Thread:
        """A daemon thread ``memphis-<kind>-<N>`` for blocking work that ends soon once is_ending says so."""

        async def start() -> primitives.Thread:
            thread = primitives.start_thread(f"memphis-{kind}-{primitives.next_number()}", run, *args)
            self._threads = [*(other for other in self._threads if other.is_alive()), thread]
            return thread

        # Signal handlers run on the main thread alone. One that raises inside Thread.start(), as Ctrl-C does, leaves a
        # thread that hangs before it has begun, or one that is counted and does not exist.
        return self.loop.call(start, None, f"starting a {kind} thread")

    def start_registration(self, run: Callable[[], None]) -> None:
        """A daemon thread that registers a producer; on the loop. Closing waits for it, and for what it hands over."""
        number = primitives.next_number()
        thread = primitives.start_thread(f"memphis-register-{number}", run)
        self._registrations = [*(other for other in self._registrations if other.is_alive()), thread]

    def stats(self) -> Stats:
        """Counters; no IO."""
        link = self._data
        return Stats(callback_errors=self.callbacks.errors) if link is None else link.stats()

    def flush(self, timeout_s: Optional[float], owner: int = -1) -> FlushResult:
        """Waits until everything that is accepted now is confirmed or has failed."""
        waiting.forbid_on_own_thread("flush()")
        link = self._data
        return FlushResult() if link is None else link.flush(timeout_s, owner)

    @property
    def kept(self) -> str:
        """After close(): how many messages remain in the outbox file, in words; "" for none."""
        return "" if self._data is None or self._data.file is None else self._data.file.kept_text()

    def unseen(self) -> int:
        """How many messages have failed without anybody having asked about them."""
        link = self._data
        return 0 if link is None else link.unseen()

    # ---- closing ----------------------------------------------------------------------------------------------------

    def drop(self) -> None:
        """Ends a session that nobody has used."""
        self.is_ending = self.is_closing = self.is_closed = True
        if self._data is not None:
            self._data._end("ended")
        self.loop.stop()
        self.callbacks.close(_REPORTS_S)

    def close_inherited(self) -> None:
        """In a forked child: closes its copies of the descriptors; nobody is told, and no lock is taken."""
        self.loop.close_inherited()
        for link in (self._control, self._data):
            if link is not None:
                link.close_inherited()

    def close(self, timeout_s: float) -> int:
        """
        Sends what is queued, then ends links and threads. Idempotent, also after an interruption.

        Returns:
            How many messages were given up.
        """
        if fork.fork_generation() != self.generation:
            return 0  # the parent sends them
        waiting.forbid_on_own_thread("close()")
        self.is_ending = True
        self.outages.hurry()
        deadline = time.monotonic() + timeout_s
        if self._ending.is_mine:
            return self.left  # a signal handler that interrupted close(), which goes on when it has returned
        with self._ending.begin(), handing_over(self.callbacks.post):
            if self.is_closed:
                return self.left
            try:
                try:
                    self._close_steps(deadline)
                except BaseException:
                    self._close_steps(time.monotonic())  # Ctrl-C while draining: end at once, but in order
                    raise
            finally:
                leave_file(self)  # a second Ctrl-C, whose traceback may keep the client for as long as it likes
            return self.left

    def _close_steps(self, deadline: float) -> None:
        for _ in close_steps(self, deadline):
            pass

    def closing(self, deadline: float, broker_s: float, late_s: float) -> Iterator[None]:
        """close() for one that is closed beside others; see close_steps()."""
        lock = self._ending.begin()
        try:
            if lock.acquire(timeout=max(0.0, deadline - time.monotonic()) + late_s) and not self.is_closed:
                yield from close_steps(self, deadline, broker_s=broker_s, late_s=late_s)
        finally:
            try:  # noqa: SIM105  as in Section
                lock.release()
            except RuntimeError:  # another thread closes it, and takes its time
                pass

    # ---- the end of the process --------------------------------------------------------------------------------------

    def begin_end(self) -> None:
        """Fetches nothing more, connects in a hurry, and remembers what is accepted now."""
        self.is_ending = True
        self.outages.hurry()
        for reader in list(self.readers):
            reader.wake()
        self._mark = None if self._data is None else self._data.mark()

    def wait_end(self, until: float) -> tuple[int, int]:
        """Waits for callbacks, and for what was accepted then; how many messages are not settled, how many run."""
        running, left = len(join(self._threads, until)), 0
        if self._data is not None and self._mark is not None:
            left = self._data.wait_marked(self._mark, until)
        if not left and not running:  # else the time is over, in which an idle thread could say so
            running += not self.callbacks.wait_idle(max(until, time.monotonic() + _ANSWER_S))
        return left, running

    def given_up(self) -> int:
        """How many messages this client will not send any more."""
        stats = self.stats()
        return self.left + stats.queued + stats.in_flight

    def retire(self, was_consuming: bool) -> None:
        """For a client that was forgotten: closes from a thread of its own. Safe in a destructor."""
        if self.is_ending or fork.fork_generation() != self.generation:
            return
        with contextlib.suppress(MemphisError):  # the loop has ended; the exit drain does the rest
            self.loop.post(self._start_retiring, was_consuming)

    def _start_retiring(self, was_consuming: bool) -> None:
        with contextlib.suppress(UsageError):  # there are no more threads; see above
            primitives.start_thread(f"memphis-retire-{self.number}", self._retire, was_consuming)

    def _retire(self, was_consuming: bool) -> None:
        if was_consuming:
            level = INFO if is_interactive() else ERROR  # a cell that is run again has another client now
            text = "%r: nothing refers to the client any more, so its consume() ends: keep the client, and close() it"
            log.log(level, text, self.label)
        left = self.close(self.exit_timeout_s)
        if left:
            log.error("%r was never closed(): %d messages were not confirmed", self.label, left)
