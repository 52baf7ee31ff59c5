"""
Removes the rows of clients that ended without destroying them, for instance killed processes.

A row is removed when its connection has been closed for KEEP_S without a break. One member of each group stays, so that
a group that nobody has used for a while is still known.
"""

from __future__ import annotations

import asyncio
import logging
import time

from nats.aio.client import Client

from memphis_sync.broker.storage.connections import open_connection_keys
from memphis_sync.broker.storage.tables import State

log = logging.getLogger("memphis_sync.broker")

INTERVAL_S = 15 * 60.0
KEEP_S = 24 * 60 * 60.0


class Expiry:
    """What one copy of the service has seen so far; several copies may do the same work."""

    def __init__(self, connection: Client, state: State) -> None:
        self._connection = connection
        self._state = state
        self._closed_since: dict[str, float] = {}

    async def run(self) -> None:
        """Sweeps until it is cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            try:
                await self.sweep(time.monotonic())
            except Exception:  # the server may be away; the next round tries again
                log.warning("rows of closed connections could not be removed now", exc_info=True)

    async def sweep(self, now: float) -> int:
        """
        One round.

        Args:
            now: Seconds on a clock that only goes forward.

        Returns:
            How many rows were removed.
        """
        open_keys = await open_connection_keys(self._connection)
        if open_keys is None:
            return 0
        producers = await self._state.producers.keys(">")  # <station>.<connection>.<producer>
        members = await self._state.members.keys(">")  # <station>.<group>.<connection>.<consumer>.<unique>
        old_producers = [key for key in producers if self._is_old("p" + key, key.split(".")[1], open_keys, now)]
        old_members = [key for key in members if self._is_old("m" + key, key.split(".")[2], open_keys, now)]
        kept = {group_of(key) for key in set(members) - set(old_members)}
        gone = [(self._state.producers, key) for key in old_producers]
        for key in old_members:
            if group_of(key) in kept:
                gone.append((self._state.members, key))
            kept.add(group_of(key))
        for table, key in gone:
            await table.purge(key)
        known = {"p" + key for key in producers} | {"m" + key for key in members}
        self._closed_since = {key: since for key, since in self._closed_since.items() if key in known}
        return len(gone)

    def _is_old(self, row: str, connection: str, open_keys: set[str], now: float) -> bool:
        if connection in open_keys:
            self._closed_since.pop(row, None)
            return False
        return now - self._closed_since.setdefault(row, now) >= KEEP_S


def group_of(member: str) -> str:
    """The part of a member's key that names its group."""
    return member.rsplit(".", 3)[0]
