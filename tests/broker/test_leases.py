"""Work that one copy of the service began and another finishes: rows as a killed copy leaves them, or a working one."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Optional

import pytest
from control_client import ControlClient

from memphis_sync._protocol.requests import ConsumerCreate, StationCreate
from memphis_sync._protocol.streams import StationSettings
from memphis_sync.broker import BrokerProcess
from memphis_sync.broker.storage import leases as leases_module
from memphis_sync.broker.storage.leases import Leases
from memphis_sync.broker.storage.tables import Row, State, key_of


@pytest.fixture
def other(broker: BrokerProcess) -> Iterator[ControlClient]:
    """A connection that stands for another copy of the service: open, so its leases count."""
    with ControlClient(broker, connection_id="other-copy") as client:
        yield client


def lease_station(
    client: ControlClient, name: str, status: str, owner: str, *, since: Optional[float] = None, **settings: Any
) -> None:
    async def write() -> None:
        assert client.connection is not None
        state = await State.open(client.connection.jetstream(), 1)
        value = {"settings": asdict(StationSettings(name, **settings)), "version": 2, "status": status}
        await state.stations.put(key_of(name), {**value, "owner": owner, "since": since or time.time() - 1})

    client.run(write())


def release_station(client: ControlClient, name: str) -> None:
    async def purge() -> None:
        assert client.connection is not None
        await (await State.open(client.connection.jetstream(), 1)).stations.purge(key_of(name))

    client.run(purge())


def test_a_creation_left_by_a_dead_copy_is_finished_as_it_was_asked(control: ControlClient, station_name: str) -> None:
    lease_station(control, station_name, "creating", "dead", partitions_number=3, retention_value=777)
    assert control.producer(station_name)["partitions_update"]["partitions_list"] == [1, 2, 3]
    assert control.stream(f"{station_name}$3")["max_age"] == 777_000_000_000


def test_a_destruction_left_by_a_dead_copy_is_finished(control: ControlClient, station_name: str) -> None:
    assert control.station(station_name, partitions_number=3) == ""
    lease_station(control, station_name, "deleting", "dead", partitions_number=3)
    assert control.station(station_name, partitions_number=1) == ""
    assert control.stream(f"{station_name}$1")
    assert "error" in control.jetstream(f"STREAM.INFO.{station_name}$2")


@pytest.mark.parametrize("years", [-50, 1, 50])
def test_a_lease_of_a_dead_copy_is_taken_over_whatever_its_clock_said(
    control: ControlClient, station_name: str, years: int
) -> None:
    """A clock that was set back after the crash makes the lease one of the future."""
    written = time.time() + years * 365 * 86400
    begin = time.monotonic()
    lease_station(control, station_name, "creating", "dead", since=written, partitions_number=2)
    assert control.producer(station_name)["partitions_update"]["partitions_list"] == [1, 2]
    assert control.consumer(station_name, consumers_group="g", last_messages=0).startswith("{")

    async def mark() -> None:
        assert control.connection is not None
        state = await State.open(control.connection.jetstream(), 1)
        await state.closing.put(f"{key_of(station_name)}.g", {"owner": "dead", "since": written})

    control.run(mark())
    assert json.loads(control.consumer(station_name, "late", consumers_group="g"))["error"] == ""
    lease_station(control, station_name, "deleting", "dead", since=written, partitions_number=2)
    assert control.destroy_station(station_name) == "Station  does not exist"
    assert time.monotonic() - begin < 9


def test_a_lease_counts_from_when_it_was_first_seen_and_ends_when_its_owner_hangs(
    other: ControlClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner is connected all the time; only a lease that it does not renew is taken from it."""
    monkeypatch.setattr(leases_module, "_STUCK_S", 1.0)
    leases = Leases(other.connection, "this-copy")
    row = {"owner": "other-copy", "since": time.time() + 1e9}

    async def watch() -> tuple[float, int]:
        begin, renewed = time.monotonic(), 1
        while not await leases.is_dead("key", Row(row, renewed)):
            if renewed == 1 and time.monotonic() - begin > 0.7:
                begin, renewed = time.monotonic(), 2  # it is alive after all: everything counts from here
            await asyncio.sleep(0.01)
        return time.monotonic() - begin, renewed

    took, renewed = other.run(watch())
    assert renewed == 2
    assert took >= 1.0


def test_leases_of_groups_that_nobody_asks_for_are_not_remembered_for_ever() -> None:
    leases = Leases(None, "this-copy")
    for at in range(5000):
        leases._age(f"group {at}", 1, at * 1.0)
    assert len(leases._seen) <= 1001


@pytest.mark.slow
def test_waiting_for_a_living_copy_ends_with_an_error_that_clients_ask_again_after(
    control: ControlClient, other: ControlClient, station_name: str
) -> None:
    lease_station(other, station_name, "creating", "other-copy")
    group = f"{station_name}-g"
    assert control.consumer(group, consumers_group="g").startswith("{")

    async def mark() -> None:
        assert other.connection is not None
        state = await State.open(other.connection.jetstream(), 1)
        await state.closing.put(f"{key_of(group)}.g", {"owner": "other-copy", "since": time.time() + 1e9})

    other.run(mark())
    assert control.connection is not None
    create = ConsumerCreate(name="c", station_name=group, consumers_group="g", username="root").encode()
    station = StationCreate(name=station_name, username="root").encode()

    async def ask() -> list[bytes]:
        asked = (("$memphis_consumer_creations", create), ("$memphis_station_creations", station))
        replies = await asyncio.gather(*(control.connection.request(*one, timeout=40) for one in asked))
        return [reply.data for reply in replies]

    begin = time.monotonic()
    for reply in control.run(ask()):
        assert reply.startswith(b"timeout: ")
    assert time.monotonic() - begin < 25
    release_station(control, station_name)


@pytest.mark.slow
def test_requests_that_wait_for_something_that_never_comes_hold_no_slot_for_ever(
    control: ControlClient, other: ControlClient, station_name: str
) -> None:
    """More of them than there are slots; each waits behind the others for the lock of one station."""
    lease_station(other, station_name, "creating", "other-copy")
    assert control.connection is not None
    connection = control.connection
    station = StationCreate(name=station_name, username="root").encode()
    free = StationCreate(name=f"{station_name}-free", username="root").encode()

    async def ask() -> tuple[float, list[bytes]]:
        stuck = [
            asyncio.ensure_future(connection.request("$memphis_station_creations", station, timeout=100))
            for _ in range(300)
        ]
        await asyncio.sleep(0)
        begin = time.monotonic()
        assert (await connection.request("$memphis_station_creations", free, timeout=60)).data == b""
        took = time.monotonic() - begin
        return took, [reply.data for reply in await asyncio.gather(*stuck)]

    took, replies = control.run(ask())
    assert took < 40
    assert {reply[:8] for reply in replies} == {b"timeout:"}
    release_station(control, station_name)


def test_a_living_copy_is_waited_for(control: ControlClient, other: ControlClient, station_name: str) -> None:
    lease_station(other, station_name, "deleting", "other-copy")
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
