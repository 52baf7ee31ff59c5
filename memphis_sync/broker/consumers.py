"""
Consumers: members of groups, and the groups' durables.

Rules:
* A group is one durable on each partition. All exist before a member is answered.
* The start position counts when the durable is made and never again; ack wait and deliveries are the last joiner's.
* A durable goes with its group's last connected member, and only through a destruction: members that merely lost their
  connection find their position again.
* Joining and leaving change the station's one row of members by revision. A group whose durables are being deleted is
  marked, and nobody joins it until that is done: else the new member's durable could be the one that goes.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict, dataclass
from typing import Any, Callable, Optional

from nats.aio.client import Client

from memphis_sync._wire.control import ConsumerCreate, ConsumerDestroy, ConsumerReply
from memphis_sync._wire.names import durable_name, lower_name, stream_name
from memphis_sync._wire.streams import StationSettings, check_start, consumer_config
from memphis_sync.broker.activity import open_connection_ids
from memphis_sync.broker.jsapi import CONSUMER_EXISTS, JetStreamApi, JetStreamError, first_error
from memphis_sync.broker.locks import NamedLocks
from memphis_sync.broker.refusal import Refusal
from memphis_sync.broker.state import ConflictError, Row, State, key_of
from memphis_sync.broker.stations import Stations, settings_of
from memphis_sync.broker.users import Users

_TYPES = ("application", "connector")
_WITH_PARTITIONS = 2  # the first request version whose sender understands partitions
_CLOSING_S = 5.0  # a mark that is older was left by a copy that died
_POLL_S = 0.02
_ATTEMPTS = 100  # changes of one row by other copies, one after the other, before a request gives up

Groups = dict[str, Any]  # group -> {"members": [request as a dict], "closing": time or absent}


@dataclass(frozen=True)
class _Leaving:
    """What a destruction has to do once the member is out of the row."""

    group: str
    is_last: bool


class Consumers:
    """The handlers of consumer requests."""

    def __init__(self, connection: Client, api: JetStreamApi, state: State, stations: Stations, users: Users) -> None:
        self._connection = connection
        self._api = api
        self._state = state
        self._stations = stations
        self._users = users
        self._locks = NamedLocks()

    async def create(self, body: bytes) -> ConsumerReply:
        """Serves a creation; a missing station is made."""
        request = ConsumerCreate.decode(body)
        check_start(request.start_consume_from_sequence, request.last_messages)
        name = lower_name("Consumer", request.name)
        group = lower_name("Consumer", request.consumers_group) if request.consumers_group else name
        if request.consumer_type.lower() not in _TYPES:
            kind = request.consumer_type.lower()
            raise Refusal(f"consumer type has to be one of the following application/connector and not {kind}")
        station = lower_name("Station", request.station_name)
        self._users.require(request.username, "user does not exist")
        if request.req_version < _WITH_PARTITIONS:
            if await self._stations.find(station) is None:
                raise Refusal(
                    "This station does not exist, a default station can not be created automatically, "
                    "please upgrade your SDK version"
                )
            raise Refusal("to consume from this station please upgrade your SDK version")
        settings = settings_of(await self._stations.find_or_create(station))
        member = {**asdict(request), "name": name, "consumers_group": group, "station_name": station}
        member["created"] = time.time()
        async with self._locks.hold(f"{station}/{group}"):
            await self._join(station, group, member)
            try:
                await self._make_durables(settings, group, request)
            except BaseException:
                await self._change(station, lambda groups: _without(groups, group, member))
                raise
        return ConsumerReply(partitions=settings.partitions)

    async def destroy(self, body: bytes) -> None:
        """Serves a destruction."""
        request = ConsumerDestroy.decode(body)
        station = lower_name("Station", request.station_name)
        gone = Refusal(f"Consumer {request.name} at station {request.station_name} does not exist")
        row = await self._stations.find(station)
        if row is None:
            raise gone
        group = _group_of(await self._groups(station), request)
        if group is None:
            raise gone
        async with self._locks.hold(f"{station}/{group}"):
            leaving = await self._leave(station, group, request)
            if leaving is None:
                raise gone
            if leaving.is_last:
                settings = settings_of(row)
                durable = durable_name(group)
                streams = [stream_name(settings.internal, partition) for partition in settings.partitions]
                results = await asyncio.gather(
                    *(self._api.delete_consumer(stream, durable) for stream in streams), return_exceptions=True
                )
                await self._change(station, lambda groups: _reopen(groups, group))
                error = first_error(results)
                if error is not None:
                    raise error

    async def _groups(self, station: str) -> Groups:
        row = await self._state.members.get(key_of(station))
        return row.value["groups"] if row else {}

    async def _change(self, station: str, change: Callable[[Groups], Optional[Groups]]) -> None:
        """Applies a change to the groups of a station by revision; *change* gives None when there is nothing to do."""
        key = key_of(station)
        for _ in range(_ATTEMPTS):
            row: Optional[Row] = await self._state.members.get(key)
            groups = change(row.value["groups"] if row else {})
            if groups is None:
                return
            try:
                if row is None:
                    await self._state.members.create(key, {"groups": groups})
                else:
                    await self._state.members.update(key, {"groups": groups}, row.revision)
            except ConflictError:
                continue
            return
        raise Refusal("timeout: the consumer groups of this station change too fast")

    async def _join(self, station: str, group: str, member: dict[str, Any]) -> None:
        deadline = time.monotonic() + _CLOSING_S
        while True:
            closing = False

            def join(groups: Groups) -> Optional[Groups]:
                nonlocal closing
                entry = groups.get(group, {"members": []})
                closing = time.time() - entry.get("closing", 0.0) < _CLOSING_S and time.monotonic() < deadline
                return None if closing else {**groups, group: {"members": [*entry["members"], member]}}

            await self._change(station, join)
            if not closing:
                return
            await asyncio.sleep(_POLL_S)

    async def _leave(self, station: str, group: str, request: ConsumerDestroy) -> Optional[_Leaving]:
        """Takes one member out; None when there is none of that name and connection."""
        leaving: Optional[_Leaving] = None
        connected = await open_connection_ids(self._connection) if await self._has_others(station, group) else set()

        def leave(groups: Groups) -> Optional[Groups]:
            nonlocal leaving
            leaving = None
            entry = groups.get(group, {"members": []})
            members = list(entry["members"])
            index = next((at for at, member in enumerate(members) if _is(member, request)), None)
            if index is None:
                return None
            del members[index]
            is_last = not any(connected is None or member["connection_id"] in connected for member in members)
            leaving = _Leaving(group, is_last)
            mark = {"closing": time.time()} if is_last else {}
            return {**groups, group: {"members": members, **mark}}

        await self._change(station, leave)
        return leaving

    async def _has_others(self, station: str, group: str) -> bool:
        entry = (await self._groups(station)).get(group, {"members": []})
        return len(entry["members"]) > 1

    async def _make_durables(self, settings: StationSettings, group: str, request: ConsumerCreate) -> None:
        results = await asyncio.gather(
            *(self._make_durable(settings, partition, group, request) for partition in settings.partitions),
            return_exceptions=True,
        )
        error = first_error(results)
        if error is not None:
            raise error

    async def _make_durable(
        self, settings: StationSettings, partition: int, group: str, request: ConsumerCreate
    ) -> None:
        """Makes a durable, or gives the one that is there the newcomer's ack wait and deliveries."""
        stream = stream_name(settings.internal, partition)
        last_sequence = None
        if request.last_messages > 0:
            last_sequence = (await self._api.request(f"STREAM.INFO.{stream}"))["state"]["last_seq"]
        config = consumer_config(
            settings.internal,
            partition,
            group,
            max_ack_time_ms=request.max_ack_time_ms,
            max_msg_deliveries=request.max_msg_deliveries,
            start_sequence=request.start_consume_from_sequence,
            last_messages=request.last_messages,
            last_sequence=last_sequence,
        )
        create = f"CONSUMER.DURABLE.CREATE.{stream}.{config['durable_name']}"
        try:
            await self._api.request(create, {"stream_name": stream, "config": config, "action": "create"})
        except JetStreamError as exc:
            if exc.err_code not in CONSUMER_EXISTS:
                raise
        else:
            return
        present = (await self._api.request(f"CONSUMER.INFO.{stream}.{config['durable_name']}"))["config"]
        wanted = {**present, "ack_wait": config["ack_wait"], "max_deliver": config["max_deliver"]}
        if wanted != present:
            await self._api.request(create, {"stream_name": stream, "config": wanted, "action": "update"})


def _is(member: dict[str, Any], request: ConsumerDestroy) -> bool:
    """Whether a request means this member; before version 1 it doesn't say on which connection."""
    same_connection = request.req_version < 1 or member["connection_id"] == request.connection_id
    return same_connection and bool(member["name"] == request.name.lower())


def _group_of(groups: Groups, request: ConsumerDestroy) -> Optional[str]:
    for group, entry in groups.items():
        if any(_is(member, request) for member in entry["members"]):
            return group
    return None


def _without(groups: Groups, group: str, member: dict[str, Any]) -> Optional[Groups]:
    entry = groups.get(group, {"members": []})
    if member not in entry["members"]:
        return None
    members = list(entry["members"])
    members.remove(member)
    return _with_members(groups, group, members)


def _reopen(groups: Groups, group: str) -> Optional[Groups]:
    """Takes the mark away; a group without members goes."""
    return _with_members(groups, group, groups[group]["members"]) if group in groups else None


def _with_members(groups: Groups, group: str, members: list[dict[str, Any]]) -> Groups:
    others = {name: entry for name, entry in groups.items() if name != group}
    return {**others, group: {"members": members}} if members else others
