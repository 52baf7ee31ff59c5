"""
Dead letters as the broker stores them: one row each, and its data (see dead_letter_stream.py).

Rules:
* ``at``, ``data`` and ``row`` are written in this order, and each step can be repeated: what a copy of the service
  leaves when it dies in between, the next attempt completes. A live row is never without its data.
* Every change of a row names the revision it was made from (see tables.py). A row is marked as dropped before its parts
  are removed, so whoever finds it half-way finishes the removal and starts anew, instead of adding to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Optional

from memphis_sync._protocol.dead_letters import DeadLetterType
from memphis_sync.broker.storage.dead_letter_stream import DeadLetterStream
from memphis_sync.broker.storage.tables import ConflictError, key_of, name_of


@dataclass(frozen=True)
class DeadLetterRecord:
    """
    A dead letter's row; fields that DeadLetterRow also has mean the same.

    Attributes:
        place: The message's place in the keys of ``at``.
        groups: When each group was added, in seconds since 1970.
        at: Sequence of the ``at`` message.
        stored: When the data was written, in seconds since 1970.
        is_copied: Whether the dead-letter station got its copy, or can get none.
        is_dropped: Whether it is being removed.
        revision: The row's revision; not stored in it.
    """

    id: int
    station: str
    type: DeadLetterType
    place: str
    partition: int
    sequence: int
    producer: str
    groups: dict[str, float]
    error: str
    time_ns: int
    size: int
    header_bytes: int
    at: int = 0
    stored: float = 0.0
    is_copied: bool = False
    is_dropped: bool = False
    revision: int = field(default=0, compare=False)


_STORED_FIELDS = frozenset(item.name for item in fields(DeadLetterRecord)) - {"revision"}


class DeadLetterStore:
    """
    The dead letters of all stations.

    Args:
        stream: Where they are stored.
    """

    def __init__(self, stream: DeadLetterStream) -> None:
        self._stream = stream

    # ---- one dead letter --------------------------------------------------------------------------------------------

    async def find(self, station: str, place: str) -> Optional[DeadLetterRecord]:
        """The dead letter of a message; None when there is none."""
        found = await self._stream.place(station, place)
        row = None if found is None else await self.get(station, found.id)
        return row if row is None or self._is_live(row) else None

    async def get(self, station: str, dead_letter_id: int) -> Optional[DeadLetterRecord]:
        """A row, whatever its state; None when there is none."""
        message = await self._stream.last(f"row.{key_of(station)}.{dead_letter_id}")
        if message is None:
            return None
        row = {key: value for key, value in json.loads(message.payload).items() if key in _STORED_FIELDS}
        return DeadLetterRecord(**row, revision=message.sequence)

    async def find_by_id(self, dead_letter_id: int) -> Optional[DeadLetterRecord]:
        """A dead letter by its id alone, as acknowledgements name it; None when there is none."""
        for key in await self._stream.keys(f"row.*.{dead_letter_id}"):
            row = await self.get(name_of(key.split(".")[1]), dead_letter_id)
            if row is not None and self._is_live(row):
                return row
        return None

    async def put(self, letter: DeadLetterRecord, data: bytes) -> DeadLetterRecord:
        """
        Stores a dead letter, or adds its groups and reason to the one that its message already has.

        Args:
            letter: The dead letter; its id is ignored.
            data: Header block and payload.

        Returns:
            The row as it is now.
        """
        while True:
            try:
                return await self._put(letter, data)
            except ConflictError:  # somebody else was faster: look again
                await asyncio.sleep(0)

    async def add(
        self, row: DeadLetterRecord, letter: DeadLetterRecord, data: Optional[bytes] = None
    ) -> DeadLetterRecord:
        """
        Adds the groups and the reason of *letter* to a row.

        Args:
            row: As it was read.
            letter: Has the groups and the reason.
            data: Header block and payload, if the caller has them.

        Raises:
            ConflictError: The row was changed meanwhile.
        """
        new = {group: since for group, since in letter.groups.items() if group not in row.groups}
        merged = replace(row, groups={**row.groups, **new}, error=row.error or letter.error)
        if merged == row:
            return row
        if self._stream.is_old(row.stored):
            merged = await self._renew(merged, data)
        return await self._update(merged)

    async def mark_copied(self, row: DeadLetterRecord) -> None:
        """Notes that the dead-letter station has its copy."""
        # If the row was changed meanwhile, the copy may be sent once more, with the same message id.
        with contextlib.suppress(ConflictError):
            await self._update(replace(row, is_copied=True))

    async def data(self, row: DeadLetterRecord) -> Optional[bytes]:
        """Header block and payload; None when they were removed meanwhile."""
        return await self._stream.any_last(f"data.{key_of(row.station)}.{row.id}")

    async def remove_group(
        self, row: Optional[DeadLetterRecord], group: str, *, drop_empty: bool, before: float
    ) -> None:
        """
        Removes a group that has acknowledged a dead letter, or was deleted.

        Args:
            row: As it was read.
            group: External name, in lower case.
            drop_empty: Whether the dead letter is removed with its last group.
            before: A group that was added later stays; seconds since 1970.
        """
        while row is not None and self._is_live(row):
            groups = {name: since for name, since in row.groups.items() if name != group or since > before}
            if len(groups) == len(row.groups):
                return
            try:
                if groups or not drop_empty:
                    await self._update(replace(row, groups=groups))
                else:
                    await self._remove(row)
                return
            except ConflictError:
                row = await self.get(row.station, row.id)

    async def drop(self, row: Optional[DeadLetterRecord]) -> bool:
        """
        Removes a dead letter.

        Returns:
            Whether this call removed it.
        """
        while row is not None and not row.is_dropped:
            try:
                await self._remove(row)
                return True
            except ConflictError:
                row = await self.get(row.station, row.id)
        return False

    # ---- all of a station -------------------------------------------------------------------------------------------

    async def ids(self, station: str) -> list[int]:
        """The ids of a station's dead letters, ascending; some may be removed before they are read."""
        return sorted(int(key.rpartition(".")[2]) for key in await self._stream.keys(f"row.{key_of(station)}.*"))

    async def rows(self, station: str, ids: list[int]) -> list[DeadLetterRecord]:
        """The live rows of these ids, in the same order."""
        found = await asyncio.gather(*(self.get(station, dead_letter_id) for dead_letter_id in ids))
        return [row for row in found if row is not None and self._is_live(row)]

    # ---- steps ------------------------------------------------------------------------------------------------------

    async def _put(self, letter: DeadLetterRecord, data: bytes) -> DeadLetterRecord:
        place, is_new = await self._stream.take_place(letter.station, letter.place)
        row = None if is_new else await self.get(letter.station, place.id)
        if row is not None and not self._is_live(row):
            await self._remove(replace(row, at=place.at))
            raise ConflictError(letter.place)
        if row is not None:
            return await self.add(row, letter, data)
        await self._stream.write(f"data.{key_of(letter.station)}.{place.id}", data)
        return await self._update(replace(letter, id=place.id, at=place.at, stored=time.time(), revision=0))

    async def _renew(self, row: DeadLetterRecord, data: Optional[bytes]) -> DeadLetterRecord:
        """Writes everything but the row again, so that it does not expire before the row."""
        if data is None:
            data = await self.data(row)
        if data is None:
            return row
        key = key_of(row.station)
        await self._stream.write(f"data.{key}.{row.id}", data)
        await self._stream.purge(f"data.{key}.{row.id}", keep=1)
        at = await self._stream.write(f"at.{key}.{row.place}", str(row.id).encode(), expected=row.at)
        return replace(row, at=at, stored=time.time())

    async def _remove(self, row: DeadLetterRecord) -> None:
        marked = row if row.is_dropped else await self._update(replace(row, is_dropped=True))
        key = key_of(row.station)
        await asyncio.gather(
            self._stream.purge(
                f"at.{key}.{row.place}", seq=marked.at + 1
            ),  # a later one belongs to another dead letter
            self._stream.purge(f"data.{key}.{row.id}"),
        )
        await self._stream.purge(f"row.{key}.{row.id}")

    def _is_live(self, row: DeadLetterRecord) -> bool:
        return not row.is_dropped and not self._stream.is_over(row.stored)

    async def _update(self, row: DeadLetterRecord) -> DeadLetterRecord:
        value = {key: value for key, value in asdict(row).items() if key in _STORED_FIELDS}
        body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        key = f"row.{key_of(row.station)}.{row.id}"
        return replace(row, revision=await self._stream.write(key, body, expected=row.revision))
