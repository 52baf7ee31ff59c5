"""What only our broker knows: schemas, and which client has which producers and consumers."""

from __future__ import annotations

from collections import defaultdict

from memphis_sync._inspecting.asking import Asking
from memphis_sync._protocol.inspection import MemberList, MemberRow, SchemaList, SchemaSource
from memphis_sync._protocol.stored import time_of
from memphis_sync.info import ConnectionInfo, Listing, MemberInfo, SchemaSummary
from memphis_sync.types import SchemaInfo

_NS_PER_MS = 1_000_000


async def schemas(asking: Asking) -> Listing[SchemaSummary]:
    """All schemas by name."""
    rows = await asking.rows(SchemaList(), "the list of schemas")
    return Listing(SchemaSummary(row.name, row.type, row.versions, row.active, row.stations) for row in rows)


async def schema(asking: Asking, name: str, version: int) -> SchemaInfo:
    """
    A version of a schema, 0 for the active one.

    Raises:
        ServerError: There is none.
    """
    found = (await asking.ours(SchemaSource(name, version), f"schema {name!r}")).update
    return SchemaInfo(found.name, found.type, found.version, found.content, found.descriptor, found.message_struct_name)


async def connections(asking: Asking, station_name: str) -> Listing[ConnectionInfo]:
    """The clients with producers and consumers, of one station or of all, by user name and id."""
    rows = await asking.rows(MemberList(station_name=station_name), "the list of connections")
    by_client: dict[tuple[str, str], list[MemberRow]] = defaultdict(list)
    for row in rows:
        by_client[row.username, row.connection_id].append(row)
    return Listing(_connection(by_client[key]) for key in sorted(by_client))


def _connection(rows: list[MemberRow]) -> ConnectionInfo:
    first = rows[0]
    return ConnectionInfo(
        id=first.connection_id,
        username=first.username,
        address=first.address,
        is_connected=first.is_connected,
        sdk=first.sdk_lang,
        producers=_members(rows, "producer"),
        consumers=_members(rows, "consumer"),
    )


def _members(rows: list[MemberRow], kind: str) -> tuple[MemberInfo, ...]:
    found = (
        MemberInfo(row.name, row.station, row.group, time_of(row.created_ms * _NS_PER_MS))
        for row in rows
        if row.kind == kind
    )
    return tuple(sorted(found, key=lambda member: (member.station, member.name)))
