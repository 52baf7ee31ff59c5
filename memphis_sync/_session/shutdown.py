"""
The end of the process: one drain for all clients that are still open, side by side.

atexit runs it after the non-daemon threads have ended, so their last messages are included. A forked child inherits the
handler but not the threads, so the handler does nothing in a generation other than the one that registered it.

Rules
* Each client has its own ``exit_timeout_s``, from the beginning of the drain; no thread is started for them.
* What was accepted before the drain began is what it waits for. Daemon threads that go on producing find the client
  open until then; afterwards it takes nothing more, and what they have produced is sent in what is left of the time.
* A handler or a callback that is running has the same time to end, and its acks are sent. It gets no further messages.
* Ctrl-C, or whatever else a signal handler raises, ends the waiting; a second one ends the process at once.
"""

from __future__ import annotations

import atexit
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Optional, Protocol

from memphis_sync._base import primitives
from memphis_sync._base.logs import show_error
from memphis_sync._base.threads import handing_over, silence_daemons
from memphis_sync._data import Callbacks
from memphis_sync._session import fork
from memphis_sync.errors import MemphisError, UndeliveredWarning, UsageError

QUIET_S = 0.5  # a drain that takes no longer says nothing
BROKER_S = 0.5  # for what the broker is to hear once messages and handlers are done with: acks, what is given back
LATE_S = 0.2  # how much longer than its time all of this may take


class Drainable(Protocol):
    """What the drain needs of a session."""

    generation: int
    exit_timeout_s: float
    label: str
    callbacks: Callbacks

    @property
    def kept(self) -> str:
        """After close(): how many messages remain in an outbox file, in words; "" for none."""

    def begin_end(self) -> None:
        """Fetches nothing more, and remembers what is accepted now."""

    def wait_end(self, until: float) -> tuple[int, int]:
        """Waits for that; returns how many messages are left, and how many callbacks run."""

    def unseen(self) -> int:
        """How many messages have failed without anybody having asked about them."""

    def closing(self, deadline: float, broker_s: float, late_s: float) -> Iterator[None]:
        """Ends everything, step by step."""

    def given_up(self) -> int:
        """How many messages will not be sent."""


# Strong references: a session whose client was forgotten still has messages to send. Adding and removing is atomic.
_open: set[Drainable] = set()
_registered: Optional[int] = None  # the generation whose handler is in place
_has_begun = False


def register(session: Drainable) -> None:
    """Includes a session in the drain; the first one of a process installs the handler."""
    global _registered  # noqa: PLW0603  one handler a process
    generation = fork.fork_generation()
    if _registered != generation:
        _registered = generation
        atexit.register(drain, generation)
        _register_with_multiprocessing(generation)
    _open.add(session)


def unregister(session: Drainable) -> None:
    """A session that was closed has nothing to drain."""
    _open.discard(session)


def check_opening() -> None:
    """
    Refuses a new client where it would not be drained.

    Raises:
        UsageError: The drain has begun, or an exit handler asks, which runs on the main thread after its end.
    """
    has_begun = _has_begun and fork.fork_generation() == _registered
    if has_begun or primitives.is_exiting():
        raise UsageError(
            "the process is ending, and no client can be opened any more; one that is open can still be used, in an "
            "exit handler that was registered after it was opened"
        )


def _register_with_multiprocessing(generation: int) -> None:
    """A multiprocessing child leaves with os._exit() up to Python 3.12: only its own finalizers run, not atexit."""
    process, util = sys.modules.get("multiprocessing.process"), sys.modules.get("multiprocessing.util")
    if process is not None and util is not None and process.parent_process() is not None:
        util.Finalize(None, drain, args=(generation,), exitpriority=10)


def drain(generation: int) -> None:
    """Sends what is queued, reports and closes every open session. Idempotent; never raises."""
    global _has_begun  # noqa: PLW0603  see register
    if fork.fork_generation() != generation:
        return
    _has_begun = True
    # The one with the shortest time first: none waits for another one's limit.
    sessions = sorted(
        (session for session in list(_open) if session.generation == generation),
        key=lambda session: session.exit_timeout_s,
    )
    failed = 0
    try:
        start = time.monotonic()
        try:
            silence_daemons(MemphisError)
            _wait(sessions, start)
        except BaseException as exc:  # noqa: BLE001  of a signal handler
            show_error(f"given up{_why(exc)}")
            start = float("-inf")
        failed = sum(session.unseen() for session in sessions)  # without what is about to be given up
        _close(sessions, start)
    except BaseException as exc:  # noqa: BLE001  the second one
        show_error(f"left at once{_why(exc)}")
    finally:
        left = sum(session.given_up() for session in sessions)
        if left or failed:
            kept = "; ".join(session.kept for session in sessions if session.kept)
            warn_undelivered(left, "at the end of the process", stacklevel=2, failed=failed, kept=kept)


def _why(error: BaseException) -> str:
    return "" if isinstance(error, (KeyboardInterrupt, SystemExit)) else f": {type(error).__name__}: {error}"


def _wait(sessions: list[Drainable], start: float) -> None:
    for session in sessions:
        session.begin_end()
    left, running = _wait_each(sessions, start, QUIET_S)
    limit_s = max((session.exit_timeout_s for session in sessions), default=0.0)
    if (left or running) and limit_s > QUIET_S:
        texts = [f"{left} messages are not confirmed yet"] if left else []
        if running:
            texts.append(f"{running} {'callback still runs' if running == 1 else 'callbacks still run'}")
        show_error(f"{', '.join(texts)}; waiting up to {limit_s:g} s (Ctrl-C to give up)")
        _wait_each(sessions, start, limit_s)


def _wait_each(sessions: list[Drainable], start: float, at_most_s: float) -> tuple[int, int]:
    each = [session.wait_end(start + min(session.exit_timeout_s, at_most_s)) for session in sessions]
    return sum(left for left, _ in each), sum(running for _, running in each)


def _close(sessions: list[Drainable], start: float) -> None:
    steps = [(session, session.closing(start + session.exit_timeout_s, BROKER_S, LATE_S)) for session in sessions]
    while steps:
        for session, closing in list(steps):
            with handing_over(session.callbacks.post):
                try:
                    next(closing)
                except StopIteration:
                    steps.remove((session, closing))
                except Exception as exc:  # noqa: BLE001  the others are to be ended all the same
                    show_error(f"{session.label}: {type(exc).__name__}: {exc}")
                    steps.remove((session, closing))


def warn_undelivered(count: int, where: str, stacklevel: int, failed: int = 0, kept: str = "") -> None:
    """
    Warns that messages were given up, with their number; *failed* others had failed before, and nobody asked.

    Args:
        kept: What says how many of them remain in which file; "" for none.
    """
    fate = kept or "they may be lost"
    texts = [f"{count} messages were not confirmed {where}; {fate}"] if count or not failed else []
    if failed:
        texts.append(f"{failed} messages had failed {'before' if texts else where}, and nobody asked about them")
    warning = UndeliveredWarning("; ".join(texts))
    warning.count, warning.failed = count, failed
    warnings.warn(warning, stacklevel=stacklevel + 1)
