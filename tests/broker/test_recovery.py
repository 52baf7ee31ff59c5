"""Streams that are gone although their station is not: made again at the start, and while the broker runs."""

from __future__ import annotations

import os
import shutil
import signal
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Callable, Optional

import pytest
from control_client import ControlClient
from dead_letter_client import DeadLetterClient

import memphis_sync
from memphis_sync import Storage
from memphis_sync._protocol.streams import StationSettings
from memphis_sync.broker import BrokerProcess
from memphis_sync.broker.storage.tables import State

StartBroker = Callable[..., BrokerProcess]


def state_of(client: ControlClient, stream: str) -> Optional[dict[str, Any]]:
    """A stream's state; None when there is no such stream."""
    reply = client.jetstream(f"STREAM.INFO.{stream}")
    return None if "error" in reply else reply["state"]


def fill(client: ControlClient, name: str, **settings: Any) -> None:
    assert client.station(name, partitions_number=3, **settings) == ""
    for partition in (1, 2, 3):
        client.publish(f"{name.replace('.', '#')}${partition}.final", b"before")


def restart(broker: BrokerProcess) -> None:
    broker.kill()
    broker.start()


def kill_server(broker: BrokerProcess, until: Callable[..., Any]) -> None:
    first = broker.nats_pid
    os.kill(first, signal.SIGKILL)
    until(lambda: broker.nats_pid != first and "connected to the NATS server again" in broker.output())


@pytest.mark.parametrize("retention", ["message_age_sec", "ack_based"])
@pytest.mark.parametrize("how", ["both processes", "the server alone"])
def test_a_station_in_memory_is_there_again_after_a_restart_with_its_groups(
    fresh_broker: StartBroker, until: Callable[..., Any], how: str, retention: str
) -> None:
    broker = fresh_broker()
    with ControlClient(broker) as client:
        fill(client, "me.mory", storage_type="memory", retention_type=retention)
        fill(client, "disk")
        created = client.consumer(
            "me.mory", "c", consumers_group="g", max_ack_time_ms=4321, max_msg_deliveries=7, last_messages=0
        )
        assert created.startswith("{")
    if how == "both processes":
        restart(broker)
    else:
        kill_server(broker, until)
    with ControlClient(broker) as client:
        assert client.station("me.mory") == ""  # answered once the recovery is done
        config = client.stream("me#mory$2")
        assert (config["storage"], config["retention"]) == (
            "memory",
            "interest" if retention == "ack_based" else "limits",
        )
        for partition in (1, 2, 3):
            durable = client.durable(f"me#mory${partition}", "g")
            assert durable is not None
            assert durable["config"]["ack_wait"] == 4_321_000_000
            assert durable["config"]["max_deliver"] == 7
            client.publish(f"me#mory${partition}.final", b"after")
            durable = client.durable(f"me#mory${partition}", "g")
            assert durable is not None
            assert durable["num_pending"] == 1, "the group gets the first message of the new stream"
            state = state_of(client, f"disk${partition}")
            assert state is not None
            assert state["messages"] == 1, "a station on disk keeps what it has"
    lines = [line for line in broker.output().splitlines() if "was created again" in line]
    assert len(lines) == 1
    assert "station me.mory was created again without its messages: it is kept in memory" in lines[0]


def test_a_client_of_a_station_in_memory_goes_on_after_a_restart(fresh_broker: StartBroker) -> None:
    broker = fresh_broker()
    with memphis_sync.connect(broker.url) as client:
        client.station("memory", storage_type=Storage.MEMORY, partitions_number=2)
        producer = client.producer("memory", "p")
        consumer = client.consumer("memory", "c", "g")
        producer.produce(b"before")
        restart(broker)
        client.station("memory", storage_type=Storage.MEMORY, partitions_number=2)
        for text in (b"one", b"two"):
            producer.produce(text)
        got: list[bytes] = []
        while len(got) < 2:
            for message in consumer.fetch(10, timeout_s=20):
                got.append(bytes(message.data))
                message.ack()
        assert sorted(got) == [b"one", b"two"]
        client.destroy_station("memory")


def test_only_the_missing_partitions_are_made_again_when_streams_are_deleted_behind_the_brokers_back(
    fresh_broker: StartBroker, until: Callable[..., Any]
) -> None:
    broker = fresh_broker()
    with ControlClient(broker) as client:
        fill(client, "st")
        assert client.consumer("st", "c", consumers_group="g").startswith("{")
        for partition in (1, 3):
            assert client.jetstream(f"STREAM.DELETE.st${partition}")["success"]
        until(lambda: all(state_of(client, f"st${partition}") for partition in (1, 3)))
        until(lambda: all(client.durable(f"st${partition}", "g") for partition in (1, 3)))
        counts = [state_of(client, f"st${partition}")["messages"] for partition in (1, 2, 3)]
        assert counts == [0, 1, 0]
    until(lambda: "station st (partition 1, 3) was created again without its messages" in broker.output())


def test_a_partition_that_is_lost_with_the_disk_is_made_again_at_the_start(
    fresh_broker: StartBroker, tmp_path: Path
) -> None:
    broker = fresh_broker(data_dir=tmp_path)
    with ControlClient(broker) as client:
        fill(client, "st")
    broker.kill()
    [folder] = tmp_path.glob("jetstream/*/streams/st$2")
    shutil.rmtree(folder)
    broker.start()
    with ControlClient(broker) as client:
        states = [state_of(client, f"st${partition}") for partition in (1, 2, 3)]
        assert [state and state["messages"] for state in states] == [1, 0, 1]


def test_dead_letters_of_lost_messages_stay_and_do_not_swallow_those_of_new_ones(fresh_broker: StartBroker) -> None:
    """The new stream counts from 1 again, and a dead letter is known by its message's place in the stream."""
    broker = fresh_broker()
    with DeadLetterClient(broker) as client:
        assert client.station("st", storage_type="memory") == ""
        assert client.consumer("st", "g").startswith("{")
        client.nack("st", client.produce("st", b"old"), error="first")
        client.wait_for("st", 1)
    restart(broker)
    with DeadLetterClient(broker) as client:
        assert client.station("st") == ""
        assert client.produce("st", b"new") == 1
        client.nack("st", 1, error="second")
        rows = client.wait_for("st", 2)
        assert [row.error for row in rows] == ["first", "second"]
        assert [row.sequence for row in rows] == [1, 1]


def test_a_destroyed_station_is_not_made_again(fresh_broker: StartBroker, until: Callable[..., Any]) -> None:
    broker = fresh_broker()
    with ControlClient(broker) as client:
        for at in range(20):
            assert client.station(f"st{at}", partitions_number=5, storage_type="memory") == ""
            assert client.destroy_station(f"st{at}") == ""
        assert client.station("other") == ""
        assert client.jetstream("STREAM.DELETE.other$1")["success"]
        until(lambda: state_of(client, "other$1"))  # what was deleted before it has been looked at by now
        names = client.jetstream("STREAM.NAMES", {"offset": 0})["streams"]
        assert [name for name in names if name.startswith("st")] == []


@pytest.mark.parametrize("status", ["creating", "deleting"])
def test_what_a_killed_broker_left_half_way_is_finished_at_the_start(
    fresh_broker: StartBroker, until: Callable[..., Any], status: str
) -> None:
    """Without anybody who asks for the station; the clock may have been set back meanwhile."""
    broker = fresh_broker()
    with ControlClient(broker) as client:
        fill(client, "st")
        assert client.station("whole") == ""
        value = {"settings": asdict(StationSettings("st", partitions_number=3)), "version": 2, "status": status}

        async def claim() -> None:
            assert client.connection is not None
            state = await State.open(client.connection.jetstream(), 1)
            await state.stations.put("st", {**value, "owner": "dead", "since": time.time() + 86400})

        client.run(claim())
        if status == "creating":
            assert client.jetstream("STREAM.DELETE.st$2")["success"]
    restart(broker)
    with ControlClient(broker) as client:
        names = client.jetstream("STREAM.NAMES", {"offset": 0})["streams"]
        left = sorted(name for name in names if name.startswith("st$"))
        assert left == ([] if status == "deleting" else ["st$1", "st$2", "st$3"])

        async def row() -> Any:
            assert client.connection is not None
            return await (await State.open(client.connection.jetstream(), 1)).stations.get("st")

        found = client.run(row())
        assert found is None if status == "deleting" else found.value["status"] == "ready"
    assert f"station st was left half-way ({status}); finishing it" in broker.output()
