"""memphis-py 1.3.1, unchanged from PyPI, against our broker."""

from __future__ import annotations

import asyncio
import base64
import gc
from collections import defaultdict
from importlib.metadata import version
from typing import Any, Callable

import pytest
from fix_memphis_py import run_memphis_py

from memphis_sync._wire.partitions import partition_for_key
from memphis_sync.broker import BrokerProcess

Peer = Callable[..., list[dict[str, Any]]]


def texts(messages: list[dict[str, Any]]) -> list[str]:
    return [base64.b64decode(message["base64"]).decode() for message in messages]


def by_partition(messages: list[dict[str, Any]]) -> dict[int, list[str]]:
    found = defaultdict(list)
    for message in messages:
        found[message["partition"]].append(base64.b64decode(message["base64"]).decode())
    return dict(found)


def test_it_is_the_official_sdk() -> None:
    assert version("memphis-py") == "1.3.1"


def test_blocking_produce_with_headers_and_any_bytes(memphis_py: Peer, station_name: str) -> None:
    payload = base64.b64encode(bytes(range(256))).decode()
    messages = [{"base64": payload, "headers": {"k": "v", "x": "ä"}}, {"text": ""}, {"text": "z" * 100_000}]
    memphis_py("produce", station=station_name, partitions=1, messages=messages)
    found = memphis_py("consume", station=station_name, group="g", count=3)
    assert [message["base64"] for message in found[:2]] == [payload, ""]
    assert len(base64.b64decode(found[2]["base64"])) == 100_000
    assert found[0]["headers"]["k"] == "v"
    assert found[0]["headers"]["$memphis_producedBy"] == "memphis-py"
    assert [message["sequence"] for message in found] == [1, 2, 3]


def test_nonblocking_produce_stores_everything_in_order(memphis_py: Peer, station_name: str) -> None:
    messages = [{"text": f"{number}", "nonblocking": True} for number in range(200)]
    memphis_py("produce", station=station_name, partitions=1, messages=messages)
    found = memphis_py("consume", station=station_name, group="g", count=200)
    assert sorted(map(int, texts(found))) == list(range(200))


def test_partitions_by_key_number_and_round_robin(memphis_py: Peer, station_name: str) -> None:
    keys = ["user-1", "a", "key", "ключ", "order-42"]
    by_key = [{"text": f"key {key}", "key": key} for key in keys]
    by_number = [{"text": f"number {number}", "partition": number} for number in (1, 2, 3)]
    around = [{"text": f"round {number}"} for number in range(6)]
    memphis_py("produce", station=station_name, partitions=3, messages=[*by_key, *by_number, *around])
    found = by_partition(memphis_py("consume", station=station_name, group="g", count=14))
    for key in keys:
        assert f"key {key}" in found[partition_for_key(key, [1, 2, 3])]
    for number in (1, 2, 3):
        assert f"number {number}" in found[number]
        assert sum(text.startswith("round") for text in found[number]) == 2


def test_a_producer_for_several_stations_that_do_not_exist(memphis_py: Peer, station_name: str) -> None:
    stations = [f"{station_name}-a", f"{station_name}.b"]
    memphis_py("produce", station=station_name, stations=stations, messages=[{"text": "both"}])
    for station in stations:
        assert texts(memphis_py("consume", station=station, group="g", count=1)) == ["both"]


def test_acknowledged_messages_do_not_come_back_to_the_group(memphis_py: Peer, station_name: str) -> None:
    memphis_py("produce", station=station_name, partitions=2, messages=[{"text": f"{n}"} for n in range(4)])
    assert len(memphis_py("consume", station=station_name, group="one", count=4)) == 4
    assert len(memphis_py("consume", station=station_name, group="other", count=4)) == 4
    # memphis-py's destroy of the group's last member dropped its position; a new group "one" starts from the beginning.
    assert len(memphis_py("consume", station=station_name, group="one", count=4)) == 4


def test_a_destroyed_station_is_empty_when_it_is_made_again(memphis_py: Peer, station_name: str) -> None:
    memphis_py("produce", station=station_name, partitions=1, messages=[{"text": "old"}])
    memphis_py("destroy", station=station_name)
    memphis_py("produce", station=station_name, partitions=1, messages=[{"text": "new"}])
    assert texts(memphis_py("consume", station=station_name, group="g", count=1)) == ["new"]


def test_an_application_user_and_token_mode(fresh_broker: Callable[..., BrokerProcess]) -> None:
    messages = [{"text": "hello"}]
    for options in ({"users": {"app": "Passw0rd!"}}, {"token": "s3cret"}):
        broker = fresh_broker(**options)
        login = {"username": "app", "password": "Passw0rd!"}
        run_memphis_py(broker, "produce", station="st", partitions=1, messages=messages, **login)
        assert texts(run_memphis_py(broker, "consume", station="st", group="g", count=1, **login)) == ["hello"]


@pytest.mark.filterwarnings("default")  # what memphis-py warns of is not ours to fix
def test_one_connection_does_it_all(broker: BrokerProcess, station_name: str) -> None:
    """Station, producer, consumer, redelivery, destroys: the objects of one memphis-py connection in this process."""
    from memphis import Memphis, MemphisError

    async def flow() -> None:
        memphis = Memphis()
        with pytest.raises(MemphisError, match="Authorization Violation"):
            await memphis.connect(host=broker.host, port=broker.port, username="root", password="no", reconnect=False)
        await memphis.connect(host=broker.host, port=broker.port, username="root", password=broker.password)
        with pytest.raises(MemphisError, match=r"Only alphanumeric and the .* are allowed in Station"):
            await memphis.station(name="bad name")
        station = await memphis.station(name=station_name, partitions_number=2)
        await memphis.station(name=station_name, partitions_number=5)  # exists: no error, nothing changes
        producer = await memphis.producer(station_name=station_name, producer_name="p")
        consumer = await memphis.consumer(
            station_name=station_name, consumer_name="c", consumer_group="g", max_ack_time_ms=500, max_msg_deliveries=3
        )
        for number in range(4):
            await producer.produce(bytearray(b"%d" % number))
        found = [*await consumer.fetch(batch_size=2), *await consumer.fetch(batch_size=2)]
        assert sorted(bytes(message.get_data()) for message in found) == [b"0", b"1", b"2", b"3"]
        for message in found[:3]:
            await message.ack()
        await asyncio.sleep(0.7)
        again = [*(await consumer.fetch(batch_size=4) or []), *(await consumer.fetch(batch_size=4) or [])]
        assert [bytes(message.get_data()) for message in again] == [bytes(found[3].get_data())]
        await again[0].ack()
        await consumer.destroy()
        await producer.destroy()
        await station.destroy()
        await memphis.close()

    asyncio.run(flow())
    gc.collect()  # it leaves transports open: they end here, and not as a warning in some later test
