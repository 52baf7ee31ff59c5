"""Arguments of station(), producer() and consumer(): checked by the broker's rules before any IO."""

from __future__ import annotations

import pytest

from memphis_sync import ConfigurationError, Retention, Storage
from memphis_sync._options.arguments import (
    ConsumerArguments,
    StationArguments,
    check_station_names,
    consumer_request,
    station_request,
    with_suffix,
)


def station(**given):
    return station_request(StationArguments(**{"name": "orders", **given}).checked())


def consumer(**given):
    names = {"station_name": "orders", "consumer_name": "billing"}
    return consumer_request(ConsumerArguments(**{**names, **given}).checked())


def refusal(call, *args, **given):
    with pytest.raises(ConfigurationError) as caught:
        call(*args, **given)
    return str(caught.value)


def test_defaults_of_a_station():
    request = station()
    assert (request.retention_type, request.retention_value) == ("message_age_sec", 3600)
    assert (request.storage_type, request.replicas, request.partitions_number) == ("file", 1, 1)
    assert (request.idempotency_window_ms, request.dls_poison, request.dls_schemaverse) == (120000, True, True)


def test_every_option_of_a_station_is_sent():
    request = station(
        name="Orders.EU",
        retention_type=Retention.BYTES,
        retention_value=4096,
        storage_type=Storage.MEMORY,
        replicas=3,
        idempotency_window_ms=500,
        schema_name="Order",
        send_poison_msg_to_dls=False,
        send_schema_failed_msg_to_dls=False,
        tiered_storage_enabled=True,
        partitions_number=7,
        dls_station="Dead",
    )
    assert vars(request) == {
        "name": "orders.eu",
        "retention_type": "bytes",
        "retention_value": 4096,
        "storage_type": "memory",
        "replicas": 3,
        "idempotency_window_ms": 500,
        "schema_name": "order",
        "dls_poison": False,
        "dls_schemaverse": False,
        "tiered_storage_enabled": True,
        "partitions_number": 7,
        "dls_station": "dead",
        "username": "",
    }


def test_a_short_age_lowers_the_idempotency_window():
    """Brokers refuse a window longer than the retention, and the default one is two minutes."""
    assert station(retention_value=60).idempotency_window_ms == 60000


def test_zero_partitions_are_one():
    assert station(partitions_number=0).partitions_number == 1


def test_enums_by_value_and_name():
    assert station(retention_type="messages").retention_type == "messages"
    assert station(retention_type="ACK_BASED", retention_value=0).retention_type == "ack_based"


@pytest.mark.parametrize(
    ("option", "value", "bound"),
    [
        ("retention_type", "weekly", "Retention.MESSAGES"),
        ("retention_type", None, "Retention.MESSAGES"),
        ("retention_value", 0, "from 1"),
        ("retention_value", 2**31, "to 2147483647"),
        ("retention_value", 1.0, "whole number"),
        ("storage_type", "tape", "Storage.DISK"),
        ("replicas", 0, "from 1 to 5"),
        ("replicas", 6, "from 1 to 5"),
        ("idempotency_window_ms", 99, "from 100 to 86400000"),
        ("idempotency_window_ms", 86400001, "from 100 to 86400000"),
        ("partitions_number", -1, "from 0 to 10000"),
        ("partitions_number", 10001, "from 0 to 10000"),
        ("partitions_number", True, "whole number"),
        ("send_poison_msg_to_dls", "yes", "True or False"),
        ("tiered_storage_enabled", 0, "True or False"),
        ("name", "", "can not be empty"),
        ("name", "x" * 129, "under 128 characters"),
        ("name", "a b", "Only alphanumeric"),
        ("name", "a#b", "Only alphanumeric"),
        ("name", "-a", "start or end"),
        ("name", 7, "must be a str"),
        ("schema_name", "a/b", "Only alphanumeric"),
        ("dls_station", ".a", "start or end"),
    ],
)
def test_station_refusals(option, value, bound):
    text = refusal(station, **{option: value})
    assert text.startswith(option)
    assert bound in text
    assert str(value)[:40] in text or type(value).__name__ in text


@pytest.mark.parametrize(
    ("option", "value", "bound"),
    [
        ("consumer_name", "", "can not be empty"),
        ("consumer_name", "a b", "Only alphanumeric"),
        ("consumer_group", "_a", "start or end"),
        ("station_name", ["a"], "must be a str"),
        ("max_ack_time_ms", 0, "from 1"),
        ("max_msg_deliveries", 0, "from 1 to 10"),
        ("max_msg_deliveries", 11, "from 1 to 10"),
        ("start_consume_from_sequence", 0, "from 1"),
        ("start_consume_from_sequence", -5, "from 1"),
        ("last_messages", -2, "from -1"),
        ("generate_random_suffix", 1, "True or False"),
    ],
)
def test_consumer_refusals(option, value, bound):
    text = refusal(consumer, **{option: value})
    assert option in text
    assert bound in text


def test_start_and_last_messages_exclude_each_other():
    text = refusal(consumer, start_consume_from_sequence=5, last_messages=3)
    assert "start_consume_from_sequence (5)" in text
    assert "last_messages (3)" in text


def test_the_group_defaults_to_the_consumer():
    assert consumer(consumer_name="Billing").consumers_group == "billing"
    assert consumer(consumer_group="Team").consumers_group == "team"


def test_suffixes():
    first, second = (consumer(generate_random_suffix=True) for _ in range(2))
    assert first.name != second.name
    assert first.name.startswith("billing_")
    assert len(first.name) == len("billing_") + 8
    assert "under 128" in refusal(with_suffix, "producer_name", "Producer", "x" * 125)


def test_station_names():
    assert check_station_names("station_name", "A.B") == ["a.b"]
    assert check_station_names("station_name", ["b", "A", "B"]) == ["b", "a"]
    assert check_station_names("station_name", ("a",)) == ["a"]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], "empty list"),
        (7, "either string or list"),
        ([7], "either string or list"),
        (None, "either"),
        (["a b"], "'a b'"),
    ],
)
def test_station_name_refusals(value, words):
    text = refusal(check_station_names, "station_name", value)
    assert text.startswith("station_name")
    assert words in text
