"""
How the calling thread waits, and who the caller is: the one place that decides.

A thread waits on one of the interpreter's own locks. Under gevent that would hold up all greenlets of the thread, so a
greenlet looks, lets the others run, and looks again (``_session.greenlets``). Which of the two a process needs is
decided once, by its first connect().

A wait of the main thread is cut into slices. Python runs signal handlers on that thread alone, and a signal that comes
in the moment before a wait begins, or that the system gives to another thread, does not end the wait.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Optional, Protocol

from memphis_sync._base import native

if TYPE_CHECKING:
    import selectors


SLICE_S = 0.2
"""How long a wait of the main thread may be at once, so that Ctrl-C is served within 0.3 s."""


class Acquirable(Protocol):
    """A lock of the interpreter's."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """As threading.Lock.acquire()."""


class Greenlets(Protocol):
    """What waiting takes where greenlets run."""

    def is_greenlet(self) -> bool:
        """Whether the calling thread runs greenlets; the client's own do not."""

    def current(self) -> object:
        """The caller: a greenlet, or the one that stands for a thread."""

    def pause(self, until: float) -> None:
        """Lets others run until ring(), or until a moment of ``time.monotonic()``; it may return early."""

    def ring(self) -> None:
        """Ends each pause() of this process. From any thread."""

    def sleep(self, seconds: float) -> None:
        """Lets others run for so long."""

    def selector(self) -> selectors.BaseSelector:
        """Waits for sockets, and lets others run."""

    def end_thread(self) -> None:
        """One of the client's threads ends."""

    def forbid_in_hub(self, what: str) -> None:
        """Raises OwnThreadError in a callback of the hub's, which nobody can let wait."""


greenlets: Optional[Greenlets] = None
"""Set by the first connect() of a process that gevent has patched."""


def acquire(lock: Acquirable, timeout: float = -1) -> bool:
    """``lock.acquire(timeout=timeout)``, while other greenlets run. Who releases it calls ring()."""
    until = float("inf") if timeout < 0 else time.monotonic() + timeout
    if greenlets is None or not greenlets.is_greenlet():
        while not lock.acquire(timeout=slice_s(until - time.monotonic())):
            if time.monotonic() >= until:
                return False
        return True
    while not lock.acquire(blocking=False):
        if time.monotonic() >= until:
            return False
        greenlets.pause(until)
    return True


def slice_s(left_s: float) -> float:
    """How much of the time that is left the calling thread may wait at once, in seconds."""
    longest_s = SLICE_S if native.get_ident() == threading.main_thread().ident else threading.TIMEOUT_MAX
    return min(max(left_s, 0.0), longest_s)


def ring() -> None:
    """Something has happened that a greenlet may wait for."""
    if greenlets is not None:
        greenlets.ring()


def sleep(seconds: float) -> None:
    """Waits for so long."""
    if greenlets is not None and greenlets.is_greenlet():
        greenlets.sleep(seconds)
        return
    until = time.monotonic() + seconds
    while seconds > 0:
        native.sleep(slice_s(seconds))
        seconds = until - time.monotonic()


def selector() -> selectors.BaseSelector:
    """For the calling thread."""
    if greenlets is None or not greenlets.is_greenlet():
        return native.Selector()
    return greenlets.selector()


def caller() -> int:
    """Tells callers apart that may wait at the same time: threads, and greenlets of one thread."""
    return native.get_ident() if greenlets is None else id(greenlets.current())


def holder() -> Any:
    """The calling greenlet, or the one that stands for the calling thread; only where there are greenlets."""
    assert greenlets is not None
    return greenlets.current()
