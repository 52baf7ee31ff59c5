"""memphis-py 1.3.1, unchanged, produces into our broker: what it wrote is read back by our own client."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
from fix_sdk import SdkClient, SdkError

from memphis_sync import Memphis, Message
from memphis_sync._protocol.partitions import partition_for_key

KEYS = ["user-1", "a", "key", "ключ", "order-42", "", "x" * 300]


def read(memphis: Memphis, station: str, count: int) -> list[Message]:
    """So many messages, in the order of their partitions."""
    found: list[Message] = []
    while len(found) < count and (batch := memphis.fetch_messages(station, "reader", batch_size=500, timeout_s=10)):
        found += batch
    for message in found:
        message.ack()
    return sorted(found, key=lambda message: (message.partition, message.sequence))


def by_partition(messages: list[Message]) -> dict[int, list[str]]:
    found = defaultdict(list)
    for message in messages:
        found[message.partition].append(message.data.decode())
    return dict(found)


def test_every_kind_of_message_that_needs_no_schema(memphis_py: SdkClient, memphis: Memphis, station_name: str) -> None:
    memphis_py.station(station_name)
    producer = memphis_py.producer(station_name=station_name, producer_name="p")
    payloads = [bytearray(range(256)), bytearray(), bytearray(b"z" * 100_000), "tëxt", {"id": 7, "n": None}]
    for payload in payloads:
        assert producer.produce(payload) is None
    found = read(memphis, station_name, len(payloads))
    assert [message.data for message in found] == [*payloads[:3], "tëxt".encode(), b'{"id": 7, "n": null}']
    assert [message.sequence for message in found] == [1, 2, 3, 4, 5]


def test_bytes_and_lists_are_refused_by_the_sdk_itself(memphis_py: SdkClient, station_name: str) -> None:
    producer = memphis_py.producer(station_name, "p")
    for payload in (b"bytes", [1, 2], 3):
        with pytest.raises(SdkError, match="MemphisSchemaError: memphis: Unsupported message type"):
            producer.produce(payload)


def test_headers_and_the_name_of_the_producer(memphis_py: SdkClient, memphis: Memphis, station_name: str) -> None:
    producer = memphis_py.producer(station_name, "Shop")
    headers = memphis_py.sdk.headers(k="v", x="ä")
    producer.produce("one", headers=headers, ack_wait_sec=5)
    with pytest.raises(SdkError, match="MemphisHeaderError: memphis: Keys in headers should not start with \\$memphis"):
        headers.add("$memphis_x", "y")
    (message,) = read(memphis, station_name, 1)
    assert message.headers == {"k": "v", "x": "ä"}
    assert message.get_headers() == {
        "k": "v",
        "x": "ä",
        "$memphis_producedBy": "shop",
        "$memphis_connectionId": memphis_py.memphis.read("connection_id"),
    }


def test_a_message_id_arrives_and_stays_in_a_reused_headers_object(
    memphis_py: SdkClient, memphis: Memphis, station_name: str
) -> None:
    """
    The SDK writes into its caller's headers: the second message carries the first one's id.

    Source: protocol reference D-py-12.
    """
    producer = memphis_py.producer(station_name, "p")
    headers = memphis_py.sdk.headers(k="v")
    producer.produce("one", headers=headers, msg_id="id-1")
    producer.produce("two", msg_id="id-2")
    ids = [(message.get_headers() or {})["msg-id"] for message in read(memphis, station_name, 2)]
    assert ids == ["id-1", "id-2"]
    assert headers.read("headers")["msg-id"] == "id-1"


@pytest.mark.parametrize("option", ["nonblocking", "async_produce"])
def test_nonblocking_produce_stores_everything(
    memphis_py: SdkClient, memphis: Memphis, station_name: str, option: str
) -> None:
    producer = memphis_py.producer(station_name, "p")
    for number in range(100):
        producer.produce(str(number), **{option: True})
    producer.destroy()  # waits for what is on its way
    assert sorted(int(message.data) for message in read(memphis, station_name, 100)) == list(range(100))


def test_the_limit_of_tasks(memphis_py: SdkClient, memphis: Memphis, station_name: str) -> None:
    producer = memphis_py.producer(station_name, "p")
    for number in range(30):
        producer.produce(str(number), nonblocking=True, concurrent_task_limit=10)
    producer.destroy()
    assert sorted(int(message.data) for message in read(memphis, station_name, 30)) == list(range(30))


def test_partitions_by_key_number_and_round_robin(memphis_py: SdkClient, memphis: Memphis, station_name: str) -> None:
    memphis_py.station(station_name, partitions_number=3)
    producer = memphis_py.producer(station_name, "p")
    for key in KEYS:
        producer.produce(f"key {key}", producer_partition_key=key)
    for number in (1, 2, 3):
        producer.produce(f"number {number}", producer_partition_number=number)
    for number in range(6):
        producer.produce(f"round {number}")
    found = by_partition(read(memphis, station_name, len(KEYS) + 9))
    for key in KEYS:
        assert f"key {key}" in found[partition_for_key(key, [1, 2, 3])]
    for number in (1, 2, 3):
        assert f"number {number}" in found[number]
        assert sum(text.startswith("round") for text in found[number]) == 2
    with pytest.raises(SdkError, match="Can not use both partition number and partition key"):
        producer.produce("both", producer_partition_key="k", producer_partition_number=1)
    with pytest.raises(SdkError, match="Partition number is out of range"):
        producer.produce("none", producer_partition_number=4)


def test_both_clients_choose_the_same_partition_for_a_key(
    memphis_py: SdkClient, memphis: Memphis, station_name: str
) -> None:
    memphis.station(station_name, partitions_number=3)
    theirs, ours = memphis_py.producer(station_name, "theirs"), memphis.producer(station_name, "ours")
    expected = {}
    for number in range(40):
        key = f"customer-{number}"
        expected[key] = ours.produce(key, producer_partition_key=key).partition
        theirs.produce(key, producer_partition_key=key)
    found = read(memphis, station_name, 80)
    assert sorted((message.data.decode(), message.partition) for message in found) == sorted(2 * [*expected.items()])


@pytest.mark.parametrize("of", ["producer", "client"])
def test_several_stations_that_do_not_exist_yet(
    memphis_py: SdkClient, memphis: Memphis, station_name: str, of: str
) -> None:
    stations = [f"{station_name}-a", f"{station_name}.b"]
    if of == "producer":
        producer = memphis_py.producer(stations, "p")
        producer.produce("both", msg_id="m")
        producer.destroy()
    else:
        memphis_py.produce(stations, "p", "both", msg_id="m")
    for station in stations:
        assert [message.data for message in read(memphis, station, 1)] == [b"both"]


def test_produce_without_a_producer_takes_all_options(
    memphis_py: SdkClient, memphis: Memphis, station_name: str
) -> None:
    memphis_py.station(station_name, partitions_number=2)
    options: dict[str, Any] = {"ack_wait_sec": 10, "generate_random_suffix": True}
    headers = memphis_py.sdk.headers(k="v")
    memphis_py.produce(station_name, "p", "one", headers=headers, msg_id="id", producer_partition_number=2, **options)
    memphis_py.produce(station_name, "p", "two", async_produce=True, producer_partition_key="a")
    messages = {message.data: message for message in read(memphis, station_name, 2)}
    assert messages[b"one"].partition == 2
    assert messages[b"one"].headers == {"k": "v"}
    assert (messages[b"one"].get_headers() or {})["$memphis_producedBy"].startswith("p_")
    assert messages[b"two"].partition == partition_for_key("a", [1, 2])


def test_a_producer_of_a_destroyed_station_is_told(memphis_py: SdkClient, memphis: Memphis, station_name: str) -> None:
    station = memphis.station(station_name)
    producer = memphis_py.producer(station_name, "p")
    producer.produce("stored")
    station.destroy()
    with pytest.raises(SdkError, match="no response from stream"):
        producer.produce("nowhere")


def test_destroy_takes_the_registration_back(memphis_py: SdkClient, station_name: str) -> None:
    producer = memphis_py.producer(station_name, "p")
    assert list(memphis_py.memphis.read("producers_map")) == [f"{station_name}_p"]
    producer.destroy(timeout_retries=1)
    assert not memphis_py.memphis.read("producers_map")
    assert memphis_py.producer(station_name, "p").produce("again") is None
