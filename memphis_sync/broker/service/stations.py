"""
Stations: creation, destruction, and implicit creation by a producer or consumer.

A row is leased before its streams are created or deleted: one of several copies of the service does the work, the
others wait for it, and finish it if that copy dies (see storage/leases.py). All steps can be repeated.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import time
from collections.abc import Awaitable, Iterable
from dataclasses import asdict
from typing import Any, Callable, Optional

from memphis_sync._protocol import subjects
from memphis_sync._protocol.names import lower_name, stream_name
from memphis_sync._protocol.requests import StationCreate, StationDestroy
from memphis_sync._protocol.streams import (
    StationSettings,
    check_partitions_number,
    station_settings,
    stream_config,
)
from memphis_sync.broker.request_error import RequestError
from memphis_sync.broker.service.part import CREATING, DELETING, READY, Part, Shared, settings_of
from memphis_sync.broker.service.routing import Routes
from memphis_sync.broker.storage.jetstream_api import (
    NO_SUITABLE_PEERS,
    REPLICAS_WITHOUT_CLUSTER,
    JetStreamError,
    all_of,
    first_error,
)
from memphis_sync.broker.storage.schemas import attachment
from memphis_sync.broker.storage.tables import ConflictError, Row, key_of

log = logging.getLogger("memphis_sync.broker")

STATION_VERSION = 2  # partitions, and functions could be attached: what a Memphis 1.4 broker gives every new station
WAIT_S = 15.0  # how long to wait for another copy's work: less than clients wait for a reply
_POLL_S = 0.02
_WITH_PARTITIONS = 2  # the first request version whose sender understands partitions
_TENANT = re.compile(r"(.*)\$(\d+)\Z", re.DOTALL)

AddGroups = Callable[[StationSettings, list[int]], Awaitable[None]]


class Stations(Part):
    """The handlers of station requests."""

    def __init__(self, shared: Shared) -> None:
        super().__init__(shared)
        self.routes: Routes = {StationCreate: self.create, StationDestroy: self.destroy}

    async def create(self, request: StationCreate) -> None:
        """Creates a station; one that exists already is a success, whatever its settings."""
        name = lower_name("Station", request.name)
        user = _without_tenant(request.username, f"createStationDirect: Station {name}")
        async with self._locks.hold(name):
            if await self._settled(name) is not None:
                return
        settings = self._checked(request, name, user)
        schema = await attachment(self._state, request.schema_name) if request.schema_name else None
        if settings.dls_station:  # not under the lock: two stations may name each other
            await self.find_or_create(settings.dls_station)
        async with self._locks.hold(name):
            if await self._settled(name) is None:
                await self._make(settings, schema)

    async def set_schema(
        self, name: str, schema: Optional[dict[str, Any]], *, instead_of: Optional[str] = None
    ) -> bool:
        """
        Attaches a schema to a station, or detaches it.

        Args:
            name: The station.
            schema: What attachment() of storage/schemas.py gave; None for no schema.
            instead_of: Only if the schema of this name is attached; None: whatever is attached.

        Returns:
            False when there is no such station, or *instead_of* is not attached.
        """
        async with self._locks.hold(name):
            while True:
                row = await self._settled(name)
                if row is None or (instead_of and (row.value.get("schema") or {}).get("name") != instead_of):
                    return False
                with contextlib.suppress(ConflictError):  # another copy changed it: look again
                    await self._state.stations.update(key_of(name), {**row.value, "schema": schema}, row.revision)
                    return True

    async def destroy(self, request: StationDestroy) -> None:
        """Destroys a station."""
        name = lower_name("Station", request.station_name)
        _without_tenant(request.username, f"removeStationDirectIntern: Station {name}")
        async with self._locks.hold(name):
            row = await self._settled(name)
            if row is None:
                # Two spaces: Memphis prints an empty name here, and clients compare the text.
                raise RequestError("Station  does not exist")
            await self._unmake(name, row)

    async def find(self, name: str) -> Optional[Row]:
        """A station's row; waits while the station is being created or deleted."""
        row = await self._state.stations.get(key_of(name))
        if row is None or row.value["status"] == READY:
            return row
        async with self._locks.hold(name):
            return await self._settled(name)

    async def refuse_old(self, version: int, name: str, this: str, doing: str) -> None:
        """Refuses a producer or consumer of a client from before partitions, in Memphis' words."""
        if version < _WITH_PARTITIONS:
            if await self.find(name) is None:
                raise RequestError(
                    f"{this} station does not exist, a default station can not be created automatically, "
                    "please upgrade your SDK version"
                )
            raise RequestError(f"{doing} this station please upgrade your SDK version")

    async def find_or_create(self, name: str) -> Row:
        """A station's row; a missing station is created with default settings."""
        row = await self.find(name)
        if row is not None:
            return row
        async with self._locks.hold(name):
            row = await self._settled(name)
            if row is None:
                log.info("station %s does not exist: creating it with default settings", name)
                row = await self._make(StationSettings(name))
            return row

    async def finish(self, name: str) -> None:
        """Finishes what a dead copy began with a station; waits for a living one that works on it."""
        async with self._locks.hold(name):
            row = await self._state.stations.get(key_of(name))
            if row is not None and row.value["status"] != READY:
                await self._settled(name)

    async def restore(self, name: str, missing: Iterable[int], add_groups: AddGroups) -> None:
        """
        Creates missing streams of a station again: those in memory end with the server, and an administrator can delete
        any.

        Args:
            name: The station.
            missing: The partitions to check; one that is there after all is left as it is.
            add_groups: Creates the durables of the station's groups on new streams.
        """
        async with self._locks.hold(name):
            settings = await self._ready(name)
            if settings is None:
                return
            wanted = sorted(set(missing).intersection(settings.partitions))
            replies = await asyncio.gather(
                *(self._restore_stream(settings, partition) for partition in wanted), return_exceptions=True
            )
            made = [partition for partition, reply in zip(wanted, replies) if reply is True]
            if made:
                await self._refill(settings, made, add_groups)
            error = first_error(replies)
            if error is not None:
                raise error

    async def _restore_stream(self, settings: StationSettings, partition: int) -> bool:
        """Creates a stream if it is missing; returns whether it was."""
        # An "interest" stream drops what comes before its groups exist: it becomes one when they do.
        reply = await self._api.create_stream({**stream_config(settings, partition), "retention": "limits"})
        return reply is not None and bool(reply.get("did_create"))

    async def _refill(self, settings: StationSettings, made: list[int], add_groups: AddGroups) -> None:
        """Completes new streams of an old station, and logs what happened."""
        name, configs = settings.name, [stream_config(settings, partition) for partition in made]
        if await self._ready(name) is None:  # another copy destroyed it meanwhile
            await asyncio.gather(*(self._api.delete_stream(config["name"]) for config in configs))
            return
        await self._given_back.forget_places(name, made)  # before there are groups that new messages can reach
        await add_groups(settings, made)
        updates = (self._api.request(f"STREAM.UPDATE.{config['name']}", config) for config in configs)
        if configs[0]["retention"] != "limits":
            await asyncio.gather(*updates)
        which = "" if made == settings.partitions else f" (partition {', '.join(map(str, made))})"
        if settings.storage_type == "memory":
            why = "it is kept in memory, and the server lost it"
        else:
            why = "its streams were deleted by somebody else, or lost with the disk"
        log.warning("station %s%s was created again without its messages: %s", name, which, why)

    def _checked(self, request: StationCreate, name: str, user: str) -> StationSettings:
        """The settings of a station to create, checked in Memphis' order."""
        self._require_user(user, f"User {user} does not exist")
        check_partitions_number(request.partitions_number, name)
        settings = station_settings(request, name)
        if settings.tiered_storage_enabled:
            raise RequestError("tiered storage is not available in this broker: leave tiered_storage_enabled out")
        if settings.dls_station and lower_name("Station", settings.dls_station) == name:
            raise RequestError(f"station {name} can not be its own dead-letter station")
        return settings

    async def _settled(self, name: str) -> Optional[Row]:
        """The row of a station that is ready, None when there is none; finishes what a dead copy began."""
        deadline = time.monotonic() + WAIT_S
        while True:
            row = await self._state.stations.get(key_of(name))
            if row is None or row.value["status"] == READY:
                return row
            if await self._leases.is_dead(f"station {name}", row):
                await self._take_over(name, row)
            elif time.monotonic() > deadline:
                raise RequestError(f"timeout: station {name} is still being made or deleted")
            else:
                await asyncio.sleep(_POLL_S)

    async def _take_over(self, name: str, row: Row) -> None:
        log.warning("station %s was left half-way (%s); finishing it", name, row.value["status"])
        try:
            if row.value["status"] == CREATING:
                await self._finish(settings_of(row), await self._lease(name, row, CREATING))
            else:
                await self._unmake(name, row)
        except ConflictError:
            return  # somebody else took it over first; the caller looks again

    async def _lease(self, name: str, row: Row, status: str) -> Row:
        value = {**row.value, "status": status, **self._leases.fields()}
        return await self._state.stations.update(key_of(name), value, row.revision)

    async def _make(self, settings: StationSettings, schema: Optional[dict[str, Any]] = None) -> Row:
        """Leases the name, creates the streams, marks the station as ready."""
        value = {
            "settings": asdict(settings),
            "version": STATION_VERSION,
            "schema": schema,
            "status": CREATING,
            **self._leases.fields(),
        }
        try:
            lease = await self._state.stations.create(key_of(settings.name), value)
            return await self._finish(settings, lease)
        except ConflictError:  # another copy was faster, or took it over: its station counts
            row = await self._settled(settings.name)
            if row is None:
                raise RequestError(f"timeout: station {settings.name} was created and deleted meanwhile") from None
            return row

    async def _finish(self, settings: StationSettings, lease: Row) -> Row:
        """Creates the streams of a leased row: all of them, or none and no row."""
        replies = await asyncio.gather(
            *(self._create_stream(settings, partition) for partition in settings.partitions), return_exceptions=True
        )
        error = first_error(replies)
        if error is None:
            return await self._lease(settings.name, lease, READY)
        # Only what this request created: a stream that was there before may hold somebody's messages.
        made = [reply["config"]["name"] for reply in replies if isinstance(reply, dict) and reply.get("did_create")]
        await asyncio.gather(*(self._api.delete_stream(stream) for stream in made), return_exceptions=True)
        with contextlib.suppress(ConflictError):  # another copy took the row over: it is not ours to delete any more
            await self._state.stations.delete(key_of(settings.name), lease.revision)
        if isinstance(error, JetStreamError) and error.err_code in (REPLICAS_WITHOUT_CLUSTER, NO_SUITABLE_PEERS):
            raise RequestError(
                "station can not be created, probably since replicas count is larger than the cluster size"
            ) from error
        raise error

    async def _create_stream(self, settings: StationSettings, partition: int) -> dict[str, Any]:
        config = stream_config(settings, partition)
        return await self._api.request(f"STREAM.CREATE.{config['name']}", config)

    async def _unmake(self, name: str, row: Row) -> None:
        """Deletes streams, then what is stored about the station, then its row; announces it before the reply."""
        settings = settings_of(row)
        try:
            lease = await self._lease(name, row, DELETING)
        except ConflictError:
            if await self._settled(name) is None:
                return
            raise RequestError(f"timeout: station {name} was changed by somebody else meanwhile") from None
        streams = [stream_name(settings.internal, partition) for partition in settings.partitions]
        await all_of(*map(self._api.delete_stream, streams))
        for table in (self._state.members, self._state.closing, self._state.producers):
            await table.purge(f"{key_of(name)}.>")
        await self._given_back.purge(name)
        with contextlib.suppress(ConflictError):  # another copy took it over and has done or is doing the same
            await self._state.stations.delete(key_of(name), lease.revision)
        update = {"station_name": settings.internal, "type": "remove_station", "update": None}
        await self._connection.publish(subjects.CLIENT_UPDATES, json.dumps(update).encode())


def _without_tenant(username: str, prefix: str) -> str:
    """The user name without the account suffix that some clients send; there is one account, number 1."""
    match = _TENANT.match(username)
    if match is None:
        return username
    if match.group(2) != "1":
        raise RequestError(f"{prefix}: Tenant with id {match.group(2)} does not exist")
    return match.group(1)
