"""memphis-py 1.3.1, unchanged, reads what HTTP has produced, and HTTP what memphis-py has produced."""

from __future__ import annotations

import json
from typing import Any

from fix_gateway import Gateway
from fix_sdk import SdkClient

from memphis_sync import Memphis


def test_memphis_py_reads_what_http_has_produced(memphis_py: SdkClient, gateway: Gateway, station_name: str) -> None:
    path = f"/stations/{station_name}/produce"
    gateway.post(f"{path}/single", bytes(range(256)), "application/octet-stream", {"x-shop": "grün".encode()})
    gateway.post(f"{path}/batch", b'[9007199254740993, {"b":1,"a":1.0}]', "application/json", {"X-Shop": "12"})
    consumer = memphis_py.consumer(station_name=station_name, consumer_name="c")
    found = consumer.fetch(batch_size=3)
    assert [message.get_data() for message in found] == [bytes(range(256)), b"9007199254740993", b'{"b":1,"a":1.0}']
    headers = [message.get_headers() for message in found]
    assert [each["X-Shop"] for each in headers] == ["grün", "12", "12"]
    assert {each["$memphis_producedBy"] for each in headers} == {"rest-gateway"}
    assert not any("Authorization" in each or gateway.token() in json.dumps(each) for each in headers)
    for message in found:
        message.ack()


def test_http_reads_what_memphis_py_has_produced(memphis_py: SdkClient, gateway: Gateway, station_name: str) -> None:
    producer = memphis_py.producer(station_name=station_name, producer_name="theirs")
    producer.produce(message=bytearray(b"\xff\x00"))
    producer.produce(message=bytearray("grün".encode()))
    body = {"consumer_name": "c", "batch_size": 2}
    first, second = gateway.post(f"/stations/{station_name}/consume/batch", body).json
    assert (first["message"], first["encoding"]) == ("/wA=", "base64")
    assert second["message"] == "grün"
    # ... and a group of HTTP goes on in memphis-py.
    producer.produce(message=bytearray(b"third"))
    consumer = memphis_py.consumer(station_name=station_name, consumer_name="d", consumer_group="rest-gateway")
    (third,) = consumer.fetch(batch_size=1)
    assert third.get_data() == b"third"


def test_both_see_the_same_schema(
    memphis_py: SdkClient, memphis: Memphis, gateway: Gateway, station_name: str, until: Any
) -> None:
    schema = f"schema-{station_name}"
    memphis.create_schema(schema, "json", schema_content='{"type": "object", "required": ["id"]}')
    memphis.station(station_name, schema_name=schema)
    path = f"/stations/{station_name}/produce/single"
    assert gateway.post(path, b'{"id": 1}', "application/json").status == 200
    assert gateway.post(path, b'{"no": 1}', "application/json").status == 400
    (letter,) = until(lambda: list(memphis.dls(station_name)))
    assert letter.data == b'{"no": 1}'
    (message,) = memphis_py.consumer(station_name=station_name, consumer_name="c").fetch(batch_size=2)
    assert message.get_data_deserialized() == {"id": 1}
