"""
Slows down whoever guesses passwords: failed logins are counted for the user, the client's address, and both together.

An attempt counts from its beginning, so that many at once are not free, and is taken back when it did not fail by its
password. The table is bounded: the entry that was touched least recently makes room.
"""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Callable

WINDOW_S = 300.0  # after the first failure the count begins anew
MAX_ENTRIES = 10_000  # about 2 MiB
# Failures within the window. A person mistypes a few times; an office behind one address has many of them; and a user
# who is attacked from everywhere must still find the door open most of the time.
PAIR, ADDRESS, USER = 5, 20, 50


@dataclass
class _Count:
    since: float
    failures: int = 0


class Throttle:
    """
    Counts failed logins.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counts: OrderedDict[str, _Count] = OrderedDict()

    def begin(self, address: str, user: str) -> float:
        """
        Counts an attempt, unless there were too many.

        Returns:
            0, or in how many seconds the next attempt is allowed: this one must not be made then.
        """
        now = self._clock()
        keys = _keys(address, user)
        waits = [
            WINDOW_S - (now - count.since)
            for key, most in keys.items()
            if (count := self._at(key, now)).failures >= most
        ]
        if waits:
            return max(waits)
        for key in keys:
            self._at(key, now).failures += 1
        return 0.0

    def take_back(self, address: str, user: str) -> None:
        """The attempt has not failed by its password: it does not count."""
        for key in _keys(address, user):
            count = self._counts.get(key)
            if count is not None and count.failures:
                count.failures -= 1

    def __len__(self) -> int:
        return len(self._counts)

    def _at(self, key: str, now: float) -> _Count:
        count = self._counts.get(key)
        if count is None or now - count.since >= WINDOW_S:
            count = self._counts[key] = _Count(now)
        self._counts.move_to_end(key)
        while len(self._counts) > MAX_ENTRIES:
            self._counts.popitem(last=False)
        return count


def _keys(address: str, user: str) -> dict[str, int]:
    """The counted keys with their limits. A name is cut: it may be as long as a request's body."""
    network, user = _network(address), user.lower()[:128]
    return {f"pair {network} {user}": PAIR, f"address {network}": ADDRESS, f"user {user}": USER}


def _network(address: str) -> str:
    """An IPv6 client has a whole /64 of addresses to itself."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False)) if parsed.version == 6 else str(parsed)
