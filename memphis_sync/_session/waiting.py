"""
The only place where a caller's thread waits for one of ours.

Ctrl-C ends a wait for a lock at once. It is cut all the same, to notice that the thread waited for is gone.
"""

from __future__ import annotations

import time
from typing import Callable, Optional

from memphis_sync._base import waits
from memphis_sync._base.threads import forbid_on_own_thread
from memphis_sync._base.waits import Acquirable

__all__ = ["forbid_on_own_thread", "wait"]

LOOK_S = 0.2  # how often it looks whether anybody is left


def wait(ticket: Acquirable, deadline: Optional[float], is_alive: Callable[[], bool]) -> bool:
    """
    Waits until *ticket*, a lock, is released; who does that rings (``waits.ring``).

    Args:
        ticket: Held by the caller's side until then, released once by the thread that has the result.
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
        if waits.acquire(ticket, look_s):
            return True
        if not is_alive():
            return ticket.acquire(False)
