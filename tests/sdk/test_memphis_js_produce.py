"""memphis-dev 1.3.2, unchanged from npm, connects to our broker, makes stations and produces."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Callable

import pytest
from control_client import ControlClient
from fix_memphis_js import MemphisJs
from fix_sdk import Name, SdkClient, SdkError

from memphis_sync import Memphis, Message
from memphis_sync._protocol.partitions import partition_for_key
from memphis_sync.broker import BrokerProcess

pytestmark = pytest.mark.node
S_NS, MS_NS = 1_000_000_000, 1_000_000


def read(memphis: Memphis, station: str, count: int) -> list[Message]:
    """So many messages, in the order of their partitions."""
    found: list[Message] = []
    while len(found) < count and (batch := memphis.fetch_messages(station, "reader", batch_size=500, timeout_s=10)):
        found += batch
    for message in found:
        message.ack()
    return sorted(found, key=lambda message: (message.partition, message.sequence))


def produced(memphis_js: SdkClient, station: str, message: Any, **options: Any) -> None:
    """A blocking produce; the SDK's default is not to wait."""
    memphis_js.produce(stationName=station, producerName="p", message=message, asyncProduce=False, **options)


def test_a_wrong_password_is_refused(memphis_js: SdkClient) -> None:
    with pytest.raises(SdkError, match="Authorization Violation"):
        memphis_js.connect(password="no")
    with pytest.raises(SdkError, match="one of the following methods: connection token / password"):
        memphis_js.connect(password="")
    assert memphis_js.isConnected() is True


def test_an_application_user_and_token_mode(
    fresh_broker: Callable[..., BrokerProcess], memphis_js: SdkClient, memphis_js_process: MemphisJs
) -> None:
    for options, login in [({"users": {"app": "Passw0rd!"}}, {"password": "Passw0rd!"}), ({"token": "s3cret"}, {})]:
        app = memphis_js.connect(fresh_broker(**options), username="app", **login)
        app.produce(stationName="st", producerName="p", message="hello", asyncProduce=False)
        (message,) = app.fetchMessages(stationName="st", consumerName="c", batchSize=1)
        assert message.getData() == b"hello"
        app.close()
        assert app.isConnected() is False


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"max_age": 3600 * S_NS, "max_msgs": -1, "storage": "file", "duplicate_window": 120_000 * MS_NS}),
        ({"retentionType": Name("retentionTypes.MESSAGES"), "retentionValue": 7}, {"max_msgs": 7, "max_age": 0}),
        ({"retentionType": Name("retentionTypes.BYTES"), "retentionValue": 2**30}, {"max_bytes": 2**30}),
        ({"retentionType": Name("retentionTypes.ACK_BASED")}, {"retention": "interest", "max_age": 0}),
        ({"storageType": Name("storageTypes.MEMORY"), "replicas": 1}, {"storage": "memory", "num_replicas": 1}),
        ({"idempotencyWindowMs": 5000, "partitionsNumber": 0}, {"duplicate_window": 5000 * MS_NS}),
    ],
)
def test_station_options(
    memphis_js: SdkClient,
    control: ControlClient,
    station_name: str,
    options: dict[str, Any],
    expected: dict[str, Any],
) -> None:
    station = memphis_js.station(name=station_name, **options)
    assert (station.kind, station.read("name")) == ("Station", station_name)
    config = control.stream(f"{station_name}$1")
    assert {key: config[key] for key in expected} == expected
    memphis_js.station(name=station_name, partitionsNumber=3)  # exists: no error, and nothing changes
    assert "error" in control.jetstream(f"STREAM.INFO.{station_name}$2")


def test_what_the_broker_refuses_is_raised_with_its_text(memphis_js: SdkClient, station_name: str) -> None:
    with pytest.raises(SdkError, match=r"Only alphanumeric and the .* are allowed in Station"):
        memphis_js.station(name="bad name")
    with pytest.raises(SdkError, match="does not exist"):
        memphis_js.station(name=station_name, schemaName="there-is-none")


def test_a_destroyed_station_is_empty_when_it_is_made_again(
    memphis_js: SdkClient, memphis: Memphis, station_name: str
) -> None:
    station = memphis_js.station(name=station_name)
    produced(memphis_js, station_name, "old")
    station.destroy()
    memphis_js.station(name=station_name)
    produced(memphis_js, station_name, "new")
    assert [message.data for message in read(memphis, station_name, 1)] == [b"new"]


def test_every_kind_of_message_that_needs_no_schema(memphis_js: SdkClient, memphis: Memphis, station_name: str) -> None:
    payloads = [bytearray(range(256)), bytearray(b"z" * 100_000), "tëxt", {"id": 7, "n": None}]
    for payload in payloads:
        produced(memphis_js, station_name, payload)
    found = read(memphis, station_name, len(payloads))
    assert [message.data for message in found] == [*payloads[:2], "tëxt".encode(), b'{"id":7,"n":null}']
    for payload in (b"Uint8Array", [1, 2], 3):  # protocol reference D-js-6
        with pytest.raises(SdkError, match="Unsupported message type"):
            produced(memphis_js, station_name, payload)


def test_headers_message_id_and_the_name_of_the_producer(
    memphis_js: SdkClient, memphis: Memphis, station_name: str
) -> None:
    """
    The SDK writes into its caller's headers, as memphis-py does, but copies a plain object.

    Source: protocol reference D-js-10.
    """
    headers = memphis_js.sdk.headers(k="v", x="y")
    produced(memphis_js, station_name, "one", headers=headers, msgId="id-1")
    produced(memphis_js, station_name, "two", headers={"k": "w"})
    with pytest.raises(SdkError, match="Keys in headers should not start with \\$memphis"):
        headers.add("$memphis_x", "y")
    one, two = read(memphis, station_name, 2)
    assert (one.headers, two.headers) == ({"k": "v", "x": "y"}, {"k": "w"})
    said = one.get_headers() or {}
    assert said["msg-id"] == "id-1"
    assert said["$memphis_producedBy"] == "p"
    assert said["$memphis_connectionId"] == memphis_js.memphis.read("connectionId")
    assert "msg-id" not in (two.get_headers() or {})
    assert headers.read("headers").get("msg-id") == "id-1"


def test_a_message_id_is_stored_once_on_the_port_for_sdks(
    fresh_broker: Callable[..., BrokerProcess], memphis_js: SdkClient, station_name: str
) -> None:
    broker = fresh_broker(sdk_port=0)
    with ControlClient(broker) as control:
        for port, stored in ((broker.sdk_port, 1), (broker.port, 2)):  # a stock nats-server knows no such header
            station = f"{station_name}-{stored}"
            other = memphis_js.connect(broker, port=port)
            for _ in range(2):
                other.produce(stationName=station, producerName="p", message="x", msgId="id-1", asyncProduce=False)
            assert control.jetstream(f"STREAM.INFO.{station}$1")["state"]["messages"] == stored


def test_the_default_is_not_to_wait(memphis_js: SdkClient, memphis: Memphis, station_name: str) -> None:
    producer = memphis_js.producer(stationName=station_name, producerName="p")
    for number in range(100):
        assert producer.produce(message=str(number)) is None
    assert [int(message.data) for message in read(memphis, station_name, 100)] == list(range(100))


def test_a_failed_delivery_that_nobody_waits_for_ends_the_process(broker: BrokerProcess, memphis: Memphis) -> None:
    """
    produce() returns as if all were well; then an unhandled rejection takes the whole program down.

    Source: protocol reference D-js-1.
    """
    with MemphisJs() as process:
        station = memphis.station("js-goes-down")
        producer = process.connect(broker).producer(stationName="js-goes-down", producerName="p")
        station.destroy()
        assert producer.produce(message="nowhere") is None
        assert process.ended() == 1


def test_partitions_by_number_and_round_robin(memphis_js: SdkClient, memphis: Memphis, station_name: str) -> None:
    memphis_js.station(name=station_name, partitionsNumber=3)
    producer = memphis_js.producer(stationName=station_name, producerName="p")
    for number in (1, 2, 3):
        producer.produce(message=f"number {number}", asyncProduce=False, producerPartitionNumber=number)
    for number in range(6):
        producer.produce(message=f"round {number}", asyncProduce=False)
    found = defaultdict(list)
    for message in read(memphis, station_name, 9):
        found[message.partition].append(message.data.decode())
    assert {number: texts[0] for number, texts in found.items()} == {n: f"number {n}" for n in (1, 2, 3)}
    assert {number: len(texts) for number, texts in found.items()} == {1: 3, 2: 3, 3: 3}
    with pytest.raises(SdkError, match="Can not use both partition number and partition key"):
        producer.produce(message="both", producerPartitionKey="k", producerPartitionNumber=1)


def test_keys_go_one_partition_too_low(memphis_js: SdkClient, memphis: Memphis, station_name: str) -> None:
    """
    The index into the list is taken for the number; keys of the first partition go nowhere, and say so.

    Source: protocol reference D-js-3.
    """
    memphis_js.station(name=station_name, partitionsNumber=3)
    producer = memphis_js.producer(stationName=station_name, producerName="p")
    keys = ["a", "key", "order-17", "", "ключ"]
    right = {key: partition_for_key(key, [1, 2, 3]) for key in keys}
    assert sorted(right.values()) == [1, 2, 2, 2, 3]
    for key, partition in right.items():
        if partition == 1:
            with pytest.raises(SdkError, match="please check whether Station/Producer still exist"):
                producer.produce(message=key, asyncProduce=False, producerPartitionKey=key)
        else:
            producer.produce(message=key, asyncProduce=False, producerPartitionKey=key)
    found = {message.data.decode(): message.partition for message in read(memphis, station_name, 4)}
    assert found == {key: partition - 1 for key, partition in right.items() if partition > 1}


@pytest.mark.parametrize("of", ["producer", "client"])
def test_several_stations_that_do_not_exist_yet(
    memphis_js: SdkClient, memphis: Memphis, station_name: str, of: str
) -> None:
    stations = [f"{station_name}-a", f"{station_name}.b"]
    if of == "producer":
        producer = memphis_js.producer(stationName=stations, producerName="p")
        producer.produce(message="both", asyncProduce=False)
        producer.destroy()
    else:
        memphis_js.produce(stationName=stations, producerName="p", message="both", asyncProduce=False)
    for station in stations:
        assert [message.data for message in read(memphis, station, 1)] == [b"both"]


def test_a_destroyed_producer_stays_in_the_cache(memphis_js: SdkClient, memphis: Memphis, station_name: str) -> None:
    """
    producer() hands the destroyed one out again; our broker takes its messages all the same.

    Source: protocol reference D-js-5.
    """
    producer = memphis_js.producer(stationName=station_name, producerName="p")
    producer.destroy()
    produced(memphis_js, station_name, "after")
    assert [message.data for message in read(memphis, station_name, 1)] == [b"after"]
