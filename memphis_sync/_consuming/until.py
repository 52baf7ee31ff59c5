"""When a loop over messages is over, besides stop() and the end of the client: when it is told, or idle for long."""

from __future__ import annotations

import time
from typing import Callable, Optional

_LEAST_S = 0.05  # a look that is shorter keeps a processor busy


class Until:
    """
    The end of one loop, looked at by its thread.

    Args:
        idle_s: It is over when there was nothing for so long; None: however long that takes.

    Attributes:
        is_told: It is over once the message at hand is done.
        wake: Ends the loop's waits, so that it looks.
    """

    __slots__ = ("_idle_s", "_since", "is_told", "wake")

    def __init__(self, idle_s: Optional[float] = None) -> None:
        self._idle_s = idle_s
        self.is_told = False
        self.wake: Callable[[], object] = lambda: None
        self.restart()

    def tell(self) -> None:
        """Ends the loop; from any thread, a signal handler included."""
        self.is_told = True
        self.wake()

    def restart(self) -> None:
        """The time without messages begins now."""
        self._since = time.monotonic()

    def look_s(self, most_s: float) -> float:
        """How long the next look for messages may take."""
        if self._idle_s is None:
            return most_s
        return min(most_s, max(_LEAST_S, self._since + self._idle_s - time.monotonic()))

    def is_idle(self, answered_at: float) -> bool:
        """Whether there was nothing for too long, and the broker has said so since; *answered_at* is when it did."""
        if self._idle_s is None or answered_at < self._since:
            return False
        return time.monotonic() >= self._since + self._idle_s
