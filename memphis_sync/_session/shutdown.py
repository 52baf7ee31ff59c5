"""
The end of the process: one drain for all clients that are still open.

atexit runs it after the non-daemon threads have ended, so their last messages are included. A forked child inherits the
handler but not the threads, so the handler does nothing in a generation other than the one that registered it.
"""

from __future__ import annotations

import atexit
import sys
import time
import warnings
from typing import Optional, Protocol

from memphis_sync._data import Outages
from memphis_sync._session import fork
from memphis_sync.errors import MemphisError, UndeliveredWarning

QUIET_S = 0.5  # a drain that takes no longer says nothing
_CLOSE_S = 0.5


class Drainable(Protocol):
    """What the drain needs of a session."""

    generation: int
    exit_timeout_s: float
    label: str
    outages: Outages

    def flush(self, timeout_s: Optional[float]) -> int:
        """Waits; returns what is unconfirmed."""

    def unseen(self) -> int:
        """How many messages have failed without anybody having asked about them."""

    def close(self, timeout_s: float) -> int:
        """Ends everything; returns what was given up."""


# Strong references: a session whose client was forgotten still has messages to send. Adding and removing is atomic.
_open: set[Drainable] = set()
_registered: Optional[int] = None  # the generation whose handler is in place
_has_ended = False


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


def has_ended() -> bool:
    """Whether this process has drained and will send nothing more."""
    return _has_ended and fork.fork_generation() == _registered


def _register_with_multiprocessing(generation: int) -> None:
    """A multiprocessing child leaves with os._exit() up to Python 3.12: only its own finalizers run, not atexit."""
    process, util = sys.modules.get("multiprocessing.process"), sys.modules.get("multiprocessing.util")
    if process is not None and util is not None and process.parent_process() is not None:
        util.Finalize(None, drain, args=(generation,), exitpriority=10)


def drain(generation: int) -> None:
    """Flushes, reports and closes every open session. Idempotent; never raises."""
    global _has_ended  # noqa: PLW0603  see register
    if fork.fork_generation() != generation:
        return
    sessions = [session for session in list(_open) if session.generation == generation]
    left = 0
    try:
        left = _flush_all(sessions)
    except KeyboardInterrupt:
        sys.stderr.write("memphis_sync: given up\n")
    finally:
        _has_ended = True
        failed = sum(session.unseen() for session in sessions)  # without what is about to be given up
        abandoned = sum(_close(session) for session in sessions)
        left = max(left, abandoned) if sessions else 0
        if left or failed:
            warn_undelivered(left, "at the end of the process", stacklevel=2, failed=failed)


def _flush_all(sessions: list[Drainable]) -> int:
    start = time.monotonic()
    for session in sessions:
        session.outages.hurry()
    left = sum(_flush(session, QUIET_S) for session in sessions)
    if not left:
        return 0
    limit = max(session.exit_timeout_s for session in sessions)
    if limit > QUIET_S:
        sys.stderr.write(
            f"memphis_sync: {left} messages are not confirmed yet; waiting up to {limit:g} s (Ctrl-C to give up)\n"
        )
        left = sum(_flush(session, start + session.exit_timeout_s - time.monotonic()) for session in sessions)
    return left


def _flush(session: Drainable, timeout_s: float) -> int:
    try:
        return session.flush(max(0.0, min(timeout_s, session.exit_timeout_s)))
    except MemphisError as exc:
        sys.stderr.write(f"memphis_sync: {session.label}: {exc}\n")
        return 0


def _close(session: Drainable) -> int:
    try:
        return session.close(_CLOSE_S if session.exit_timeout_s else 0.0)
    except (MemphisError, KeyboardInterrupt) as exc:
        sys.stderr.write(f"memphis_sync: {session.label}: {exc}\n")
        return 0


def warn_undelivered(count: int, where: str, stacklevel: int, failed: int = 0) -> None:
    """Warns that messages were given up, with their number; *failed* others had failed before, and nobody asked."""
    texts = [f"{count} messages were not confirmed {where}; they may be lost"] if count or not failed else []
    if failed:
        texts.append(f"{failed} messages had failed {'before' if texts else where}, and nobody asked about them")
    warning = UndeliveredWarning("; ".join(texts))
    warning.count, warning.failed = count, failed
    warnings.warn(warning, stacklevel=stacklevel + 1)
