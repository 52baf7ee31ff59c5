"""
What the two links of one client share about an outage: pauses between attempts, log lines and events, and the end.

Rules
* The link that gets through first wakes the other one and tells it where. While both are down, the data link does most
  of the trying.
* One outage of the client is one line in the log when it begins and one when it is over, however many links it hit.
* When one link has ended for good, so has the other: a client works as a whole or not at all.
* In its first minute a client tries at least twice a second, so that it is back within a second of its broker; a try at
  a port where nothing listens costs next to nothing. The pauses are random, so that many clients do not come in step.
* A client that is ending has a few seconds for what is queued, so it tries several times a second, with both links.
"""

from __future__ import annotations

import random
import time
from typing import Callable, Literal, Optional

from memphis_sync._base.logs import DEBUG, ERROR, INFO, WARNING, Log
from memphis_sync._base.native import Lock
from memphis_sync._data.callbacks import Change

LinkName = Literal["control", "data"]
# Which link, what has happened, the address, the reason, tries and seconds since the loss.
Notify = Callable[[LinkName, Change, str, str, int, float], None]

QUICK_S = 60.0  # how long an outage counts as short
QUICK_PAUSE_S = 0.5  # the longest pause within it
TOGETHER_S = 1.0  # a link that is lost so soon after the other one was is part of the same outage
HURRIED_PAUSE_S = 0.2  # the longest pause of a client that is ending
SCOUTED = 4  # so much longer the control link waits while the data link, whose tries cost a tenth, tries as well
SHORT_LIFE_S = 1.0  # a connection that ends sooner was no success: the next try is not made at once


class Outages:
    """
    One client's outages. Every method may be called from any thread.

    Args:
        label: The client's name, for log lines.
        interval_ms: Longest pause between two tries in a long outage.
        notify: Called with each change of a link, for the program's callables.
    """

    def __init__(self, label: str, interval_ms: int, notify: Notify) -> None:
        self.label = label
        self.notify = notify
        self._interval_s = interval_ms / 1000
        self._lock = Lock()
        self._down: dict[LinkName, float] = {}  # since when
        self._members: set[LinkName] = set()  # of the present outage, or the last one
        self._began = float("-inf")
        self._is_reported_over = True
        self._is_hurried = False
        self._wake: dict[LinkName, Callable[[str], None]] = {}
        self._end: dict[LinkName, Callable[[str], None]] = {}
        self.end_reason = ""

    def join(self, link: LinkName, wake: Callable[[str], None], end: Callable[[str], None]) -> None:
        """
        A link is there.

        Args:
            link: Which one.
            wake: Called, on any thread, when it should try at once: with the ``host:port`` that answers, or "".
            end: Called, on any thread, with the reason when the client has ended for good.
        """
        with self._lock:
            self._wake[link], self._end[link] = wake, end

    def lost(self, link: LinkName) -> int:
        """A link is down; gives the level of the log line that says so."""
        now = time.monotonic()
        with self._lock:
            is_part = link not in self._members and (self._down or now - self._began < TOGETHER_S)
            self._down[link] = now
            if is_part:
                self._members.add(link)
                return DEBUG
            if self._down.keys() != {link}:  # it had come back before the outage was over
                return DEBUG
            self._began, self._members, self._is_reported_over = now, {link}, False
            return WARNING

    def back(self, link: LinkName, address: str) -> int:
        """A link is up again, at that ``host:port``; gives the level of the log line that says so."""
        now = time.monotonic()
        with self._lock:
            lost_at = self._down.pop(link, now)
            wakes = [self._wake[other] for other in self._down if other in self._wake]
            is_over = not self._down and (not self._is_reported_over or now - lost_at >= TOGETHER_S)
            self._is_reported_over = self._is_reported_over or is_over
        for wake in wakes:
            wake(address)
        return INFO if is_over else DEBUG

    def hurry(self) -> None:
        """The client is ending: what waits for its next try makes it now, and waits less from now on."""
        self._is_hurried = True
        for wake in list(self._wake.values()):
            wake("")

    def pause_s(self, link: LinkName, tries: int, down_s: float, was_up_s: float) -> float:
        """
        How long to wait before the next try, in seconds.

        Args:
            link: Who asks.
            tries: How many there were in this outage.
            down_s: For how long it has lasted.
            was_up_s: How long the connection before it had lived.
        """
        if tries == 0 and was_up_s >= SHORT_LIFE_S:
            return 0.0
        longest_s = self._interval_s if down_s >= QUICK_S else min(self._interval_s, QUICK_PAUSE_S)
        if self._is_hurried:
            longest_s = min(longest_s, HURRIED_PAUSE_S)
        elif link == "control" and "data" in self._down:
            longest_s *= SCOUTED
        return longest_s * random.uniform(0.5, 1.0)  # noqa: S311  spreading, not a secret

    def end(self, link: LinkName, reason: str) -> bool:
        """A link has ended for good, and the other one ends with it. Whether this is the first word of it."""
        with self._lock:
            if self.end_reason:
                return False
            self.end_reason = reason
            others: list[Optional[Callable[[str], None]]] = [
                self._end.get(other) for other in self._end if other != link
            ]
        for end in others:
            if end is not None:
                end(reason)
        return True


class LinkState:
    """
    What one link knows of its connection and of its present outage, if there is one, and who hears of it.

    Args:
        link: Which one.
        shared: What it shares with the other one.
        log: Where its lines go.
        address: Where it connects to first.

    Attributes:
        address: ``host:port`` where it is connected, or was.
        attempts: How many tries the present outage has seen, or the last one.
        reason: Why it was lost.
        is_lost: Whether there is an outage.
    """

    def __init__(self, link: LinkName, shared: Outages, log: Log, address: str) -> None:
        self._link: LinkName = link
        self._shared = shared
        self._log = log
        self.address = address
        self.attempts = 0
        self.reason = ""
        self.is_lost = False
        self._lost_at = self._up_since = 0.0

    def up(self, address: str) -> None:
        """There is a connection, before anybody is told."""
        self.address = address
        self._up_since = time.monotonic()

    def lost(self, reason: str, *, more: str = "", is_fault: bool = False) -> None:
        """The connection has ended; *more* is what the line says of its messages, *is_fault* makes it an error."""
        self.is_lost, self.reason, self.attempts = True, reason, 0
        self._lost_at = time.monotonic()
        level = self._shared.lost(self._link)
        self._say(ERROR if is_fault else level, "lost", f" ({reason}); {more}retrying", memphis_error=reason)
        self._notify("disconnect", reason)

    def pause_s(self) -> float:
        """How long to wait before the next try."""
        down_s = time.monotonic() - self._lost_at
        return self._shared.pause_s(self._link, self.attempts, down_s, self._lost_at - self._up_since)

    def back(self, more: str = "") -> None:
        """There is a connection again."""
        self.is_lost = False
        seconds = time.monotonic() - self._lost_at
        level = self._shared.back(self._link, self.address)
        text = f" after {self.attempts} attempts in {seconds:.1f} s{more}"
        self._say(level, "reconnected to", text, memphis_seconds=round(seconds, 3))
        self._notify("reconnect", self.reason, self.attempts, seconds)

    def gave_up(self, reason: str) -> None:
        """It has ended for good, and with it the client."""
        level = ERROR if self._shared.end(self._link, reason) else DEBUG
        text = f" ({reason}) after {self.attempts} attempts; open a new client"
        self._say(level, "gave up on", text, memphis_error=reason)
        self._notify("error", reason, self.attempts, time.monotonic() - self._lost_at if self.is_lost else 0.0)

    def error(self, reason: str) -> None:
        """Something went wrong that is not an outage."""
        self._notify("error", reason)

    def _say(self, level: int, what: str, more: str, **extra: object) -> None:
        told = {"memphis_client": self._shared.label, "memphis_attempts": self.attempts, **extra}
        self._log.log(level, "%r %s %s%s", self._shared.label, what, self.address, more, extra=told)

    def _notify(self, change: Change, reason: str, attempts: int = 0, seconds: float = 0.0) -> None:
        self._shared.notify(self._link, change, self.address, reason, attempts, seconds)
