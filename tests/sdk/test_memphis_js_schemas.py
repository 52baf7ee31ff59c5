"""memphis-dev 1.3.2, unchanged, with schemas of all four kinds, changed while it is connected, and its dead letters."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import pytest
from fix_sdk import SdkClient, SdkError
from sdk_schemas import KINDS, SCHEMAS

from memphis_sync import Memphis

pytestmark = pytest.mark.node
Until = Callable[[Callable[[], Any]], Any]
REFUSED = "Schema validation has failed"


def produced(memphis_js: SdkClient, station: str, message: Any, **options: Any) -> None:
    """A blocking produce; the SDK's default is not to wait."""
    memphis_js.produce(stationName=station, producerName="p", message=message, asyncProduce=False, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_messages_are_checked_and_read_back(
    memphis_js: SdkClient, memphis: Memphis, station_name: str, tmp_path: Path, until: Until, kind: str
) -> None:
    schema = SCHEMAS[kind]
    for _ in range(2):  # the same again is fine
        memphis_js.createSchema(schemaName=station_name, schemaType=kind, schemaFilePath=schema.write(tmp_path))
    station = memphis.station(station_name, schema_name=station_name)
    produced(memphis_js, station_name, schema.one)
    with pytest.raises(SdkError, match=REFUSED):
        produced(memphis_js, station_name, schema.two, headers={"k": "v"})
    (message,) = memphis_js.fetchMessages(stationName=station_name, consumerName="c", batchSize=1)
    assert message.getData() in schema.stored
    decoded = message.getDataDeserialized()
    assert (decoded.read("id") == 7) if kind == "protobuf" else (decoded == schema.decoded)
    message.ack()

    letters = until(lambda: station.dls.list("schema"))
    assert letters[0].data in (b'{"id":"x"}', b'"query { name }"')  # as JSON, a text in quotes
    assert letters[0].headers == {"k": "v"}
    assert letters[0].producer == "p"
    assert REFUSED in letters[0].reason


def test_a_line_end_in_a_dead_letter_is_put_right(
    memphis_js: SdkClient, memphis: Memphis, station_name: str, tmp_path: Path, until: Until
) -> None:
    """The SDK writes it as one hexadecimal digit; our broker reads it as what it was (protocol reference D-js-7)."""
    path = SCHEMAS["json"].write(tmp_path)
    memphis_js.createSchema(schemaName=station_name, schemaType="json", schemaFilePath=path)
    station = memphis.station(station_name, schema_name=station_name)
    with pytest.raises(SdkError, match=REFUSED):
        produced(memphis_js, station_name, bytearray(b'{"id":\n"x"}'))
    assert until(station.dls.list)[0].data == b'{"id":\n"x"}'


@pytest.mark.parametrize("kind", KINDS)
def test_what_changes_while_it_is_connected(
    memphis_js: SdkClient, memphis: Memphis, station_name: str, tmp_path: Path, until: Until, kind: str
) -> None:
    """Attach, next version, detach: a connected producer follows, whatever the kind."""
    schema = SCHEMAS[kind]
    memphis_js.createSchema(schemaName=station_name, schemaType=kind, schemaFilePath=schema.write(tmp_path))
    memphis.station(station_name)
    producer = memphis_js.producer(stationName=station_name, producerName="p")
    producer.produce(message="anything goes", asyncProduce=False)

    def told(version: int) -> bool:
        update = memphis_js.memphis.read("stationSchemaDataMap").get(station_name) or {}
        return bool(update.get("active_version", {}).get("version_number", 0) == version)

    def takes(good: Any, bad: Any) -> None:
        until(lambda: REFUSED in refusal(bad))  # the SDK compiles after it has noted the change
        until(lambda: not refusal(good))
        assert REFUSED in refusal(bad)

    def refusal(message: Any) -> str:
        try:
            producer.produce(message=message, asyncProduce=False)
        except SdkError as exc:
            return str(exc)
        return ""

    memphis.enforce_schema(station_name, station_name)
    until(lambda: told(1))
    takes(schema.one, schema.two)
    memphis.create_schema(station_name, kind, schema.write_second(tmp_path))
    memphis.activate_schema_version(station_name)
    until(lambda: told(2))
    takes(schema.two, schema.one)
    memphis_js.detachSchema(stationName=station_name)
    until(lambda: told(0))
    producer.produce(message="anything goes again", asyncProduce=False)
    memphis_js.attachSchema(name=station_name, stationName=station_name)
    until(lambda: told(2))
    memphis_js.enforceSchema(name=station_name, stationName=station_name, timeoutRetry=1)
    takes(schema.two, schema.one)


@pytest.mark.parametrize(
    ("name", "kind", "source", "text"),
    [
        ("Upper", "json", "{}", "Only alphanumeric and the '_', '-', '.' characters are allowed in the schema name"),
        ("fine", "xml", "{}", "Schema type not supported"),
        ("fine", "json", "{", "json|JSON"),
        ("fine", "protobuf", "message", "proto|expected|Expected"),
    ],
)
def test_schemas_that_are_none(
    memphis_js: SdkClient, tmp_path: Path, name: str, kind: str, source: str, text: str
) -> None:
    (tmp_path / "source").write_text(source)
    with pytest.raises(SdkError, match=text):
        memphis_js.createSchema(schemaName=name, schemaType=kind, schemaFilePath=str(tmp_path / "source"))


def test_what_cannot_be_enforced(memphis_js: SdkClient, station_name: str) -> None:
    memphis_js.station(name=station_name)
    with pytest.raises(SdkError, match="does not exist"):
        memphis_js.enforceSchema(name="there-is-none", stationName=station_name)
    with pytest.raises(SdkError, match="station name is missing"):
        memphis_js.detachSchema(stationName="")


# ---- dead letters ---------------------------------------------------------------------------------------------------


def test_a_message_delivered_too_often_is_resent_fetched_and_acknowledged(
    memphis_js: SdkClient, memphis: Memphis, station_name: str, until: Until
) -> None:
    station = memphis.station(station_name)
    memphis.produce(station_name, "ours", b"poison", headers={"k": "v"})
    consumer = memphis_js.consumer(
        stationName=station_name, consumerName="c", consumerGroup="G.1", maxAckTimeMs=500, maxMsgDeliveries=1
    )
    assert len(consumer.fetch(batchSize=1)) == 1  # and no answer
    (letter,) = until(lambda: station.dls.list("poison"))
    assert (letter.data, letter.groups) == (b"poison", ("g.1",))
    assert station.dls.resend() == 1
    until(lambda: len(consumer.read("dlsMessages")) == 1)
    (again,) = consumer.fetch(batchSize=1)
    assert again.getData() == b"poison"
    assert again.getHeaders()["k"] == "v"
    assert again.getSequenceNumber() is None
    with pytest.raises(SdkError, match="cannot delay DLS message"):
        again.delay(1)
    with pytest.raises(SdkError, match="TypeError"):  # protocol reference D-js-15
        again.getTimeSent()
    again.nack()  # without effect on a dead letter
    again.ack()
    until(lambda: not station.dls.list())


def test_dead_letter_is_kept_with_its_reason(
    memphis_js: SdkClient, memphis: Memphis, station_name: str, until: Until
) -> None:
    station = memphis.station(station_name, partitions_number=2)
    memphis.produce(station_name, "ours", b"of no use", producer_partition_number=2)
    consumer = memphis_js.consumer(stationName=station_name, consumerName="c")
    (message,) = consumer.fetch(batchSize=1, consumerPartitionNumber=2)
    message.deadLetter("I cannot read it")
    (letter,) = until(station.dls.list)
    assert (letter.partition, letter.sequence, letter.data) == (2, 1, b"of no use")
    assert (letter.groups, letter.reason) == (("c",), "I cannot read it")
    assert station.dls.resend([letter.id]) == 1
    until(lambda: len(consumer.read("dlsMessages")) == 1)
    (again,) = consumer.fetch(batchSize=1)
    again.ack()
    until(lambda: not station.dls.list())


def test_functions_are_not_there(memphis_js: SdkClient, memphis: Memphis, station_name: str) -> None:
    """A station of version 2 has no functions: the SDK asks for none, and publishes to ``.final``."""
    produced(memphis_js, station_name, "plain")
    assert memphis_js.memphis.read("stationFunctionsMap")[station_name] == {}
    (message,) = memphis_js.fetchMessages(stationName=station_name, consumerName="c", batchSize=1)
    assert message.read("message").read("subject") == f"{station_name}$1.final"
