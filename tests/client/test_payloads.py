"""Dict and list messages: what a client sends of them, and what it refuses before anything is taken."""

from __future__ import annotations

import datetime as dt
import decimal

import pytest

import memphis_sync
from memphis_sync import ConfigurationError, SchemaError


@pytest.mark.parametrize("nonblocking", [False, True])
@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"mean": float("nan")}, "at /mean: it is nan, which JSON does not have; put None there, or leave it out"),
        ({"a": {float("inf"): 1}}, "at /a/inf: the key is inf"),
        (
            [{"at": dt.date(2026, 1, 1)}],
            r"at /0/at: it is of type date.*send value.isoformat\(\), or give connect\(json_d",
        ),
    ],
)
def test_what_json_has_no_word_for_is_refused_with_its_place(memphis, station_name, message, said, nonblocking):
    producer = memphis.producer(station_name, "p")
    with pytest.raises(ConfigurationError, match=said):
        producer.produce(message, nonblocking=nonblocking)
    assert memphis.stats().accepted == 0


def test_json_default_holds_with_and_without_a_schema_and_for_several_stations(broker, station_name, read_all):
    def default(value):
        if isinstance(value, decimal.Decimal):
            return str(value)
        raise LookupError("not one of ours")

    message = {"total": decimal.Decimal("12.50")}
    with memphis_sync.connect(broker.url, json_default=default) as client:
        client.create_schema(
            f"s-{station_name}", "json", schema_content='{"properties": {"total": {"type": "string"}}}'
        )
        names = [station_name, f"{station_name}-checked"]
        client.station(names[0])
        client.station(names[1], schema_name=f"s-{station_name}")
        for where in (names[0], names[1], names):
            producer = client.producer(where, "p")
            producer.produce(message)
            with pytest.raises(
                (ConfigurationError, SchemaError), match=r"at /a/0: .*json_default raised LookupError for a set: no"
            ):
                producer.produce({"a": [{1}]})
        for name in names:
            assert [item.data for item in read_all(client.consumer(name, "c"), 2)] == [b'{"total": "12.50"}'] * 2


def test_json_default_must_be_callable():
    with pytest.raises(ConfigurationError, match="json_default is 'str'; it must be callable or None"):
        memphis_sync.connect("localhost", "u", password="p", json_default="str")


def test_a_text_with_nan_is_not_json(memphis, station_name, read_all):
    memphis.produce(station_name, "p", '{"a": NaN}')
    memphis.produce(station_name, "p", "NaN")
    batch = read_all(memphis.consumer(station_name, "c"), 2)
    assert [row["data"] for row in memphis_sync.message.Messages(batch).to_dicts()] == ['{"a": NaN}', "NaN"]
