"""
Schemas: creation, versions, and attaching them to stations.

Rules:
* A schema's first version is active. A later one must be activated, as on a Memphis broker, where only the REST
  interface can do it. Here it is a request, and connected clients are notified.
* Every change of the schema that a station's messages must match is published before its request is answered.
* Clients always get the active version; the number in a station's row is the one that was active at the time.
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Optional

from memphis_sync._protocol import subjects
from memphis_sync._protocol.names import internal_name, lower_name
from memphis_sync._protocol.requests import (
    SchemaActivate,
    SchemaActivateReply,
    SchemaAttach,
    SchemaCreate,
    SchemaCreateReply,
    SchemaDetach,
    SchemaUpdate,
    schema_change,
)
from memphis_sync.broker.request_error import RequestError
from memphis_sync.broker.service.part import Part, Shared
from memphis_sync.broker.service.routing import Routes
from memphis_sync.broker.service.schema_sources import compiled
from memphis_sync.broker.service.stations import Stations
from memphis_sync.broker.storage.schemas import activate_version, active_version, add_version, attachment, version_of
from memphis_sync.broker.storage.tables import ConflictError, Row, key_of, name_of
from memphis_sync.types import SchemaInfo

log = logging.getLogger("memphis_sync.broker")

_COMPILERS = 2  # at once: each may be a process of its own
_OVERHEAD = 4096  # bytes that a reply or an update needs beside the schema itself, at most


class Schemas(Part):
    """The handlers of schema requests."""

    def __init__(self, shared: Shared, stations: Stations) -> None:
        super().__init__(shared)
        self._stations = stations
        self.routes: Routes = {
            SchemaCreate: self.create,
            SchemaAttach: self.attach,
            SchemaDetach: self.detach,
            SchemaActivate: self.activate,
        }
        self._compilers = asyncio.Semaphore(_COMPILERS)
        self._compiling: set[asyncio.Task[SchemaInfo]] = set()

    async def create(self, request: SchemaCreate) -> SchemaCreateReply:
        """Creates a schema, or a new version of one."""
        name = lower_name("Schema", request.name)
        kind = request.type.lower()
        async with self._locks.hold(name):
            while True:
                row = await self._state.schemas.get(key_of(name))
                number = 1 if row is None else len(row.value["versions"]) + 1
                info = await self._compiled(name, number, request)
                await self._check_new(name, row, info)
                try:
                    await add_version(self._state, name, row, kind, self._content(info))
                except ConflictError:  # another copy of the service was faster
                    continue
                log.info("schema %s: version %d is stored", name, number)
                return SchemaCreateReply()

    async def attach(self, request: SchemaAttach) -> None:
        """Attaches a schema to a station."""
        station = lower_name("Station", request.station_name)
        is_there = await self._stations.find(station) is not None
        if not is_there or not await self._stations.set_schema(station, await attachment(self._state, request.name)):
            raise RequestError(f"memphis: Station {station} does not exist")
        await self._announce(station)

    async def detach(self, request: SchemaDetach) -> None:
        """Detaches a station's schema; not an error when it has none, and announced all the same."""
        station = lower_name("Station", request.station_name)
        if not await self._stations.set_schema(station, None):
            raise RequestError(f"station {station} does not exist")
        await self._announce(station)

    async def activate(self, request: SchemaActivate) -> SchemaActivateReply:
        """Activates a version; the clients of all stations that use the schema are notified before the reply."""
        name = lower_name("Schema", request.name)
        async with self._locks.hold(name):
            number = await activate_version(self._state, name, request.version_number)
            for station in await self._stations_of(name):
                if await self._stations.set_schema(station, {"name": name, "version": number}, instead_of=name):
                    await self._announce(station)
        return SchemaActivateReply(version=number)

    async def _compiled(self, name: str, number: int, request: SchemaCreate) -> SchemaInfo:
        """Compiles a version. A request that is cancelled keeps its compiler busy until that has ended."""

        async def compile_one() -> SchemaInfo:
            async with self._compilers:
                kind, content, message = request.type.lower(), request.schema_content, request.message_struct_name
                return await asyncio.to_thread(compiled, name, kind, number, content, message)

        task = asyncio.create_task(compile_one())
        self._compiling.add(task)
        task.add_done_callback(self._compiling.discard)
        return await asyncio.shield(task)

    async def _check_new(self, name: str, row: Optional[Row], info: SchemaInfo) -> None:
        """Checks that a version may follow those that exist."""
        if row is None:
            return
        if row.value["type"] != info.type:
            raise RequestError(f"{name} already exist with type - {row.value['type']}")
        newest = await version_of(self._state, name, row, len(row.value["versions"]))
        if (newest.content, newest.message_struct_name) == (info.content, info.message_struct_name):
            raise RequestError(f"{name} already exists in the db with the same schema content")

    def _content(self, info: SchemaInfo) -> dict[str, str]:
        """A version's row; clients get it in one message, so it must fit into one as JSON."""
        content = {
            "content": info.content,
            "descriptor": info.descriptor,
            "message_struct_name": info.message_struct_name,
        }
        size, room = len(json.dumps(content)), self._connection.max_payload - _OVERHEAD
        if size > room:
            raise RequestError(f"your schema content is too large: it takes {size} bytes, and a message holds {room}")
        return content

    async def _announce(self, station: str) -> None:
        """
        Publishes a station's current schema, and again when it was changed meanwhile: if several copies of the service
        change it at once, clients are notified last of the change that stays.
        """
        subject = subjects.schema_updates(internal_name(station))
        update = await self._schema_of(station)
        while True:
            await self._connection.publish(subject, schema_change(update if update.name else None))
            told, update = update, await self._schema_of(station)
            if update == told:
                return

    async def _schema_of(self, station: str) -> SchemaUpdate:
        row = await self._stations.find(station)
        return SchemaUpdate() if row is None else await active_version(self._state, row)

    async def _stations_of(self, name: str) -> list[str]:
        """The stations with this schema. All rows are read: activations are rare, and an index could be wrong."""
        rows = await self._state.stations.rows(">")
        return [name_of(key) for key, row in rows.items() if (row.value.get("schema") or {}).get("name") == name]
