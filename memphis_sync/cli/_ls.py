"""``memphis-sync ls``: the stations of a broker."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from ._app import Settings, need_output
from ._group import command as command_of, examples
from ._table import Size, write_table

if TYPE_CHECKING:
    from memphis_sync import StationInfo

_HEADINGS = ("STATION", "MESSAGES", "SIZE", "PARTITIONS", "NEWEST", "SCHEMA", "RETENTION")
_GROUP_HEADINGS = ("STATION", "MESSAGES", "GROUPS", "LAG", "UNACKED", "SIZE", "PARTITIONS", "NEWEST", "SCHEMA")


@command_of(
    name="ls",
    epilog=examples(
        "memphis-sync ls",
        "memphis-sync ls --groups",
        "memphis-sync ls | cut -f1",
        "memphis-sync --json ls | jq -r .station",
    ),
)
@click.option("--groups", is_flag=True, help="Also the consumer groups, and how far behind they are.")
@click.pass_obj
def command(settings: Settings, groups: bool) -> None:
    """
    Write a line for each station.

    On a terminal it is a table, and a narrow one shows fewer columns; in a pipe the columns are separated by TAB, and
    with --json each line is an object with everything.
    """
    need_output()
    with settings.connect("ls") as client:
        stations = client.stations(with_groups=groups)
    if settings.json:
        lines = (json.dumps(station_record(station), ensure_ascii=False) + os.linesep for station in stations)
        sys.stdout.buffer.write("".join(lines).encode())
        sys.stdout.buffer.flush()
    elif groups:
        write_table(_GROUP_HEADINGS, [_group_row(station) for station in stations])
    else:
        write_table(_HEADINGS, [_row(station) for station in stations])
    if not stations:
        settings.say("there are no stations; 'memphis-sync pub STATION' creates one")


def _row(station: StationInfo) -> tuple[Any, ...]:
    return (
        station.name,
        station.messages,
        Size(station.bytes),
        station.partitions_number,
        station.last_time,
        station.schema_text,
        station.retention_text,
    )


def _group_row(station: StationInfo) -> tuple[Any, ...]:
    groups = station.groups or ()
    name, messages, *more = _row(station)[:-1]
    lag, unacknowledged = sum(group.lag for group in groups), sum(group.unacknowledged for group in groups)
    return (name, messages, len(groups), lag, unacknowledged, *more)


def station_record(station: StationInfo) -> dict[str, Any]:
    """A station as it is written with ``--json``."""
    return {
        "station": station.name,
        "messages": station.messages,
        "bytes": station.bytes,
        "partitions": [
            {
                "partition": each.number,
                "messages": each.messages,
                "bytes": each.bytes,
                "first_sequence": each.first_sequence,
                "last_sequence": each.last_sequence,
                "first_time": each.first_time and each.first_time.isoformat(),
                "last_time": each.last_time and each.last_time.isoformat(),
            }
            for each in station.partitions
        ],
        "retention": station.retention.value,
        "retention_value": station.retention_value,
        "storage": station.storage.value,
        "replicas": station.replicas,
        "idempotency_window_ms": station.idempotency_window_ms,
        "created": station.created and station.created.isoformat(),
        "schema": station.schema and {"name": station.schema.name, "version": station.schema.version},
        "groups": None
        if station.groups is None
        else [
            {
                "group": group.name,
                "lag": group.lag,
                "unacknowledged": group.unacknowledged,
                "redelivered": group.redelivered,
                "waiting": group.waiting,
                "last_active": group.last_active and group.last_active.isoformat(),
                "max_ack_time_ms": group.max_ack_time_ms,
                "max_msg_deliveries": group.max_msg_deliveries,
            }
            for group in station.groups
        ],
        "unknown": dict(station.unknown),
    }
