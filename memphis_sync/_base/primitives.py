"""Locks, events and threads: the one module that chooses which of the interpreter's the package uses."""

from __future__ import annotations

import itertools
import sys
import threading

from memphis_sync._base import threads
from memphis_sync.errors import ConfigurationError

Lock = threading.Lock
RLock = threading.RLock
Event = threading.Event
Thread = threading.Thread
current_thread_id = threading.get_ident
start_thread = threads.start_thread
is_exiting = threads.is_exiting

_numbers = itertools.count(1)


def check_threading() -> None:
    """
    Refuses a process in which a library has replaced threads, sockets or select().

    Raises:
        ConfigurationError: gevent or eventlet has patched one of them.

    Source: ``is_module_patched()`` of gevent 21 to 26, ``is_monkey_patched()`` of eventlet 0.30 to 0.41.
    """
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    for by, module, is_patched in (
        ("gevent", gevent, "is_module_patched"),
        ("eventlet", eventlet, "is_monkey_patched"),
    ):
        patched = [name for name in _MUST_BE_REAL if module is not None and getattr(module, is_patched)(name)]
        if patched:
            what = "threading" if patched[0] in _THREADING else patched[0]
            raise ConfigurationError(
                f"{by} has patched this process's {what}, and the client needs real threads and sockets: its calls "
                f"would block every greenlet, or wait for ever. Connect in a process that {by} does not patch: use "
                "another worker class (gunicorn -k gthread, celery -P threads or prefork), or produce in a separate "
                "process"
            )


_THREADING = ("threading", "_thread", "thread")
_MUST_BE_REAL = (*_THREADING, "socket", "select", "selectors")


def next_number() -> int:
    """The number in the thread names of a new client: 1, 2, ... in this process."""
    return next(_numbers)


def caller() -> str:
    """File and line of the call into this package, which is the first frame outside it."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("memphis_sync."):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
