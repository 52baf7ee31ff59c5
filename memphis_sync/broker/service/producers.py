"""Producers: a row each, for those who look; JetStream knows nothing of them."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict
from typing import Any

from nats.js.errors import APIError

from memphis_sync._protocol.control import ProducerCreate, ProducerDestroy, ProducerReply
from memphis_sync._protocol.names import lower_name
from memphis_sync.broker.request_error import RequestError
from memphis_sync.broker.service.stations import Stations, settings_of
from memphis_sync.broker.service.users import Users
from memphis_sync.broker.storage.jetstream_api import both, is_no_room
from memphis_sync.broker.storage.schemas import active_version
from memphis_sync.broker.storage.tables import State, connection_key, key_of

log = logging.getLogger("memphis_sync.broker")

_TYPES = ("application", "connector")
_WITH_PARTITIONS = 2  # the first request version whose sender understands partitions


class Producers:
    """The handlers of producer requests."""

    def __init__(self, state: State, stations: Stations, users: Users) -> None:
        self._state = state
        self._stations = stations
        self._users = users

    async def create(self, body: bytes) -> ProducerReply:
        """Serves a creation; a missing station is made."""
        request = ProducerCreate.decode(body)
        station = lower_name("Station", request.station_name)
        name = lower_name("Producer", request.name)
        if request.producer_type.lower() not in _TYPES:
            raise RequestError("producer type has to be one of the following application/connector")
        self._users.require(request.username, f"User {request.username} does not exist")
        if request.req_version < _WITH_PARTITIONS:
            if await self._stations.find(station) is None:
                raise RequestError(
                    "this station does not exist, a default station can not be created automatically, "
                    "please upgrade your SDK version"
                )
            raise RequestError("to produce to this station please upgrade your SDK version")
        key = f"{key_of(station)}.{connection_key(request.connection_id)}.{key_of(name)}"
        try:  # side by side, for speed
            row, _ = await both(
                self._stations.find_or_create(station),
                self._remember(key, {**asdict(request), "created": time.time()}),
            )
        except BaseException:
            await self._state.producers.purge(key)
            raise
        settings = settings_of(row)
        return ProducerReply(
            schema_update=await active_version(self._state, row),
            partitions=settings.partitions,
            schemaverse_to_dls=settings.dls_schemaverse,
            station_version=row.value["version"],
        )

    async def _remember(self, key: str, value: dict[str, Any]) -> None:
        """Writes a producer's row; nothing depends on it, so that a full store is left to the messages to report."""
        try:
            await self._state.producers.put(key, value)
        except APIError as exc:
            if not is_no_room(exc):
                raise
            log.warning("the store is full: a producer is not remembered")

    async def destroy(self, body: bytes) -> None:
        """Serves a destruction: all rows of that name on that connection go; that there was none is no error."""
        request = ProducerDestroy.decode(body)
        station = lower_name("Station", request.station_name)
        name = request.name.lower()
        # A client from before version 1 doesn't say which connection is its own; Memphis goes by the names then.
        connection = connection_key(request.connection_id) if request.req_version >= 1 else "*"
        try:
            lower_name("Producer", name)
        except ValueError:
            return  # no producer can have that name
        await self._state.producers.purge(f"{key_of(station)}.{connection}.{key_of(name)}")
