"""
Where dead letters are kept: one JetStream stream, whose subjects are the keys.

    memphis_dead_letters.at.<station>.<place>   which dead letter a message is: one for each partition and sequence
    memphis_dead_letters.data.<station>.<id>    header block and payload, byte for byte: no larger than the message was
    memphis_dead_letters.row.<station>.<id>     all the rest, as JSON
    memphis_dead_letters.back.<station>.<group>.<partition>.<first>-<last>-<digest>
                                                deliveries that a member gave back without having looked at them; with
                                                ``-kept`` at the end it told of them, and still has the messages
    memphis_dead_letters.owed.<station>.<group>.<id>
                                                a message that is no dead letter yet: its group is owed deliveries
    memphis_dead_letters.done.<station>.<group>.<partition>.<sequence>
                                                it was owed, and is answered or a dead letter: what says that it is
                                                owed may come again, and its dead letter may be gone by then

Rules:
* The id is the sequence that ``at`` got when it was written first: it goes up for ever, and is never used again for
  another message. Who writes ``at`` first wins; the others add to the row they find.
* ``at``, ``data``, ``row``, in this order, and each step can be repeated: a copy of the service that dies in between
  leaves what the next try completes. A row is never there without its data.
* Every change of a row names the revision it was made from (see tables.py). A row is marked as dropped before its parts
  go, so whoever meets it half-way finishes the removal and starts anew, instead of adding to something that goes.
* Nothing is replaced by a limit on messages of a subject: such a removal isn't written to disk, and when nats-server is
  killed after the replacement was deleted, the replaced message is there again. What is removed is purged by name.
* The stream's age limit removes what nobody asked for. It counts from when the data was written; a group that comes
  late renews it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import re
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Optional

from nats.aio.client import Client
from nats.errors import NoRespondersError
from nats.js import JetStreamContext
from nats.js.errors import APIError

from memphis_sync._protocol.dead_letters import DeadLetterType
from memphis_sync.broker.storage.jetstream_api import JetStreamApi, JetStreamError
from memphis_sync.broker.storage.tables import WRONG_LAST_SEQUENCE, ConflictError, key_of, name_of

STREAM = "memphis_dead_letters"
_NO_MESSAGE = (10037, 10043)  # not found; the sequence is beyond what the stream has
_NS_PER_S = 1_000_000_000
_MARGIN_S = 60  # the stream keeps everything a little longer than the rows count, so that no row is without data
_OWED_FIELDS = ("partition", "sequence", "left", "sent", "by", "is_alone", "stored")
_NOTE = re.compile(r"([0-9]+)-([0-9]+)-[0-9a-f]{16}(-kept)?\Z")  # the last word of what was given back
_NOTE_WORDS = 6  # of its subject
_NOTES = 64  # of what was given back, to remember: each holds a batch at most
_RENEW = 1 / 6  # of the retention: a group that comes later than that writes the data again


@dataclass(frozen=True)
class DeadLetterRecord:
    """
    A dead letter's row.

    Attributes:
        place: What stands for the message in ``at``.
        groups: When each group was added, in seconds since 1970.
        time_ns: When the station had stored the message, or the report came in.
        size: Bytes of headers and payload.
        header_bytes: How many of them are the header block.
        at: Sequence of the ``at`` message.
        stored: When the data was written, in seconds since 1970.
        is_copied: Whether the dead-letter station has its copy, or needs none.
        is_dropped: Whether it is being removed.
        revision: Of the row; not a part of it.
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
    def subject(self) -> str:
        """Where it is kept."""
        return f"{STREAM}.owed.{key_of(self.station)}.{key_of(self.group)}.{self.id}"

    @property
    def done_subject(self) -> str:
        """Where it is kept that the group has had what it was owed."""
        return f"{STREAM}.done.{key_of(self.station)}.{key_of(self.group)}.{self.partition}.{self.sequence}"


class DeadLetterStore:
    """
    The dead letters of all stations.

    Args:
        connection: The service's connection.
        replicas: Copies in a cluster.
        retention_s: How long a dead letter is kept.
    """

    def __init__(self, connection: Client, replicas: int, retention_s: float) -> None:
        self._connection = connection
        self._js: JetStreamContext = connection.jetstream()
        self._api = JetStreamApi(connection)  # with slots of its own: a wave of dead letters delays no creation
        self._replicas = replicas
        self._retention_s = retention_s
        self._notes: dict[str, list[tuple[int, int]]] = {}  # by subject

    async def open(self) -> None:
        """Makes the stream, or gives the one that is there the present retention."""
        config = {
            "name": STREAM,
            "subjects": [f"{STREAM}.>"],
            "retention": "limits",
            "max_msgs_per_subject": -1,
            "max_age": int((self._retention_s + _MARGIN_S) * _NS_PER_S),
            "discard": "old",
            "storage": "file",
            "num_replicas": self._replicas,
            "allow_direct": True,
            "duplicate_window": _NS_PER_S,
        }
        await self._api.ensure_stream(config)

    # ---- one dead letter --------------------------------------------------------------------------------------------

    async def find(self, station: str, place: str) -> Optional[DeadLetterRecord]:
        """The dead letter of a message; None when there is none."""
        found = await self._at(station, place)
        row = None if found is None else await self.get(station, found[0])
        return row if row is None or self._is_live(row) else None

    async def get(self, station: str, dead_letter_id: int) -> Optional[DeadLetterRecord]:
        """A row, whatever its state; None when there is none."""
        message = await self._last(f"{STREAM}.row.{key_of(station)}.{dead_letter_id}")
        if message is None:
            return None
        row = {key: value for key, value in json.loads(_body(message)).items() if key in _STORED_FIELDS}
        return DeadLetterRecord(**row, revision=message["seq"])

    async def find_by_id(self, dead_letter_id: int) -> Optional[DeadLetterRecord]:
        """A row of which only the id is known, as in acknowledgements."""
        for subject in await self._subjects(f"{STREAM}.row.*.{dead_letter_id}"):
            row = await self.get(name_of(subject.split(".")[2]), dead_letter_id)
            if row is not None and self._is_live(row):
                return row
        return None

    async def put(self, letter: DeadLetterRecord, data: bytes) -> DeadLetterRecord:
        """
        Keeps a dead letter, or adds its groups and reason to the one of the same message.

        Args:
            letter: With any id.
            data: Header block and payload.

        Returns:
            The row as it now is.
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
            letter: What is new.
            data: Header block and payload, when they are at hand.

        Raises:
            ConflictError: The row was changed meanwhile.
        """
        new = {group: since for group, since in letter.groups.items() if group not in row.groups}
        merged = replace(row, groups={**row.groups, **new}, error=row.error or letter.error)
        if merged == row:
            return row
        if time.time() - row.stored > self._retention_s * _RENEW:
            merged = await self._renew(merged, data)
        return await self._update(merged)

    async def mark_copied(self, row: DeadLetterRecord) -> None:
        """Notes that the dead-letter station has its copy."""
        # If it was changed meanwhile, a copy of the same message id may be sent once more.
        with contextlib.suppress(ConflictError):
            await self._update(replace(row, is_copied=True))

    async def data(self, row: DeadLetterRecord) -> Optional[bytes]:
        """Header block and payload; None when they have gone meanwhile."""
        subject = f"{STREAM}.data.{key_of(row.station)}.{row.id}"
        try:
            message = await self._connection.request(f"$JS.API.DIRECT.GET.{STREAM}.{subject}", b"", timeout=10)
        except NoRespondersError:
            pass
        else:
            if "Status" not in (message.headers or {}):
                return message.data
        found = await self._last(subject)  # a follower may not have it yet; the leader knows
        return None if found is None else _body(found)

    async def remove_group(
        self, row: Optional[DeadLetterRecord], group: str, *, drop_empty: bool, before: float
    ) -> None:
        """
        A group is done with a dead letter, or is gone.

        Args:
            row: As it was read.
            group: External name, in any case.
            drop_empty: Whether a dead letter of no more groups goes too.
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
            Whether it was this call that did it.
        """
        while row is not None and not row.is_dropped:
            try:
                await self._remove(row)
                return True
            except ConflictError:
                row = await self.get(row.station, row.id)
        return False

    # ---- a station's ------------------------------------------------------------------------------------------------

    async def ids(self, station: str) -> list[int]:
        """The ids of a station's dead letters, ascending; some may have gone by the time they are read."""
        subjects = await self._subjects(f"{STREAM}.row.{key_of(station)}.*")
        return sorted(int(subject.rpartition(".")[2]) for subject in subjects)

    async def rows(self, station: str, ids: list[int]) -> list[DeadLetterRecord]:
        """The rows of these ids that are there, in the same order."""
        found = await asyncio.gather(*(self.get(station, dead_letter_id) for dead_letter_id in ids))
        return [row for row in found if row is not None and self._is_live(row)]

    async def purge(self, station: str) -> None:
        """Removes all dead letters of a station."""
        await self._purge(f"*.{key_of(station)}.>")

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
            await self._purge(f"at.{key}.{partition}.*")
            await self._purge(f"back.{key}.*.{partition}.*")
            await self._purge(f"done.{key}.*.{partition}.*")

    # ---- what was given back ----------------------------------------------------------------------------------------

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
            station: External name.
            group: External name, lower case.
            partition: From 1.
            deliveries: Place in the partition, and which delivery it was.
            is_kept: The member still has the messages, and may yet hand them to a handler.
        """
        body = json.dumps(sorted(deliveries), separators=(",", ":")).encode()
        first, last = min(deliveries)[0], max(deliveries)[0]
        digest = hashlib.sha256(body).hexdigest()[:16]
        name = f"{first}-{last}-{digest}{'-kept' if is_kept else ''}"
        await self._write(f"{STREAM}.back.{key_of(station)}.{key_of(group)}.{partition}.{name}", body)

    async def given_back(self, station: str, group: str, partition: int, sequence: int) -> int:
        """How many deliveries of a message the group has given back."""
        found: set[int] = set()
        for subject in await self._subjects(f"{STREAM}.back.{key_of(station)}.{key_of(group)}.{partition}.*"):
            span = _NOTE.match(subject.rpartition(".")[2])
            if span is not None and int(span.group(1)) <= sequence <= int(span.group(2)):
                found.update(delivery for place, delivery in await self._noted(subject) if place == sequence)
        return len(found)

    async def notes(self) -> dict[tuple[str, str, int], list[str]]:
        """Where it is noted what was given back: by station, group and partition."""
        found: dict[tuple[str, str, int], list[str]] = {}
        for subject in await self._subjects(f"{STREAM}.back.>"):
            words = subject.split(".")
            if len(words) == _NOTE_WORDS and words[4].isdecimal() and _NOTE.match(words[-1]):
                found.setdefault((name_of(words[2]), name_of(words[3]), int(words[4])), []).append(subject)
        return found

    async def undecided(
        self, station: str, group: str, partition: int, notes: Sequence[str], deliveries: int
    ) -> dict[int, tuple[int, int]]:
        """
        Messages that the group gave back at the last delivery and did not keep, and of which nothing else is written:
        neither that they are owed, nor that they were, nor that they are dead letters.

        Args:
            station: External name.
            group: External name, lower case.
            partition: From 1.
            notes: Where it is noted, all of it.
            deliveries: How often the group may have a message.

        Returns:
            Places in the partition, which delivery was the last, and how many were given back.
        """
        key = key_of(station)
        done = _sequences(await self._subjects(f"{STREAM}.done.{key}.{key_of(group)}.{partition}.*"))
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
        known = _sequences(await self._subjects(f"{STREAM}.at.{key}.{partition}.*")) if found else set()
        for sequence in known & found.keys():
            if await self._is_decided(station, group, f"{partition}.{sequence}"):
                del found[sequence]
        return found

    async def _is_decided(self, station: str, group: str, place: str) -> bool:
        found = await self._at(station, place)
        if found is None:
            return False
        letter = await self.find(station, place)
        return (letter is not None and group in letter.groups) or await self.owed(station, group, found[0]) is not None

    async def _noted(self, subject: str) -> list[tuple[int, int]]:
        """What a note says; it never changes, and a wave of messages asks for the same one."""
        known = self._notes.get(subject)
        if known is None:
            message = await self._last(subject)
            try:
                known = [(int(place), int(delivery)) for place, delivery in json.loads(_body(message or {}))]
            except (ValueError, TypeError):  # it has gone, or somebody else has written it
                known = []
            if len(self._notes) >= _NOTES:
                self._notes.clear()
            self._notes[subject] = known
        return known

    async def owe(self, owed: Owed) -> None:
        """Writes that a message is owed; *owed* with any id. Nothing changes when that is written already."""
        key, place = key_of(owed.station), f"{owed.partition}.{owed.sequence}"
        if await self._last(owed.done_subject) is not None:
            return
        try:
            dead_letter_id = await self._write(f"{STREAM}.at.{key}.{place}", b"", expected=0)
        except ConflictError:
            found = await self._at(owed.station, place)
            if found is None:
                raise  # it has just gone
            dead_letter_id = found[0]
        with contextlib.suppress(ConflictError):
            await self.update_owed(replace(owed, id=dead_letter_id, revision=0))

    async def owed(self, station: str, group: str, dead_letter_id: int) -> Optional[Owed]:
        """What is written of a message that is owed; None when nothing is, or not any more."""
        name = Owed(dead_letter_id, station, group, 0, 0, 0)
        message = await self._last(name.subject)
        if message is None:
            return None
        value = json.loads(_body(message))
        return replace(name, **{key: value[key] for key in _OWED_FIELDS if key in value}, revision=message["seq"])

    async def all_owed(self, pattern: str = "*.*.*") -> list[tuple[str, str, int]]:
        """Station, group and id of all messages that are owed; *pattern* stands for keys of the three."""
        found = (subject.split(".")[2:] for subject in await self._subjects(f"{STREAM}.owed.{pattern}"))
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
        return replace(owed, revision=await self._write(owed.subject, body, expected=owed.revision))

    async def renew_owed(self, owed: Owed) -> Owed:
        """Writes it again when it is so old that the stream would soon forget it."""
        is_old = time.time() - owed.stored > self._retention_s * _RENEW
        return await self.update_owed(owed) if is_old else owed

    async def settle_owed(self, owed: Owed) -> None:
        """A message is owed no more: it is gone, or somebody wrote that it is done."""
        await self._purge(owed.subject.partition(".")[2])

    async def finish_owed(self, owed: Owed) -> None:
        """The group has had what it was owed: the message is answered, or a dead letter."""
        await self._write(owed.done_subject, b"")
        await self.settle_owed(owed)

    async def answer_owed(self, group: str, dead_letter_id: int) -> None:
        """A member has answered a message; nothing happens when it is not owed."""
        for station, *_ in await self.all_owed(f"*.{key_of(group)}.{dead_letter_id}"):
            owed = await self.owed(station, group, dead_letter_id)
            if owed is not None:
                await self.finish_owed(owed)

    async def answer_owed_place(self, station: str, group: str, place: str) -> None:
        """The same for the message that a place stands for."""
        found = await self._at(station, place)
        if found is not None:
            await self.answer_owed(group, found[0])

    async def forget_given_back(self, station: str, group: str) -> None:
        """A group is gone, and with it what it gave back and is owed."""
        await asyncio.gather(
            *(self._purge(f"{kind}.{key_of(station)}.{key_of(group)}.>") for kind in ("back", "owed", "done"))
        )

    # ---- steps ------------------------------------------------------------------------------------------------------

    async def _put(self, letter: DeadLetterRecord, data: bytes) -> DeadLetterRecord:
        key = key_of(letter.station)
        try:  # the usual case first: nobody knows it
            dead_letter_id = await self._write(f"{STREAM}.at.{key}.{letter.place}", b"", expected=0)
        except ConflictError:
            found = await self._at(letter.station, letter.place)
            if found is None:
                raise  # it has just gone
            dead_letter_id, at = found
            row = await self.get(letter.station, dead_letter_id)
            if row is not None and not self._is_live(row):
                await self._remove(replace(row, at=at))
                raise
            if row is not None:
                return await self.add(row, letter, data)
        else:
            at = dead_letter_id
        await self._write(f"{STREAM}.data.{key}.{dead_letter_id}", data)
        return await self._update(replace(letter, id=dead_letter_id, at=at, stored=time.time(), revision=0))

    async def _renew(self, row: DeadLetterRecord, data: Optional[bytes]) -> DeadLetterRecord:
        """Writes everything but the row again, so that it is as young as the row."""
        if data is None:
            data = await self.data(row)
        if data is None:
            return row
        key = key_of(row.station)
        await self._write(f"{STREAM}.data.{key}.{row.id}", data)
        await self._purge(f"data.{key}.{row.id}", keep=1)
        at = await self._write(f"{STREAM}.at.{key}.{row.place}", str(row.id).encode(), expected=row.at)
        return replace(row, at=at, stored=time.time())

    async def _remove(self, row: DeadLetterRecord) -> None:
        marked = row if row.is_dropped else await self._update(replace(row, is_dropped=True))
        key = key_of(row.station)
        await asyncio.gather(
            self._purge(f"at.{key}.{row.place}", seq=marked.at + 1),  # a later one stands for another dead letter
            self._purge(f"data.{key}.{row.id}"),
        )
        await self._purge(f"row.{key}.{row.id}")

    def _is_live(self, row: DeadLetterRecord) -> bool:
        return not row.is_dropped and row.stored + self._retention_s > time.time()

    async def _at(self, station: str, place: str) -> Optional[tuple[int, int]]:
        """Id and sequence of the message that says which dead letter stands for a place."""
        message = await self._last(f"{STREAM}.at.{key_of(station)}.{place}")
        if message is None:
            return None
        return int(_body(message) or message["seq"]), message["seq"]

    async def _update(self, row: DeadLetterRecord) -> DeadLetterRecord:
        value = {key: value for key, value in asdict(row).items() if key in _STORED_FIELDS}
        body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        subject = f"{STREAM}.row.{key_of(row.station)}.{row.id}"
        return replace(row, revision=await self._write(subject, body, expected=row.revision))

    async def _write(self, subject: str, body: bytes, *, expected: Optional[int] = None) -> int:
        """Writes under a subject, and gives the sequence; *expected* is the one that must be there, 0 for none."""
        headers = None if expected is None else {"Nats-Expected-Last-Subject-Sequence": str(expected)}
        try:
            return (await self._js.publish(subject, body, headers=headers)).seq
        except APIError as exc:
            if exc.err_code in WRONG_LAST_SEQUENCE:
                raise ConflictError(subject) from exc
            raise

    async def _last(self, subject: str) -> Optional[dict[str, Any]]:
        """The message under a subject, from the stream's leader."""
        try:
            reply = await self._api.request(f"STREAM.MSG.GET.{STREAM}", {"last_by_subj": subject})
        except JetStreamError as exc:
            if exc.err_code in _NO_MESSAGE:
                return None
            raise
        message: dict[str, Any] = reply["message"]
        return message

    async def _purge(self, key: str, **limits: int) -> None:
        """Removes messages; *limits* are JetStream's own: below a sequence, or all but the newest few."""
        await self._api.request(f"STREAM.PURGE.{STREAM}", {"filter": f"{STREAM}.{key}", **limits})

    async def _subjects(self, pattern: str) -> list[str]:
        """The subjects that match; JetStream tells 100,000 of them at a time."""
        found: list[str] = []
        while True:
            body = {"subjects_filter": pattern, "offset": len(found)}
            info = await self._api.request(f"STREAM.INFO.{STREAM}", body)
            page = info["state"].get("subjects") or {}
            found += page
            if not page or len(found) >= info.get("total", 0):
                return found


def _sequences(subjects: Sequence[str]) -> set[int]:
    """The places that stand at the end of subjects."""
    words = (subject.rpartition(".")[2] for subject in subjects)
    return {int(word) for word in words if word.isdecimal()}


def _body(message: dict[str, Any]) -> bytes:
    return base64.b64decode(message.get("data") or "")
