"""memphis-py 1.3.1, unchanged, with schemas of all four kinds, changed while it is connected, and its dead letters."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import pytest
from control_client import ControlClient
from fix_sdk import SdkClient, SdkError
from sdk_schemas import KINDS, SCHEMAS

import memphis_sync
from memphis_sync import Memphis

Until = Callable[[Callable[[], Any]], Any]
REFUSED = "MemphisSchemaError: memphis: Schema validation has failed"


@pytest.mark.parametrize("kind", KINDS)
def test_messages_are_checked_and_read_back(
    memphis_py: SdkClient, memphis: Memphis, station_name: str, tmp_path: Path, until: Until, kind: str
) -> None:
    schema = SCHEMAS[kind]
    memphis_py.create_schema(station_name, kind, schema.write(tmp_path))
    memphis_py.create_schema(station_name, kind, schema.write(tmp_path), timeout_retries=1)  # the same again is fine
    station = memphis.station(station_name, schema_name=station_name)
    producer = memphis_py.producer(station_name, "p")
    producer.produce(schema.one)
    with pytest.raises(SdkError, match=REFUSED):
        producer.produce(schema.two, headers=memphis_py.sdk.headers(k="v"))
    with pytest.raises(SdkError, match="Unsupported message type"):
        producer.produce([1])
    (message,) = memphis_py.fetch_messages(station_name, "c")
    assert message.get_data() in schema.stored
    decoded = message.get_data_deserialized()
    assert (decoded.read("id") == 7) if kind == "protobuf" else (decoded == schema.decoded)
    message.ack()

    letters = until(lambda: station.dls.list("schema"))
    assert letters[0].data == str(schema.two).encode()  # a dict as Python shows it, not as JSON
    assert letters[0].headers == {"k": "v"}
    assert letters[0].producer == "p"
    assert "Schema validation has failed" in letters[0].reason


def test_avro_text_that_is_none_skips_the_schemas_own_errors(
    memphis_py: SdkClient, memphis: Memphis, station_name: str, tmp_path: Path
) -> None:
    """Text that is not JSON is no schema failure to the SDK (protocol reference D-py-22)."""
    memphis_py.create_schema(station_name, "avro", SCHEMAS["avro"].write(tmp_path))
    memphis.station(station_name, schema_name=station_name)
    with pytest.raises(SdkError, match="MemphisError: memphis: Expecting Avro format"):
        memphis_py.producer(station_name, "p").produce(bytearray(b"{"))


def test_a_dead_letter_is_not_kept_where_the_station_does_not_want_it(
    memphis_py: SdkClient, memphis: Memphis, station_name: str, tmp_path: Path, until: Until
) -> None:
    """``schemaverse_to_dls`` in the producer's reply: the SDK itself does not report then."""
    memphis_py.create_schema(station_name, "json", SCHEMAS["json"].write(tmp_path))
    quiet = memphis_py.station(station_name, schema_name=station_name, send_schema_failed_msg_to_dls=False)
    assert quiet.read("name") == station_name
    loud = memphis.station(f"{station_name}-2", schema_name=station_name)
    for station in (station_name, f"{station_name}-2"):
        with pytest.raises(SdkError, match="Schema validation has failed"):
            memphis_py.produce(station, "p", {"id": "x"})
    until(loud.dls.list)
    assert memphis.dls(station_name).list() == []


@pytest.mark.parametrize("kind", KINDS)
def test_what_changes_while_it_is_connected(
    memphis_py: SdkClient, memphis: Memphis, station_name: str, tmp_path: Path, until: Until, kind: str
) -> None:
    """
    Attach, next version, detach: the broker tells, and the SDK takes it in.

    It compiles protobuf only (protocol reference D-py-3): after an attach, every message fails for want of a compiled
    schema, and after a new version the old one's rules stay. That much is as it is with any broker.
    """
    schema, compiles = SCHEMAS[kind], kind == "protobuf"
    memphis_py.create_schema(station_name, kind, schema.write(tmp_path))
    memphis.station(station_name)
    producer = memphis_py.producer(station_name, "p")
    producer.produce("anything goes")

    def told(version: int) -> bool:
        update = memphis_py.memphis.read("schema_updates_data")[station_name]
        return bool(update.get("active_version", {}).get("version_number", 0) == version)

    memphis.enforce_schema(station_name, station_name)
    until(lambda: told(1))
    with pytest.raises(SdkError, match=REFUSED if compiles else f"'{station_name}'"):
        producer.produce(schema.two)
    if compiles:
        producer.produce(schema.one)
    else:
        with pytest.raises(SdkError, match=f"'{station_name}'"):
            producer.produce(schema.one)
        producer.destroy()
        producer = memphis_py.producer(station_name, "p")  # made again, it compiles what there is
        producer.produce(schema.one)

    memphis.create_schema(station_name, kind, schema.write_second(tmp_path))
    memphis.activate_schema_version(station_name)
    until(lambda: told(2))
    accepted, refused = (schema.two, schema.one) if compiles else (schema.one, schema.two)
    producer.produce(accepted)
    with pytest.raises(SdkError, match=REFUSED):
        producer.produce(refused)

    memphis_py.detach_schema(station_name)
    until(lambda: told(0))
    producer.produce("anything goes again")
    memphis_py.attach_schema(station_name, station_name)
    until(lambda: told(2))
    memphis_py.detach_schema(station_name, timeout_retries=1)
    memphis_py.enforce_schema(station_name, station_name)
    until(lambda: told(2))


@pytest.mark.parametrize(
    ("name", "kind", "source", "text"),
    [
        ("", "json", "{}", "Schema name cannot be empty"),
        ("Upper", "json", "{}", "Only alphanumeric and the '_', '-', '.' characters are allowed in the schema name"),
        ("fine", "xml", "{}", "TypeError"),  # protocol reference D-py-17
        ("fine", "json", "{", "json|JSON"),
        ("fine", "avro", '{"type": "nothing"}', "avro|Avro|nothing"),
        ("fine", "graphql", "type Query {", "Syntax|syntax|graphql"),
        ("fine", "protobuf", "message", "proto|expected|Expected"),
    ],
)
def test_schemas_that_are_none(
    memphis_py: SdkClient, tmp_path: Path, name: str, kind: str, source: str, text: str
) -> None:
    (tmp_path / "source").write_text(source)
    with pytest.raises(SdkError, match=text):
        memphis_py.create_schema(name, kind, str(tmp_path / "source"))


def test_what_cannot_be_enforced(memphis_py: SdkClient, station_name: str) -> None:
    memphis_py.station(station_name)
    with pytest.raises(SdkError, match="does not exist"):
        memphis_py.enforce_schema("there-is-none", station_name)
    with pytest.raises(SdkError, match="name and station name can not be empty"):
        memphis_py.enforce_schema("", station_name)
    with pytest.raises(SdkError, match="station name is missing"):
        memphis_py.detach_schema("")


# ---- dead letters ---------------------------------------------------------------------------------------------------


def test_a_message_delivered_too_often_is_resent_fetched_and_acknowledged(
    memphis_py: SdkClient, memphis: Memphis, station_name: str, until: Until
) -> None:
    station = memphis.station(station_name)
    memphis.produce(station_name, "ours", b"poison", headers={"k": "v"})
    consumer = memphis_py.consumer(station_name, "c", consumer_group="G.1", max_ack_time_ms=500, max_msg_deliveries=1)
    assert len(consumer.fetch(1)) == 1  # and no answer
    (letter,) = until(lambda: station.dls.list("poison"))
    assert (letter.data, letter.groups, letter.headers) == (b"poison", ("g.1",), {"k": "v"})

    assert station.dls.resend() == 1
    until(lambda: len(consumer.read("dls_messages")) == 1)
    (again,) = consumer.fetch(1)
    assert again.get_data() == b"poison"
    headers = again.get_headers()
    assert (headers["k"], headers["$memphis_pm_id"]) == ("v", str(letter.id))
    assert again.get_sequence_number() is None
    with pytest.raises(SdkError, match="cannot delay DLS message"):
        again.delay(1)
    with pytest.raises(SdkError, match="NotJSMessageError"):
        again.nack()
    again.ack()
    until(lambda: not station.dls.list())


def test_a_resent_message_goes_to_one_member_and_to_its_callback(
    memphis_py: SdkClient, memphis: Memphis, station_name: str, until: Until
) -> None:
    """The SDK hands it to the callback, and keeps it for fetch() as well (protocol reference D-py-24)."""
    station = memphis.station(station_name)
    memphis.produce(station_name, "ours", b"poison")
    options = {"consumer_group": "g", "max_ack_time_ms": 500, "max_msg_deliveries": 1}
    calls = memphis_py.sdk.callback()
    members = [memphis_py.consumer(station_name, name, **options) for name in ("one", "two")]
    for member in members:
        member.consume(calls)
    assert len(calls.wait(1)) >= 1
    until(lambda: station.dls.list("poison"))
    assert station.dls.resend() == 1
    resent = [batch[0] for batch, _, _ in calls.wait(2) if batch][-1]
    assert resent.get_headers()["$memphis_pm_cg_name"] == "g"
    assert sum(len(member.read("dls_messages")) for member in members) == 1
    resent.ack()
    until(lambda: not station.dls.list())


def test_dead_letter_ends_the_message_and_tells_nobody(
    memphis_py: SdkClient, memphis: Memphis, control: ControlClient, station_name: str, until: Until
) -> None:
    """
    The broker hears ``+TERM`` and no report, so for this group the message is lost; others still get it.

    Source: protocol reference D-py-6.
    """
    station = memphis.station(station_name)
    memphis.produce(station_name, "ours", b"precious")
    consumer = memphis_py.consumer(station_name, "c", max_ack_time_ms=500, max_msg_deliveries=5)
    (message,) = consumer.fetch(1)
    with pytest.raises(SdkError, match=r"MemphisConnectError: .*not callable"):
        message.dead_letter("of no use")
    until(lambda: control.durable(f"{station_name}$1", "c")["num_ack_pending"] == 0)
    assert station.dls.list() == []
    assert [again.data for again in memphis.fetch_messages(station_name, "others", timeout_s=10)] == [b"precious"]


def test_switches_of_a_station_reach_a_connected_client(
    memphis_py: SdkClient, memphis: Memphis, station_name: str, tmp_path: Path, until: Until
) -> None:
    """A station made anew with another switch: what the SDK learns with its next producer."""
    memphis_py.create_schema(station_name, "json", SCHEMAS["json"].write(tmp_path))
    station = memphis_py.station(station_name, send_schema_failed_msg_to_dls=False, schema_name=station_name)
    memphis_py.producer(station_name, "p")
    assert memphis_py.memphis.read("station_schemaverse_to_dls")[station_name] is False
    station.destroy()
    memphis_py.station(station_name, schema_name=station_name)
    producer = memphis_py.producer(station_name, "p")
    assert memphis_py.memphis.read("station_schemaverse_to_dls")[station_name] is True
    with pytest.raises(SdkError, match="Schema validation has failed"):
        producer.produce({"id": "x"})
    assert isinstance(until(memphis.dls(station_name).list)[0], memphis_sync.DeadLetter)
