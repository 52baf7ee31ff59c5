"""
Our own requests about what JetStream does not know: stations' schemas, members, and schemas with their versions.

They go page by page, so that no reply exceeds ``max_payload``: a page says after which key the next begins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from memphis_sync._protocol.body import Body, Codec, JsonReply, R, Request, key
from memphis_sync._protocol.requests import SCHEMA_UPDATE, SchemaUpdate

KINDS = ("producer", "consumer")


def _rows(kind: type[Body]) -> Codec:
    return Codec(
        lambda value: tuple(kind.from_json(row) for row in value or ()), lambda rows: [row.to_json() for row in rows]
    )


@dataclass(frozen=True)
class StationRow(Body):
    """
    What the broker knows of a station.

    Attributes:
        schema_name: "" without one.
        schema_version: The version that is active now; 0 without a schema.
    """

    STRUCT = "stationRow"

    name: str = key("string")
    partitions: int = key("int")
    schema_name: str = key("string")
    schema_version: int = key("int")


@dataclass(frozen=True)
class MemberRow(Body):
    """
    A producer or consumer that is registered.

    Attributes:
        kind: One of KINDS.
        group: Of a consumer; "" of a producer.
        created_ms: Since 1970.
        is_connected: Whether its connection is open.
        address: Where it connects from; "" when it is not connected, or the server does not say.
    """

    STRUCT = "memberRow"

    kind: str = key("string")
    station: str = key("string")
    name: str = key("string")
    group: str = key("string")
    connection_id: str = key("string")
    username: str = key("string")
    sdk_lang: str = key("string")
    app_id: str = key("string")
    created_ms: int = key("int64")
    is_connected: bool = key("bool")
    address: str = key("string")


@dataclass(frozen=True)
class SchemaRow(Body):
    """
    A schema.

    Attributes:
        active: The number of its active version.
        versions: How many it has.
        stations: Those that it is attached to.
    """

    STRUCT = "schemaRow"

    name: str = key("string")
    type: str = key("string")
    active: int = key("int")
    versions: int = key("int")
    stations: tuple[str, ...] = key("[]string")


@dataclass(frozen=True)
class _Page(JsonReply):
    """
    A page.

    Attributes:
        rows: Ascending by key.
        after: What the next page begins after; "" when this is the last.
    """

    rows: tuple[Any, ...] = key(_rows(Body), ())
    after: str = key("string")
    error: str = key("string")


@dataclass(frozen=True)
class StationPage(_Page):
    """A page of stations."""

    rows: tuple[StationRow, ...] = key(_rows(StationRow), ())


@dataclass(frozen=True)
class MemberPage(_Page):
    """A page of producers and consumers."""

    rows: tuple[MemberRow, ...] = key(_rows(MemberRow), ())


@dataclass(frozen=True)
class SchemaPage(_Page):
    """A page of schemas."""

    rows: tuple[SchemaRow, ...] = key(_rows(SchemaRow), ())


@dataclass(frozen=True)
class PageRequest(Request[R]):
    """
    What asks for a page.

    Attributes:
        after: Where the page begins; "" for the first.
    """

    after: str = key("string")
    username: str = key("string")


@dataclass(frozen=True)
class StationList(PageRequest[StationPage]):
    """
    A page of the stations.

    Attributes:
        station_name: Only this one; "" for all. One that does not exist is no error: the page is empty.
    """

    SUBJECT = "$memphis_sync_station_list"
    STRUCT = "listStationsRequest"
    INSTEAD = "a Memphis broker tells a station's schema in its REST API and to the station's producers and consumers"

    station_name: str = key("string")


@dataclass(frozen=True)
class MemberList(PageRequest[MemberPage]):
    """
    A page of producers and consumers.

    Attributes:
        station_name: Only this station's; "" for all.
    """

    SUBJECT = "$memphis_sync_member_list"
    STRUCT = "listMembersRequest"
    INSTEAD = "a Memphis broker lists producers and consumers in its REST API and its web console only"

    station_name: str = key("string")


@dataclass(frozen=True)
class SchemaList(PageRequest[SchemaPage]):
    """A page of the schemas."""

    SUBJECT = "$memphis_sync_schema_list"
    STRUCT = "listSchemasRequest"
    INSTEAD = "a Memphis broker lists schemas in its REST API and its web console only (GET /api/schemas/getAllSchemas)"


@dataclass(frozen=True)
class SchemaSourceReply(JsonReply):
    """
    A version of a schema.

    Attributes:
        update: As producers and consumers get it.
    """

    update: SchemaUpdate = key(SCHEMA_UPDATE, SchemaUpdate, key="schema")
    error: str = key("string")


@dataclass(frozen=True)
class SchemaSource(Request[SchemaSourceReply]):
    """
    A version of a schema with its source.

    Attributes:
        version: Its number; 0 for the active one.
    """

    SUBJECT = "$memphis_sync_schema_source"
    STRUCT = "schemaSourceRequest"
    INSTEAD = SchemaList.INSTEAD

    name: str = key("string")
    version: int = key("int", key="version_number")
    username: str = key("string")
