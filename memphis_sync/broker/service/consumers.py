"""
Consumers: members of groups, and the groups' durables.

Rules:
* A group is one durable on each partition. All of them exist before a member's request is answered.
* The start position counts only when the durable is created; ack wait and max deliveries are those of the member that
  joined last.
* A group's durables are deleted when its last connected member is destroyed: members that merely lost their connection
  find their position again.
* A new member must not get a durable that is being deleted. Whoever joins writes its row, then checks whether the group
  is marked as closing, and waits while it is. Whoever closes marks the group, then checks the rows once more, and keeps
  the durables if a connected member has one. So at least one of the two sees the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Awaitable
from dataclasses import asdict
from typing import Callable, Optional

from nats.js.errors import APIError

from memphis_sync._protocol.names import durable_name, lower_name, stream_name
from memphis_sync._protocol.requests import ConsumerCreate, ConsumerDestroy, ConsumerReply
from memphis_sync._protocol.streams import StationSettings, check_start, consumer_config
from memphis_sync.broker.request_error import RequestError
from memphis_sync.broker.service.part import Part, Shared, settings_of
from memphis_sync.broker.service.routing import Routes
from memphis_sync.broker.service.stations import WAIT_S, Stations
from memphis_sync.broker.storage.connections import open_connection_keys
from memphis_sync.broker.storage.jetstream_api import (
    CONSUMER_EXISTS,
    JetStreamError,
    all_of,
    is_no_room,
)
from memphis_sync.broker.storage.schemas import active_version
from memphis_sync.broker.storage.tables import ConflictError, Row, connection_key, key_of, name_of

log = logging.getLogger("memphis_sync.broker")

_TYPES = ("application", "connector")
_POLL_S = 0.02


class Consumers(Part):
    """
    The handlers of consumer requests.

    Args:
        shared: What all parts share.
        stations: Creates stations.
        forget_group: Removes a deleted group from dead letters.
    """

    def __init__(self, shared: Shared, stations: Stations, forget_group: Callable[[str, str], Awaitable[None]]) -> None:
        super().__init__(shared)
        self._stations = stations
        self._forget_group = forget_group
        self.routes: Routes = {ConsumerCreate: self.create, ConsumerDestroy: self.destroy}

    async def create(self, request: ConsumerCreate) -> ConsumerReply:
        """Adds a member to a group; creates the group, and its station, if they are missing."""
        check_start(request.start_consume_from_sequence, request.last_messages)
        name = lower_name("Consumer", request.name)
        group = lower_name("Consumer", request.consumers_group) if request.consumers_group else name
        if request.consumer_type.lower() not in _TYPES:
            kind = request.consumer_type.lower()
            raise RequestError(f"consumer type has to be one of the following application/connector and not {kind}")
        station = lower_name("Station", request.station_name)
        self._require_user(request.username, "user does not exist")
        await self._stations.refuse_old(request.req_version, station, "This", "to consume from")
        group_key = f"{key_of(station)}.{key_of(group)}"
        member_key = f"{group_key}.{connection_key(request.connection_id)}.{key_of(name)}.{secrets.token_hex(6)}"
        async with self._locks.hold(group_key):
            try:
                # Side by side, for speed; if the station cannot be created, the row is removed below.
                row, is_known = await all_of(
                    self._stations.find_or_create(station),
                    self._state.members.put_if_room(member_key, {**asdict(request), "created": time.time()}),
                )
                settings = settings_of(row)
                await self._wait_until_open(group_key, settings, group)
                if not is_known:
                    await self._require_durables(settings, group)
                await self._make_durables(settings, settings.partitions, group, request)
            except BaseException:
                await self._state.members.purge(member_key)
                raise
        return ConsumerReply(schema_update=await active_version(self._state, row), partitions=settings.partitions)

    async def _require_durables(self, settings: StationSettings, group: str) -> None:
        """
        Lets a member join an existing group although the store is full: it is the members who make room. All that this
        one lacks is the row that keeps the group when all others have left.

        Raises:
            RequestError: The group does not exist; a new one needs a member with a row.
        """
        log.warning("the store is full: a consumer joins its group without being remembered")
        streams = (stream_name(settings.internal, partition) for partition in settings.partitions)
        infos = await asyncio.gather(*(self._api.consumer_info(stream, durable_name(group)) for stream in streams))
        if None in infos:
            raise RequestError(f"the broker's store is full: there is no room for the new consumer group {group}")

    async def destroy(self, request: ConsumerDestroy) -> None:
        """Removes one member of that name on that connection, and its group's durables if no other is connected."""
        station = lower_name("Station", request.station_name)
        gone = RequestError(f"Consumer {request.name} at station {request.station_name} does not exist")
        row = await self._stations.find(station)
        try:
            name = lower_name("Consumer", request.name)
        except ValueError:
            raise gone from None  # no consumer can have that name
        if row is None:
            raise gone
        # A client from before version 1 does not name its connection; like Memphis we then go by the name alone.
        connection = connection_key(request.connection_id) if request.req_version >= 1 else "*"
        found = await self._state.members.keys(f"{key_of(station)}.*.{connection}.{key_of(name)}.*")
        if not found:
            raise gone
        group = found[0].split(".")[1]
        group_key = f"{key_of(station)}.{group}"
        async with self._locks.hold(group_key):
            await self._state.members.purge(found[0])
            await self._close_if_last(group_key, settings_of(row), name_of(group))

    async def add_groups(self, settings: StationSettings, partitions: list[int]) -> None:
        """
        Creates the durables of a station's groups on new streams, with the limits of the members that joined last. Each
        starts at the first message: old positions, and start positions, referred to messages that were lost.
        """
        rows = await self._state.members.rows(f"{key_of(settings.name)}.>")
        newest = {key.split(".")[1]: row for key, row in sorted(rows.items(), key=lambda item: item[1].revision)}
        for group, row in newest.items():
            limits = {name: row.value[name] for name in ("max_ack_time_ms", "max_msg_deliveries")}
            await self._make_durables(settings, partitions, name_of(group), ConsumerCreate(**limits))

    async def _has_connected_members(self, group_key: str) -> bool:
        members = await self._state.members.keys(f"{group_key}.>")
        keys = await open_connection_keys(self._connection) if members else set()
        return keys is None or any(member.split(".")[2] in keys for member in members)

    async def _close_if_last(self, group_key: str, settings: StationSettings, group: str) -> None:
        """Deletes the group's durables if no member is connected."""
        while not await self._has_connected_members(group_key):
            try:
                mark = await self._state.closing.create(group_key, self._leases.fields())
            except ConflictError:  # another copy is closing it, or died doing so: look again afterwards
                await self._wait_until_open(group_key, settings, group)
                continue
            except APIError as exc:
                if not is_no_room(exc):
                    raise
                log.warning("the store is full: group %s stays although its last member has left", group)
                return
            if await self._has_connected_members(group_key):
                await self._unmark(group_key, mark)
            else:
                await self._close(group_key, settings, group, mark)
            return

    async def _unmark(self, group_key: str, mark: Row) -> None:
        with contextlib.suppress(ConflictError):  # another copy took it over, and removes the mark itself
            await self._state.closing.delete(group_key, mark.revision)

    async def _close(self, group_key: str, settings: StationSettings, group: str, mark: Row) -> None:
        streams = [stream_name(settings.internal, partition) for partition in settings.partitions]
        try:
            await all_of(*(self._api.delete_consumer(stream, durable_name(group)) for stream in streams))
        finally:
            await self._forget_group(settings.name, group)
            await self._unmark(group_key, mark)

    async def _wait_until_open(self, group_key: str, settings: StationSettings, group: str) -> None:
        """Waits up to WAIT_S while the group is being closed; finishes that if the copy that began it has died."""
        deadline = time.monotonic() + WAIT_S
        while True:
            mark: Optional[Row] = await self._state.closing.get(group_key)
            if mark is None:
                return
            if not await self._leases.is_dead(f"group {group_key}", mark):
                if time.monotonic() > deadline:
                    raise RequestError(f"timeout: consumer group {group} is still being closed")
                await asyncio.sleep(_POLL_S)
                continue
            with contextlib.suppress(ConflictError):  # somebody else was faster
                mark = await self._state.closing.update(group_key, self._leases.fields(), mark.revision)
                await self._close(group_key, settings, group, mark)

    async def _make_durables(
        self, settings: StationSettings, partitions: list[int], group: str, request: ConsumerCreate
    ) -> None:
        await all_of(*(self._make_durable(settings, partition, group, request) for partition in partitions))

    async def _make_durable(
        self, settings: StationSettings, partition: int, group: str, request: ConsumerCreate
    ) -> None:
        """Creates a durable, or gives an existing one the new member's ack wait and max deliveries."""
        stream = stream_name(settings.internal, partition)
        last = None
        if request.last_messages > 0:
            last = (await self._api.request(f"STREAM.INFO.{stream}"))["state"]["last_seq"]
        config = consumer_config(settings.internal, partition, group, request, last)
        create = f"CONSUMER.DURABLE.CREATE.{stream}.{config['durable_name']}"
        try:
            await self._api.request(create, {"stream_name": stream, "config": config, "action": "create"})
        except JetStreamError as exc:
            if exc.err_code not in CONSUMER_EXISTS:
                raise
        else:
            return
        info = await self._api.consumer_info(stream, config["durable_name"])
        if info is None:
            raise RequestError(f"timeout: consumer group {group} was deleted meanwhile")
        present = info["config"]
        wanted = {**present, "ack_wait": config["ack_wait"], "max_deliver": config["max_deliver"]}
        if wanted != present:
            await self._api.request(create, {"stream_name": stream, "config": wanted, "action": "update"})
