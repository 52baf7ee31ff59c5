"""
What members of a group gave back unprocessed, and what the group is owed for it (see dead_letter_stream.py).

Rules:
* Stations and groups go by their external names, groups in lower case; partitions count from 1.
* A note of what was given back never changes.
* Every change of what is owed names the revision it was made from (see tables.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Optional

from memphis_sync.broker.storage.dead_letter_stream import DeadLetterStream
from memphis_sync.broker.storage.dead_letters import DeadLetterStore
from memphis_sync.broker.storage.tables import ConflictError, key_of, name_of

_OWED_FIELDS = ("partition", "sequence", "left", "sent", "by", "is_alone", "stored")
_NOTE = re.compile(r"([0-9]+)-([0-9]+)-[0-9a-f]{16}(-kept)?\Z")  # the last token of a note's key
_NOTE_WORDS = 5  # tokens of a note's key
_NOTES = 64  # to remember: each holds a batch at most


@dataclass(frozen=True)
class Owed:
    """
    A message that its group is to get again, although JetStream has delivered it as often as it may.

    Attributes:
        id: The one that its dead letter would have.
        left: How many deliveries are owed, without the one that is under way.
        sent: When it was sent last, in seconds since 1970; 0.0 when no delivery is under way.
        by: Which copy of the service sent it, on which connection.
        is_alone: Whether it is sent alone: a member had it and did not answer, and may have died of it.
        stored: When this was written, in seconds since 1970.
        revision: The entry's revision; not stored in it.
    """

    id: int
    station: str
    group: str
    partition: int
    sequence: int
    left: int
    sent: float = 0.0
    by: str = ""
    is_alone: bool = False
    stored: float = 0.0
    revision: int = field(default=0, compare=False)

    @classmethod
    def after(cls, station: str, group: str, partition: int, sequence: int, deliveries: int, given_back: int) -> Owed:
        """What is owed to a group that had *deliveries* and gave *given_back* of them back; owe() sets the id."""
        left = min(given_back, deliveries)
        return cls(0, station, group, partition, sequence, left, is_alone=deliveries > left)

    @property
    def key(self) -> str:
        """The key of its entry."""
        return f"owed.{key_of(self.station)}.{key_of(self.group)}.{self.id}"

    @property
    def done_key(self) -> str:
        """The key that says that the group has had what it was owed."""
        return f"done.{key_of(self.station)}.{key_of(self.group)}.{self.partition}.{self.sequence}"


class GivenBackStore:
    """
    The notes of what was given back, and what is owed.

    Args:
        stream: Where they are stored.
        dead_letters: The dead letters: such a message is not owed any more.
    """

    def __init__(self, stream: DeadLetterStream, dead_letters: DeadLetterStore) -> None:
        self._stream = stream
        self._dead_letters = dead_letters
        self._notes: dict[str, list[tuple[int, int]]] = {}  # by key

    async def note_given_back(
        self,
        station: str,
        group: str,
        partition: int,
        deliveries: Sequence[tuple[int, int]],
        *,
        is_kept: bool = False,
    ) -> None:
        """
        Notes deliveries that were given back unprocessed; the same ones noted twice count once.

        Args:
            station, group, partition: Whose and where.
            deliveries: Sequence in the partition and number of the delivery, of each.
            is_kept: The member still has the messages, and may yet hand them to a handler.
        """
        body = json.dumps(sorted(deliveries), separators=(",", ":")).encode()
        first, last = min(deliveries)[0], max(deliveries)[0]
        digest = hashlib.sha256(body).hexdigest()[:16]
        name = f"{first}-{last}-{digest}{'-kept' if is_kept else ''}"
        await self._stream.write(f"back.{key_of(station)}.{key_of(group)}.{partition}.{name}", body)

    async def given_back(self, station: str, group: str, partition: int, sequence: int) -> int:
        """How many deliveries of a message the group has given back."""
        found: set[int] = set()
        for note in await self._stream.keys(f"back.{key_of(station)}.{key_of(group)}.{partition}.*"):
            span = _NOTE.match(note.rpartition(".")[2])
            if span is not None and int(span.group(1)) <= sequence <= int(span.group(2)):
                found.update(delivery for place, delivery in await self._noted(note) if place == sequence)
        return len(found)

    async def notes(self) -> dict[tuple[str, str, int], list[str]]:
        """The keys of all notes of what was given back, by station, group and partition."""
        found: dict[tuple[str, str, int], list[str]] = {}
        for note in await self._stream.keys("back.>"):
            words = note.split(".")
            if len(words) == _NOTE_WORDS and words[3].isdecimal() and _NOTE.match(words[-1]):
                found.setdefault((name_of(words[1]), name_of(words[2]), int(words[3])), []).append(note)
        return found

    async def undecided(
        self, station: str, group: str, partition: int, notes: Sequence[str], deliveries: int
    ) -> dict[int, tuple[int, int]]:
        """
        Messages that the group gave back at the last delivery and did not keep, and that are not decided yet: they are
        not owed, never were, and are not dead letters.

        Args:
            station, group, partition: Whose and where.
            notes: The keys of all its notes.
            deliveries: How often the group may get a message.

        Returns:
            By sequence: the number of the last delivery, and how many deliveries were given back.
        """
        key = key_of(station)
        done = _sequences(await self._stream.keys(f"done.{key}.{key_of(group)}.{partition}.*"))
        back: dict[int, set[int]] = {}
        last: dict[int, int] = {}
        for note in notes:
            name = _NOTE.match(note.rpartition(".")[2])
            is_kept = name is None or bool(name.group(3))
            for sequence, delivery in await self._noted(note):
                if sequence not in done:
                    back.setdefault(sequence, set()).add(delivery)
                    if delivery >= deliveries and not is_kept:
                        last[sequence] = max(delivery, last.get(sequence, 0))
        found = {sequence: (delivery, len(back[sequence])) for sequence, delivery in last.items()}
        known = _sequences(await self._stream.keys(f"at.{key}.{partition}.*")) if found else set()
        for sequence in known & found.keys():
            if await self._is_decided(station, group, f"{partition}.{sequence}"):
                del found[sequence]
        return found

    async def _is_decided(self, station: str, group: str, place: str) -> bool:
        found = await self._stream.place(station, place)
        if found is None:
            return False
        letter = await self._dead_letters.find(station, place)
        return (letter is not None and group in letter.groups) or await self.owed(station, group, found.id) is not None

    async def _noted(self, note: str) -> list[tuple[int, int]]:
        """What a note says; remembered, for a burst of messages asks for the same note."""
        known = self._notes.get(note)
        if known is None:
            message = await self._stream.last(note)
            try:
                text = b"[]" if message is None else message.payload
                known = [(int(place), int(delivery)) for place, delivery in json.loads(text)]
            except (ValueError, TypeError):  # somebody else wrote it
                known = []
            if len(self._notes) >= _NOTES:
                self._notes.clear()
            self._notes[note] = known
        return known

    async def owe(self, owed: Owed) -> None:
        """Writes that a message is owed, unless it is or was already; the id of *owed* is ignored."""
        if await self._stream.last(owed.done_key) is not None:
            return
        place, _ = await self._stream.take_place(owed.station, f"{owed.partition}.{owed.sequence}")
        with contextlib.suppress(ConflictError):
            await self.update_owed(replace(owed, id=place.id, revision=0))

    async def owed(self, station: str, group: str, dead_letter_id: int) -> Optional[Owed]:
        """The entry of a message that is owed; None when it is not owed, or not any more."""
        name = Owed(dead_letter_id, station, group, 0, 0, 0)
        message = await self._stream.last(name.key)
        if message is None:
            return None
        value = json.loads(message.payload)
        return replace(name, **{key: value[key] for key in _OWED_FIELDS if key in value}, revision=message.sequence)

    async def all_owed(self, pattern: str = "*.*.*") -> list[tuple[str, str, int]]:
        """Station, group and id of all messages that are owed; *pattern* has a token for each of the three."""
        found = (key.split(".")[1:] for key in await self._stream.keys(f"owed.{pattern}"))
        return [
            (name_of(station), name_of(group), int(number)) for station, group, number in found if number.isdecimal()
        ]

    async def update_owed(self, owed: Owed) -> Owed:
        """
        Writes an entry that was changed since it was read.

        Raises:
            ConflictError: Somebody else changed it meanwhile.
        """
        owed = replace(owed, stored=time.time())
        body = json.dumps({key: getattr(owed, key) for key in _OWED_FIELDS}, separators=(",", ":")).encode()
        return replace(owed, revision=await self._stream.write(owed.key, body, expected=owed.revision))

    async def renew_owed(self, owed: Owed) -> Owed:
        """Writes an entry again when it is old, so that the stream does not expire it."""
        return await self.update_owed(owed) if self._stream.is_old(owed.stored) else owed

    async def settle_owed(self, owed: Owed) -> None:
        """Removes the entry of a message that is done, or cannot be delivered any more."""
        await self._stream.purge(owed.key)

    async def finish_owed(self, owed: Owed) -> None:
        """Writes that the group has had what it was owed: the message was acknowledged, or is a dead letter."""
        await self._stream.write(owed.done_key, b"")
        await self.settle_owed(owed)

    async def answer_owed(self, group: str, dead_letter_id: int) -> None:
        """Finishes a message that a member is done with; does nothing when it is not owed."""
        for station, *_ in await self.all_owed(f"*.{key_of(group)}.{dead_letter_id}"):
            owed = await self.owed(station, group, dead_letter_id)
            if owed is not None:
                await self.finish_owed(owed)

    async def answer_owed_place(self, station: str, group: str, place: str) -> None:
        """The same for the message at a place."""
        found = await self._stream.place(station, place)
        if found is not None:
            await self.answer_owed(group, found.id)

    async def forget_given_back(self, station: str, group: str) -> None:
        """Removes what a deleted group gave back, and what it is owed."""
        await asyncio.gather(
            *(self._stream.purge(f"{kind}.{key_of(station)}.{key_of(group)}.>") for kind in ("back", "owed", "done"))
        )

    # ---- all of a station -------------------------------------------------------------------------------------------

    async def purge(self, station: str) -> None:
        """Removes all entries of a station, dead letters included."""
        await self._stream.purge(f"*.{key_of(station)}.>")

    async def forget_places(self, station: str, partitions: Collection[int]) -> None:
        """
        Forgets the messages of some partitions: they were lost, and others will get their sequences. Their dead letters
        stay, but no longer belong to a sequence; what is owed of them cannot be delivered.
        """
        key = key_of(station)
        for _, group, dead_letter_id in await self.all_owed(f"{key}.*.*"):
            owed = await self.owed(station, group, dead_letter_id)
            if owed is not None and owed.partition in partitions:
                await self.settle_owed(owed)
        for partition in partitions:
            await self._stream.purge(f"at.{key}.{partition}.*")
            await self._stream.purge(f"back.{key}.*.{partition}.*")
            await self._stream.purge(f"done.{key}.*.{partition}.*")


def _sequences(keys: Sequence[str]) -> set[int]:
    """The sequences at the end of keys."""
    words = (key.rpartition(".")[2] for key in keys)
    return {int(word) for word in words if word.isdecimal()}
