"""
Leases: a mark in a row that one copy of the service is working on something that takes several steps.

A lease names its owner's connection. Other copies wait while that connection is open, and take the work over when it is
not: the owner was probably killed. One that only lost its connection sees by the row's revision that it lost its lease.

Each copy measures the age of a lease itself, on a monotonic clock, from when it first saw the row at that revision. It
uses no time that another process wrote: clocks differ, and may be set back.
"""

from __future__ import annotations

import time
from typing import Any

from nats.aio.client import Client

from memphis_sync.broker.storage.connections import open_connections
from memphis_sync.broker.storage.tables import Row

_UNKNOWN_S = 10.0  # a lease this old is dead if the server does not say who is connected
_STUCK_S = 60.0  # a lease this old is dead even if its owner is connected: no step takes that long
_FRESH_S = 0.1  # the server is not asked about a younger lease: its owner is most likely at work
_MAX_SEEN = 1000  # leases to remember; above it, those that nobody has waited for lately are forgotten


class Leases:
    """
    The leases of one copy of the service.

    Args:
        connection: That copy's connection.
        owner: The id in that connection's name.
    """

    def __init__(self, connection: Client, owner: str) -> None:
        self._connection = connection
        self._owner = owner
        self._seen: dict[str, tuple[int, float, float]] = {}  # revision, first and last time that it was seen

    def fields(self) -> dict[str, Any]:
        """What a row has while it is leased; the time is only for people who read the row."""
        return {"owner": self._owner, "since": time.time()}

    async def is_dead(self, key: str, row: Row) -> bool:
        """
        Whether nobody works on a leased row any more; call it while holding this copy's lock of the row.

        Args:
            key: Names the row, uniquely among all tables.
            row: As it was just read.
        """
        if row.value.get("owner") == self._owner:
            return True  # this copy holds the lock and does not work on it: an earlier attempt failed half-way
        age = self._age(key, row.revision, time.monotonic())
        if age < _FRESH_S:
            return False
        connected = await open_connections(self._connection)
        if connected is None:
            return age > _UNKNOWN_S
        return row.value.get("owner") not in connected or age > _STUCK_S

    def _age(self, key: str, revision: int, now: float) -> float:
        """For how long this copy has seen the row at this revision, in seconds."""
        if key not in self._seen and len(self._seen) >= _MAX_SEEN:
            self._seen = {other: seen for other, seen in self._seen.items() if now - seen[2] < 2 * _STUCK_S}
        known, first, _ = self._seen.get(key, (0, now, now))
        if known != revision:
            first = now
        self._seen[key] = (revision, first, now)
        return now - first
