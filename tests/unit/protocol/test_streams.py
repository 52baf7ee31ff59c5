"""Station and group settings as JetStream configuration, and the choice of a partition."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from memphis_sync._protocol.partitions import check_partition, partition_for_key
from memphis_sync._protocol.requests import ConsumerCreate, StationCreate
from memphis_sync._protocol.streams import SettingError, check_start, consumer_config, station_settings, stream_config
from memphis_sync.errors import ConfigurationError

# Keys and the index that memphis.py and memphis.go choose among 2, 3, 5 and 10 partitions (murmur3 x86 32, seed 31).
VECTORS = {
    "": (1, 2, 1, 1),
    "a": (1, 0, 0, 5),
    "key": (0, 1, 4, 4),
    "user-1": (0, 2, 0, 0),
    "order-42": (0, 2, 4, 4),
    "hello world": (0, 1, 3, 8),
    "é": (0, 1, 2, 2),
    "ключ": (1, 1, 2, 7),
    "日本語": (0, 0, 4, 4),
}


@pytest.mark.parametrize("key", VECTORS)
def test_keys_go_where_the_official_clients_put_them(key: str) -> None:
    for count, index in zip((2, 3, 5, 10), VECTORS[key]):
        partitions = list(range(1, count + 1))
        assert partition_for_key(key, partitions) == index + 1
        assert partition_for_key(key.encode(), partitions) == index + 1


def test_the_list_decides_not_the_index() -> None:
    assert partition_for_key("key", [7, 9]) == 7
    assert partition_for_key("anything", [4]) == 4


def test_a_key_without_a_utf_8_form() -> None:
    with pytest.raises(ConfigurationError, match="UTF-8"):
        partition_for_key("\ud800", [1, 2])


@given(st.integers(-5, 10))
def test_partition_numbers(number: int) -> None:
    if number <= 3:
        assert check_partition(number, [1, 2, 3], "st") == (number if number > 0 else None)
    else:
        with pytest.raises(ConfigurationError, match=f"Partition number is out of range: {number} .*1 to 3"):
            check_partition(number, [1, 2, 3], "st")


@pytest.mark.parametrize("partitions", [[], [1], [4]])
@given(st.integers(-5, 10))
def test_where_there_is_no_choice_any_number_is_fine(partitions: list[int], number: int) -> None:
    assert check_partition(number, partitions, "st") is None


def test_a_partition_that_is_missing_in_between() -> None:
    with pytest.raises(ConfigurationError, match="Partition 2 does not exist in station st"):
        check_partition(2, [1, 3], "st")
    assert check_partition(4, [2, 4], "st") == 4


@pytest.mark.parametrize(
    ("given_", "expected"), [(-1, 1), (0, 1), (1, 1), (2, 3), (3, 3), (4, 3), (5, 5), (6, 5), (99, 5)]
)
def test_replicas_are_what_a_cluster_can_have(given_: int, expected: int) -> None:
    assert station_settings(StationCreate(replicas=given_), "st").replicas == expected


def test_the_whole_stream_configuration() -> None:
    request = StationCreate(
        retention_type="Bytes", retention_value=10**10, storage_type="MEMORY", replicas=3, idempotency_window_ms=1
    )
    settings = station_settings(request, "a.b")
    assert stream_config(settings, 7) == {
        "name": "a#b$7",
        "subjects": ["a#b$7.>"],
        "retention": "limits",
        "max_consumers": -1,
        "max_msgs": -1,
        "max_bytes": 10**10,
        "max_msgs_per_subject": -1,
        "max_age": 0,
        "discard": "old",
        "storage": "memory",
        "num_replicas": 3,
        "no_ack": False,
        "duplicate_window": 100_000_000,
    }
    assert stream_config(settings, 0)["subjects"] == ["a#b.>"]


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (StationCreate(partitions_number=0), "old SDK"),
        (StationCreate(partitions_number=10_001), "with 10001 partitions"),
        (StationCreate(retention_type="x"), "retention type"),
        (StationCreate(storage_type="x"), "storage type"),
        (StationCreate(idempotency_window_ms=86_400_001), "24 hours"),
        (StationCreate(retention_value=1), "greater than the station retention"),
    ],
)
def test_settings_out_of_bounds(request_: StationCreate, text: str) -> None:
    with pytest.raises(SettingError, match=text):
        station_settings(request_, "st")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"deliver_policy": "all", "ack_wait": 30_000_000_000, "max_deliver": 10}),
        ({"last_messages": 0}, {"deliver_policy": "new"}),
        (
            {"last_messages": 3, "last_sequence": 10},
            {"deliver_policy": "by_start_sequence", "opt_start_seq": 8},
        ),
        ({"last_messages": 30, "last_sequence": 10}, {"deliver_policy": "by_start_sequence", "opt_start_seq": 1}),
        ({"last_messages": 3, "last_sequence": 0}, {"deliver_policy": "by_start_sequence", "opt_start_seq": 1}),
        ({"start_consume_from_sequence": 5}, {"deliver_policy": "by_start_sequence", "opt_start_seq": 5}),
        ({"max_ack_time_ms": 1, "max_msg_deliveries": 2}, {"ack_wait": 1_000_000, "max_deliver": 2}),
    ],
)
def test_the_groups_durable(options: dict[str, Any], expected: dict[str, Any]) -> None:
    asked = {name: value for name, value in options.items() if name != "last_sequence"}
    request = ConsumerCreate(**{"max_msg_deliveries": -1, **asked})
    config = consumer_config("a#b", 2, "G.1", request, options.get("last_sequence"))
    fixed = {"durable_name": "g#1", "filter_subject": "a#b$2.final", "ack_policy": "explicit", "max_ack_pending": -1}
    assert {key: config[key] for key in {**expected, **fixed}} == {**expected, **fixed}
    assert ("opt_start_seq" in config) == (config["deliver_policy"] == "by_start_sequence")


def test_last_messages_need_the_last_sequence() -> None:
    with pytest.raises(SettingError, match="last sequence"):
        consumer_config("a", 1, "g", ConsumerCreate(last_messages=1))


def test_start_options() -> None:
    for good in ((1, -1), (1, 0), (1, 99), (7, -1)):
        check_start(*good)
    for bad in ((0, -1), (-1, -1), (1, -2), (2, 0)):
        with pytest.raises(SettingError):
            check_start(*bad)


def test_retention_has_a_default_and_a_longest() -> None:
    for kind, value in (("", 0), ("messages", 0), ("bytes", -1)):
        settings = station_settings(StationCreate(name="s", retention_type=kind, retention_value=value), "s")
        assert (settings.retention_type, settings.retention_value) == ("message_age_sec", 3600)
        assert settings.partitions == list(range(1, settings.partitions_number + 1))
    with pytest.raises(SettingError, match=r"retention can not exceed [0-9]+ seconds"):
        station_settings(StationCreate(name="s", retention_type="message_age_sec", retention_value=2**62), "s")
