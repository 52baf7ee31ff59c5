"""The one place that takes locks, events and threads from the interpreter, so that they can be chosen per platform."""

from __future__ import annotations

import itertools
import threading
from typing import Any, Callable

Lock = threading.Lock
RLock = threading.RLock
Event = threading.Event
Thread = threading.Thread
current_thread_id = threading.get_ident

_numbers = itertools.count(1)


def next_number() -> int:
    """A number for the threads of a new client: 1, 2, ... in this process."""
    return next(_numbers)


def start_thread(name: str, run: Callable[..., Any], *args: Any) -> Thread:
    """Starts a daemon thread: the exit drain, not the interpreter, decides how long to wait for it."""
    thread = Thread(target=run, args=args, name=name, daemon=True)
    thread.start()
    return thread
