"""The broker's lists: pages, names, and what clients chose freely."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest
from nats.js.api import KeyValueConfig

from memphis_sync._protocol.inspection import MemberList, SchemaList, StationList
from memphis_sync.broker.storage.row_cache import RowCache
from memphis_sync.broker.storage.tables import Table

if TYPE_CHECKING:
    from control_client import ControlClient


def test_pages_have_every_row_once(control: ControlClient, station_name: str, monkeypatch: Any) -> None:
    """More members than a page has, in one station."""
    control.station(station_name)
    for number in range(501):
        control.producer(station_name, f"p{number:03}")
    control.consumer(station_name, "c")
    found: list[Any] = []
    pages, after = 0, ""
    while after or not pages:
        page = control.send(MemberList(station_name=station_name, username="root", after=after))
        assert page.error == ""
        found += page.rows
        pages, after = pages + 1, page.after
    assert pages == 2
    assert [row.name for row in found] == [*(f"p{number:03}" for number in range(501)), "c"]
    assert {row.kind for row in found} == {"producer", "consumer"}
    assert {row.station for row in found} == {station_name}


def test_what_a_client_chose_freely_is_cut(control: ControlClient, station_name: str) -> None:
    control.station(station_name)
    control.producer(station_name, "p", connection_id="x" * 100_000, app_id="y" * 100_000, sdk_lang="z" * 100_000)
    (row,) = control.send(MemberList(station_name=station_name, username="root")).rows
    assert (row.connection_id, row.app_id, row.sdk_lang) == ("x" * 256, "y" * 256, "z" * 256)
    assert not row.is_connected


@pytest.mark.parametrize("kind", [StationList, MemberList, SchemaList])
def test_an_unknown_user_is_refused(control: ControlClient, kind: Any) -> None:
    assert control.send(kind(username="nobody")).error == "User nobody does not exist"
    assert control.send(kind()).error == "User  does not exist"


@pytest.mark.parametrize("kind", [StationList, MemberList])
def test_a_name_that_can_be_none_is_refused(control: ControlClient, kind: Any) -> None:
    assert "are allowed in Station" in control.send(kind(station_name="a>b", username="root")).error
    assert control.send(kind(station_name="no.such", username="root")).rows == ()


def test_a_list_is_never_out_of_date(control: ControlClient, station_name: str) -> None:
    """The broker keeps rows in memory; each list shows what was changed before it was asked for."""

    def schema_of(name: str) -> Any:
        rows = control.send(StationList(username="root")).rows
        return {row.name: (row.schema_name, row.schema_version) for row in rows}.get(name)

    schema = f"s-{station_name}"
    control.schema(schema, "json", "{}")
    for _ in range(2):
        assert schema_of(station_name) is None
        control.station(station_name)
        assert schema_of(station_name) == ("", 0)
        control.attach(schema, station_name)
        assert schema_of(station_name) == (schema, 1)
        control.detach(station_name)
        assert schema_of(station_name) == ("", 0)
        control.destroy_station(station_name)
    assert schema_of(station_name) is None
    assert [row.name for row in control.send(SchemaList(username="root")).rows if row.name == schema] == [schema]


def test_rows_in_memory_are_those_of_the_table(control: ControlClient, station_name: str) -> None:
    """Whatever is written, deleted and written again between two looks, and during one."""

    async def run() -> None:
        js = control.connection.jetstream()
        bucket = await js.create_key_value(KeyValueConfig(bucket=station_name, history=1))
        table = Table(js, bucket, station_name)
        cache, chance = RowCache(table), random.Random(7)
        try:
            for count in (0, 1, 2, 40, 3, 600, 1):
                for number in range(count):
                    key = f"k{chance.randrange(30)}.x"
                    row = await table.get(key) if chance.random() < 0.4 else None
                    if row is None:
                        await table.put(key, {"n": number})
                    elif chance.random() < 0.5:
                        await table.delete(key, row.revision)
                    else:
                        await table.purge(key)
                assert await cache.rows() == await table.rows(">"), count
            writing = asyncio.ensure_future(asyncio.gather(*(table.put(f"k{n % 5}.x", {"n": n}) for n in range(200))))
            while not writing.done():
                assert set(await cache.rows()) <= {*(f"k{n}.x" for n in range(30))}
            await writing
            assert await cache.rows() == await table.rows(">")
        finally:
            await js.delete_key_value(station_name)

    control.run(run())
