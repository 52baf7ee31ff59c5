"""The one place that takes locks, events and threads from the interpreter, so that they can be chosen per platform."""

from __future__ import annotations

import functools
import itertools
import sys
import threading
from typing import Any, Callable

from memphis_sync._base import threads
from memphis_sync.errors import ConfigurationError

Lock = threading.Lock
RLock = threading.RLock
Event = threading.Event
Thread = threading.Thread
current_thread_id = threading.get_ident

_numbers = itertools.count(1)


def check_threading() -> None:
    """
    Raises ConfigurationError when a library has put its own in the place of threads, sockets or select().

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
                f"would block every greenlet, or wait for ever. Connect in a process that does not call {by}'s monkey "
                "patching: with another worker class (gunicorn -k gthread, celery -P threads or prefork), or in a "
                "process of its own that produces"
            )


_THREADING = ("threading", "_thread", "thread")
_MUST_BE_REAL = (*_THREADING, "socket", "select", "selectors")


def next_number() -> int:
    """A number for the threads of a new client: 1, 2, ... in this process."""
    return next(_numbers)


def start_thread(name: str, run: Callable[..., Any], *args: Any) -> Thread:
    """As threads.start_thread(), for a callable with arguments."""
    return threads.start_thread(name, functools.partial(run, *args))


def caller() -> str:
    """File and line of the call into this package: the first frame outside of it."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("memphis_sync."):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
