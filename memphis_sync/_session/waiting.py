"""
The only place where a caller's thread waits for one of ours.

Ctrl-C ends a wait for a lock at once. It is cut all the same, to notice that the thread waited for is gone.
"""

from __future__ import annotations

import time
from typing import Callable, Optional, Protocol

from memphis_sync._base.threads import forbid_on_own_thread

__all__ = ["Waitable", "forbid_on_own_thread", "wait"]

LOOK_S = 0.2  # how often it looks whether anybody is left


class Waitable(Protocol):
    """A lock as a waiter's ticket: taken at first, released once by the thread that has the result."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """As threading.Lock.acquire()."""


def wait(ticket: Waitable, deadline: Optional[float], is_alive: Callable[[], bool]) -> bool:
    """
    Waits until *ticket* is released.

    Args:
        ticket: Held by the caller's side until then.
        deadline: On the monotonic clock; None waits without a limit.
        is_alive: Whether anybody is left who could release it; asked each LOOK_S.

    Returns:
        False at the deadline, or when nobody is left.
    """
    while True:
        look_s = LOOK_S
        if deadline is not None:
            look_s = min(look_s, deadline - time.monotonic())
            if look_s <= 0:
                return ticket.acquire(False)
        if ticket.acquire(True, look_s):
            return True
        if not is_alive():
            return ticket.acquire(False)
