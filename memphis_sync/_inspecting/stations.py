"""
Stations and their consumer groups, from what JetStream says of streams and durables.

A Memphis broker also has streams of other programs among its stations; here a station is what looks like one: streams
of its name whose one subject is ``<stream>.>``.
"""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final, Optional, Union

from memphis_sync._control.error_mapping import NOT_ALLOWED
from memphis_sync._inspecting.asking import Asking
from memphis_sync._protocol.inspection import StationList, StationRow
from memphis_sync._protocol.names import external_name, internal_name, publish_subject, split_stream, stream_name
from memphis_sync._protocol.stored import time_or_none
from memphis_sync.errors import ConfigurationError, LocalProtocolError, ServerError, StationNotFoundError
from memphis_sync.info import AttachedSchema, GroupInfo, GroupPartitionInfo, Listing, PartitionInfo, StationInfo
from memphis_sync.types import Retention, Storage

_NS_PER_S, _NS_PER_MS = 1_000_000_000, 1_000_000
_INTERNAL = re.compile(r"[a-z0-9]([a-z0-9_#-]*[a-z0-9])?\Z")

# The groups of a station; None when they are not asked for, or why they are not known.
Groups = Union[tuple[GroupInfo, ...], None, str]
_GONE: Final = "the station was destroyed"
Streams = dict[int, dict[str, Any]]  # what JetStream says of a station's streams, by partition


async def stations(asking: Asking, *, with_groups: bool) -> Listing[StationInfo]:
    """All stations by name."""
    infos, rows = await asyncio.gather(asking.pages("STREAM.LIST", "streams"), station_rows(asking))
    found: dict[str, Streams] = defaultdict(dict)
    for info in infos:
        place = _place(info)
        if place is not None and (rows is None or _is_of(rows.get(external_name(place[0])), place[1])):
            found[place[0]][place[1]] = info
    names = sorted(found)
    groups: Sequence[Groups] = [None] * len(names)
    if with_groups:
        groups = await asyncio.gather(*(_groups_if_there(asking, name, found[name]) for name in names))
    told = (_station(name, found[name], rows, of) for name, of in zip(names, groups) if of is not _GONE)
    return Listing(sorted(told, key=lambda station: station.name))


async def station(asking: Asking, name: str) -> StationInfo:
    """
    One station with its groups.

    Raises:
        StationNotFoundError: It does not exist.
    """
    rows = await station_rows(asking, name)
    streams = await streams_of(asking, name, rows)
    internal = internal_name(name)
    return _station(internal, streams, rows, await _groups(asking, internal, streams))


async def station_rows(asking: Asking, name: str = "") -> Optional[dict[str, StationRow]]:
    """What our broker knows of the stations, or of one, by name; None of a Memphis broker."""
    if asking.is_memphis:
        return None
    return {row.name: row for row in await asking.rows(StationList(station_name=name), "the list of stations")}


async def streams_of(asking: Asking, name: str, rows: Optional[dict[str, StationRow]]) -> Streams:
    """
    What JetStream says of the streams of a station, by partition; *rows* as from station_rows().

    Raises:
        StationNotFoundError: There are none.
    """
    internal = internal_name(name)
    if rows is None:
        places = map(_split, await asking.pages("STREAM.NAMES", "streams"))
        numbers = sorted({place[1] for place in places if place is not None and place[0] == internal})
    else:
        numbers = list(range(1, rows[name].partitions + 1)) if name in rows else []
    calls = (asking.js_or_none(f"STREAM.INFO.{stream_name(internal, number)}") for number in numbers)
    found = {number: info for number, info in zip(numbers, await asyncio.gather(*calls)) if info and _place(info)}
    if not found:
        raise StationNotFoundError(f"there is no station {name!r}; the first message to it creates it")
    return found


def check_there(name: str, partition: Optional[int], streams: Streams) -> None:
    """Raises ConfigurationError unless the station has this partition; None is none in particular."""
    if partition is not None and partition not in streams:
        there = ", ".join(map(str, streams)) if len(streams) <= 3 else f"{min(streams)} to {max(streams)}"
        raise ConfigurationError(f"partition is {partition}; station {name!r} has {there}")


def _split(stream: str) -> Optional[tuple[str, int]]:
    """The internal name of the station and the partition; None when no station's stream is named like that."""
    try:
        internal, partition = split_stream(stream)
    except LocalProtocolError:
        return None
    return (internal, partition) if _INTERNAL.match(internal) else None


def _place(info: dict[str, Any]) -> Optional[tuple[str, int]]:
    config = info["config"]
    name = str(config["name"])
    return _split(name) if config.get("subjects") == [f"{name}.>"] else None


def _is_of(row: Optional[StationRow], partition: int) -> bool:
    """Whether our broker has a station with this partition; another program's stream may have such a name, too."""
    return row is not None and 1 <= partition <= row.partitions


def _station(
    internal: str,
    streams: Streams,
    rows: Optional[dict[str, StationRow]],
    groups: Groups,
) -> StationInfo:
    name = external_name(internal)
    config = next(iter(streams.values()))["config"]
    row, unknown = (rows or {}).get(name), {}
    if rows is None:
        unknown["schema"] = StationList.INSTEAD
    if isinstance(groups, str):
        unknown["groups"] = groups
    retention, value = _retention(config)
    return StationInfo(
        name=name,
        partitions=tuple(_partition(number, info["state"]) for number, info in sorted(streams.items())),
        retention=retention,
        retention_value=value,
        storage=Storage(config["storage"]),
        replicas=int(config.get("num_replicas", 1)),
        idempotency_window_ms=int(config.get("duplicate_window", 0)) // _NS_PER_MS,
        created=min((t for info in streams.values() if (t := time_or_none(info.get("created")))), default=None),
        schema=AttachedSchema(row.schema_name, row.schema_version) if row and row.schema_name else None,
        groups=None if isinstance(groups, str) else groups,
        unknown=unknown,
    )


def _retention(config: dict[str, Any]) -> tuple[Retention, int]:
    if config["retention"] == "interest":
        return Retention.ACK_BASED, 0
    for kind, limit in ((Retention.MESSAGES, "max_msgs"), (Retention.BYTES, "max_bytes")):
        if int(config.get(limit, -1)) > 0:
            return kind, int(config[limit])
    return Retention.MAX_MESSAGE_AGE_SECONDS, int(config.get("max_age", 0)) // _NS_PER_S


def _partition(number: int, state: dict[str, Any]) -> PartitionInfo:
    messages = int(state["messages"])
    return PartitionInfo(
        number=number,
        messages=messages,
        bytes=int(state["bytes"]),
        first_sequence=int(state["first_seq"]),
        last_sequence=int(state["last_seq"]),
        first_time=time_or_none(state.get("first_ts")) if messages else None,
        last_time=time_or_none(state.get("last_ts")) if messages else None,
    )


async def _groups_if_there(asking: Asking, internal: str, streams: Streams) -> Groups:
    """The same as _groups(); _GONE when the station was destroyed meanwhile."""
    try:
        return await _groups(asking, internal, streams)
    except StationNotFoundError:
        return _GONE


async def _groups(asking: Asking, internal: str, streams: Streams) -> Groups:
    """The consumer groups of a station, by name: the durables that read its messages."""
    numbers = [number for number, info in sorted(streams.items()) if info["state"].get("consumer_count", 1)]
    calls = (asking.pages(f"CONSUMER.LIST.{stream_name(internal, number)}", "consumers") for number in numbers)
    try:
        lists = await asyncio.gather(*calls)
    except ServerError as exc:
        if exc.code != NOT_ALLOWED:
            raise
        return str(exc)
    found: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for number, infos in zip(numbers, lists):
        for info in infos:
            config = info["config"]
            if config.get("durable_name") and config.get("filter_subject") == publish_subject(internal, number):
                found[external_name(config["durable_name"])][number] = info
    return tuple(_group(name, found[name]) for name in sorted(found))


def _group(name: str, infos: dict[int, dict[str, Any]]) -> GroupInfo:
    config = next(iter(infos.values()))["config"]
    return GroupInfo(
        name=name,
        partitions=tuple(_progress(number, info) for number, info in sorted(infos.items())),
        max_ack_time_ms=int(config.get("ack_wait", 0)) // _NS_PER_MS,
        max_msg_deliveries=int(config.get("max_deliver", -1)),
    )


def _progress(number: int, info: dict[str, Any]) -> GroupPartitionInfo:
    delivered = info.get("delivered") or {}
    return GroupPartitionInfo(
        number=number,
        delivered=int(delivered.get("stream_seq", 0)),
        acknowledged=int((info.get("ack_floor") or {}).get("stream_seq", 0)),
        lag=int(info.get("num_pending", 0)),
        unacknowledged=int(info.get("num_ack_pending", 0)),
        redelivered=int(info.get("num_redelivered", 0)),
        waiting=int(info.get("num_waiting", 0)),
        last_active=time_or_none(delivered.get("last_active")),
    )
