"""
The callbacks thread of a client: everything of the user's that the client calls runs here, one after the other.

It waits in one place: in the C core for reports of the data link while there is one, else for jobs. What a callback
raises is logged and counted, because nobody is there to catch it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Callable, Literal, Optional

from memphis_sync.types import ConnectOptions, LinkEvent

if TYPE_CHECKING:
    from memphis_sync._codec import Link

logger = logging.getLogger("memphis_sync.produce")

REPORT_WAIT_NS = 500_000_000  # a wake-up that comes just before the wait is made good after so long
JOIN_S = 5.0  # how long the end waits for a callback that is running
Change = Literal["disconnect", "reconnect", "error"]


class Callbacks:
    """
    Thread ``memphis-callbacks-N``, started by its first use.

    Args:
        number: The N.
        options: As given to connect(): the name for log lines, and the callables for link events.
    """

    def __init__(self, number: int, options: ConnectOptions) -> None:
        self._name = f"memphis-callbacks-{number}"
        self._label = options.name
        self._for_change: dict[Change, Optional[Callable[[LinkEvent], object]]] = {
            "disconnect": options.on_disconnect,
            "reconnect": options.on_reconnect,
            "error": options.on_error,
        }
        self._lock = threading.Lock()  # guards the start of _thread
        self._thread: Optional[threading.Thread] = None
        self._jobs: deque[tuple[Callable[[Any], object], object]] = deque()
        self._wake = threading.Event()
        self._source: Optional[Link] = None
        self._is_retiring = False
        self._is_drained = threading.Event()
        self._is_closing = False
        self.errors = 0

    def start(self) -> None:
        """Starts the thread if it is not running."""
        if self._thread is None:
            with self._lock:
                if self._thread is None and not self._is_closing:
                    thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                    with contextlib.suppress(RuntimeError):  # the interpreter ends and takes no new threads
                        thread.start()
                        self._thread = thread

    def tell(self, change: Change, event: Callable[[], LinkEvent]) -> None:
        """Has the user's callable for this change called with an event, which is made only if there is one."""
        fn = self._for_change[change]
        if fn is not None and not self._is_closing:
            self._jobs.append((fn, event()))
            self.start()
            self._wake_up()

    def call(self, fn: Callable[[Any], object], argument: object) -> None:
        """Calls a callback here and now; what it raises is logged and counted."""
        try:
            fn(argument)
        except Exception:
            self.errors += 1
            logger.exception("%r: a callback raised", self._label, extra={"memphis_client": self._label})

    def attach(self, source: Link) -> None:
        """The data link is open: its reports are handed out from now on."""
        self._source = source
        self._wake.set()

    def retire(self, timeout_s: float = JOIN_S) -> None:
        """The data link has ended: waits until its reports were handed out, or a callback takes too long for that."""
        self._is_retiring = True
        thread = self._thread
        if thread is None:
            return
        self._wake_up()
        if thread is not threading.current_thread() and not self._is_drained.wait(timeout_s):
            logger.warning("%r: a callback has not returned within %.1f s", self._label, timeout_s)

    def close(self, timeout_s: float = JOIN_S) -> None:
        """Hands out what is left and ends the thread; a callback that does not return is left behind."""
        with self._lock:
            self._is_closing = True
        thread = self._thread
        self._wake_up()
        if thread is None or thread is threading.current_thread():
            return
        thread.join(timeout_s if self._source is None else 0.0)  # retire() has waited already
        if thread.is_alive():
            logger.warning("%s did not stop within %.1f s", thread.name, timeout_s)

    def _wake_up(self) -> None:
        self._wake.set()
        source = self._source
        if source is not None:
            source.wake_reports()

    def _run(self) -> None:
        while True:
            while self._jobs:
                self.call(*self._jobs.popleft())
            source = self._source
            if source is not None:
                self._report(source)
            elif self._is_closing:
                return
            else:
                self._wake.wait()
                self._wake.clear()

    def _report(self, source: Link) -> None:
        is_last = self._is_retiring
        reports = source.wait_reports(0 if is_last else REPORT_WAIT_NS)
        for ticket, callback in reports:
            ticket.look()
            self.call(callback, ticket)
        if is_last and not reports:
            self._source = None
            self._is_drained.set()
