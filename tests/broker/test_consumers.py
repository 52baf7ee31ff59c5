"""Consumer requests: durables, start positions, joining, leaving."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from control_client import ControlClient

from memphis_sync.broker import BrokerProcess

SUCCESS = (
    '{"schema_update":{"schema_name":"","active_version":{"version_number":0,"descriptor":"","schema_content":"",'
    '"message_struct_name":""},"type":""},"partitions_update":{"partitions_list":[1,2]},"error":""}'
)


@pytest.fixture
def station(control: ControlClient, station_name: str) -> str:
    """A station of two partitions with a dot in its name; five messages in the first, two in the second."""
    name = f"{station_name}.st"
    assert control.station(name, partitions_number=2) == ""
    for partition, count in ((1, 5), (2, 2)):
        for _ in range(count):
            control.publish(f"{station_name}#st${partition}.final", b"x")
    return name


def durables(control: ControlClient, station: str, group: str = "c") -> list[Any]:
    internal = station.replace(".", "#")
    return [control.durable(f"{internal}${partition}", group) for partition in (1, 2)]


@pytest.mark.parametrize("version", [2, 3, 4])
def test_the_reply_and_the_durables(control: ControlClient, station: str, version: int) -> None:
    options = {"consumers_group": "G.1", "max_ack_time_ms": 1500, "max_msg_deliveries": 3, "req_version": version}
    assert control.consumer(station.upper(), "C1", **options) == SUCCESS
    for partition, info in enumerate(durables(control, station, "g#1"), 1):
        config = info["config"]
        expected = {
            "durable_name": "g#1",
            "filter_subject": f"{station.replace('.', '#')}${partition}.final",
            "ack_policy": "explicit",
            "ack_wait": 1_500_000_000,
            "max_deliver": 3,
            "deliver_policy": "all",
            "replay_policy": "instant",
            "max_waiting": 512,
        }
        assert {key: config.get(key) for key in expected} == expected
        assert config.get("max_ack_pending", -1) == -1
        assert config.get("inactive_threshold", 0) == 0


@pytest.mark.parametrize(
    ("options", "ack_wait_ms", "max_deliver"),
    [
        ({"max_ack_time_ms": 0, "max_msg_deliveries": 0}, 30_000, 10),
        ({"max_ack_time_ms": -5, "max_msg_deliveries": -1}, 30_000, 10),
        ({"max_msg_deliveries": 11}, 30_000, 10),
        ({"max_msg_deliveries": 10}, 30_000, 10),
        ({"max_msg_deliveries": 1}, 30_000, 1),
    ],
)
def test_limits_of_the_durable(
    control: ControlClient, station: str, options: dict[str, Any], ack_wait_ms: int, max_deliver: int
) -> None:
    assert control.consumer(station, **options) == SUCCESS
    for info in durables(control, station):
        assert info["config"]["ack_wait"] == ack_wait_ms * 1_000_000
        assert info["config"]["max_deliver"] == max_deliver


@pytest.mark.parametrize(
    ("start", "last", "policy", "positions"),
    [
        (1, -1, "all", [None, None]),
        (1, 0, "new", [None, None]),
        (1, 2, "by_start_sequence", [4, 1]),
        (1, 100, "by_start_sequence", [1, 1]),
        (4, -1, "by_start_sequence", [4, 4]),
    ],
)
def test_start_positions(
    control: ControlClient, station: str, start: int, last: int, policy: str, positions: list[Any]
) -> None:
    assert control.consumer(station, start_consume_from_sequence=start, last_messages=last) == SUCCESS
    found = [info["config"] for info in durables(control, station)]
    assert [config["deliver_policy"] for config in found] == [policy] * 2
    assert [config.get("opt_start_seq") for config in found] == positions


def test_last_messages_on_one_partition_makes_its_durable(control: ControlClient, station_name: str) -> None:
    assert control.station(station_name) == ""
    for _ in range(5):
        control.publish(f"{station_name}$1.final", b"x")
    assert json.loads(control.consumer(station_name, last_messages=2))["error"] == ""
    info = control.durable(f"{station_name}$1", "c")
    assert info is not None
    assert info["config"]["opt_start_seq"] == 4
    assert info["num_pending"] == 2


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"start_consume_from_sequence": 0}, "startConsumeFromSequence has to be a positive number"),
        ({"last_messages": -2}, "min value for LastMessages is -1"),
        (
            {"start_consume_from_sequence": 2, "last_messages": 0},
            "consumer creation options can't contain both startConsumeFromSequence and lastMessages",
        ),
        ({"name": ""}, "Consumer name can not be empty"),
        ({"name": "a b"}, "Only alphanumeric and the '_', '-', '.' characters are allowed in Consumer"),
        ({"consumers_group": "x" * 129}, "Consumer should be under 128 characters"),
        ({"consumers_group": "_g"}, "Consumer name can not start or end with non alphanumeric character"),
        (
            {"consumer_type": "Robot"},
            "consumer type has to be one of the following application/connector and not robot",
        ),
        ({"username": "nobody"}, "user does not exist"),
        ({"req_version": 1}, "to consume from this station please upgrade your SDK version"),
        ({"req_version": 0}, "to consume from this station please upgrade your SDK version"),
    ],
)
def test_refusals_are_plain_text(control: ControlClient, station: str, options: dict[str, Any], text: str) -> None:
    assert control.consumer(station, **options) == text
    assert durables(control, station) == [None, None]


def test_refusals_about_the_station(control: ControlClient, station_name: str) -> None:
    assert control.consumer("a b") == "Only alphanumeric and the '_', '-', '.' characters are allowed in Station"
    assert control.consumer("") == "Station name can not be empty"
    assert control.consumer(station_name, req_version=1) == (
        "This station does not exist, a default station can not be created automatically, "
        "please upgrade your SDK version"
    )


def test_a_genuine_version_0_request_is_refused(control: ControlClient, station: str) -> None:
    body = {"name": "c", "station_name": station, "consumer_type": "application", "username": "root"}
    reply = control.raw("$memphis_consumer_creations", json.dumps(body).encode())
    assert reply == b"startConsumeFromSequence has to be a positive number"


def test_a_missing_station_is_made(control: ControlClient, station_name: str) -> None:
    assert json.loads(control.consumer(station_name))["partitions_update"]["partitions_list"] == [1]
    assert control.durable(f"{station_name}$1", "c") is not None


def test_the_last_joiner_sets_ack_wait_and_deliveries(control: ControlClient, station: str) -> None:
    assert control.consumer(station, "a", consumers_group="g", max_ack_time_ms=1000) == SUCCESS
    assert control.consumer(station, "b", consumers_group="g", max_ack_time_ms=2000, max_msg_deliveries=5) == SUCCESS
    for info in durables(control, station, "g"):
        assert (info["config"]["ack_wait"], info["config"]["max_deliver"]) == (2_000_000_000, 5)


def test_the_start_position_counts_only_when_the_group_is_made(control: ControlClient, station: str) -> None:
    assert control.consumer(station, "a", consumers_group="g", last_messages=1) == SUCCESS
    internal = station.replace(".", "#")
    control.publish(f"{internal}$1.final", b"later")  # moves where "the last message" is
    for options in ({"last_messages": 1}, {"start_consume_from_sequence": 3}, {"last_messages": 0}, {}):
        assert control.consumer(station, "b", consumers_group="g", **options) == SUCCESS
    assert [info["config"]["opt_start_seq"] for info in durables(control, station, "g")] == [5, 2]


def test_the_durable_goes_with_the_last_member(control: ControlClient, station: str) -> None:
    for name in ("a", "b"):
        assert control.consumer(station, name, consumers_group="g") == SUCCESS
    assert control.destroy_consumer(station, "A") == ""
    assert None not in durables(control, station, "g")
    assert control.destroy_consumer(station, "b") == ""
    assert durables(control, station, "g") == [None, None]
    assert control.destroy_consumer(station, "b") == f"Consumer b at station {station} does not exist"
    assert control.consumer(station, "a", consumers_group="g") == SUCCESS
    assert None not in durables(control, station, "g")


def test_each_creation_makes_a_member_of_its_own(control: ControlClient, station: str) -> None:
    for _ in range(2):
        assert control.consumer(station) == SUCCESS
    assert control.destroy_consumer(station) == ""
    assert None not in durables(control, station)
    assert control.destroy_consumer(station) == ""
    assert durables(control, station) == [None, None]


def test_only_the_connection_that_made_it_can_destroy_it(control: ControlClient, station: str) -> None:
    assert control.consumer(station) == SUCCESS
    gone = f"Consumer c at station {station} does not exist"
    assert control.destroy_consumer(station, connection_id="other") == gone
    assert control.destroy_consumer(station, "x") == gone.replace(" c ", " x ")
    assert control.destroy_consumer(station, connection_id="", req_version=0) == ""  # names are all that it has
    assert durables(control, station) == [None, None]


def test_members_of_other_connections_keep_the_durable_while_they_are_connected(
    broker: BrokerProcess, control: ControlClient, station: str
) -> None:
    assert control.consumer(station, "a", consumers_group="g") == SUCCESS
    with ControlClient(broker, connection_id="second") as second:
        assert second.consumer(station, "b", consumers_group="g") == SUCCESS
        assert control.destroy_consumer(station, "a") == ""
        assert None not in durables(control, station, "g")
        assert control.consumer(station, "a", consumers_group="g") == SUCCESS
    control.wait_until_gone("second")
    # "second" is gone without a word: its member doesn't count any more, but it doesn't take the durable with it.
    assert None not in durables(control, station, "g")
    assert control.destroy_consumer(station, "a") == ""
    assert durables(control, station, "g") == [None, None]


def test_a_group_keeps_its_position_while_nobody_is_connected(
    broker: BrokerProcess, control: ControlClient, station: str
) -> None:
    with ControlClient(broker, connection_id="short") as short:
        assert short.consumer(station) == SUCCESS
    assert control.consumer(station, last_messages=0) == SUCCESS
    assert [info["config"]["deliver_policy"] for info in durables(control, station)] == ["all", "all"]


def test_destruction_when_the_durable_is_gone_already(control: ControlClient, station: str) -> None:
    assert control.consumer(station) == SUCCESS
    internal = station.replace(".", "#")
    assert "error" not in control.jetstream(f"CONSUMER.DELETE.{internal}$1.c")
    assert control.destroy_consumer(station) == ""
    assert durables(control, station) == [None, None]


def test_destruction_checks_the_station(control: ControlClient, station_name: str) -> None:
    assert control.destroy_consumer("a b").startswith("Only alphanumeric")
    text = f"Consumer C at station {station_name.upper()} does not exist"
    assert control.destroy_consumer(station_name.upper(), "C") == text


def test_members_that_join_and_leave_at_once_never_lose_the_durable_of_one_that_stays(
    broker: BrokerProcess, station_name: str
) -> None:
    problems: list[str] = []

    def churn(at: int) -> None:
        with ControlClient(broker, connection_id=f"member-{at}") as client:
            for _ in range(8):
                reply = client.consumer(station_name, f"c{at}", consumers_group="g")
                if not reply.startswith("{"):
                    problems.append(reply)
                if client.durable(f"{station_name}$1", "g") is None:
                    problems.append("the durable is gone under a member")
                if text := client.destroy_consumer(station_name, f"c{at}"):
                    problems.append(text)

    threads = [threading.Thread(target=churn, args=(at,)) for at in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert problems == []
    with ControlClient(broker) as client:
        assert client.durable(f"{station_name}$1", "g") is None
