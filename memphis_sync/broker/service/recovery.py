"""
Brings streams and rows together again: at the start, when the server is back, and when a stream was deleted.

Rules:
* A station whose row is ready has all its streams. Those in memory end with the server, and an administrator can delete
  any: what is missing is made again, with the station's groups, and one line in the log says that messages are gone.
* A row that was left half-way by a killed copy is finished, whether or not somebody asks for that station.
* What fails is tried again, later and later; one station that cannot be restored stops no other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from typing import Optional

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from memphis_sync._protocol.names import NameRuleError, external_name, lower_name, split_stream, stream_name
from memphis_sync.broker.request_error import RequestError
from memphis_sync.broker.service.consumers import Consumers
from memphis_sync.broker.service.stations import READY, Stations, settings_of
from memphis_sync.broker.storage.jetstream_api import JetStreamApi, JetStreamError
from memphis_sync.broker.storage.tables import Row, State, name_of
from memphis_sync.errors import LocalProtocolError

log = logging.getLogger("memphis_sync.broker")

DELETIONS = "$JS.EVENT.ADVISORY.STREAM.DELETED"
_QUEUE = "memphis_sync_stream_deletions"
INTERVAL_S = 15 * 60.0  # between two looks at all stations when nothing has failed: an advisory may get lost
_AT_ONCE = 64
_GATHER_S = 0.1  # deletions within this time are one look at a station: it may have thousands of partitions
_MAX_NOTED = 10_000  # stations of which deletions wait; anybody may publish such an advisory
_FIRST_PAUSE_S, _MAX_PAUSE_S = 1.0, 60.0
FAILURES = (JetStreamError, RequestError, NatsError, OSError, asyncio.TimeoutError)


class Recovery:
    """
    What one copy of the service does about it; several copies may do the same work.

    Args:
        connection: The service's connection.
        api: JetStream's API on it.
        state: The rows.
        stations: Makes streams.
        consumers: Makes durables.
    """

    def __init__(
        self, connection: Client, api: JetStreamApi, state: State, stations: Stations, consumers: Consumers
    ) -> None:
        self._connection = connection
        self._api = api
        self._state = state
        self._stations = stations
        self._consumers = consumers
        self._deleted: dict[str, set[int]] = {}
        self._noted = asyncio.Event()
        self._retry_s: Optional[float] = None  # until the next look at all stations; None when nothing has failed

    async def start(self) -> None:
        """Listens for deletions of streams."""
        await self._connection.subscribe(f"{DELETIONS}.*", queue=_QUEUE, cb=self._note)

    async def run(self) -> None:
        """Serves deletions, looks at all stations now and then, and tries again what failed; until it is cancelled."""
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
        """Looks at all stations; what fails is logged, and tried again by run()."""
        try:
            rows = await self._rows()  # before the streams: a station that is made meanwhile isn't missing any
            streams = await self._streams()
        except FAILURES as exc:
            log.warning("the stations cannot be compared with their streams now: %s", exc)
            self._retry_later()
            return
        work = []
        for name, row in rows.items():
            if row.value["status"] != READY:
                work.append(self._finish(name))
                continue
            settings = settings_of(row)
            missing = {part for part in settings.partitions if stream_name(settings.internal, part) not in streams}
            if missing:
                work.append(self._restore(name, missing))
        if await self._do(work):
            self._retry_s = None

    async def _do(self, work: Sequence[Awaitable[bool]]) -> bool:
        """Does all of it, some of it at once; whether it all went well."""
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
        try:
            await self._stations.restore(name, partitions, self._consumers.add_groups)
        except FAILURES as exc:
            log.warning("station %s cannot be made again now: %s", name, exc)
            return False
        return True

    async def _finish(self, name: str) -> bool:
        try:
            await self._stations.finish(name)
        except FAILURES as exc:
            log.warning("station %s was left half-way, and cannot be finished now: %s", name, exc)
            return False
        return True

    async def _rows(self) -> dict[str, Row]:
        keys = await self._state.stations.keys(">")
        rows: dict[str, Row] = {}
        for start in range(0, len(keys), _AT_ONCE):
            some = keys[start : start + _AT_ONCE]
            for key, row in zip(some, await asyncio.gather(*map(self._state.stations.get, some))):
                if row is not None:
                    rows[name_of(key)] = row
        return rows

    async def _streams(self) -> set[str]:
        found: set[str] = set()
        offset = 0
        while True:
            reply = await self._api.request("STREAM.NAMES", {"offset": offset})
            page = reply.get("streams") or []
            found.update(page)
            offset += len(page)
            if not page or offset >= reply.get("total", 0):
                return found

    async def _note(self, message: Msg) -> None:
        """A stream was deleted: by this broker, an administrator, or nobody, for anybody can publish an advisory."""
        try:
            internal, partition = split_stream(message.subject.rpartition(".")[2])
            name = lower_name("Station", external_name(internal))
        except (LocalProtocolError, NameRuleError):
            return  # not a station's
        if partition and (name in self._deleted or len(self._deleted) < _MAX_NOTED):
            self._deleted.setdefault(name, set()).add(partition)
            self._noted.set()
