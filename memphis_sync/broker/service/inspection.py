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
    StationList,
    StationPage,
    StationRow,
)
from memphis_sync._protocol.names import lower_name
from memphis_sync.broker.service.part import READY, Part, Shared, settings_of
from memphis_sync.broker.service.routing import Routes
from memphis_sync.broker.storage.connections import open_connections
from memphis_sync.broker.storage.jetstream_api import in_steps
from memphis_sync.broker.storage.tables import Row, Table, key_of, name_of

_ROWS = 500  # of a page
_AT_ONCE = 64
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
        }

    async def stations(self, request: StationList) -> StationPage:
        """A page of the stations, or one station."""
        self._check_user(request.username)
        pattern = key_of(lower_name("Station", request.station_name)) if request.station_name else ">"
        keys = _after(await self._state.stations.keys(pattern), request.after)
        rows = await self._rows(self._state.stations, keys)
        ready = {key: row for key, row in rows.items() if row.value["status"] == READY}
        names = sorted({row.value["schema"]["name"] for row in ready.values() if row.value.get("schema")})
        found = await in_steps(self._state.schemas.get, [key_of(name) for name in names], _AT_ONCE)
        active = {name: row.value["active"] for name, row in zip(names, found) if row is not None}
        shown = [(key, _station(row, active)) for key, row in ready.items()]
        return StationPage(*self._page(shown, keys))

    async def members(self, request: MemberList) -> MemberPage:
        """A page of producers and consumers; the keys of the consumers come after those of the producers."""
        self._check_user(request.username)
        name = request.station_name
        pattern = f"{key_of(lower_name('Station', name))}.>" if name else ">"
        tables = (self._state.producers, self._state.members)
        every = [f"{n} {key}" for n, table in enumerate(tables) for key in await table.keys(pattern)]
        keys = _after(every, request.after)
        addresses = await open_connections(self._connection)

        async def read(key: str) -> Optional[Row]:
            return await tables[int(key[0])].get(key[2:])

        rows = zip(keys, await in_steps(read, keys, _AT_ONCE))
        shown = [(key, _member(key, row.value, addresses)) for key, row in rows if row is not None]
        return MemberPage(*self._page(shown, keys))

    async def schemas(self, request: SchemaList) -> SchemaPage:
        """A page of the schemas, with the stations of each."""
        self._check_user(request.username)
        keys = _after(await self._state.schemas.keys(">"), request.after)
        rows = await self._rows(self._state.schemas, keys)
        stations: dict[str, list[str]] = {}
        for key, row in (await self._state.stations.rows(">")).items():
            if row.value["status"] == READY and row.value.get("schema"):
                stations.setdefault(row.value["schema"]["name"], []).append(name_of(key))
        shown = [(key, _schema(name_of(key), row, stations)) for key, row in rows.items()]
        return SchemaPage(*self._page(shown, keys))

    def _check_user(self, name: str) -> None:
        self._require_user(name, f"User {name} does not exist")

    async def _rows(self, table: Table, keys: Sequence[str]) -> dict[str, Row]:
        found = await in_steps(table.get, keys, _AT_ONCE)
        return {key: row for key, row in zip(keys, found) if row is not None}

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


def _after(keys: Sequence[str], after: str) -> list[str]:
    return [key for key in keys if key > after][:_ROWS]


def _station(row: Row, active: dict[str, int]) -> StationRow:
    settings, schema = settings_of(row), (row.value.get("schema") or {}).get("name", "")
    return StationRow(settings.name, settings.partitions_number, schema, active.get(schema, 0))


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
