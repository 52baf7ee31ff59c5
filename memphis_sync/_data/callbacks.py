"""
The callbacks thread of a client: it runs the program's callbacks, one after the other, and its logging handlers for log
lines of the client's other threads.

It waits in one place: in the C core for reports of the data link while there is one, else for jobs. What a callback
raises, SystemExit and KeyboardInterrupt included, is logged and counted, because nobody is there to catch it: the
thread goes on.
"""

from __future__ import annotations

import contextlib
import inspect
import threading
import time
import traceback
from collections import deque
from typing import TYPE_CHECKING, Any, Callable, Literal, Optional

from memphis_sync._base import native, waits
from memphis_sync._base.logs import Log, show_error
from memphis_sync._base.observers import Watcher
from memphis_sync._base.threads import Latch, join, start_thread
from memphis_sync._core import fork_generation
from memphis_sync._options.table import ConnectOptions
from memphis_sync.types import LinkEvent

if TYPE_CHECKING:
    from memphis_sync._core import Link

logger = Log("memphis_sync.produce")

REPORT_WAIT_NS = 500_000_000  # a wake-up that comes just before the wait is made good after so long
JOIN_S = 5.0  # how long the end waits for a callback that is running
STARTING_S = 1.0  # how long a thread may take to start
FAILED_PAUSE_S = 0.5  # after an error of our own, so that one that lasts does not keep a processor busy
Change = Literal["disconnect", "reconnect", "error"]


class Callbacks:
    """
    Thread ``memphis-callbacks-N``, started by its first use.

    Args:
        number: The N.
        options: As given to connect(): the name for log lines, and the callables for link events.
    """

    def __init__(self, number: int, options: ConnectOptions) -> None:
        self._generation = fork_generation()
        self._name = f"memphis-callbacks-{number}"
        self._label = options.name
        self._address = str(options.addresses[0])
        self._for_change: dict[Change, Optional[Callable[[LinkEvent], object]]] = {
            "disconnect": options.on_disconnect,
            "reconnect": options.on_reconnect,
            "error": options.on_error,
        }
        self._observers = options.observing
        self._thread: Optional[threading.Thread] = None
        self._may_start = deque([True])  # whoever takes it starts the thread; no other waits for that
        self._jobs: deque[tuple[Callable[[Any], object], object]] = deque()
        # Taken by the thread when it has nothing to do, released by whoever has something: unlike an Event's, a release
        # may interrupt another one of the same thread.
        self._wake = native.Lock()
        self._source: Optional[Link] = None
        self._is_retiring = False
        self._is_drained = Latch()
        self._is_closing = False
        self._counting = native.RLock()  # guards errors; a signal handler that comes in between may enter as well
        self.errors = 0

    def start(self) -> None:
        """Starts the thread if it is not running."""
        if self._thread is not None or self._is_closing:
            return
        try:
            self._may_start.pop()
        except IndexError:
            return
        try:
            self._thread = start_thread(self._name, self._run)
        except RuntimeError:  # the interpreter ends and takes no new threads
            self._may_start.append(True)

    def notify(self, change: Change, event: Callable[[], LinkEvent]) -> None:
        """Has the user's callable for this change called with an event, which is made only if somebody is told."""
        fn = self._for_change[change]
        if fn is None and not self._observers:
            return
        made = event()
        if fn is not None:
            self.post(fn, made)
        if self._observers:
            self.post(self._observers.link, made)

    def post(self, fn: Callable[[Any], object], argument: object) -> bool:
        """Has ``fn(argument)`` called on the thread soon. False: the thread has ended, or cannot be had any more."""
        if self._is_closing:
            return False
        self._jobs.append((fn, argument))
        self.start()
        self._wake_up()
        return self._thread is not None or not self._may_start

    def call(
        self,
        fn: Callable[..., object],
        *arguments: object,
        log: Log = logger,
        about: Optional[str] = None,
    ) -> Optional[BaseException]:
        """
        Calls a callable of the user's here and now: the one place that does. What it raises is logged and counted.

        Args:
            log: Where it is logged.
            about: The log line; by default that a callback of this client raised.

        Returns:
            What it raised; None for a callable that returned.

        Raises:
            KeyboardInterrupt: On the program's main thread, which Ctrl-C is meant for.
            BaseException: What it raises in a child of the process that it has made itself: the child's way out.
        """
        try:
            result = fn(*arguments)
            if inspect.iscoroutine(result):
                result.close()
                raise TypeError("it returned a coroutine, which is never awaited: pass a plain function")
        except BaseException as exc:
            if self._was_forked:
                raise
            self.raised(log, about or f"{self._label!r}: a callback raised", exc)
            if isinstance(exc, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
                raise
            return exc
        return None

    def raised(self, log: Log, about: str, error: BaseException) -> None:
        """Counts and logs what a callable of the program's has raised."""
        with self._counting:
            self.errors += 1
        self._log(log, about, error)

    def _log(self, log: Log, about: str, error: BaseException) -> None:
        try:
            log.error("%s", about, extra={"memphis_client": self._label}, exc_info=error)
        except BaseException as exc:  # noqa: BLE001  a handler of the program's; the thread goes on
            show_error(f"{about}, and a logging handler raised {type(exc).__name__}")
            show_error("".join(traceback.format_exception(type(error), error, error.__traceback__)))

    def failed(self, what: str, error: BaseException) -> None:
        """A thread of the client's met an error that nothing expects: logs it, and tells on_error. From that thread."""
        self._log(logger, f"{self._label!r}: {what} met an unexpected error and continues", error)
        reason = f"{what}: {type(error).__name__}: {error}"
        self.notify("error", lambda: LinkEvent(self._label, "data", self._address, reason, 0, 0.0, 0))

    def attach(self, source: Link) -> None:
        """The data link is open: its reports are handed out from now on."""
        self._source = source
        self._wake_up()

    def wait_idle(self, deadline: float) -> bool:
        """Waits until what was to be called before has returned; False: a callback has not, by ``time.monotonic()``."""
        for _ in range(2):  # reports are handed out behind the first one, and before the second
            if self._thread is None or self._is_closing:
                break
            is_reached = Latch()
            self.post(_reach, is_reached)
            if not is_reached.wait(deadline - time.monotonic()):
                return False
        return True

    def retire(self, timeout_s: float = JOIN_S) -> None:
        """The data link has ended: waits until its reports were handed out, or a callback takes too long for that."""
        self._is_retiring = True
        thread = self._started()
        if thread is None:
            self._source = None  # nobody watches anything; a log line may start the thread still
            return
        self._wake_up()
        if thread.ident != native.get_ident() and not self._is_drained.wait(timeout_s):
            logger.warning("%r: a callback has not returned within %.1f s", self._label, timeout_s)

    def close(self, timeout_s: float = JOIN_S) -> None:
        """Hands out what is left and ends the thread; a callback that does not return is left behind."""
        self._is_closing = True
        thread = self._started()
        self._wake_up()
        if thread is None or thread.ident == native.get_ident():
            return
        left_s = timeout_s if self._source is None else 0.0  # retire() has waited already
        if join([thread], time.monotonic() + left_s):
            logger.warning("%s did not stop within %.1f s", thread.name, timeout_s)
        else:
            self._run_jobs()  # what came while it ended

    def _started(self) -> Optional[threading.Thread]:
        """The thread; one that is being started at this moment is waited for."""
        until = time.monotonic() + STARTING_S
        while self._thread is None and not self._may_start and time.monotonic() < until:
            waits.sleep(0.001)
        return self._thread

    def _wake_up(self) -> None:
        with contextlib.suppress(RuntimeError):  # it is awake, or will be
            self._wake.release()
        source = self._source
        if source is not None:
            source.wake_reports()

    def _run(self) -> None:
        while True:
            try:
                self._hand_out()
            except BaseException as exc:  # noqa: BLE001  whatever it is, callbacks that come later are owed too
                if self._was_forked:
                    return
                self.failed(self._name, exc)
                self._wake.acquire(timeout=FAILED_PAUSE_S)
            else:
                return

    @property
    def _was_forked(self) -> bool:
        """Whether a callback has forked, and this is the child: what comes after it is the parent's."""
        return fork_generation() != self._generation

    def _hand_out(self) -> None:
        while not self._was_forked:
            self._run_jobs()
            source = self._source
            if source is not None:
                self._report(source)
            elif self._is_closing:
                return
            elif not self._jobs:
                self._wake.acquire()

    def _run_jobs(self) -> None:
        while self._jobs and not self._was_forked:
            self.call(*self._jobs.popleft())

    def _report(self, source: Link) -> None:
        is_last = self._is_retiring
        reports = source.wait_reports(0 if is_last else REPORT_WAIT_NS)
        for ticket, callback in reports:
            if self._was_forked:
                return
            if not isinstance(callback, Watcher):
                ticket.observe()
            self.call(callback, ticket)
        if is_last and not reports:
            self._source = None
            self._is_drained.set()


def _reach(latch: object) -> None:
    assert isinstance(latch, Latch)
    latch.set()
