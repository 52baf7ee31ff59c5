"""
The JetStream stream that stores dead letters, and what is owed to groups; its subjects are the keys.

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
* Nothing is replaced by a limit on messages of a subject: such a removal isn't written to disk, and when nats-server is
  killed after the replacement was deleted, the replaced message is there again. What is removed is purged by name.
* The stream's age limit removes what nobody asked for. It counts from when the data was written; a group that comes
  late renews it.
"""

from __future__ import annotations

import time
from typing import NamedTuple, Optional

from nats.aio.client import Client
from nats.errors import NoRespondersError
from nats.js.errors import APIError

from memphis_sync.broker.storage.jetstream_api import JetStreamApi, StoredMessage
from memphis_sync.broker.storage.tables import WRONG_LAST_SEQUENCE, ConflictError, key_of

STREAM = "memphis_dead_letters"
_NS_PER_S = 1_000_000_000
_MARGIN_S = 60  # the stream keeps everything a little longer than the rows count, so that no row is without data
_RENEW = 1 / 6  # of the retention: a group that comes later than that writes the data again


class Place(NamedTuple):
    """What stands for a message in ``at``: the id of its dead letter, and the sequence of what says so."""

    id: int
    at: int


class DeadLetterStream:
    """
    Reads and writes it; keys are what follows the stream's name in subjects.

    Args:
        connection: The service's connection.
        replicas: Copies in a cluster.
        retention_s: How long a dead letter is kept.
    """

    def __init__(self, connection: Client, replicas: int, retention_s: float) -> None:
        self._connection = connection
        self._js = connection.jetstream()
        self._api = JetStreamApi(connection)  # with slots of its own: a wave of dead letters delays no creation
        self._replicas = replicas
        self._retention_s = retention_s

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

    def is_old(self, stored: float) -> bool:
        """Whether what was written then, in seconds since 1970, is forgotten so soon that it is to be written again."""
        return time.time() - stored > self._retention_s * _RENEW

    def is_over(self, stored: float) -> bool:
        """Whether what was written then does not count any more."""
        return stored + self._retention_s <= time.time()

    async def write(self, key: str, body: bytes, *, expected: Optional[int] = None) -> int:
        """
        Writes under a key, and gives the sequence; *expected* is the one that must be there, 0 for none.

        Raises:
            ConflictError: Another one is there.
        """
        headers = None if expected is None else {"Nats-Expected-Last-Subject-Sequence": str(expected)}
        try:
            return (await self._js.publish(f"{STREAM}.{key}", body, headers=headers)).seq
        except APIError as exc:
            if exc.err_code in WRONG_LAST_SEQUENCE:
                raise ConflictError(key) from exc
            raise

    async def last(self, key: str) -> Optional[StoredMessage]:
        """What is under a key, from the stream's leader."""
        return await self._api.message(STREAM, last_by_subj=f"{STREAM}.{key}")

    async def any_last(self, key: str) -> Optional[bytes]:
        """The body under a key that never changes, from any copy."""
        try:
            message = await self._connection.request(f"$JS.API.DIRECT.GET.{STREAM}.{STREAM}.{key}", b"", timeout=10)
        except NoRespondersError:
            pass
        else:
            if "Status" not in (message.headers or {}):
                return message.data
        found = await self.last(key)  # a follower may not have it yet; the leader knows
        return None if found is None else found.payload

    async def place(self, station: str, place: str) -> Optional[Place]:
        """What stands for a place."""
        message = await self.last(f"at.{key_of(station)}.{place}")
        return None if message is None else Place(int(message.payload or message.sequence), message.sequence)

    async def take_place(self, station: str, place: str) -> tuple[Place, bool]:
        """
        What stands for a place, and whether it is new: an id that no dead letter has.

        Raises:
            ConflictError: What stood for it has just gone.
        """
        try:
            number = await self.write(f"at.{key_of(station)}.{place}", b"", expected=0)
        except ConflictError:
            found = await self.place(station, place)
            if found is None:
                raise
            return found, False
        return Place(number, number), True

    async def purge(self, key: str, **limits: int) -> None:
        """Removes messages; *limits* are JetStream's own: below a sequence, or all but the newest few."""
        await self._api.request(f"STREAM.PURGE.{STREAM}", {"filter": f"{STREAM}.{key}", **limits})

    async def keys(self, pattern: str) -> list[str]:
        """The keys that match; JetStream tells 100,000 of them at a time."""
        body = {"subjects_filter": f"{STREAM}.{pattern}"}
        found = await self._api.pages(f"STREAM.INFO.{STREAM}", body, lambda reply: reply["state"].get("subjects"))
        return [subject.partition(".")[2] for subject in found]
