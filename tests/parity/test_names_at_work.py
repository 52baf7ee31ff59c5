"""
Every name and parameter of memphis.py at work in memphis_sync, against a broker.

``exercises`` is what a test promises to use, and is held to (conftest.py); test_surface.py wants all of memphis.py
promised here. What each test then looks at is the effect: an argument that is taken and dropped fails it.
"""

from __future__ import annotations

import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Callable

import pytest
from control_client import ControlClient

import memphis_sync
from memphis_sync import Headers, Memphis, MemphisError, Retention, Storage
from memphis_sync._protocol.partitions import partition_for_key
from memphis_sync.broker import BrokerProcess

S_NS, MS_NS = 1_000_000_000, 1_000_000


@pytest.fixture
def control(broker: BrokerProcess) -> Any:
    """A plain connection to the session's broker, to look at what was made."""
    with ControlClient(broker) as client:
        yield client


def texts(messages: list[memphis_sync.Message]) -> list[str]:
    return [message.get_data().decode() for message in messages]


# ---- connecting -----------------------------------------------------------------------------------------------------


@pytest.mark.exercises(
    "Memphis.connect(host, username, account_id, connection_token, password, port, reconnect, max_reconnect, "
    "reconnect_interval_ms, timeout_ms, cert_file, key_file, ca_file)",
    "Memphis.is_connected()",
    "Memphis.close()",
    "Memphis.connection_id",
)
def test_connect_takes_every_argument(
    broker: BrokerProcess, fresh_broker: Callable[..., BrokerProcess], broker_with: Any, authority: Any
) -> None:
    """A login by password, one by token, and TLS with a client's certificate; a foreign account is refused."""
    client = Memphis()
    client.connect(
        host=broker.host,
        username=broker.username,
        password=broker.password,
        port=broker.port,
        reconnect_interval_ms=300,
        max_reconnect=12,
        timeout_ms=9000,
    )
    assert client.is_connected()
    assert len(client.connection_id) == 36
    options = client._session.options
    assert (options.max_reconnect, options.reconnect_interval_ms, options.timeout_ms) == (12, 300, 9000)
    client.close()
    assert not client.is_connected()

    foreign = Memphis()
    with pytest.raises(memphis_sync.AuthenticationError):
        foreign.connect(broker.host, broker.username, 77, password=broker.password, port=broker.port, reconnect=False)

    by_token = fresh_broker(token="s3cret")
    client = Memphis()
    client.connect(by_token.host, "root", connection_token="s3cret", port=by_token.port)
    client.close()

    mine, demanding = authority.issue("me@example.org"), {"tls_ca": Path(authority.file)}
    secure = broker_with(authority.issue("127.0.0.1"), **demanding)
    files = {"cert_file": str(mine.cert), "key_file": str(mine.key), "ca_file": authority.file}
    client = Memphis()
    client.connect("127.0.0.1", "root", password=secure.password, port=secure.port, **files)
    assert client.is_connected()
    client.close()


@pytest.mark.exercises(
    "MemphisError(message)",
    "MemphisError.message",
    "MemphisConnectError",
    "MemphisHeaderError",
    "Headers.add(key, value)",
)
def test_errors_and_their_text(broker: BrokerProcess, memphis: Memphis, station_name: str) -> None:
    assert MemphisError("nats stays nats").message == "nats stays nats"
    with pytest.raises(memphis_sync.MemphisConnectError, match=r"127\.0\.0\.1:1: ") as refused:
        memphis_sync.connect("127.0.0.1", "root", password="x", port=1)
    assert isinstance(refused.value, MemphisError)
    assert refused.value.message == str(refused.value)
    with pytest.raises(memphis_sync.MemphisHeaderError, match=r"should not start with \$memphis"):
        Headers().add(key="$memphis_x", value="y")
    with pytest.raises(memphis_sync.ConfigurationError, match=r"batch_size is 0; it must be .* 1 "):
        memphis.consumer(station_name, "c", batch_size=0)


# ---- stations and schemas -------------------------------------------------------------------------------------------


@pytest.mark.exercises(
    "Memphis.station(name, retention_type, retention_value, storage_type, replicas, idempotency_window_ms, "
    "send_poison_msg_to_dls, tiered_storage_enabled, partitions_number, dls_station, timeout_retries)",
    "Station.name",
    "Station.destroy(timeout_retries)",
    "Retention.MAX_MESSAGE_AGE_SECONDS",
    "Retention.MESSAGES",
    "Retention.BYTES",
    "Retention.ACK_BASED",
    "Storage.DISK",
    "Storage.MEMORY",
)
def test_a_station_takes_every_argument(memphis: Memphis, control: ControlClient, station_name: str) -> None:
    station = memphis.station(
        name=f"{station_name}.A",
        retention_type=Retention.MESSAGES,
        retention_value=7,
        storage_type=Storage.MEMORY,
        idempotency_window_ms=5000,
        send_poison_msg_to_dls=False,
        partitions_number=2,
        timeout_retries=1,
    )
    assert station.name == f"{station_name}.a"
    config = control.stream(f"{station_name}#a$2")
    assert (config["max_msgs"], config["storage"], config["duplicate_window"]) == (7, "memory", 5000 * MS_NS)
    station.destroy(timeout_retries=1)
    assert "error" in control.jetstream(f"STREAM.INFO.{station_name}#a$2")

    for number, (retention, value, wanted) in enumerate(
        [
            (Retention.MAX_MESSAGE_AGE_SECONDS, 600, {"max_age": 600 * S_NS}),
            (Retention.BYTES, 2**20, {"max_bytes": 2**20}),
            (Retention.ACK_BASED, 1, {"retention": "interest"}),
        ]
    ):
        memphis.station(f"{station_name}-{number}", retention, value, Storage.DISK)
        config = control.stream(f"{station_name}-{number}$1")
        assert config["storage"] == "file"
        assert {key: config[key] for key in wanted} == wanted

    with pytest.raises(memphis_sync.ServerError):  # one server cannot hold three copies
        memphis.station(f"{station_name}-r", replicas=3)
    memphis.station(f"{station_name}-d")
    memphis.station(f"{station_name}-t", dls_station=f"{station_name}-d")
    with pytest.raises(memphis_sync.ServerError, match="tiered storage is not available in this broker"):
        memphis.station(f"{station_name}-u", tiered_storage_enabled=True)


@pytest.mark.exercises(
    "Memphis.create_schema(schema_name, schema_type, schema_path, timeout_retries)",
    "Memphis.enforce_schema(name, station_name, timeout_retries)",
    "Memphis.attach_schema(name, station_name)",
    "Memphis.detach_schema(station_name, timeout_retries)",
    "Memphis.station(schema_name, send_schema_failed_msg_to_dls)",
    "MemphisSchemaError",
)
def test_schemas_take_every_argument(
    memphis: Memphis, station_name: str, tmp_path: Path, until: Callable[..., Any]
) -> None:
    source = tmp_path / "order.json"
    source.write_text('{"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"]}')
    schema = f"{station_name}-s"
    memphis.create_schema(schema_name=schema, schema_type="json", schema_path=str(source), timeout_retries=1)
    memphis.station(station_name, schema_name=schema, send_schema_failed_msg_to_dls=False)
    producer = memphis.producer(station_name, "p")
    producer.produce({"id": 7})
    with pytest.raises(memphis_sync.MemphisSchemaError, match="id"):
        producer.produce({"id": "x"})
    (message,) = memphis.fetch_messages(station_name, "c")
    assert message.get_data_deserialized() == {"id": 7}

    def takes_anything() -> bool:
        try:
            return bool(producer.produce({"id": "x"}))
        except memphis_sync.MemphisSchemaError:
            return False

    memphis.detach_schema(station_name=station_name, timeout_retries=1)
    until(takes_anything)
    memphis.enforce_schema(name=schema, station_name=station_name, timeout_retries=1)
    until(lambda: not takes_anything())
    memphis.detach_schema(station_name)
    until(takes_anything)
    memphis.attach_schema(name=schema, station_name=station_name)
    until(lambda: not takes_anything())


# ---- producing ------------------------------------------------------------------------------------------------------


@pytest.mark.exercises(
    "Memphis.producer(station_name, producer_name, generate_random_suffix, timeout_retries)",
    "Producer.producer_name",
    "Producer.station_name",
    "Producer.destroy(timeout_retries)",
)
def test_a_producer_takes_every_argument(memphis: Memphis, station_name: str) -> None:
    producer = memphis.producer(station_name=station_name, producer_name="P", timeout_retries=1)
    assert (producer.producer_name, producer.station_name) == ("p", station_name)
    producer.destroy(timeout_retries=1)
    with pytest.raises(memphis_sync.ClosedError):
        producer.produce(b"x")
    several = memphis.producer([station_name, f"{station_name}-2"], "p", generate_random_suffix=True)
    assert several.producer_name.startswith("p_")
    assert several.station_name == [station_name, f"{station_name}-2"]


@pytest.mark.exercises(
    "Producer.produce(message, ack_wait_sec, headers, async_produce, nonblocking, msg_id, concurrent_task_limit, "
    "producer_partition_key, producer_partition_number)",
    "Headers()",
    "Headers.add(key, value)",
    "Headers.headers",
)
def test_produce_takes_every_argument(memphis: Memphis, station_name: str) -> None:
    memphis.station(station_name, partitions_number=3)
    producer = memphis.producer(station_name, "p")
    headers = Headers()
    headers.add(key="kind", value="test")
    assert headers.headers == {"kind": "test"}
    stored = producer.produce(
        message="one", ack_wait_sec=20, headers=headers, msg_id="id-1", producer_partition_key="a"
    )
    assert (stored.partition, stored.duplicate) == (partition_for_key("a", [1, 2, 3]), False)
    assert producer.produce("one", msg_id="id-1", producer_partition_key="a").duplicate
    delivery = producer.produce("two", nonblocking=True, concurrent_task_limit=5, producer_partition_number=2)
    assert delivery.result(10).partition == 2
    with pytest.warns(DeprecationWarning, match="async_produce is deprecated"):
        assert producer.produce("three", async_produce=True, producer_partition_number=3).result(10).partition == 3
    (message,) = memphis.fetch_messages(station_name, "c", consumer_partition_number=stored.partition)
    assert message.headers == {"kind": "test"}
    assert (message.get_headers() or {})["$memphis_producedBy"] == "p"


@pytest.mark.exercises(
    "Memphis.produce(station_name, producer_name, message, generate_random_suffix, ack_wait_sec, headers, "
    "async_produce, msg_id, producer_partition_key, producer_partition_number)",
)
def test_produce_without_a_producer_takes_every_argument(memphis: Memphis, station_name: str) -> None:
    memphis.station(station_name, partitions_number=2)
    stored = memphis.produce(
        station_name=station_name,
        producer_name="P",
        message="one",
        generate_random_suffix=True,
        ack_wait_sec=20,
        headers={"kind": "test"},
        msg_id="id-1",
        producer_partition_number=2,
    )
    assert stored.partition == 2
    key = next(key for key in "abcdefgh" if partition_for_key(key, [1, 2]) == 1)
    with pytest.warns(DeprecationWarning, match="async_produce is deprecated"):
        delivery = memphis.produce(station_name, "p", "two", async_produce=True, producer_partition_key=key)
    assert delivery.result(10).partition == 1
    (message,) = memphis.fetch_messages(station_name, "c", consumer_partition_number=2)
    assert (message.get_headers() or {})["$memphis_producedBy"].startswith("p_")
    assert (message.get_headers() or {})["Nats-Msg-Id"] == "id-1"


# ---- consuming ------------------------------------------------------------------------------------------------------


def fill(memphis: Memphis, station: str, partitions: dict[int, list[str]]) -> None:
    """Makes a station with these messages in its partitions."""
    memphis.station(station, partitions_number=max(partitions))
    with memphis.producer(station, "filler") as producer:
        for number, messages in partitions.items():
            for text in messages:
                producer.produce(text, producer_partition_number=number)


@pytest.mark.exercises(
    "Memphis.consumer(station_name, consumer_name, consumer_group, pull_interval_ms, batch_size, "
    "batch_max_time_to_wait_ms, max_ack_time_ms, max_msg_deliveries, generate_random_suffix, "
    "start_consume_from_sequence, last_messages, timeout_retries)",
    "Memphis.MAX_BATCH_SIZE",
    "Consumer.MAX_BATCH_SIZE",
    "Consumer.station_name",
    "Consumer.consumer_name",
    "Consumer.consumer_group",
    "Consumer.pull_interval_ms",
    "Consumer.batch_size",
    "Consumer.batch_max_time_to_wait_ms",
    "Consumer.max_ack_time_ms",
    "Consumer.max_msg_deliveries",
    "Consumer.destroy(timeout_retries)",
)
def test_a_consumer_takes_every_argument(memphis: Memphis, control: ControlClient, station_name: str) -> None:
    fill(memphis, station_name, {1: ["a", "b", "c", "d"]})
    consumer = memphis.consumer(
        station_name=station_name,
        consumer_name="C",
        consumer_group="G.1",
        pull_interval_ms=70,
        batch_size=3,
        batch_max_time_to_wait_ms=400,
        max_ack_time_ms=7000,
        max_msg_deliveries=4,
        start_consume_from_sequence=3,
        timeout_retries=1,
    )
    assert (consumer.station_name, consumer.consumer_name, consumer.consumer_group) == (station_name, "c", "g.1")
    assert (consumer.pull_interval_ms, consumer.batch_size, consumer.batch_max_time_to_wait_ms) == (70, 3, 400)
    assert (consumer.max_ack_time_ms, consumer.max_msg_deliveries) == (7000, 4)
    assert memphis.MAX_BATCH_SIZE == consumer.MAX_BATCH_SIZE == 5000
    durable = control.durable(f"{station_name}$1", "g#1")
    assert durable is not None
    assert (durable["config"]["ack_wait"], durable["config"]["max_deliver"]) == (7 * S_NS, 4)
    assert texts(consumer.fetch()) == ["c", "d"]
    consumer.destroy(timeout_retries=1)
    assert control.durable(f"{station_name}$1", "g#1") is None
    newest = memphis.consumer(station_name, "newest", generate_random_suffix=True, last_messages=1)
    assert newest.consumer_name.startswith("newest_")
    assert texts(newest.fetch()) == ["d"]


@pytest.mark.exercises("Consumer.fetch(batch_size, consumer_partition_key, consumer_partition_number, prefetch)")
def test_fetch_takes_every_argument(memphis: Memphis, station_name: str) -> None:
    fill(memphis, station_name, {1: ["a"], 2: ["b", "c", "d"]})
    consumer = memphis.consumer(station_name, "c")
    assert texts(consumer.fetch(batch_size=1, consumer_partition_number=2)) == ["b"]
    key = next(key for key in "abcdefgh" if partition_for_key(key, [1, 2]) == 2)
    assert texts(consumer.fetch(batch_size=1, consumer_partition_key=key)) == ["c"]
    rest = texts(consumer.fetch(prefetch=True))
    while len(rest) < 2:
        rest += texts(consumer.fetch(prefetch=True))
    assert sorted(rest) == ["a", "d"]


@pytest.mark.exercises(
    "Memphis.fetch_messages(station_name, consumer_name, consumer_group, batch_size, batch_max_time_to_wait_ms, "
    "max_ack_time_ms, max_msg_deliveries, generate_random_suffix, start_consume_from_sequence, last_messages, "
    "consumer_partition_key, consumer_partition_number, prefetch)",
)
def test_fetch_messages_takes_every_argument(memphis: Memphis, control: ControlClient, station_name: str) -> None:
    fill(memphis, station_name, {1: ["a"], 2: ["b", "c", "d"]})
    found = memphis.fetch_messages(
        station_name=station_name,
        consumer_name="c",
        consumer_group="g",
        batch_size=1,
        batch_max_time_to_wait_ms=400,
        max_ack_time_ms=7000,
        max_msg_deliveries=4,
        generate_random_suffix=True,
        start_consume_from_sequence=2,
        consumer_partition_number=2,
        prefetch=True,
    )
    assert texts(found) == ["c"]
    durable = control.durable(f"{station_name}$2", "g")
    assert durable is not None
    assert (durable["config"]["ack_wait"], durable["config"]["max_deliver"]) == (7 * S_NS, 4)
    key = next(key for key in "abcdefgh" if partition_for_key(key, [1, 2]) == 1)
    assert texts(memphis.fetch_messages(station_name, "newest", last_messages=1, consumer_partition_key=key)) == ["a"]


@pytest.mark.exercises(
    "Consumer.consume(callback, consumer_partition_key, consumer_partition_number)",
    "Consumer.set_context(context)",
    "Consumer.context",
)
def test_consuming_takes_every_argument_and_goes_on(memphis: Memphis, station_name: str) -> None:
    """Batches with the context; an exception in the callback is handed to it, and the next message comes."""
    fill(memphis, station_name, {1: ["a"], 2: ["b"]})
    consumer = memphis.consumer(station_name, "c", pull_interval_ms=10)
    calls: list[tuple[Any, ...]] = []
    seen = {text: threading.Event() for text in ("a", "b", "failed", "c")}

    def handle(messages: list[memphis_sync.Message], error: Any, context: Any) -> None:
        calls.append((texts(messages), error, context))
        seen[texts(messages)[0] if messages else "failed"].set()
        if texts(messages) == ["b"]:
            raise ValueError("b is not for me")

    consumer.set_context({"number": 7})
    assert consumer.context == {"number": 7}
    consumer.consume(handle, consumer_partition_number=2)
    assert seen["b"].wait(20)
    assert seen["failed"].wait(20)
    memphis.produce(station_name, "p", "c", producer_partition_number=2)
    assert seen["c"].wait(20)
    assert consumer.stop_consume(20)
    assert [call[0] for call in calls] == [["b"], [], ["c"]]
    assert all(context == {"number": 7} for _, _, context in calls)
    assert [isinstance(error, MemphisError) for _, error, _ in calls] == [False, True, False]
    key = next(key for key in "abcdefgh" if partition_for_key(key, [1, 2]) == 1)
    consumer.consume(callback=handle, consumer_partition_key=key)
    assert seen["a"].wait(20)
    consumer.destroy()


@pytest.mark.exercises("Memphis.producer()", "Memphis.consumer()")
def test_two_of_a_name_are_two(memphis: Memphis, station_name: str) -> None:
    one, two = memphis.producer(station_name, "p"), memphis.producer(station_name, "p")
    assert one is not two
    one.destroy()
    assert two.produce("x").sequence == 1
    first = memphis.consumer(station_name, "c", batch_size=1)
    second = memphis.consumer(station_name, "c", batch_size=2)
    assert (first.batch_size, second.batch_size) == (1, 2)
    first.destroy()
    assert texts(second.fetch()) == ["x"]


# ---- messages -------------------------------------------------------------------------------------------------------


@pytest.mark.exercises(
    "Message.get_data()",
    "Message.get_data_deserialized()",
    "Message.get_headers()",
    "Message.get_sequence_number()",
    "Message.get_timesent()",
    "Message.partition",
    "Message.ack()",
    "Message.nack()",
    "Message.delay(delay)",
    "Message.dead_letter(reason)",
)
def test_a_message_does_all_it_did(memphis: Memphis, station_name: str) -> None:
    """get_timesent() and dead_letter() too, which fail in memphis.py."""
    fill(memphis, station_name, {1: ["one", "two", "dead"]})
    consumer = memphis.consumer(station_name, "c", max_msg_deliveries=5)
    one, two, dead = consumer.fetch()
    assert (one.get_data(), one.get_data_deserialized()) == (bytearray(b"one"), bytearray(b"one"))
    assert (one.get_headers() or {})["$memphis_producedBy"] == "filler"
    assert [message.get_sequence_number() for message in (one, two, dead)] == [1, 2, 3]
    assert abs(one.get_timesent() - datetime.now(timezone.utc)) < timedelta(minutes=5)
    assert one.partition == 1
    one.ack()
    two.nack()
    dead.dead_letter(reason="of no use")
    (again,) = consumer.fetch(timeout_s=10)
    assert texts([again]) == ["two"]
    again.delay(delay=0.2)
    (later,) = consumer.fetch(timeout_s=10)
    assert texts([later]) == ["two"]
    later.ack()
    assert consumer.fetch(timeout_s=0.3) == []


@pytest.mark.exercises("Consumer.dls_messages")
def test_dead_letters_come_back(memphis: Memphis, station_name: str, until: Callable[..., Any]) -> None:
    station = memphis.station(station_name)
    memphis.produce(station_name, "p", "poison")
    consumer = memphis.consumer(station_name, "c", max_ack_time_ms=500, max_msg_deliveries=1)
    assert texts(consumer.fetch()) == ["poison"]  # and no answer
    until(lambda: station.dls.list("poison"))
    assert station.dls.resend() == 1
    until(lambda: len(consumer.dls_messages) == 1)
    (again,) = consumer.fetch()
    assert isinstance(again, memphis_sync.Message)
    assert texts([again]) == ["poison"]
    again.ack()
    until(lambda: not station.dls.list())
