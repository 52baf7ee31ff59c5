"""``memphis-sync info``: one station with its partitions, groups, producers and consumers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Optional

import click

from memphis_sync.errors import ServerError

from ._app import Settings, need_output
from ._group import command as command_of, examples
from ._ls import station_record
from ._streams import write_result
from ._table import Size, size_text, write_table

if TYPE_CHECKING:
    from memphis_sync import ConnectionInfo, StationInfo

_NO_RESPONDERS = 503


@command_of(
    name="info",
    epilog=examples(
        "memphis-sync info orders",
        "memphis-sync --json info orders | jq '.groups[].lag'",
    ),
)
@click.argument("station")
@click.pass_obj
def command(settings: Settings, station: str) -> None:
    """
    Show what there is to know of STATION: its limits, schema, partitions, consumer groups and clients.

    With --json it is one object. A Memphis broker tells neither schema nor clients, which is said in "unknown".
    """
    need_output()
    with settings.connect("info") as client:
        info = client.station(station, create_station=False).info()
        unknown, connections = dict(info.unknown), None
        try:
            connections = client.connections(info.name)
        except ServerError as exc:
            if exc.code != _NO_RESPONDERS:
                raise
            unknown["clients"] = str(exc)
    if settings.json:
        record = station_record(info)
        clients = None if connections is None else [_client_record(each) for each in connections]
        write_result(json.dumps({**record, "clients": clients, "unknown": unknown}, ensure_ascii=False))
    else:
        _write(info, connections, unknown)


def _write(info: StationInfo, connections: Optional[list[ConnectionInfo]], unknown: dict[str, str]) -> None:
    facts: list[tuple[str, object]] = [
        ("station", info.name),
        ("messages", f"{info.messages:,}"),
        ("size", size_text(info.bytes)),
        ("retention", info.retention_text),
        ("storage", f"{info.storage.name.lower()}, {info.replicas} {'copy' if info.replicas == 1 else 'copies'}"),
        ("id window", f"{info.idempotency_window_ms:,} ms"),
        ("created", info.created and info.created.isoformat(sep=" ", timespec="seconds")),
        ("schema", info.schema_text or "none"),
        *((f"{name} is not known", why) for name, why in unknown.items()),
    ]
    write_result("\n".join(f"{name + ':':<11} {value}" for name, value in facts))
    _section(
        "partitions",
        ("NUMBER", "MESSAGES", "SIZE", "FIRST", "LAST", "NEWEST"),
        [
            (each.number, each.messages, Size(each.bytes), each.first_sequence, each.last_sequence, each.last_time)
            for each in info.partitions
        ],
    )
    _section(
        "consumer groups",
        ("GROUP", "LAG", "UNACKED", "REDELIVERED", "WAITING", "LAST ACTIVE"),
        [
            (each.name, each.lag, each.unacknowledged, each.redelivered, each.waiting, each.last_active)
            for each in info.groups or ()
        ],
    )
    _section(
        "producers and consumers",
        ("KIND", "NAME", "GROUP", "CONNECTED", "USER", "ADDRESS"),
        [
            (kind, each.name, each.group, "yes" if client.is_connected else "no", client.username, client.address)
            for client in connections or ()
            for kind, members in (("producer", client.producers), ("consumer", client.consumers))
            for each in members
        ],
    )


def _section(title: str, headings: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    write_result(f"\n{title}: {len(rows) or 'none'}")
    if rows:
        write_table(headings, rows, for_people=True, indent="  ")


def _client_record(client: ConnectionInfo) -> dict[str, Any]:
    def members(of: tuple[Any, ...]) -> list[dict[str, Any]]:
        return [
            {"name": each.name, "group": each.group or None, "since": each.since.isoformat(timespec="milliseconds")}
            for each in of
        ]

    return {
        "connection_id": client.id,
        "username": client.username,
        "address": client.address or None,
        "is_connected": client.is_connected,
        "sdk": client.sdk,
        "producers": members(client.producers),
        "consumers": members(client.consumers),
    }
