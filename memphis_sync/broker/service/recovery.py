"""
Makes streams and rows consistent again: at the start, when the server is back, and when a stream was deleted.

Rules:
* A station whose row is ready has all its streams. Those in memory end with the server, and an administrator can delete
  any: missing ones are created again, with the station's groups, and one line in the log says that messages were lost.
* A row that a killed copy left half-way is finished, whether or not somebody asks for that station.
* What fails is tried again after longer and longer pauses; one station that cannot be restored stops no other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from typing import Optional

from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from memphis_sync._protocol.names import NameRuleError, external_name, lower_name, split_stream, stream_name
from memphis_sync.broker.request_error import RequestError
from memphis_sync.broker.service.consumers import Consumers
from memphis_sync.broker.service.part import READY, Part, Shared, settings_of
from memphis_sync.broker.service.stations import Stations
from memphis_sync.broker.storage.jetstream_api import JetStreamError
from memphis_sync.broker.storage.tables import name_of
from memphis_sync.errors import LocalProtocolError

log = logging.getLogger("memphis_sync.broker")

DELETIONS = "$JS.EVENT.ADVISORY.STREAM.DELETED"
_QUEUE = "memphis_sync_stream_deletions"
INTERVAL_S = 15 * 60.0  # between two checks of all stations when nothing has failed: an advisory may get lost
_AT_ONCE = 64
_GATHER_S = 0.1  # deletions within this time are handled together: a station may have thousands of partitions
_MAX_NOTED = 10_000  # stations with deletions that wait; anybody may publish such an advisory
_FIRST_PAUSE_S, _MAX_PAUSE_S = 1.0, 60.0
FAILURES = (JetStreamError, RequestError, NatsError, OSError, asyncio.TimeoutError)


class Recovery(Part):
    """
    The recovery by one copy of the service; several copies may do the same work.

    Args:
        shared: What all parts share.
        stations: Creates streams.
        consumers: Creates durables.
    """

    def __init__(self, shared: Shared, stations: Stations, consumers: Consumers) -> None:
        super().__init__(shared)
        self._stations = stations
        self._consumers = consumers
        self._deleted: dict[str, set[int]] = {}
        self._noted = asyncio.Event()
        self._retry_s: Optional[float] = None  # until the next check of all stations; None when nothing has failed

    async def start(self) -> None:
        """Listens for deletions of streams."""
        await self._connection.subscribe(f"{DELETIONS}.*", queue=_QUEUE, cb=self._note)

    async def run(self) -> None:
        """Handles deletions, checks all stations now and then, and tries again what failed; until it is cancelled."""
        while True:
            try:
                await asyncio.wait_for(self._noted.wait(), self._retry_s or INTERVAL_S)
            except asyncio.TimeoutError:
                await self.sweep()
                continue
            await asyncio.sleep(_GATHER_S)
            self._noted.clear()
            deleted, self._deleted = self._deleted, {}
            await self._do([self._restore(name, partitions) for name, partitions in deleted.items()])

    async def sweep(self) -> None:
        """Checks all stations; what fails is logged, and tried again by run()."""
        try:
            rows = await self._state.stations.rows(
                ">"
            )  # before the streams: a station that is created meanwhile is not missing any
            streams = set(await self._api.pages("STREAM.NAMES", {}, lambda reply: reply.get("streams")))
        except FAILURES as exc:
            log.warning("the stations cannot be compared with their streams now: %s", exc)
            self._retry_later()
            return
        work = []
        for key, row in rows.items():
            name = name_of(key)
            if row.value["status"] != READY:
                work.append(self._try(self._stations.finish(name), f"station {name} was left half-way"))
                continue
            settings = settings_of(row)
            missing = {part for part in settings.partitions if stream_name(settings.internal, part) not in streams}
            if missing:
                work.append(self._restore(name, missing))
        if await self._do(work):
            self._retry_s = None

    async def _do(self, work: Sequence[Awaitable[bool]]) -> bool:
        """Does all the work, _AT_ONCE at a time; returns whether all of it succeeded."""
        slots = asyncio.Semaphore(_AT_ONCE)

        async def one(step: Awaitable[bool]) -> bool:
            async with slots:
                return await step

        if all(await asyncio.gather(*map(one, work))):
            return True
        self._retry_later()
        return False

    def _retry_later(self) -> None:
        self._retry_s = min(_MAX_PAUSE_S, 2 * self._retry_s) if self._retry_s else _FIRST_PAUSE_S

    async def _restore(self, name: str, partitions: set[int]) -> bool:
        work = self._stations.restore(name, partitions, self._consumers.add_groups)
        return await self._try(work, f"station {name} has lost streams")

    async def _try(self, work: Awaitable[None], why: str) -> bool:
        try:
            await work
        except FAILURES as exc:
            log.warning("%s, and cannot be finished now: %s", why, exc)
            return False
        return True

    async def _note(self, message: Msg) -> None:
        """A stream was deleted by this broker or an administrator, or not at all: anybody can publish an advisory."""
        try:
            internal, partition = split_stream(message.subject.rpartition(".")[2])
            name = lower_name("Station", external_name(internal))
        except (LocalProtocolError, NameRuleError):
            return  # not a station's
        if partition and (name in self._deleted or len(self._deleted) < _MAX_NOTED):
            self._deleted.setdefault(name, set()).add(partition)
            self._noted.set()
