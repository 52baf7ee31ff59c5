"""
Which process an object belongs to, and what a forked child does with what it has inherited.

A fork copies every object but no thread, so what was opened before it cannot work in the child. The C core counts forks
(also those that Python's own hooks do not see), and each public call compares.

Nothing inherited is repaired: a lock may be held by a thread that does not exist here, memory may be half written, and
the parent still uses the sockets. The child closes its copies of the descriptors, which tells no peer, and keeps all
else as it is, for good: no destructor of it runs, also not at the end of the process. So do C-level forks, at the
first use of a client there.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from typing import Protocol

from memphis_sync._core import fork_generation, keep_forever, watch_forks
from memphis_sync.errors import ForkedError

__all__ = ["Inherited", "check", "close_inherited", "fork_generation", "watch", "watch_forks"]


class Inherited(Protocol):
    """What a child has of its parent's."""

    generation: int

    def close_inherited(self) -> None:
        """Closes the descriptors; touches no lock, and tells nobody."""


_living: weakref.WeakSet[Inherited] = weakref.WeakSet()
_kept: list[Inherited] = []  # of other processes: neither used nor collected
_hooked: list[object] = []


def check(generation: int, what: str) -> None:
    """
    Raises ForkedError when the process has forked since *generation* was read.

    Args:
        generation: What fork_generation() said when the object was made.
        what: The object, for the text.
    """
    if fork_generation() != generation:
        raise ForkedError(f"{what} was opened before this process was forked, and stays with the parent process")


def watch(session: Inherited) -> None:
    """Has a session kept in every child from now on; the first one of a process tree installs the one hook."""
    watch_forks()
    _living.add(session)
    if not _hooked:
        _hooked.append(session)
        os.register_at_fork(after_in_child=_keep_inherited)


def _keep_inherited() -> None:
    """In a child: keeps what its parent had open. No lock, no log, no IO, no thread."""
    generation = fork_generation()
    for session in list(_living):
        if session.generation != generation:
            _kept.append(session)
            keep_forever(session)
            _living.discard(session)


def close_inherited() -> None:
    """Closes this process's copies of its parent's descriptors; what no hook has kept is kept now."""
    _keep_inherited()
    while True:
        try:
            session = _kept.pop()
        except IndexError:
            return
        with contextlib.suppress(OSError):
            session.close_inherited()
