"""produce_each(): as many calls of produce(), in order, each with its own outcome."""

from __future__ import annotations

import json
from typing import Any

import pytest

import memphis_sync
from memphis_sync import BufferFullError, ConfigurationError, Delivery, HeaderError, SchemaError
from memphis_sync.types import PubAck


def test_each_message_has_its_delivery_and_all_the_headers(memphis: Any, station_name: str) -> None:
    producer = memphis.producer(station_name, "p")
    found = producer.produce_each(
        [b"bytes", "text", {"a": 1}, bytearray(b"array")], headers={"colour": "red", "size": "1"}
    )
    assert [delivery.result().sequence for delivery in found] == [1, 2, 3, 4]
    messages = list(memphis.consumer(station_name, "c").read_all())
    assert [message.data for message in messages] == [b"bytes", b"text", b'{"a": 1}', b"array"]
    assert [message.headers for message in messages] == [{"colour": "red", "size": "1"}] * 4
    assert len({message.get_headers().get("Nats-Msg-Id") for message in messages}) == 4
    assert producer.produce_each(iter([])) == []


def test_a_message_that_is_refused_has_its_error_among_the_others(memphis: Any, station_name: str) -> None:
    memphis.station(station_name)
    schema = json.dumps({"type": "object", "required": ["id"]})
    memphis.create_schema(f"{station_name}-schema", "json", schema_content=schema)
    memphis.enforce_schema(f"{station_name}-schema", station_name)
    producer = memphis.producer(station_name, "p")
    good, bad, odd, last = producer.produce_each([b'{"id": 1}', b"{}", 7, b'{"id": 2}'])
    assert [type(each) for each in (good, bad, last)] == [Delivery, SchemaError, Delivery]
    assert isinstance(odd, (ConfigurationError, SchemaError))
    assert [good.result().sequence, last.result().sequence] == [1, 2]


def test_nothing_is_tried_behind_the_first_that_finds_no_room(broker: Any, station_name: str) -> None:
    with memphis_sync.connect(broker.url, outbox_max_messages=8) as memphis:
        producer = memphis.producer(station_name, "p")
        left, stored = [b"%d" % number for number in range(500)], 0
        while left:
            found = producer.produce_each(left)
            assert len(found) == len(left)
            kinds = [isinstance(each, BufferFullError) for each in found]
            assert kinds == sorted(kinds), "those that were accepted come first"
            accepted = [each for each in found if isinstance(each, Delivery)]
            for delivery in accepted:
                assert isinstance(delivery.result(), PubAck)
            stored += len(accepted)
            left = left[len(accepted) :]
        assert stored == 500
        read = [message.data for message in memphis.consumer(station_name, "c").read_all()]
        assert read == [b"%d" % number for number in range(500)]


def test_what_is_no_list_of_messages_is_refused_as_a_whole(memphis: Any, station_name: str) -> None:
    producer = memphis.producer(station_name, "p")
    for wrong in ("text", b"bytes", {"a": 1}, 7):
        with pytest.raises(ConfigurationError):
            producer.produce_each(wrong)
    with pytest.raises(HeaderError, match=r"\$memphis"):
        producer.produce_each([b"1"], headers={"$memphis_x": "1"})
    assert len(producer) == 0


def test_a_producer_to_several_stations_has_an_outcome_for_all_of_them(memphis: Any, station_name: str) -> None:
    producer = memphis.producer([f"{station_name}-a", f"{station_name}-b"], "p")
    (deliveries,) = producer.produce_each([b"1"])
    assert sorted(deliveries.result()) == [f"{station_name}-a", f"{station_name}-b"]


def test_a_producer_that_was_destroyed_accepts_none(memphis: Any, station_name: str) -> None:
    producer = memphis.producer(station_name, "p")
    producer.destroy()
    (error,) = producer.produce_each([b"1"])
    assert isinstance(error, memphis_sync.ClosedError)
