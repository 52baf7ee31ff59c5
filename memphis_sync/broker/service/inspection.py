"""Requests of consoles and of the command line: lists of stations, of producers and consumers, of schemas."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Optional, TypeVar

from memphis_sync._protocol.body import Body
from memphis_sync._protocol.inspection import (
    KINDS,
    MemberList,
    MemberPage,
    MemberRow,
    SchemaList,
    SchemaPage,
    SchemaRow,
    SchemaSource,
    SchemaSourceReply,
    StationList,
    StationPage,
    StationRow,
)
from memphis_sync._protocol.names import lower_name
from memphis_sync.broker.request_error import RequestError
from memphis_sync.broker.service.part import READY, Part, Shared, settings_of
from memphis_sync.broker.service.routing import Routes
from memphis_sync.broker.storage.connections import open_connections
from memphis_sync.broker.storage.row_cache import RowCache
from memphis_sync.broker.storage.schemas import version_of
from memphis_sync.broker.storage.tables import Row, key_of, name_of

_ROWS = 500  # of a page
_TEXT = 256  # characters that are shown of what clients choose freely
_ROW = TypeVar("_ROW", bound=Body)


class Inspection(Part):
    """The handlers of requests that look at what there is, and change nothing."""

    def __init__(self, shared: Shared) -> None:
        super().__init__(shared)
        self.routes: Routes = {
            StationList: self.stations,
            MemberList: self.members,
            SchemaList: self.schemas,
            SchemaSource: self.schema_source,
        }
        state = shared.state
        self._stations, self._schemas = RowCache(state.stations), RowCache(state.schemas)
        self._producers, self._members = RowCache(state.producers), RowCache(state.members)

    async def stations(self, request: StationList) -> StationPage:
        """A page of the stations, or one station."""
        self._check_user(request.username)
        if request.station_name:
            key = key_of(lower_name("Station", request.station_name))
            found = await self._state.stations.get(key)
            rows = {} if found is None else {key: found}
        else:
            rows = await self._stations.rows()
        keys = _after(rows, request.after)
        ready = {key: rows[key] for key in keys if rows[key].value["status"] == READY}
        has_schemas = any(row.value.get("schema") for row in ready.values())
        schemas = await self._schemas.rows() if has_schemas else {}
        return StationPage(*self._page([(key, _station(row, schemas)) for key, row in ready.items()], keys))

    async def members(self, request: MemberList) -> MemberPage:
        """A page of producers and consumers; the keys of the consumers come after those of the producers."""
        self._check_user(request.username)
        name = request.station_name
        start = f"{key_of(lower_name('Station', name))}." if name else ""
        tables = [await table.rows() for table in (self._producers, self._members)]
        rows = {f"{n} {key}": row for n, of in enumerate(tables) for key, row in of.items() if key.startswith(start)}
        keys = _after(rows, request.after)
        addresses = await open_connections(self._connection)
        return MemberPage(*self._page([(key, _member(key, rows[key].value, addresses)) for key in keys], keys))

    async def schemas(self, request: SchemaList) -> SchemaPage:
        """A page of the schemas, with the stations of each."""
        self._check_user(request.username)
        rows = await self._schemas.rows()
        keys = _after(rows, request.after)
        stations: dict[str, list[str]] = {}
        for key, row in (await self._stations.rows()).items():
            if row.value["status"] == READY and row.value.get("schema"):
                stations.setdefault(row.value["schema"]["name"], []).append(name_of(key))
        return SchemaPage(*self._page([(key, _schema(name_of(key), rows[key], stations)) for key in keys], keys))

    async def schema_source(self, request: SchemaSource) -> SchemaSourceReply:
        """A version of a schema with its source."""
        self._check_user(request.username)
        name = lower_name("Schema", request.name)
        row = await self._state.schemas.get(key_of(name))
        if row is None:
            raise RequestError(f"Schema {name} does not exist")
        number, count = request.version or row.value["active"], len(row.value["versions"])
        if not 1 <= number <= count:
            raise RequestError(f"Schema {name} has no version {number}; it has 1 to {count}")
        return SchemaSourceReply(await version_of(self._state, name, row, number))

    def _check_user(self, name: str) -> None:
        self._require_user(name, f"User {name} does not exist")

    def _page(self, shown: Iterable[tuple[str, _ROW]], keys: Sequence[str]) -> tuple[tuple[_ROW, ...], str]:
        """As many rows as a reply has room for, and the key that the next page begins after."""
        left, last = self._connection.max_payload // 2, ""
        found: list[_ROW] = []
        for key, row in shown:
            left -= len(json.dumps(row.to_json(), ensure_ascii=False).encode("utf-8", "replace")) + 1
            if left < 0 and found:
                return tuple(found), last
            found.append(row)
            last = key
        return tuple(found), (keys[-1] if len(keys) == _ROWS else "")


def _after(keys: Iterable[str], after: str) -> list[str]:
    return [key for key in keys if key > after][:_ROWS]


def _station(row: Row, schemas: dict[str, Row]) -> StationRow:
    settings, schema = settings_of(row), (row.value.get("schema") or {}).get("name", "")
    active = schemas[key_of(schema)].value["active"] if key_of(schema) in schemas else 0
    return StationRow(settings.name, settings.partitions_number, schema, active)


def _schema(name: str, row: Row, stations: dict[str, list[str]]) -> SchemaRow:
    value = row.value
    return SchemaRow(name, value["type"], value["active"], len(value["versions"]), tuple(stations.get(name, ())))


def _member(key: str, value: dict[str, Any], addresses: Optional[dict[str, str]]) -> MemberRow:
    kind = KINDS[int(key[0])]
    name, connection_id = value["name"].lower(), value["connection_id"]
    group = (value.get("consumers_group") or name).lower() if kind == "consumer" else ""
    return MemberRow(
        kind=kind,
        station=value["station_name"].lower(),
        name=name,
        group=group,
        connection_id=connection_id[:_TEXT],
        username=value["username"][:_TEXT],
        sdk_lang=value["sdk_lang"][:_TEXT],
        app_id=value["app_id"][:_TEXT],
        created_ms=int(value["created"] * 1000),
        is_connected=addresses is None or connection_id in addresses,
        address=(addresses or {}).get(connection_id, ""),
    )
