"""
What the package's threads must not do, and the locks that the program's own code may meet again.

A thread of ours that others wait for (the loop, a reader, a sender) is registered here for as long as it runs: a call
that would block on it raises OwnThreadError, and what it has to log is handed to another thread.

A signal handler, a destructor and a weakref callback run in the middle of whatever their thread is doing, also while it
holds a lock of ours. So a lock here is either never waited for by such code, or it is one of the kinds below.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Callable, Optional

from memphis_sync.errors import OwnThreadError, UsageError

# Takes a call that is to be made soon on a thread that nobody waits for; False when there is no such thread any more.
Sink = Callable[[Callable[[Any], object], object], bool]

# By ident, with the process, changed by the threads themselves. An ident is given to another thread once its own has
# ended, and a forked child, in which no thread of the parent's runs, may give it at once.
_own_threads: dict[int, int] = {}
_sinks: dict[int, tuple[int, Sink]] = {}


@contextlib.contextmanager
def own_thread(sink: Optional[Sink] = None) -> Iterator[None]:
    """In the block the calling thread is one that may not wait; *sink* takes what it logs."""
    ident = threading.get_ident()
    _own_threads[ident] = os.getpid()
    try:
        with handing_over(sink) if sink is not None else contextlib.nullcontext():
            yield
    finally:
        _own_threads.pop(ident, None)


@contextlib.contextmanager
def handing_over(sink: Sink) -> Iterator[None]:
    """In the block the calling thread hands to *sink* what it logs: for a caller that holds a lock meanwhile."""
    ident = threading.get_ident()
    outer = _sinks.get(ident)
    _sinks[ident] = (os.getpid(), sink)
    try:
        yield
    finally:
        if outer is None:
            _sinks.pop(ident, None)
        else:
            _sinks[ident] = outer


def sink() -> Optional[Sink]:
    """Where the calling thread hands its log lines; None: it may call the program's handlers itself."""
    found = _sinks.get(threading.get_ident())
    return found[1] if found is not None and found[0] == os.getpid() else None


def forbid_on_own_thread(what: str) -> None:
    """Raises OwnThreadError when the calling thread is one of the client's own that may not wait."""
    if _own_threads.get(threading.get_ident()) == os.getpid():
        raise OwnThreadError(
            f"{what} was called on a thread of the client's own, where it would wait for itself; "
            "call it from a callback of produce or consume, or from a thread of yours"
        )


# CPython 3.12.0 to 3.12.2 start no thread any more once the main thread has ended, though other threads of the program
# go on; so some are started beforehand and wait for their work. Source: cpython issue 113964.
_PARKS = sys.implementation.name == "cpython" and (3, 12, 0) <= sys.version_info[:3] <= (3, 12, 2)
_RESERVE = 16  # two clients: loop, sender, reader, callbacks, registration, and a few for consume()


class _Parked(threading.Thread):
    """A thread that gets its work after it was started."""

    def __init__(self) -> None:
        super().__init__(name="memphis-spare", daemon=True)
        self._work: Callable[[], object] = lambda: None
        self._go = threading.Lock()
        self._go.acquire()

    def take(self, name: str, work: Callable[[], object]) -> None:
        """Runs *work*, once, under that name."""
        self.name = name
        self._work = work
        self._go.release()

    def run(self) -> None:
        self._go.acquire()
        self._work()


_parked: deque[_Parked] = deque()
if _PARKS:
    os.register_at_fork(after_in_child=_parked.clear)


def start_thread(name: str, work: Callable[[], object]) -> threading.Thread:
    """
    Starts a daemon thread: the exit drain, not the interpreter, decides how long to wait for it.

    Raises:
        RuntimeError: The interpreter is ending and starts no thread any more.
    """
    thread = threading.Thread(target=work, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError as exc:
        # Thread.start() waits by a Condition, which breaks when a signal handler raises in it; what was raised is told.
        interrupt = exc.__context__
        if interrupt is not None and not isinstance(interrupt, Exception):
            raise interrupt from None
        try:
            spare = _parked.popleft()
        except IndexError:
            spare = None
        if spare is None:
            raise
        spare.take(name, work)
        return spare
    while _PARKS and len(_parked) < _RESERVE:
        spare = _Parked()
        spare.start()
        _parked.append(spare)
    return thread


class Section:
    """
    A lock whose holder is refused, instead of waiting for itself for ever, when it comes a second time.

    Args:
        what: What is done under it, for the error: "closing the client".
    """

    def __init__(self, what: str) -> None:
        self._what = what
        # Taken and owned in one step, so that no signal can come in between; is_busy tells the second visit.
        self._lock = threading.RLock()
        self.is_busy = False

    @property
    def is_mine(self) -> bool:
        """Whether the calling thread is inside it at this moment."""
        if not self.is_busy or not self._lock.acquire(blocking=False):
            return False
        self._lock.release()
        return True

    def acquire(self, timeout: float = -1) -> bool:
        """
        Waits for at most *timeout* seconds, without limit by default; False when somebody else still is inside.

        Raises:
            UsageError: The calling thread is inside already.
        """
        if not self._lock.acquire(timeout=timeout):
            return False
        if self.is_busy:
            self._lock.release()
            raise UsageError(
                f"called by a signal handler or a destructor that interrupted {self._what} on the same thread; it can "
                "only go on once the handler has returned: do this later, or on another thread"
            )
        self.is_busy = True
        return True

    def release(self) -> None:
        """Ends what acquire() began."""
        self.is_busy = False
        self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.release()


class Latch:
    """A threading.Event that is set once, and whose set() may interrupt a set() or a wait() of the same thread."""

    def __init__(self) -> None:
        self._is_set = False
        self._lock = threading.Lock()  # held until it is set; each waiter that gets it passes it on
        self._lock.acquire()

    def is_set(self) -> bool:
        """Whether set() was called."""
        return self._is_set

    def set(self) -> None:
        """Ends all waits, now and later."""
        self._is_set = True
        self._pass_on()

    def wait(self, timeout: float) -> bool:
        """Waits for at most *timeout* seconds; whether it is set."""
        if not self._is_set and self._lock.acquire(timeout=max(timeout, 0.0)):
            self._pass_on()
        return self._is_set

    def _pass_on(self) -> None:
        with contextlib.suppress(RuntimeError):  # somebody else has passed it on
            self._lock.release()
