"""
The one place where a caller's thread waits for one of ours.

A wait is cut into slices, because only between two of them some platforms deliver Ctrl-C, and because a slice is how
long it takes to notice that the thread waited for is gone.
"""

from __future__ import annotations

import time
from typing import Callable, Optional, Protocol

from memphis_sync._base.threads import forbid_on_own_thread

__all__ = ["SLICE_S", "Waitable", "forbid_on_own_thread", "wait"]

SLICE_S = 0.2  # Ctrl-C is promised within 0.3 s


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
        is_alive: Whether anybody is left who could release it; asked once a slice.

    Returns:
        False at the deadline, or when nobody is left.
    """
    while True:
        slice_s = SLICE_S
        if deadline is not None:
            slice_s = min(slice_s, deadline - time.monotonic())
            if slice_s <= 0:
                return ticket.acquire(False)
        if ticket.acquire(True, slice_s):
            return True
        if not is_alive():
            return ticket.acquire(False)
