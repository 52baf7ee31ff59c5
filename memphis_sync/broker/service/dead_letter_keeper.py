"""
Makes dead letters: of a message that had its group's max deliveries, of one that a consumer cannot use, and of one that
broke its station's schema.

Every step can be repeated: what is reported twice is stored once.
"""

from __future__ import annotations

import contextlib
import logging
import re
import time
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Optional

from nats.js.errors import NoStreamResponseError

from memphis_sync._protocol.dead_letter_headers import (
    PRODUCED_BY,
    RESENT,
    copied_headers,
    headers_size,
    read_headers,
    write_headers,
)
from memphis_sync._protocol.dead_letters import (
    POISON,
    SCHEMA,
    SchemaDeadLetter,
    payload_of,
)
from memphis_sync._protocol.names import external_name, lower_name, publish_subject, stream_name
from memphis_sync._protocol.streams import StationSettings
from memphis_sync.broker.request_error import RequestError
from memphis_sync.broker.service.part import BackgroundPart
from memphis_sync.broker.storage.dead_letters import DeadLetterRecord
from memphis_sync.broker.storage.given_back import Owed
from memphis_sync.broker.storage.jetstream_api import all_of
from memphis_sync.broker.storage.tables import ConflictError, key_of

log = logging.getLogger("memphis_sync.broker")

MAX_REASON = 4096  # characters; a validator may quote the whole message
_IDENTITY = re.compile(r"[0-9a-f]{32}\Z")
_UNKNOWN_PRODUCER = "unknown"


@dataclass(frozen=True)
class Source:
    """A message of a station's partition that has become a dead letter of a group."""

    settings: StationSettings
    partition: int
    sequence: int
    group: str
    error: str = ""

    @property
    def place(self) -> str:
        """The message's place in the store."""
        return f"{self.partition}.{self.sequence}"

    @property
    def name(self) -> str:
        """For logs and errors."""
        return f"message {self.sequence} of station {self.settings.name}, partition {self.partition}"


class DeadLetterKeeper(BackgroundPart):
    """Stores dead letters, and copies them to dead-letter stations."""

    def lock(self, name: str) -> AbstractAsyncContextManager[None]:
        """Held by whoever decides about a message; *name* is the stream of its partition, or its station."""
        return self._locks.hold(name)

    async def schema_failure(self, report: SchemaDeadLetter, identity: str) -> None:
        """
        Stores a message that its producer reports as not matching the schema. The station's switch does not matter:
        clients check it before they report.

        Args:
            report: The producer's report.
            identity: The id of a report that has none of its own.
        """
        station = lower_name("Station", external_name(report.station_name))
        block = write_headers(report.headers)
        data = block + payload_of(report.data)
        letter = DeadLetterRecord(
            id=0,
            station=station,
            type=SCHEMA,
            place=f"{SCHEMA}.{report.report_id if _IDENTITY.match(report.report_id) else identity}",
            partition=max(0, report.partition_number),
            sequence=0,
            producer=report.producer_name[:MAX_REASON],
            groups={},
            error=report.validation_error[:MAX_REASON],
            time_ns=time.time_ns(),
            size=len(data),
            header_bytes=len(block),
        )
        async with self.lock(station):
            await self._keep(letter, data, await self._required(station))

    async def keep_owed(self, owed: Owed) -> None:
        """Makes a dead letter of a message whose group has had what it was owed."""
        settings = await self._ready(owed.station)
        if settings is not None:
            async with self.lock(stream_name(settings.internal, owed.partition)):
                with contextlib.suppress(RequestError):  # the message does not exist any more
                    await self.poison(Source(settings, owed.partition, owed.sequence, owed.group))

    async def poison(self, source: Source) -> str:
        """Makes a message a dead letter, unless its station wants none. Returns why it cannot be one; "" otherwise."""
        settings = source.settings
        if not settings.dls_poison:
            return ""
        place, groups = source.place, {source.group: time.time()}
        letter = DeadLetterRecord(
            0, settings.name, POISON, place, source.partition, source.sequence, "", groups, source.error, 0, 0, 0
        )
        is_known, known = await all_of(
            self._is_known(settings.name, source.group), self._store.find(settings.name, place)
        )
        if not is_known:
            return f"nobody consumes as group {source.group}"
        if known is not None:  # the message itself may be deleted by now
            with contextlib.suppress(ConflictError):
                await self._copy(await self._store.add(known, letter), settings)
                return ""
        return await self._poison_from_stream(source, letter)

    async def _poison_from_stream(self, source: Source, letter: DeadLetterRecord) -> str:
        """Reads the message, which the advisory does not contain, and stores it."""
        stream = stream_name(source.settings.internal, source.partition)
        message = await self._api.message(stream, seq=source.sequence)
        if message is None:
            raise RequestError(f"{source.name} is not there any more")
        producer = read_headers(message.block).get(PRODUCED_BY, _UNKNOWN_PRODUCER)
        if producer == RESENT:
            return "it was one already"
        data = message.block + message.payload
        letter = replace(
            letter,
            producer=producer[:MAX_REASON],
            time_ns=message.time_ns,
            size=len(data),
            header_bytes=len(message.block),
        )
        await self._keep(letter, data, source.settings)
        return ""

    async def _keep(self, letter: DeadLetterRecord, data: bytes, settings: StationSettings) -> None:
        row = await self._store.put(letter, data)
        # If the station was destroyed meanwhile, its dead letters may have been removed before this one was stored.
        if await self._ready(settings.name) is None:
            await self._store.drop(row)
        else:
            await self._copy(row, settings, data)

    async def _is_known(self, station: str, group: str) -> bool:
        """Whether applications have consumed as this group; other durables on the stream are somebody else's."""
        members = await self._state.members.keys(f"{key_of(station)}.{key_of(group)}.>")
        for key in members:
            member = await self._state.members.get(key)
            if member is not None and member.value["consumer_type"].lower() == "application":
                return True
        return False

    async def _copy(self, row: DeadLetterRecord, settings: StationSettings, data: Optional[bytes] = None) -> None:
        """Sends the dead-letter station one copy of a dead letter, however many groups it has."""
        if row.is_copied or not settings.dls_station:
            return
        goal = await self._ready(settings.dls_station)
        if data is None:
            data = await self._store.data(row)
        if data is None:
            return  # it was removed meanwhile
        if goal is None:
            log.warning("dead letter %d has no copy: station %s does not exist", row.id, settings.dls_station)
            return
        block, payload = data[: row.header_bytes], data[row.header_bytes :]
        kind = "failed_schema" if row.type == SCHEMA else "unacked"
        headers = copied_headers(read_headers(block), row.station, kind, f"memphis-dead-letter-{row.id}")
        if headers_size(headers) + len(payload) > self._connection.max_payload:
            log.warning("dead letter %d has no copy in station %s: it is too large", row.id, settings.dls_station)
        else:
            # Always the same partition for one dead letter: its stream remembers the message id.
            subject = publish_subject(goal.internal, goal.partitions[row.id % len(goal.partitions)])
            try:
                await self._js.publish(subject, payload, headers=headers)
            except NoStreamResponseError:
                log.warning("dead letter %d has no copy in station %s, which was just destroyed", row.id, goal.name)
        await self._store.mark_copied(row)
