"""Locks, events and threads: the one module that chooses which of the interpreter's the package uses."""

from __future__ import annotations

import itertools
import sys
import threading

from memphis_sync._base import native, threads

Lock = native.Lock
RLock = native.RLock
Thread = threading.Thread
current_thread_id = native.get_ident
start_thread = threads.start_thread
is_exiting = threads.is_exiting

_numbers = itertools.count(1)


def next_number() -> int:
    """The number in the thread names of a new client: 1, 2, ... in this process."""
    return next(_numbers)


def caller() -> str:
    """File and line of the call into this package, which is the first frame outside it."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("memphis_sync."):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
