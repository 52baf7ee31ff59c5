"""
Finds out from the replies to pulls whether a consumer group still exists.

A Memphis broker never answers a pull for a group that is gone. So each request has a time by which an answer is due,
and when it does not come the group is looked for over the control link.

Source: protocol reference 5.3, 6.5, 12.5.
"""

from __future__ import annotations

import contextlib
import time
import weakref
from typing import Callable, Optional

from memphis_sync._base import waits
from memphis_sync._base.threads import Event
from memphis_sync._data.pull_subscription import TOO_MANY_BYTES, Ending, GroupPartition
from memphis_sync.errors import DeadlineError, MemphisError, ServerError, StationNotFoundError

LookFor = Callable[[GroupPartition, Callable[[Optional[StationNotFoundError]], None]], object]

LOOK_AFTER_S = 1.0  # an answer that is so late makes the group be looked for, and again after each LOOK_EVERY_S
LOOK_EVERY_S = 2.0
ELECTION_S = 0.1  # pause until a group without a leader is asked again
SILENCE_S = 5.0  # a broker that has a group and answers no pull for so long hangs
NOTHING_THERE = (404, 408)
_NO_RESPONDERS = 503
_PASSING = ("leadership change", "server shutdown", TOO_MANY_BYTES)  # of 409: the next pull may well be served


class GroupWatch:
    """
    The answers that one consumer's pulls owe.

    Args:
        look_for: See PullConsumer.
        wake: A method that makes the fetch that waits call check() again, from any thread. It is held weakly.

    Attributes:
        due: By stream: since when an answer to a pull is owed, by ``time.monotonic()``.
    """

    def __init__(self, look_for: LookFor, wake: Callable[[], None]) -> None:
        self._look_for = look_for
        self._wake = weakref.WeakMethod(wake)
        self.due: dict[str, float] = {}
        self._silent_from = 0.0  # the silence before this has been reported
        self._look_at = 0.0
        self._has_looked = Event()  # no question is open; the answer comes on another thread
        self._has_looked.set()
        self._destroyed: Optional[StationNotFoundError] = None  # the answer, until a fetch raises it

    def judge(self, ending: Ending, deadline: float) -> None:
        """Raises when the server ended a request because something is wrong."""
        binding, status, text = ending
        if status in NOTHING_THERE or text.lower() in _PASSING:
            return
        if status == _NO_RESPONDERS:
            self._look(binding)
            self._has_looked.wait(max(deadline - time.monotonic(), 0.0))
            self._check_destroyed()
            # It is there, or nobody can tell in time: its leader is being elected.
            waits.sleep(min(ELECTION_S, max(deadline - time.monotonic(), 0.0)))
            return
        if "deleted" in text.lower():
            raise StationNotFoundError(
                f"{binding.stream}: the station or the consumer group was destroyed ({text})",
                code=status,
                description=text,
            )
        raise ServerError(f"{binding.stream}: the broker ended the pull ({text})", code=status, description=text)

    def _look(self, binding: GroupPartition) -> None:
        """Has the group looked for, unless that is under way."""
        if self._has_looked.is_set():
            self._has_looked.clear()
            try:
                self._look_for(binding, self._looked)
            except BaseException:
                self._has_looked.set()
                raise

    def _looked(self, destroyed: Optional[StationNotFoundError]) -> None:
        """The answer to _look(), on the thread that got it; a fetch that waits raises it at once."""
        self._destroyed = destroyed
        self._has_looked.set()
        if destroyed is not None:
            wake = self._wake()
            with contextlib.suppress(MemphisError):  # the child of a fork, or a client that was closed: nobody waits
                if wake is not None:
                    wake()

    def _check_destroyed(self) -> None:
        destroyed, self._destroyed = self._destroyed, None
        if destroyed is not None:
            raise destroyed

    def check(self, chosen: list[GroupPartition], pong_due: float) -> None:
        """
        Has a group looked for whose answers are late.

        Args:
            chosen: Whose answers a fetch waits for.
            pong_due: Since when a PONG is owed, behind which the pulls wait; infinity for none.

        Raises:
            StationNotFoundError: The group is gone.
            DeadlineError: The broker hangs; raised once each SILENCE_S.
        """
        self._check_destroyed()
        now = time.monotonic()
        for binding in chosen:
            silent_s = now - max(min(self.due.get(binding.stream, now), pong_due), self._silent_from)
            if silent_s > LOOK_AFTER_S and now >= self._look_at:
                self._look_at = now + LOOK_EVERY_S
                self._look(binding)
            if silent_s > SILENCE_S:
                self.due.clear()
                self._silent_from = now
                raise DeadlineError(
                    f"the broker has not answered a pull for {silent_s:.1f} s: it hangs, or the station or the "
                    "consumer group is gone",
                    timeout_s=SILENCE_S,
                )
