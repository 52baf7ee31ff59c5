"""
All rows of a table in memory, for those who look at all of them again and again.

Nothing is ever out of date: each look asks for the table's keys and last sequence, which is one request, and reads what
was written since the last look. What a request has changed is seen by every look that begins after its reply.
"""

from __future__ import annotations

import asyncio

from memphis_sync.broker.storage.jetstream_api import in_steps
from memphis_sync.broker.storage.tables import Row, Table

_AT_ONCE = 64
_MOST_CHANGES = 256  # that are read one by one; beyond as many as there are rows, all rows are read again
_ROUNDS = 3  # while rows are written during a look


class RowCache:
    """
    The rows of one table.

    Args:
        table: The table.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        self._rows: dict[str, Row] = {}
        self._last = 0  # all rows up to this sequence are known
        self._lock = asyncio.Lock()

    async def rows(self) -> dict[str, Row]:
        """The rows by key, in alphabetical order."""
        async with self._lock:
            for _ in range(_ROUNDS):
                keys, last = await self._table.keys_and_last()
                if await self._catch_up(last, len(keys)):
                    break
            unknown = [key for key in keys if key not in self._rows]
            for key, row in zip(unknown, await in_steps(self._table.get, unknown, _AT_ONCE)):
                if row is not None:
                    self._rows[key] = row
            self._rows = {key: self._rows[key] for key in keys if key in self._rows}
            return dict(self._rows)

    async def _catch_up(self, last: int, count: int) -> bool:
        """Reads what was written up to a sequence; False when some of it is gone: it was deleted, or written again."""
        if last < self._last or last - self._last > max(count, _MOST_CHANGES):
            self._rows, self._last = {}, last  # they are read by their keys
            return True
        first, self._last = self._last + 1, last
        found = await in_steps(self._table.at, range(first, last + 1), _AT_ONCE)
        for change in found:
            if change is not None and change[1] is not None:
                self._rows[change[0]] = change[1]
        return None not in found
