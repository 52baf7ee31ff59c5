"""Work that one copy of the service began and another finishes: rows as a killed copy leaves them, or a working one."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pytest
from control_client import ControlClient

from memphis_sync._wire.streams import StationSettings
from memphis_sync.broker import BrokerProcess
from memphis_sync.broker.state import State, key_of


@pytest.fixture
def other(broker: BrokerProcess) -> Iterator[ControlClient]:
    """A connection that stands for another copy of the service: open, so its claims count."""
    with ControlClient(broker, connection_id="other-copy") as client:
        yield client


def claim_station(client: ControlClient, name: str, status: str, owner: str, **settings: Any) -> None:
    async def write() -> None:
        assert client.connection is not None
        state = await State.open(client.connection.jetstream(), 1)
        value = {"settings": asdict(StationSettings(name, **settings)), "version": 2, "status": status}
        await state.stations.put(key_of(name), {**value, "owner": owner, "since": time.time() - 1})

    client.run(write())


def release_station(client: ControlClient, name: str) -> None:
    async def purge() -> None:
        assert client.connection is not None
        await (await State.open(client.connection.jetstream(), 1)).stations.purge(key_of(name))

    client.run(purge())


def test_a_creation_left_by_a_dead_copy_is_finished_as_it_was_asked(control: ControlClient, station_name: str) -> None:
    claim_station(control, station_name, "creating", "dead", partitions_number=3, retention_value=777)
    assert control.producer(station_name)["partitions_update"]["partitions_list"] == [1, 2, 3]
    assert control.stream(f"{station_name}$3")["max_age"] == 777_000_000_000


def test_a_destruction_left_by_a_dead_copy_is_finished(control: ControlClient, station_name: str) -> None:
    assert control.station(station_name, partitions_number=3) == ""
    claim_station(control, station_name, "deleting", "dead", partitions_number=3)
    assert control.station(station_name, partitions_number=1) == ""
    assert control.stream(f"{station_name}$1")
    assert "error" in control.jetstream(f"STREAM.INFO.{station_name}$2")


def test_a_living_copy_is_waited_for(control: ControlClient, other: ControlClient, station_name: str) -> None:
    claim_station(other, station_name, "deleting", "other-copy")
    begin = time.monotonic()
    timer = threading.Timer(1.0, release_station, (other, station_name))
    timer.start()
    assert control.station(station_name) == ""
    timer.join()
    assert time.monotonic() - begin > 0.9
    assert control.stream(f"{station_name}$1")


@pytest.mark.parametrize("owner", ["dead", "other-copy"])
def test_nobody_joins_a_group_while_its_durables_are_deleted(
    control: ControlClient, other: ControlClient, station_name: str, owner: str
) -> None:
    """With a dead owner the deletion is finished first; with a living one it is waited for."""
    assert control.consumer(station_name, consumers_group="g", last_messages=0).startswith("{")

    async def state() -> State:
        assert other.connection is not None
        return await State.open(other.connection.jetstream(), 1)

    closing, key = other.run(state()).closing, f"{key_of(station_name)}.g"
    other.run(closing.put(key, {"owner": owner, "since": time.time() - 1}))
    timer = threading.Timer(0.7, lambda: other.run(closing.purge(key)))
    if owner == "other-copy":
        timer.start()
    begin = time.monotonic()
    assert json.loads(control.consumer(station_name, "late", consumers_group="g"))["error"] == ""
    waited = time.monotonic() - begin
    info = control.durable(f"{station_name}$1", "g")
    assert info is not None
    if owner == "dead":
        assert info["config"]["deliver_policy"] == "all", "the old durable had to go, and the new one is the newcomer's"
    else:
        timer.join()
        assert waited > 0.6
        assert info["config"]["deliver_policy"] == "new", "the other copy deleted nothing here"
