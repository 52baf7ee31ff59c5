"""Station requests: settings, checks in their order, streams, destruction."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from control_client import ControlClient

from memphis_sync.broker import BrokerProcess

S_NS, MS_NS = 1_000_000_000, 1_000_000


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"max_age": 3600 * S_NS, "max_msgs": -1, "max_bytes": -1, "storage": "file", "retention": "limits"}),
        ({"retention_type": "messages", "retention_value": 7}, {"max_msgs": 7, "max_age": 0, "max_bytes": -1}),
        ({"retention_type": "BYTES", "retention_value": 3 * 2**30}, {"max_bytes": 3 * 2**30, "max_age": 0}),
        ({"retention_type": "ack_based", "retention_value": 0}, {"retention": "interest", "max_age": 0}),
        ({"retention_type": ""}, {"max_age": 3600 * S_NS}),
        ({"retention_type": "messages", "retention_value": 0}, {"max_msgs": -1, "max_age": 3600 * S_NS}),
        ({"storage_type": "Memory"}, {"storage": "memory"}),
        ({"storage_type": ""}, {"storage": "file"}),
        ({"replicas": -3}, {"num_replicas": 1}),
        ({"idempotency_window_ms": 0}, {"duplicate_window": 120_000 * MS_NS}),
        ({"idempotency_window_ms": 5}, {"duplicate_window": 100 * MS_NS}),
        ({"retention_value": 120}, {"max_age": 120 * S_NS, "duplicate_window": 120_000 * MS_NS}),
    ],
)
def test_settings_become_stream_configuration(
    control: ControlClient, station_name: str, settings: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert control.station(station_name, partitions_number=2, **settings) == ""
    for partition in (1, 2):
        config = control.stream(f"{station_name}${partition}")
        assert config["subjects"] == [f"{station_name}${partition}.>"]
        assert {key: config[key] for key in expected} == expected
        assert (config["max_consumers"], config["max_msgs_per_subject"], config["discard"]) == (-1, -1, "old")
    assert "error" in control.jetstream(f"STREAM.INFO.{station_name}$3")


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"name": ""}, "Station name can not be empty"),
        ({"name": "x" * 129}, "Station should be under 128 characters"),
        ({"name": "a b"}, "Only alphanumeric and the '_', '-', '.' characters are allowed in Station"),
        ({"name": "a#b"}, "Only alphanumeric and the '_', '-', '.' characters are allowed in Station"),
        ({"name": "a$1"}, "Only alphanumeric and the '_', '-', '.' characters are allowed in Station"),
        ({"name": "a\n"}, "Only alphanumeric and the '_', '-', '.' characters are allowed in Station"),
        ({"name": "-a"}, "Station name can not start or end with non alphanumeric character"),
        ({"username": "root$2"}, "createStationDirect: Station st: Tenant with id 2 does not exist"),
        ({"username": "nobody"}, "User nobody does not exist"),
        ({"username": ""}, "User  does not exist"),
        ({"partitions_number": 0}, "you are using an old SDK, make sure to update your SDK"),
        (
            {"partitions_number": -1},
            "cannot create station with -1 partitions (max:10000 min:1): Station -  st, ",
        ),
        (
            {"partitions_number": 10_001},
            "cannot create station with 10001 partitions (max:10000 min:1): Station -  st, ",
        ),
        (
            {"schema_name": "Foo"},
            "Schema foo does not exist",
        ),
        (
            {"retention_type": "week"},
            "retention type can be one of the following message_age_sec/messages/bytes/ack_based",
        ),
        ({"storage_type": "tape"}, "storage type can be one of the following file/memory"),
        ({"idempotency_window_ms": 86_400_001}, "idempotency window can not exceed 24 hours"),
        ({"retention_value": 119}, "idempotency window cannot be greater than the station retention"),
        ({"retention_value": 2**62}, "retention can not exceed 9223372036 seconds"),
        (
            {"tiered_storage_enabled": True},
            "tiered storage is not available in this broker: leave tiered_storage_enabled out",
        ),
        ({"dls_station": "bad name"}, "Only alphanumeric and the '_', '-', '.' characters are allowed in Station"),
        ({"dls_station": "ST"}, "station st can not be its own dead-letter station"),
        (
            {"replicas": 3},
            "station can not be created, probably since replicas count is larger than the cluster size",
        ),
    ],
)
def test_refusals_leave_nothing_behind(control: ControlClient, settings: dict[str, Any], text: str) -> None:
    assert control.station(**{"name": "st", **settings}) == text
    assert "error" in control.jetstream("STREAM.INFO.st$1")
    assert control.destroy_station("st") == "Station  does not exist"


def test_the_first_failing_check_is_told(control: ControlClient) -> None:
    everything = {"username": "nobody", "partitions_number": 0, "retention_type": "week", "storage_type": "tape"}
    assert control.station("bad name", **everything).startswith("Only alphanumeric")
    assert control.station("st", **everything) == "User nobody does not exist"
    del everything["username"]
    assert control.station("st", **everything).startswith("you are using an old SDK")


def test_an_existing_station_is_a_success_and_stays_as_it_is(control: ControlClient, station_name: str) -> None:
    assert control.station(station_name, partitions_number=2, retention_value=300) == ""
    for settings in ({"partitions_number": 5}, {"retention_value": 1}, {"username": "nobody"}, {"storage_type": "x"}):
        assert control.station(station_name.upper(), **settings) == ""
    assert control.stream(f"{station_name}$2")["max_age"] == 300 * S_NS
    assert "error" in control.jetstream(f"STREAM.INFO.{station_name}$3")


def test_names_with_dots_and_of_128_bytes(control: ControlClient) -> None:
    for name in ("Orders.EU", "a..b", "x" * 126 + ".y", "0_-.z"):
        assert control.station(name) == ""
        internal = name.lower().replace(".", "#")
        assert control.publish(f"{internal}$1.final", b"x")["seq"] == 1
        assert control.destroy_station(name) == ""
        assert "error" in control.jetstream(f"STREAM.INFO.{internal}$1")


def test_a_user_may_carry_the_account_suffix(control: ControlClient, station_name: str) -> None:
    assert control.station(station_name, username="root$1") == ""
    assert control.destroy_station(station_name, username="root$2").endswith("Tenant with id 2 does not exist")
    assert control.destroy_station(station_name, username="root$1") == ""


def test_a_dead_letter_station_is_made_with_default_settings(control: ControlClient, station_name: str) -> None:
    assert control.station(station_name, dls_station=f"{station_name}.dls") == ""
    config = control.stream(f"{station_name}#dls$1")
    assert (config["max_age"], config["storage"]) == (3600 * S_NS, "file")
    assert control.producer(f"{station_name}.dls")["partitions_update"]["partitions_list"] == [1]


def test_two_stations_that_name_each_other(broker: BrokerProcess, station_name: str) -> None:
    """Each creation makes the other's station first: they must not wait for each other."""
    pairs = [(f"{station_name}-{at}-a", f"{station_name}-{at}-b") for at in range(5)]
    replies: list[str] = []

    def make(names: list[tuple[str, str]], connection_id: str) -> None:
        with ControlClient(broker, connection_id=connection_id) as client:
            replies.extend(client.station(name, dls_station=other) for name, other in names)

    threads = [
        threading.Thread(target=make, args=(pairs, "one")),
        threading.Thread(target=make, args=([(b, a) for a, b in pairs], "two")),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert replies == [""] * 10


def test_a_stream_in_the_way_is_told_and_not_touched(control: ControlClient, station_name: str) -> None:
    """Of three partitions the second can't be made: the other two go again, the stream of somebody else's stays."""
    taken = {"name": f"{station_name}$2", "subjects": [f"{station_name}.else"], "storage": "memory"}
    assert "error" not in control.jetstream(f"STREAM.CREATE.{station_name}$2", taken)
    text = control.station(station_name, partitions_number=3)
    assert text == "stream name already in use with a different configuration (10058)"
    assert "error" in control.jetstream(f"STREAM.INFO.{station_name}$1")
    assert "error" in control.jetstream(f"STREAM.INFO.{station_name}$3")
    assert control.stream(f"{station_name}$2")["subjects"] == [f"{station_name}.else"]
    assert "error" not in control.jetstream(f"STREAM.DELETE.{station_name}$2")
    assert control.station(station_name, partitions_number=3) == ""


def test_destruction_removes_streams_groups_and_announces_it(control: ControlClient, station_name: str) -> None:
    async def updates() -> Any:
        assert control.connection is not None
        return await control.connection.subscribe("$memphis_sdk_clients_updates")

    subscription = control.run(updates())
    assert control.station(f"{station_name}.x", partitions_number=3) == ""
    assert control.consumer(f"{station_name}.x").startswith("{")
    assert control.destroy_station(f"{station_name}.X") == ""
    for partition in (1, 2, 3):
        assert "error" in control.jetstream(f"STREAM.INFO.{station_name}#x${partition}")
    update = control.run(subscription.next_msg(2))
    assert update.data == (
        b'{"station_name": "' + station_name.encode() + b'#x", "type": "remove_station", "update": null}'
    )
    assert control.destroy_station(f"{station_name}.x") == "Station  does not exist"
    assert control.destroy_consumer(f"{station_name}.x") == f"Consumer c at station {station_name}.x does not exist"


def test_destruction_checks_the_name(control: ControlClient) -> None:
    assert control.destroy_station("") == "Station name can not be empty"
    assert control.destroy_station("a b").startswith("Only alphanumeric")
    assert control.raw("$memphis_station_destructions", b"{") == b"unexpected end of JSON input"


def test_200_stations_made_by_8_threads_at_once_all_exist(broker: BrokerProcess, station_name: str) -> None:
    names = [f"{station_name}-{number}" for number in range(200)]
    replies: list[str] = []

    def make(at: int) -> None:
        with ControlClient(broker, connection_id=f"thread-{at}") as client:
            replies.extend(client.station(name, partitions_number=1 + at % 3) for name in names[at::8])

    threads = [threading.Thread(target=make, args=(at,)) for at in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert replies == [""] * 200
    with ControlClient(broker) as client:
        for at, name in enumerate(names):
            assert client.stream(f"{name}${1 + at % 8 % 3}")
            assert client.destroy_station(name) == ""


def test_one_station_created_and_destroyed_by_many_at_once_ends_consistent(
    broker: BrokerProcess, station_name: str
) -> None:
    def churn(at: int) -> None:
        with ControlClient(broker, connection_id=f"thread-{at}") as client:
            for _ in range(5):
                assert client.station(station_name, partitions_number=3) == ""
                assert client.destroy_station(station_name) in ("", "Station  does not exist")

    threads = [threading.Thread(target=churn, args=(at,)) for at in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    with ControlClient(broker) as client:
        assert "error" in client.jetstream(f"STREAM.INFO.{station_name}$1")
        assert client.station(station_name, partitions_number=2) == ""
        assert client.stream(f"{station_name}$2")


def test_each_kind_of_retention_keeps_what_it_should(control: ControlClient, memphis, station_name: str) -> None:
    kinds = {"messages": 3, "bytes": 1500, "ack_based": 0}
    for kind, value in kinds.items():
        assert control.station(f"{station_name}-{kind}", retention_type=kind, retention_value=value) == ""
        for _ in range(10):
            control.publish(f"{station_name}-{kind}$1.final", b"x" * 400)

    def stored(kind: str) -> int:
        count: int = control.jetstream(f"STREAM.INFO.{station_name}-{kind}$1")["state"]["messages"]
        return count

    assert stored("messages") == 3
    assert 1 <= stored("bytes") <= 3
    assert stored("ack_based") == 0, "with no group, nothing is kept for anybody"
    consumers = [memphis.consumer(f"{station_name}-ack_based", f"c-{at}", consumer_group=f"g-{at}") for at in (1, 2)]
    for number in range(4):
        control.publish(f"{station_name}-ack_based$1.final", b"%d" % number)
    for consumer, left in zip(consumers, (4, 0)):
        messages = consumer.fetch(4, timeout_s=10)
        assert [message.data for message in messages] == [b"0", b"1", b"2", b"3"]
        for message in messages:
            message.ack(wait=True)
        assert stored("ack_based") == left, "a message goes when the last group has acknowledged it"
