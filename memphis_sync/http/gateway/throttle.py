"""
Slows down whoever guesses passwords: failed logins are counted for the user, the client's address, and both together.

Attempts that are under way count like failures, so that many at once are not free; but those beyond the limit wait for
their outcome, so that many at once with the right password succeed. The table is bounded: the entry that was touched
least recently makes room.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Callable

from memphis_sync.errors import AuthenticationError

from .errors import Problem, busy

WINDOW_S = 300.0  # after the first failure the count begins anew
WAIT_S = 15.0  # how long an attempt waits for others that are under way
MAX_ENTRIES = 10_000  # about 2 MiB
# Failures within the window. A person mistypes a few times; an office or a proxy is many clients with one address; and
# a user who is attacked from everywhere must still find the door open most of the time.
PAIR, ADDRESS, USER = 5, 100, 50


class TooManyLogins(Problem):
    """
    429: too many logins have failed.

    Args:
        wait_s: In how many seconds the next attempt is allowed.
    """

    def __init__(self, wait_s: float) -> None:
        seconds = math.ceil(wait_s)
        text = f"Too many logins have failed; the next attempt is possible in {seconds} s"
        super().__init__(429, {"message": text}, {"retry-after": str(seconds)})
        self.wait_s = wait_s


@dataclass
class _Count:
    since: float
    failures: int = 0
    under_way: int = 0


class Throttle:
    """
    Counts failed logins. It belongs to the event loop's thread.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counts: OrderedDict[str, _Count] = OrderedDict()
        self._waiting: list[asyncio.Future[None]] = []

    @contextlib.asynccontextmanager
    async def attempt(self, account: int, user: str, address: str) -> AsyncIterator[None]:
        """
        Around one login, which has failed when it raises an AuthenticationError.

        Raises:
            TooManyLogins: It must not be tried now.
            Problem: 503, others that are under way have no outcome yet.
        """
        keys = _keys(account, user, address)
        until = self._clock() + WAIT_S
        while not self._may_begin(keys):
            left_s = until - self._clock()
            if left_s <= 0:
                raise busy("the broker has not answered to other logins of this user or address yet")
            ended = asyncio.get_running_loop().create_future()
            self._waiting.append(ended)
            await asyncio.wait([ended], timeout=left_s)
        counts = [self._at(key) for key in keys]
        for count in counts:
            count.under_way += 1
        try:
            yield
        except AuthenticationError:
            for key in keys:
                self._at(key).failures += 1
            raise
        finally:
            for count in counts:
                count.under_way -= 1
            for ended in self._waiting:
                if not ended.done():
                    ended.set_result(None)
            self._waiting.clear()

    def __len__(self) -> int:
        return len(self._counts)

    def _may_begin(self, keys: dict[str, int]) -> bool:
        """False: others that are under way may fail. TooManyLogins: others have failed."""
        counts = [(self._at(key), most) for key, most in keys.items()]
        waits = [WINDOW_S - (self._clock() - count.since) for count, most in counts if count.failures >= most]
        if waits:
            raise TooManyLogins(max(waits))
        return all(count.failures + count.under_way < most for count, most in counts)

    def _at(self, key: str) -> _Count:
        now, count = self._clock(), self._counts.get(key)
        if count is None or now - count.since >= WINDOW_S:
            count = self._counts[key] = _Count(now)
        self._counts.move_to_end(key)
        while len(self._counts) > MAX_ENTRIES:
            self._counts.popitem(last=False)
        return count


def _keys(account: int, user: str, address: str) -> dict[str, int]:
    """The counted keys with their limits. A name is cut: it may be as long as a request's body."""
    network, user = _network(address), f"{account} {user.lower()[:128]}"
    return {f"pair {network} {user}": PAIR, f"address {network}": ADDRESS, f"user {user}": USER}


def _network(address: str) -> str:
    """An IPv6 client has a whole /64 of addresses to itself."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False)) if parsed.version == 6 else str(parsed)
