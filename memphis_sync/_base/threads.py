"""
The package's threads: what they must not do, how they are started, and locks that are safe in signal handlers.

A thread of ours that others wait for (the loop, a reader, a sender) is registered here while it runs: a call that would
block on it raises OwnThreadError, and its log lines are handed to another thread.

A signal handler, a destructor or a weakref callback interrupts whatever its thread is doing, also while that holds a
lock. So a lock is either never acquired by such code, or it is a Section or a Latch.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Callable, Optional

from memphis_sync._base import native, waits
from memphis_sync._base.interpreters import check_refusal, is_main
from memphis_sync.errors import OwnThreadError, UsageError

# Accepts a call to be made soon on a thread that nobody waits for; False when that thread has ended.
Sink = Callable[[Callable[[Any], object], object], bool]

# By ident, with the process; each thread changes its own entry. An ident is reused once its thread has ended, and in a
# forked child, where no thread of the parent runs, at once.
_own_threads: dict[int, int] = {}
_sinks: dict[int, tuple[int, Sink]] = {}  # by caller


@contextlib.contextmanager
def own_thread(sink: Optional[Sink] = None) -> Iterator[None]:
    """In the block the calling thread is one that must not wait; its log lines go to *sink*."""
    ident = native.get_ident()
    _own_threads[ident] = os.getpid()
    try:
        with handing_over(sink) if sink is not None else contextlib.nullcontext():
            yield
    finally:
        _own_threads.pop(ident, None)


@contextlib.contextmanager
def handing_over(sink: Sink) -> Iterator[None]:
    """In the block the calling thread's log lines go to *sink*: for a caller that holds a lock meanwhile."""
    caller = waits.caller()
    outer = _sinks.get(caller)
    _sinks[caller] = (os.getpid(), sink)
    try:
        yield
    finally:
        if outer is None:
            _sinks.pop(caller, None)
        else:
            _sinks[caller] = outer


def sink() -> Optional[Sink]:
    """Where the calling thread's log lines go; None: it may call the program's handlers itself."""
    found = _sinks.get(waits.caller())
    return found[1] if found is not None and found[0] == os.getpid() else None


def forbid_on_own_thread(what: str) -> None:
    """
    Refuses a call that would wait.

    Raises:
        OwnThreadError: The calling thread is one of the client's own that must not wait.
    """
    if _own_threads.get(native.get_ident()) == os.getpid():
        raise OwnThreadError(
            f"{what} was called on one of the client's own threads, where it would wait for itself; "
            "call it in a callback of produce or consume, or on a thread of your program"
        )
    if waits.greenlets is not None:
        waits.greenlets.forbid_in_hub(what)


# CPython 3.12.0 to 3.12.2 cannot start a thread once the main thread has ended, though other threads of the program go
# on. So some are started in advance and wait for work. Source: cpython issue 113964.
# In a subinterpreter none waits: it could not end before them.
_PARKS = sys.implementation.name == "cpython" and (3, 12, 0) <= sys.version_info[:3] <= (3, 12, 2) and is_main()
_RESERVE = 16  # two clients: loop, sender, reader, callbacks, registration, and a few for consume()


class _Parked(threading.Thread):
    """A thread that gets its work after its start."""

    def __init__(self) -> None:
        super().__init__(name="memphis-spare", daemon=True)
        self._work: Callable[[], object] = lambda: None
        self._go = native.Lock()
        self._go.acquire()

    def take(self, name: str, work: Callable[[], object]) -> None:
        """Runs *work* once, under that name."""
        self.name = name
        self._work = work
        self._go.release()

    def run(self) -> None:
        self._go.acquire()
        self._work()


_parked: deque[_Parked] = deque()
if _PARKS:
    os.register_at_fork(after_in_child=_parked.clear)


def start_thread(name: str, work: Callable[..., object], *args: object) -> threading.Thread:
    """
    Starts a daemon thread that calls *work* with *args*. The drain at exit, not the interpreter, waits for it.

    Raises:
        UsageError: The interpreter is ending, or the system gives no more threads.
        ConfigurationError: It is a subinterpreter that starts none.
    """
    kind = threading.Thread if waits.greenlets is None else NativeThread
    thread = kind(target=work, args=args, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError as exc:
        # Thread.start() waits on a Condition, which fails when a signal handler raises in it; that error is passed on.
        interrupt = exc.__context__
        if interrupt is not None and not isinstance(interrupt, Exception):
            raise interrupt from None
        check_refusal(exc)
        try:
            spare = _parked.popleft()
        except IndexError:
            raise UsageError(f"the client's thread {name} cannot be started: {exc}") from None
        spare.take(name, functools.partial(work, *args))
        return spare
    while _PARKS and len(_parked) < _RESERVE:
        spare = _Parked()
        spare.start()
        _parked.append(spare)
    return thread


def join(threads: Iterable[threading.Thread], deadline: float) -> list[threading.Thread]:
    """
    Waits for the ends of threads, but not of the calling one, until *deadline* on the monotonic clock.

    Returns:
        Those that still run.
    """
    others = [thread for thread in threads if thread.ident != native.get_ident()]
    for thread in others:
        while thread.is_alive() and (left_s := deadline - time.monotonic()) > 0:
            thread.join(waits.slice_s(left_s))
    return [thread for thread in others if thread.is_alive()]


def silence_daemons(kind: type[BaseException]) -> None:
    """
    From now on a daemon thread that ends with an error of this kind ends in silence: the process is ending, and what
    the thread still asks for cannot be had any more.
    """
    show = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        if args.thread is None or not args.thread.daemon or not issubclass(args.exc_type, kind):
            show(args)

    threading.excepthook = hook


def is_exiting() -> bool:
    """Whether an exit handler asks: it runs on the main thread, once the program has ended there."""
    main = threading.main_thread()
    has_ended = not main.is_alive() or getattr(threading, "_SHUTTING_DOWN", False)
    return threading.get_ident() == main.ident and has_ended


class NativeThread(threading.Thread):
    """A thread of the interpreter's own also where gevent has made a greenlet of each threading.Thread."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._number: Optional[int] = None
        self._process = os.getpid()
        self._has_ended = Latch()

    def start(self) -> None:
        """Starts it. RuntimeError: the interpreter starts no more threads."""
        native.start_new_thread(self._main, ())

    def _main(self) -> None:
        self._number = native.get_ident()
        stand_in = threading.current_thread()  # which threading makes, for log lines
        stand_in.name = self.name
        try:
            self.run()
        finally:
            if waits.greenlets is not None:
                waits.greenlets.end_thread()
            getattr(threading, "_active", {}).pop(stand_in.ident, None)  # which else keeps it
            self._has_ended.set()

    @property
    def ident(self) -> Optional[int]:
        """As native.get_ident() has it on the thread; None until it runs."""
        return self._number

    def is_alive(self) -> bool:
        """Whether it runs, or is about to."""
        return not self._has_ended.is_set() and os.getpid() == self._process

    def join(self, timeout: Optional[float] = None) -> None:
        """Waits for its end."""
        self._has_ended.wait(threading.TIMEOUT_MAX if timeout is None else timeout)


class _GreenletLock:
    """
    The lock of a Section where two greenlets of one thread may want it: each is a holder of its own. One that has ended
    without a release, killed between two steps, holds it no longer.
    """

    def __init__(self) -> None:
        self._holder: dict[str, Any] = {}  # one entry at most; setdefault() acquires it in one step
        self._released = Change()

    def _take(self) -> bool:
        me = waits.holder()
        if self._holder.setdefault("by", me) is not me:
            if not self._holder.get("by", me).dead:
                return False
            self._holder.clear()
            return self._holder.setdefault("by", me) is me
        return True

    def _is_owned(self) -> bool:
        return self._holder.get("by") is waits.holder()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        try:
            if not blocking:
                return self._take()
            return self._released.wait_for(self._take, float("inf") if timeout < 0 else time.monotonic() + timeout)
        except BaseException:
            with contextlib.suppress(RuntimeError):
                self.release()
            raise

    def release(self) -> None:
        if not self._is_owned():
            raise RuntimeError("cannot release un-acquired lock")
        self._holder.clear()
        self._released.notify()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class Section:
    """
    A lock that refuses its holder instead of deadlocking, and that no exception of a signal handler leaves locked.

    Such an exception may come after each call of Python code. So what acquires and releases is the interpreter's own
    lock in a with statement, ``with section.begin():``, never a method written in Python.

    With a limit to the wait, acquire() stands inside the try, and release() comes first in its finally, where a
    RuntimeError says that it was not acquired.

    Args:
        what: What is done while it is held, for the error: "closing the client".
    """

    def __init__(self, what: str) -> None:
        self._what = what
        # Acquired and owned in one step, both of them.
        self._lock: Any = native.RLock() if waits.greenlets is None else _GreenletLock()

    @property
    def is_mine(self) -> bool:
        """Whether the calling thread holds it."""
        return bool(self._lock._is_owned())  # as threading.Condition asks

    def begin(self) -> threading.RLock:
        """
        The lock, for a with statement.

        Raises:
            UsageError: The calling thread holds it already.
        """
        if self.is_mine:
            raise UsageError(
                f"called by a signal handler or a destructor that interrupted {self._what} on the same thread, which "
                "can only continue once the handler has returned: do this later, or on another thread"
            )
        lock: threading.RLock = self._lock
        return lock


class Change:
    """Wakes threads that wait until something is true. Nothing is held while they wait."""

    def __init__(self) -> None:
        self._waiters: list[threading.Lock] = []  # each step on it is atomic

    def notify(self) -> None:
        """Lets all of them ask again."""
        for waiter in tuple(self._waiters):
            with contextlib.suppress(RuntimeError):  # it was notified already
                waiter.release()
        waits.ring()

    def wait_for(self, is_true: Callable[[], bool], deadline: float) -> bool:
        """Waits until *is_true* says so, asked again by each notify(); False at *deadline*, by ``time.monotonic()``."""
        while not is_true():
            waiter = native.Lock()
            waiter.acquire()
            try:
                self._waiters.append(waiter)
                if is_true():  # it may have become so before this thread was among the waiters
                    return True
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                waits.acquire(waiter, min(left, threading.TIMEOUT_MAX))
            finally:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
        return True


class Event:
    """A threading.Event whose methods may interrupt each other on the same thread."""

    def __init__(self) -> None:
        self._is_set = False
        self._changed = Change()

    def is_set(self) -> bool:
        """Whether set() was called, and clear() was not since."""
        return self._is_set

    def set(self) -> None:
        """Ends all waits until clear()."""
        self._is_set = True
        self._changed.notify()

    def clear(self) -> None:
        """Lets wait() wait again."""
        self._is_set = False

    def wait(self, timeout: float) -> bool:
        """Waits for at most *timeout* seconds; returns whether it is set."""
        return self._changed.wait_for(self.is_set, time.monotonic() + timeout)


class Latch:
    """A threading.Event that is set once, and whose set() may interrupt set() or wait() on the same thread."""

    def __init__(self) -> None:
        self._is_set = False
        self._lock = native.Lock()  # held until it is set; each waiter that acquires it releases it for the next
        self._lock.acquire()

    def is_set(self) -> bool:
        """Whether set() was called."""
        return self._is_set

    def set(self) -> None:
        """Ends all waits, present and future."""
        self._is_set = True
        self._pass_on()
        waits.ring()

    def wait(self, timeout: float) -> bool:
        """Waits for at most *timeout* seconds; returns whether it is set."""
        if not self._is_set and waits.acquire(self._lock, min(max(timeout, 0.0), threading.TIMEOUT_MAX)):
            self._pass_on()
        return self._is_set

    def _pass_on(self) -> None:
        with contextlib.suppress(RuntimeError):  # another thread has released it
            self._lock.release()
