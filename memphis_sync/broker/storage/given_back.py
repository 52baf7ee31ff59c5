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
_NOTE = re.compile(r"([0-9]+)-([0-9]+)-[0-9a-f]{16}(-kept)?\Z")  # the last word of what was given back
_NOTE_WORDS = 5  # of its key
_NOTES = 64  # of what was given back, to remember: each holds a batch at most


@dataclass(frozen=True)
class Owed:
    """
    A message that its group is to get again, although JetStream has delivered it as often as it may.

    Attributes:
        id: The one that its dead letter would have.
        left: How many deliveries are owed; the one that is under way not counted.
        sent: When it was sent last, in seconds since 1970; 0.0 when no delivery is under way.
        by: Who sent it.
        is_alone: Whether it was with a member that did not answer: it may be what the member died with.
        stored: When this was written, in seconds since 1970.
        revision: Of the entry; not a part of it.
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
        """What a group is owed that has had so many deliveries, and gave so many back; its id is given by owe()."""
        left = min(given_back, deliveries)
        return cls(0, station, group, partition, sequence, left, is_alone=deliveries > left)

    @property
    def key(self) -> str:
        """Where it is kept."""
        return f"owed.{key_of(self.station)}.{key_of(self.group)}.{self.id}"

    @property
    def done_key(self) -> str:
        """Where it is kept that the group has had what it was owed."""
        return f"done.{key_of(self.station)}.{key_of(self.group)}.{self.partition}.{self.sequence}"


class GivenBackStore:
    """
    The notes of what was given back, and what is owed.

    Args:
        stream: Where they are.
        dead_letters: What is owed to nobody, because it is one.
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
        Notes deliveries that nobody has looked at; the same ones twice count once.

        Args:
            station, group, partition: Whose and where.
            deliveries: Place in the partition, and which delivery it was.
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
        """Where it is noted what was given back: by station, group and partition."""
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
        Messages that the group gave back at the last delivery and did not keep, and of which nothing else is written:
        neither that they are owed, nor that they were, nor that they are dead letters.

        Args:
            station, group, partition: Whose and where.
            notes: Where it is noted, all of it.
            deliveries: How often the group may have a message.

        Returns:
            Places in the partition, which delivery was the last, and how many were given back.
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
        """What a note says; a wave of messages asks for the same one."""
        known = self._notes.get(note)
        if known is None:
            message = await self._stream.last(note)
            try:
                text = b"[]" if message is None else message.payload
                known = [(int(place), int(delivery)) for place, delivery in json.loads(text)]
            except (ValueError, TypeError):  # somebody else has written it
                known = []
            if len(self._notes) >= _NOTES:
                self._notes.clear()
            self._notes[note] = known
        return known

    async def owe(self, owed: Owed) -> None:
        """Writes that a message is owed; *owed* with any id. Nothing changes when that is written already."""
        if await self._stream.last(owed.done_key) is not None:
            return
        place, _ = await self._stream.take_place(owed.station, f"{owed.partition}.{owed.sequence}")
        with contextlib.suppress(ConflictError):
            await self.update_owed(replace(owed, id=place.id, revision=0))

    async def owed(self, station: str, group: str, dead_letter_id: int) -> Optional[Owed]:
        """What is written of a message that is owed; None when nothing is, or not any more."""
        name = Owed(dead_letter_id, station, group, 0, 0, 0)
        message = await self._stream.last(name.key)
        if message is None:
            return None
        value = json.loads(message.payload)
        return replace(name, **{key: value[key] for key in _OWED_FIELDS if key in value}, revision=message.sequence)

    async def all_owed(self, pattern: str = "*.*.*") -> list[tuple[str, str, int]]:
        """Station, group and id of all messages that are owed; *pattern* stands for keys of the three."""
        found = (key.split(".")[1:] for key in await self._stream.keys(f"owed.{pattern}"))
        return [
            (name_of(station), name_of(group), int(number)) for station, group, number in found if number.isdecimal()
        ]

    async def update_owed(self, owed: Owed) -> Owed:
        """
        Writes what has changed since it was read.

        Raises:
            ConflictError: Somebody else changed it meanwhile.
        """
        owed = replace(owed, stored=time.time())
        body = json.dumps({key: getattr(owed, key) for key in _OWED_FIELDS}, separators=(",", ":")).encode()
        return replace(owed, revision=await self._stream.write(owed.key, body, expected=owed.revision))

    async def renew_owed(self, owed: Owed) -> Owed:
        """Writes it again when it is so old that the stream would soon forget it."""
        return await self.update_owed(owed) if self._stream.is_old(owed.stored) else owed

    async def settle_owed(self, owed: Owed) -> None:
        """A message is owed no more: it is gone, or somebody wrote that it is done."""
        await self._stream.purge(owed.key)

    async def finish_owed(self, owed: Owed) -> None:
        """The group has had what it was owed: the message is answered, or a dead letter."""
        await self._stream.write(owed.done_key, b"")
        await self.settle_owed(owed)

    async def answer_owed(self, group: str, dead_letter_id: int) -> None:
        """A member has answered a message; nothing happens when it is not owed."""
        for station, *_ in await self.all_owed(f"*.{key_of(group)}.{dead_letter_id}"):
            owed = await self.owed(station, group, dead_letter_id)
            if owed is not None:
                await self.finish_owed(owed)

    async def answer_owed_place(self, station: str, group: str, place: str) -> None:
        """The same for the message that a place stands for."""
        found = await self._stream.place(station, place)
        if found is not None:
            await self.answer_owed(group, found.id)

    async def forget_given_back(self, station: str, group: str) -> None:
        """A group is gone, and with it what it gave back and is owed."""
        await asyncio.gather(
            *(self._stream.purge(f"{kind}.{key_of(station)}.{key_of(group)}.>") for kind in ("back", "owed", "done"))
        )

    # ---- a station's ------------------------------------------------------------------------------------------------

    async def purge(self, station: str) -> None:
        """Removes all of a station, its dead letters as well."""
        await self._stream.purge(f"*.{key_of(station)}.>")

    async def forget_places(self, station: str, partitions: Collection[int]) -> None:
        """
        The messages of some partitions are gone, and others will have their sequences. Their dead letters stay, but
        stand for no sequence any more; what is owed of them cannot be given.
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
    """The places that stand at the end of keys."""
    words = (key.rpartition(".")[2] for key in keys)
    return {int(word) for word in words if word.isdecimal()}
