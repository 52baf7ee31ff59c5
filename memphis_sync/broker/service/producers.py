"""Producers: one row each, as a record; JetStream does not know them."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict

from memphis_sync._protocol.names import lower_name
from memphis_sync._protocol.requests import ProducerCreate, ProducerDestroy, ProducerReply
from memphis_sync.broker.request_error import RequestError
from memphis_sync.broker.service.part import Part, Shared, settings_of
from memphis_sync.broker.service.routing import Routes
from memphis_sync.broker.service.stations import Stations
from memphis_sync.broker.storage.jetstream_api import all_of
from memphis_sync.broker.storage.schemas import active_version
from memphis_sync.broker.storage.tables import connection_key, key_of

log = logging.getLogger("memphis_sync.broker")

_TYPES = ("application", "connector")


class Producers(Part):
    """The handlers of producer requests."""

    def __init__(self, shared: Shared, stations: Stations) -> None:
        super().__init__(shared)
        self._stations = stations
        self.routes: Routes = {ProducerCreate: self.create, ProducerDestroy: self.destroy}

    async def create(self, request: ProducerCreate) -> ProducerReply:
        """Creates a producer, and its station if that is missing."""
        station = lower_name("Station", request.station_name)
        name = lower_name("Producer", request.name)
        if request.producer_type.lower() not in _TYPES:
            raise RequestError("producer type has to be one of the following application/connector")
        self._require_user(request.username, f"User {request.username} does not exist")
        await self._stations.refuse_old(request.req_version, station, "this", "to produce to")
        key = f"{key_of(station)}.{connection_key(request.connection_id)}.{key_of(name)}"
        try:  # side by side, for speed
            row, is_known = await all_of(
                self._stations.find_or_create(station),
                self._state.producers.put_if_room(key, {**asdict(request), "created": time.time()}),
            )
        except BaseException:
            await self._state.producers.purge(key)
            raise
        if not is_known:  # nothing depends on the row: its messages will report the full store
            log.warning("the store is full: a producer is not remembered")
        settings = settings_of(row)
        return ProducerReply(
            schema_update=await active_version(self._state, row),
            partitions=settings.partitions,
            schemaverse_to_dls=settings.dls_schemaverse,
            station_version=row.value["version"],
        )

    async def destroy(self, request: ProducerDestroy) -> None:
        """Removes all producers of that name on that connection; not an error when there is none."""
        station = lower_name("Station", request.station_name)
        name = request.name.lower()
        # A client from before version 1 does not name its connection; like Memphis we then go by the name alone.
        connection = connection_key(request.connection_id) if request.req_version >= 1 else "*"
        try:
            lower_name("Producer", name)
        except ValueError:
            return  # no producer can have that name
        await self._state.producers.purge(f"{key_of(station)}.{connection}.{key_of(name)}")
