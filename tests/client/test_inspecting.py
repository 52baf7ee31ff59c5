"""stations(), info(), peek(), connections() and schemas(): what there is, and that looking at it changes nothing."""

from __future__ import annotations

import pickle
import threading
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from fix_proxy import AsMemphis, Proxy

import memphis_sync
from memphis_sync import ConfigurationError, RemoteProtocolError, Retention, ServerError, StationNotFoundError, Storage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from control_client import ControlClient

    from memphis_sync import Memphis, Station
    from memphis_sync.broker import BrokerProcess


@pytest.fixture
def as_memphis(broker: BrokerProcess) -> Iterator[Memphis]:
    """A client that takes the session's broker for a Memphis broker."""
    proxy = AsMemphis((broker.host, broker.port))
    with memphis_sync.connect(broker.url.replace(str(broker.port), str(proxy.port))) as client:
        yield client
    proxy.close()


@pytest.fixture
def three(memphis: Memphis, station_name: str) -> Station:
    """A station with a dot in its name, and messages 0 to 29 in turn on three partitions."""
    station = memphis.station(f"{station_name}.eu", partitions_number=3)
    producer = memphis.producer(station.name, "web")
    for number in range(30):
        producer.produce({"n": number}, headers={"kind": "test"}, producer_partition_number=number % 3 + 1)
    return station


def numbers(peeked: Any) -> list[int]:
    return [row["data"]["n"] for row in peeked.to_dicts()]


def durables(control: ControlClient, stream: str) -> list[str]:
    return control.jetstream(f"CONSUMER.NAMES.{stream}")["consumers"] or []


# ---- stations -------------------------------------------------------------------------------------------------------


def test_a_station_is_told_with_its_settings_and_counts(memphis: Memphis, three: Station) -> None:
    kept = memphis.station(
        f"{three.name}.kept", Retention.MESSAGES, 7, Storage.MEMORY, idempotency_window_ms=5000, partitions_number=2
    )
    acked = memphis.station(f"{three.name}.acked", Retention.ACK_BASED)
    found = {station.name: station for station in memphis.stations()}
    assert list(found) == sorted(found)
    info = found[three.name]
    assert (info.messages, info.partitions_number, info.schema, info.groups) == (30, 3, None, None)
    assert [(each.number, each.messages, each.first_sequence, each.last_sequence) for each in info.partitions] == [
        (1, 10, 1, 10),
        (2, 10, 1, 10),
        (3, 10, 1, 10),
    ]
    assert info.bytes == sum(each.bytes for each in info.partitions) > 30 * len('{"n": 1}')
    assert info.created is not None
    assert info.first_time is not None
    assert info.last_time is not None
    assert info.created <= info.first_time < info.last_time <= datetime.now(timezone.utc)
    assert (info.retention, info.retention_value, info.storage) == (
        Retention.MAX_MESSAGE_AGE_SECONDS,
        3600,
        Storage.DISK,
    )
    assert info.retention_text == "3600 seconds"
    other = found[kept.name]
    assert (other.retention, other.retention_value, other.storage) == (Retention.MESSAGES, 7, Storage.MEMORY)
    assert (other.idempotency_window_ms, other.replicas) == (5000, 1)
    assert (other.messages, other.first_time, other.partitions[0].last_time) == (0, None, None)
    assert found[acked.name].retention_text == "until acknowledged"
    assert not info.unknown
    assert pickle.loads(pickle.dumps(info)) == info


def test_streams_that_are_no_station_are_not_listed(memphis: Memphis, control: ControlClient, three: Station) -> None:
    foreign = f"{three.internal_name.partition('#')[0]}-foreign"
    control.jetstream(f"STREAM.CREATE.{foreign}", {"name": foreign, "subjects": [f"{foreign}.>"]})
    try:
        names = {station.name for station in memphis.stations()}
    finally:
        control.jetstream(f"STREAM.DELETE.{foreign}")
    assert three.name in names
    assert foreign not in names
    assert not {name for name in names if "memphis_" in name.lower() or "kv" in name}


def test_a_stream_of_the_stations_name_is_no_partition(
    memphis: Memphis, control: ControlClient, station_name: str
) -> None:
    memphis.produce(station_name, "p", b"x")
    control.jetstream(f"STREAM.CREATE.{station_name}", {"name": station_name, "subjects": [f"{station_name}.>"]})
    try:
        (info,) = (station for station in memphis.stations() if station.name == station_name)
        assert [each.number for each in info.partitions] == [1]
        assert memphis.station(station_name).info().partitions == info.partitions
    finally:
        control.jetstream(f"STREAM.DELETE.{station_name}")


def test_threads_look_while_stations_come_and_go(memphis: Memphis, three: Station, in_threads: Any) -> None:
    """What is destroyed during a look is there or not; the others are told as ever."""
    is_over = threading.Event()

    def run(number: int) -> None:
        if number == 0:
            try:
                for _ in range(10):
                    memphis.consumer(f"{three.name}.passing", "c")
                    memphis.destroy_station(f"{three.name}.passing")
            finally:
                is_over.set()
        while not is_over.is_set():
            found = {station.name: station.messages for station in memphis.stations(with_groups=True, timeout_s=60)}
            assert found[three.name] == 30
            assert three.info(timeout_s=60).messages == 30
            assert numbers(three.peek(2, timeout_s=60)) == [28, 29]

    in_threads(4, run)


def test_a_group_is_told_with_its_lag(memphis: Memphis, three: Station) -> None:
    consumer = memphis.consumer(three.name, "mailer", "mail.g", max_ack_time_ms=60_000, max_msg_deliveries=5)
    messages = []
    while len(messages) < 6:
        messages += consumer.fetch(6 - len(messages), timeout_s=10)
    messages[0].ack(wait=True)
    (group,) = three.info().groups or ()
    assert (group.name, group.max_ack_time_ms, group.max_msg_deliveries) == ("mail.g", 60_000, 5)
    assert (group.lag, group.unacknowledged, group.redelivered) == (24, 5, 0)
    assert [each.number for each in group.partitions] == [1, 2, 3]
    assert sum(each.delivered for each in group.partitions) == 6
    assert group.last_active is not None
    messages[1].nack()
    while not [message for message in consumer.fetch(6, timeout_s=10) if message.delivered > 1]:
        pass
    (group,) = three.info().groups or ()
    assert group.redelivered >= 1
    (same,) = (station for station in memphis.stations(with_groups=True) if station.name == three.name)
    assert [each.name for each in same.groups or ()] == ["mail.g"]


def test_a_schema_is_told_with_its_active_version(memphis: Memphis, three: Station, station_name: str) -> None:
    schema = f"s-{station_name}"
    memphis.create_schema(schema, "json", schema_content="{}")
    memphis.create_schema(schema, "json", schema_content='{"type": "object"}')
    memphis.enforce_schema(schema, three.name)
    assert three.info().schema_text == f"{schema} (version 1)"
    memphis.activate_schema_version(schema)
    attached = three.info().schema
    assert attached is not None
    assert (attached.name, attached.version) == (schema, 2)
    (found,) = (each for each in memphis.schemas() if each.name == schema)
    assert (found.type, found.versions, found.active_version, found.stations) == ("json", 2, 2, (three.name,))
    assert (memphis.schema(schema).version, memphis.schema(schema).content) == (2, '{"type": "object"}')
    assert (memphis.schema(schema, 1).content, memphis.schema(schema, 1).type) == ("{}", "json")
    for name, version in ((schema, 3), (f"{schema}-other", None)):
        with pytest.raises(ServerError, match=r"has no version 3|does not exist"):
            memphis.schema(name, version)
    memphis.detach_schema(three.name)
    assert three.info().schema is None


def test_a_station_that_does_not_exist(memphis: Memphis, three: Station) -> None:
    with pytest.raises(StationNotFoundError, match=r"there is no station 'no\.station'"):
        memphis.station("no.station", create_station=False)
    assert memphis.station(three.name, create_station=False).info().messages == 30
    three.destroy()
    for look in (three.info, three.peek):
        with pytest.raises(StationNotFoundError):
            look()
    assert three.name not in {station.name for station in memphis.stations()}


# ---- peek -----------------------------------------------------------------------------------------------------------


def test_peek_shows_the_newest_oldest_first(three: Station) -> None:
    assert numbers(three.peek(7)) == [23, 24, 25, 26, 27, 28, 29]
    assert numbers(three.peek(100)) == list(range(30))
    assert numbers(three.peek(2, partition=1)) == [24, 27]
    message = three.peek(1)[0]
    assert (message.station, message.partition, message.sequence, message.producer) == (three.name, 3, 10, "web")
    assert (message.data, message.headers) == (b'{"n": 29}', {"kind": "test"})
    assert message.size > len(message.data)
    assert abs(datetime.now(timezone.utc) - message.time) < timedelta(minutes=10)
    assert pickle.loads(pickle.dumps(message)) == message
    assert "29" not in repr(message)
    assert message.json() == {"n": 29}


def test_peek_from_a_sequence_and_from_a_time(three: Station) -> None:
    assert numbers(three.peek(100, from_sequence=9)) == [24, 25, 26, 27, 28, 29]
    assert numbers(three.peek(2, from_sequence=9)) == [24, 25]
    assert numbers(three.peek(from_sequence=11)) == []
    every = three.peek(100)
    for index in (0, 1, 13, 29):
        assert numbers(three.peek(3, from_time=every[index].time)) == list(range(30))[index : index + 3]
    assert three.peek(from_time=datetime.now(timezone.utc) + timedelta(hours=1)) == []
    assert len(three.peek(100, from_time=datetime(1970, 1, 1, tzinfo=timezone.utc))) == 30


def test_peek_uses_up_no_delivery_and_leaves_nothing_behind(
    memphis: Memphis, control: ControlClient, three: Station
) -> None:
    before = memphis.connections(three.name)
    for _ in range(5):
        assert len(three.peek(30)) == 30
    assert [durables(control, f"{three.internal_name}${partition}") for partition in (1, 2, 3)] == [[], [], []]
    assert memphis.connections(three.name) == before
    consumer = memphis.consumer(three.name, "c", max_msg_deliveries=1)
    three.peek(30)
    assert {message.delivered for message in consumer.fetch(30, timeout_s=10)} == {1}
    assert len(three.peek(30)) == 30, "also what a member has, and what is acknowledged"


@pytest.mark.parametrize("gap", [(2, 60), (2, 119), (70, 75), (1, 110)])
def test_peek_finds_its_way_over_gaps(memphis: Memphis, control: ControlClient, station_name: str, gap: Any) -> None:
    station = memphis.station(station_name)
    memphis.producer(station_name, "p").produce_many({"n": number} for number in range(1, 121))
    first, last = gap
    stream = f"{station_name}$1"
    for sequence in range(first, last + 1):
        control.jetstream(f"STREAM.MSG.DELETE.{stream}", {"seq": sequence})
    left = [number for number in range(1, 121) if not first <= number <= last]
    assert numbers(station.peek(20)) == left[-20:]
    assert numbers(station.peek(1000)) == left
    assert numbers(station.peek(30, from_sequence=first)) == [number for number in left if number >= first][:30]
    assert [station.peek(1, from_time=message.time)[0].sequence for message in station.peek(5)] == left[-5:]


@pytest.mark.parametrize("partitions", [1, 3])
def test_replay_goes_through_all_by_time_and_consumes_none(
    memphis: Memphis, station_name: str, partitions: int
) -> None:
    """More than two portions; a message that is stored after its first step is not among them."""
    station = memphis.station(station_name, partitions_number=partitions)
    producer = memphis.producer(station_name, "p")
    producer.produce_many(str(number) for number in range(1100))
    consumer = memphis.consumer(station_name, "c")
    replay = station.replay()
    first = next(replay)
    producer.produce(b"later")
    found = [first, *replay]
    assert sorted(int(message.data) for message in found) == list(range(1100))
    assert [message.time for message in found] == sorted(message.time for message in found)
    [group] = station.info().groups or ()
    assert (group.lag, group.unacknowledged) == (1101, 0)
    assert len(list(consumer.read_all())) == 1101


def test_replay_begins_where_it_is_told_to(memphis: Memphis, three: Station) -> None:
    all_of_them = list(three.replay())
    assert [message.data for message in three.replay(from_time=all_of_them[-1].time)] == [all_of_them[-1].data]
    in_first = [message.data for message in all_of_them if message.partition == 1]
    assert [message.data for message in three.replay(partition=1, from_sequence=2)] == in_first[1:]
    with pytest.raises(ConfigurationError, match="both given"):
        three.replay(from_sequence=1, from_time=all_of_them[0].time)
    with pytest.raises(ConfigurationError, match="partition is 99"):
        list(three.replay(partition=99))
    memphis.destroy_station(three.name)
    with pytest.raises(StationNotFoundError):
        list(three.replay())


def test_peek_is_bounded(memphis: Memphis, station_name: str) -> None:
    station = memphis.station(station_name, partitions_number=2)
    producer = memphis.producer(station_name, "p")
    for _ in range(8):
        producer.produce(bytes(500_000))
    assert len(station.peek(max_bytes=1_200_000)) == 3
    assert len(station.peek(max_bytes=1)) == 1
    largest = bytes(1024 * 1024 - 200)
    producer.produce(largest)
    assert station.peek(1)[0].data == largest


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"limit": 0}, "limit is 0"),
        ({"limit": 1001}, "limit is 1001"),
        ({"limit": True}, "limit is"),
        ({"partition": 4}, "partition is 4; station 'x' has 1, 2, 3"),
        ({"partition": -1}, "partition is -1"),
        ({"from_sequence": 0}, "from_sequence is 0"),
        ({"from_time": 1700000000}, "from_time is 1700000000; it must be a datetime with a time zone"),
        ({"from_time": datetime(2026, 1, 1)}, "which has no time zone"),
        ({"from_time": datetime.now(timezone.utc), "from_sequence": 1}, "from_sequence and from_time are both given"),
        ({"max_bytes": 0}, "max_bytes is 0"),
        ({"timeout_s": 0}, "timeout_s is 0"),
    ],
)
def test_what_peek_refuses(three: Station, given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        three.peek(**given)
    assert said.replace("'x'", repr(three.name)) in str(caught.value)


# ---- connections ----------------------------------------------------------------------------------------------------


def test_connections_are_told_with_their_producers_and_consumers(
    broker: BrokerProcess, memphis: Memphis, three: Station, until: Any
) -> None:
    with memphis_sync.connect(broker.url) as other:
        consumer = other.consumer(three.name, "mailer", "mail")
        first, second = sorted(memphis.connections(three.name), key=lambda each: each.consumer_names)
        assert (first.id, first.is_connected, first.username, first.sdk) == (
            memphis.connection_id,
            True,
            "root",
            "python",
        )
        assert first.producer_names == f"web of {three.name}"
        assert second.id == other.connection_id
        assert [(each.name, each.group, each.station) for each in second.consumers] == [("mailer", "mail", three.name)]
        assert abs(datetime.now(timezone.utc) - second.consumers[0].since) < timedelta(minutes=10)
        assert second.address.startswith("127.0.0.1:")
        assert {each.id for each in memphis.connections()} >= {first.id, second.id}
        del consumer
    until(lambda: [each.is_connected for each in memphis.connections(three.name) if each.consumers] == [False])
    assert memphis.connections("no.such.station") == []


# ---- answers that are none ------------------------------------------------------------------------------------------


class Garbled(Proxy):
    """Replaces some bytes of what the server says by as many others."""

    said, instead = b"", b""

    def _forward(self, pair: Any, sink: Any, data: bytes) -> None:
        super()._forward(pair, sink, data.replace(self.said, self.instead) if self.said else data)


@pytest.mark.parametrize(
    ("said", "instead", "look"),
    [
        (b'"messages":', b'"massages":', "info"),
        (b'"config":{', b'"confug":{', "info"),
        (b'"first_seq":', b'"first_seq"x', "info"),
        (b'"storage":"file"', b'"storage":"fire"', "info"),
        (b'"rows":[{', b'"rows":7{', "info"),
        (b'"durable_name":"', b'"durable_name":x', "info"),
        (b'"subject":"', b'"sabject":"', "peek"),
        (b'"time":"2', b'"time":"x', "peek"),
        (b'"data":"', b'"data":7', "peek"),
    ],
)
def test_an_answer_that_cannot_be_read_is_an_error(
    broker: BrokerProcess, memphis: Memphis, station_name: str, until: Any, said: bytes, instead: bytes, look: str
) -> None:
    """A clear one, not one of Python's; the client goes on afterwards."""
    memphis.consumer(station_name, "c")
    memphis.produce(station_name, "p", b"x")
    proxy = Garbled((broker.host, broker.port))
    try:
        with memphis_sync.connect(broker.url.replace(str(broker.port), str(proxy.port))) as client:
            ask = getattr(client.station(station_name), look)
            proxy.said, proxy.instead = said, instead

            def refused() -> bool:  # what is split between two packets is not found
                try:
                    ask(timeout_s=30)
                except RemoteProtocolError as exc:
                    return "cannot be read" in str(exc) or "is no JSON object" in str(exc)
                return False

            until(refused)
            proxy.said = b""
            assert ask(timeout_s=30)
    finally:
        proxy.close()


# ---- a Memphis broker -----------------------------------------------------------------------------------------------


def test_a_memphis_broker_does_not_tell_the_schema_and_that_is_said(as_memphis: Memphis, three: Station) -> None:
    """JetStream is the same there; what our own broker's tables hold it tells in its REST API."""
    (info,) = (station for station in as_memphis.stations() if station.name == three.name)
    assert (info.messages, info.schema, info.schema_text) == (30, None, "?")
    assert "REST API" in info.unknown["schema"]
    station = as_memphis.station(three.name, create_station=False)
    assert station.info().partitions == three.info().partitions
    assert numbers(station.peek(3)) == [27, 28, 29]
    for look in (as_memphis.schemas, as_memphis.connections):
        with pytest.raises(ServerError, match="REST API") as caught:
            look()
        assert caught.value.code == 503


def test_notebooks_show_tables(memphis: Memphis, three: Station) -> None:
    memphis.produce(three.name, "p", b"<script>")
    assert "&lt;script&gt;" in three.peek(1)._repr_html_()
    assert "<script>" not in three.peek(1)._repr_html_()
    stations = memphis.stations()  # those of other tests too, of which a table shows the first
    own = type(stations)(station for station in stations if station.name == three.name)
    assert three.name in own._repr_html_()
    assert three.name in three.info()._repr_html_()
    assert "<td>30</td>" not in memphis.schemas()._repr_html_()
