"""
The JetStream stream that stores dead letters, and what is owed to groups; its subjects are the keys.

    memphis_dead_letters.at.<station>.<place>   the id of a message's dead letter; the place is <partition>.<sequence>,
                                                or schema.<report> for a message that broke its schema
    memphis_dead_letters.data.<station>.<id>    header block and payload, byte for byte: no larger than the message was
    memphis_dead_letters.row.<station>.<id>     everything else, as JSON
    memphis_dead_letters.back.<station>.<group>.<partition>.<first>-<last>-<digest>
                                                deliveries that a member gave back unprocessed; with ``-kept`` at the
                                                end it reported them, but still has the messages
    memphis_dead_letters.owed.<station>.<group>.<id>
                                                a message that is not a dead letter yet: its group is owed deliveries
    memphis_dead_letters.done.<station>.<group>.<partition>.<sequence>
                                                a message that was owed, and is now acknowledged or a dead letter: its
                                                advisory may come again, when the dead letter was removed already

Rules:
* A dead letter's id is the stream sequence of its first ``at`` message: ids only grow, and none is used twice. Whoever
  writes ``at`` first wins; the others add to the row they find.
* No limit on messages of a subject replaces anything: nats-server does not write such a removal to disk, so a replaced
  message is there again when the server is killed after its replacement was deleted. Removals are purges by subject.
* The stream's age limit removes what nobody removed. It counts from when the data was written; a group that is added
  late has the data written again.
"""

from __future__ import annotations

import time
from typing import NamedTuple, Optional

from nats.aio.client import Client
from nats.errors import NoRespondersError
from nats.js.errors import APIError

from memphis_sync._protocol.stored import StoredMessage
from memphis_sync.broker.storage.jetstream_api import JetStreamApi
from memphis_sync.broker.storage.tables import WRONG_LAST_SEQUENCE, ConflictError, key_of

STREAM = "memphis_dead_letters"
_NS_PER_S = 1_000_000_000
_MARGIN_S = 60  # the stream keeps everything a little longer than rows count, so that no live row lacks its data
_RENEW = 1 / 6  # of the retention: an entry that is older when it is used is written again


class Place(NamedTuple):
    """An ``at`` entry: the id of the message's dead letter, and the sequence of the ``at`` message itself."""

    id: int
    at: int


class DeadLetterStream:
    """
    Reads and writes the stream; a key is the part of a subject after the stream's name.

    Args:
        connection: The service's connection.
        replicas: Copies in a cluster.
        retention_s: How long a dead letter is kept.
    """

    def __init__(self, connection: Client, replicas: int, retention_s: float) -> None:
        self._connection = connection
        self._js = connection.jetstream()
        self._api = JetStreamApi(connection)  # with slots of its own: a burst of dead letters delays no creation
        self._replicas = replicas
        self._retention_s = retention_s

    async def open(self) -> None:
        """Creates the stream, or updates an existing one to the current retention."""
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
        """Whether an entry written at *stored*, in seconds since 1970, is so old that it should be written again."""
        return time.time() - stored > self._retention_s * _RENEW

    def is_over(self, stored: float) -> bool:
        """Whether an entry written at *stored* is past its retention."""
        return stored + self._retention_s <= time.time()

    async def write(self, key: str, body: bytes, *, expected: Optional[int] = None) -> int:
        """
        Writes an entry, and returns its sequence.

        Args:
            key: Its key.
            body: Its payload.
            expected: The sequence that the key must have now, 0 for no entry; None for any.

        Raises:
            ConflictError: The key has another sequence.
        """
        headers = None if expected is None else {"Nats-Expected-Last-Subject-Sequence": str(expected)}
        try:
            return (await self._js.publish(f"{STREAM}.{key}", body, headers=headers)).seq
        except APIError as exc:
            if exc.err_code in WRONG_LAST_SEQUENCE:
                raise ConflictError(key) from exc
            raise

    async def last(self, key: str) -> Optional[StoredMessage]:
        """The entry under a key, from the stream's leader; None when there is none."""
        return await self._api.message(STREAM, last_by_subj=f"{STREAM}.{key}")

    async def any_last(self, key: str) -> Optional[bytes]:
        """The payload of an entry that never changes, from any replica."""
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
        """The ``at`` entry of a place; None when there is none."""
        message = await self.last(f"at.{key_of(station)}.{place}")
        return None if message is None else Place(int(message.payload or message.sequence), message.sequence)

    async def take_place(self, station: str, place: str) -> tuple[Place, bool]:
        """
        The ``at`` entry of a place, created if missing, and whether it is new: its id is then unused.

        Raises:
            ConflictError: The entry was removed meanwhile.
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
        """Removes entries; of JetStream's *limits*, ``seq`` removes only older ones, ``keep`` spares the newest few."""
        await self._api.request(f"STREAM.PURGE.{STREAM}", {"filter": f"{STREAM}.{key}", **limits})

    async def keys(self, pattern: str) -> list[str]:
        """The keys that match a pattern; JetStream lists 100,000 of them at a time."""
        body = {"subjects_filter": f"{STREAM}.{pattern}"}
        found = await self._api.pages(f"STREAM.INFO.{STREAM}", body, lambda reply: reply["state"].get("subjects"))
        return [subject.partition(".")[2] for subject in found]
