"""Schemas in the broker: versions, attachments, what clients are told and when, and what survives."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable
from typing import Any, Callable

import pytest
from control_client import ControlClient

from memphis_sync.broker import BrokerProcess

JSON_A = '{"type": "object", "required": ["a"]}'
JSON_B = '{"type": "object", "required": ["b"]}'
PROTO = 'syntax = "proto3"; package pk; message First { string f = 1; } message Second {}'
GRAPHQL = "type Query { a: String }"
AVRO = '{"type": "record", "name": "R", "fields": [{"name": "a", "type": "int"}]}'
NONE = {
    "schema_name": "",
    "active_version": {"version_number": 0, "descriptor": "", "schema_content": "", "message_struct_name": ""},
    "type": "",
}


@pytest.fixture
def name(station_name: str) -> str:
    """A schema's name that no other test uses."""
    return f"schema-{station_name}"


@pytest.fixture
def heard(control: ControlClient) -> Callable[..., list[dict[str, Any]]]:
    """``heard(station, call)``: the updates that are there at the moment when *call*, a request, is answered."""

    def listen(station: str, call: Callable[[], Any]) -> list[dict[str, Any]]:
        assert control.connection is not None
        subject = f"$memphis_schema_updates_{station.replace('.', '#')}"
        subscription = control.run(control.connection.subscribe(subject))
        control.run(control.connection.flush())
        call()
        found = []
        while subscription.pending_msgs:
            found.append(json.loads(control.run(subscription.next_msg(1)).data))
        control.run(subscription.unsubscribe())
        return found

    return listen


def schema_update(reply: Any) -> dict[str, Any]:
    update: dict[str, Any] = (json.loads(reply) if isinstance(reply, str) else reply)["schema_update"]
    return update


@pytest.mark.parametrize(
    ("kind", "content"), [("json", JSON_A), ("protobuf", PROTO), ("graphql", GRAPHQL), ("avro", AVRO)]
)
def test_each_kind_reaches_producers_and_consumers(
    control: ControlClient, station_name: str, name: str, kind: str, content: str
) -> None:
    assert control.schema(name, kind, content) == ""
    assert control.station(station_name) == ""
    assert schema_update(control.producer(station_name, "p1")) == NONE
    assert control.attach(name, station_name) == ""
    for update in (
        schema_update(control.producer(station_name, "p2")),
        schema_update(control.consumer(station_name, "c")),
    ):
        version = update["active_version"]
        assert (update["schema_name"], update["type"], version["version_number"]) == (name, kind, 1)
        assert version["schema_content"] == content
        assert version["message_struct_name"] == ("First" if kind == "protobuf" else "")
        assert bool(version["descriptor"]) == (kind == "protobuf")
        assert f"{name}_1.proto".encode() in base64.b64decode(version["descriptor"]) or kind != "protobuf"


def test_versions(control: ControlClient, station_name: str, name: str) -> None:
    assert control.schema(name, "json", JSON_A) == ""
    assert control.schema(name, "json", JSON_A) == f"{name} already exists in the db with the same schema content"
    assert control.schema(name, "json", JSON_B) == ""
    assert control.schema(name, "json", JSON_B) == f"{name} already exists in the db with the same schema content"
    assert control.schema(name, "json", JSON_A) == "", "the newest counts, and this one is older"
    assert control.schema(name, "graphql", GRAPHQL) == f"{name} already exist with type - json"
    assert control.schema(name, "avro", "{}").startswith("your Avro file is invalid: "), "the content is checked first"
    assert control.station(station_name, schema_name=name) == ""
    assert schema_update(control.producer(station_name))["active_version"]["version_number"] == 1
    assert control.activate(name, 2) == {"version_number": 2, "error": ""}
    assert schema_update(control.producer(station_name))["active_version"]["schema_content"] == JSON_B
    assert control.activate(name) == {"version_number": 3, "error": ""}
    assert control.activate(name, 1) == {"version_number": 1, "error": ""}
    for number in (4, -1):
        error = f"Schema {name} has no version {number}; it has 1 to 3"
        assert control.activate(name, number) == {"version_number": 0, "error": error}


def test_a_later_version_of_a_descriptor_is_named_after_it(
    control: ControlClient, station_name: str, name: str
) -> None:
    control.schema(name, "protobuf", PROTO)
    control.schema(name, "protobuf", PROTO.replace("string", "int32"))
    control.station(station_name, schema_name=name)
    control.activate(name)
    version = schema_update(control.producer(station_name))["active_version"]
    assert f"{name}_2.proto".encode() in base64.b64decode(version["descriptor"])


@pytest.mark.parametrize(
    ("kind", "content", "text"),
    [
        ("json", "", "your schema content is invalid"),
        ("protobuf", " \n", "your schema content is invalid"),
        ("json", PROTO, "your json schema is invalid"),
        ("json", '{"type": "nope"}', "your json schema is invalid"),
        ("json", '{"$ref": "file:///etc/passwd"}', "your json schema is invalid"),
        ("protobuf", JSON_A, "your Proto file is invalid: "),
        ("protobuf", 'syntax = "proto3";', "your Proto file is invalid: it contains no message"),
        ("avro", PROTO, "your Avro file is invalid: "),
        ("graphql", "type A { b: C }", "Unknown type"),
        ("xml", "<a/>", "unsupported schema type 'xml'; it has to be one of avro, graphql, json, protobuf"),
        ("", JSON_A, "unsupported schema type ''"),
    ],
)
def test_a_wrong_source_is_refused_and_leaves_nothing(
    control: ControlClient, name: str, kind: str, content: str, text: str
) -> None:
    assert control.schema(name, kind, content).startswith(text)
    assert control.activate(name)["error"] == f"Schema {name} does not exist"


@pytest.mark.parametrize("bad", ["", "../../tmp/x", "a b", ".a", "x" * 129, "a*", "a>"])
def test_a_name_is_checked_and_lowered(control: ControlClient, station_name: str, bad: str) -> None:
    control.station(station_name)
    error = control.schema(bad, "json", JSON_A)
    assert "Schema" in error
    assert control.attach(bad, station_name) == error
    assert control.activate(bad)["error"] == error


def test_capitals_in_a_name_are_the_same_schema(control: ControlClient, station_name: str, name: str) -> None:
    assert control.schema(name.upper(), "JSON", JSON_A) == ""
    assert control.schema(name, "json", JSON_A) == f"{name} already exists in the db with the same schema content"
    control.station(station_name)
    assert control.attach(name.title(), station_name.upper()) == ""
    assert schema_update(control.producer(station_name))["schema_name"] == name


def test_a_schema_too_large_for_a_message_is_refused(control: ControlClient, name: str) -> None:
    content = json.dumps({"type": "object", "description": "\U0001f600" * 1_000_000}, ensure_ascii=False)
    assert control.schema(name, "json", content).startswith("your schema content is too large: it takes 1200")
    assert control.activate(name)["error"] == f"Schema {name} does not exist"


def test_attachments_that_cannot_be(control: ControlClient, station_name: str, name: str) -> None:
    missing = f"{station_name}-missing"
    assert control.attach(name, missing) == f"memphis: Station {missing} does not exist"
    assert control.detach(missing) == f"station {missing} does not exist"
    control.station(station_name)
    assert control.attach(name, station_name) == f"Schema {name} does not exist"
    assert schema_update(control.producer(station_name)) == NONE


def test_a_station_with_a_schema_that_does_not_exist_is_refused(
    control: ControlClient, station_name: str, name: str
) -> None:
    assert control.station(station_name, schema_name=name) == f"Schema {name} does not exist"
    assert "error" in control.jetstream(f"STREAM.INFO.{station_name}$1")
    assert control.station(station_name) == ""
    assert control.station(station_name, schema_name=name) == "", "a station that exists is a success"


def test_changes_are_told_before_the_reply(
    control: ControlClient, station_name: str, name: str, heard: Callable[..., list[dict[str, Any]]]
) -> None:
    control.schema(name, "json", JSON_A)
    control.schema(name, "json", JSON_B)
    control.station(f"{station_name}.x")
    station = f"{station_name}.x"
    (update,) = heard(station, lambda: control.attach(name, station))
    assert update["UpdateType"] == 1
    assert update["init"]["active_version"]["schema_content"] == JSON_A
    (update,) = heard(station, lambda: control.activate(name, 2))
    assert update["init"]["active_version"] == {
        "version_number": 2,
        "descriptor": "",
        "schema_content": JSON_B,
        "message_struct_name": "",
    }
    for _ in range(2):  # a station without a schema is told just the same
        assert heard(station, lambda: control.detach(station)) == [{"UpdateType": 2, "init": NONE}]
    assert heard(station, lambda: control.activate(name, 1)) == [], "it is tied to no schema any more"


def test_an_activation_reaches_every_station_that_uses_the_schema(
    control: ControlClient, station_name: str, name: str, heard: Callable[..., list[dict[str, Any]]]
) -> None:
    other = f"{name}-2"
    control.schema(name, "json", JSON_A)
    control.schema(name, "json", JSON_B)
    control.schema(other, "json", JSON_A)
    for number in range(3):
        control.station(f"{station_name}-{number}", schema_name=name)
    control.station(f"{station_name}-3", schema_name=other)

    def numbers() -> list[int]:
        return [
            schema_update(control.producer(f"{station_name}-{number}"))["active_version"]["version_number"]
            for number in range(4)
        ]

    assert heard(f"{station_name}-2", lambda: control.activate(name))
    assert numbers() == [2, 2, 2, 1]


def test_a_destroyed_station_forgets_its_schema(control: ControlClient, station_name: str, name: str) -> None:
    control.schema(name, "json", JSON_A)
    control.station(station_name, schema_name=name)
    assert control.destroy_station(station_name) == ""
    assert schema_update(control.producer(station_name)) == NONE


def test_many_at_once_make_one_row_of_versions(control: ControlClient, broker: BrokerProcess, name: str) -> None:
    """Two connections, so that the requests really are side by side."""
    from memphis_sync._protocol.requests import SchemaCreate

    contents = [json.dumps({"const": number}) for number in range(12)]

    async def ask(content: str) -> Any:
        assert control.connection is not None
        body = SchemaCreate(name=name, type="json", created_by_username="root", schema_content=content).encode()
        return json.loads((await control.connection.request("$memphis_schema_creations", body, timeout=10)).data)

    def all_of() -> Awaitable[list[Any]]:
        return asyncio.gather(*(ask(content) for content in contents))

    async def run() -> list[Any]:
        return await all_of()

    assert control.run(run()) == [{"error": ""}] * 12
    assert control.activate(name)["version_number"] == 12


def test_opposite_changes_at_once_leave_clients_with_what_is_stored(
    control: ControlClient, station_name: str, name: str
) -> None:
    """Whoever is last in the station's row is the last that clients heard of."""
    from memphis_sync._protocol.requests import SchemaAttach, SchemaDetach

    control.schema(name, "json", JSON_A)
    control.station(station_name)

    async def run() -> Any:
        connection = control.connection
        assert connection is not None
        subscription = await connection.subscribe(f"$memphis_schema_updates_{station_name}")
        attach = SchemaAttach(name=name, station_name=station_name, username="root").encode()
        detach = SchemaDetach(station_name=station_name, username="root").encode()
        requests = [("attachments", attach), ("detachments", detach)] * 10
        await asyncio.gather(
            *(connection.request(f"$memphis_schema_{what}", body, timeout=10) for what, body in requests)
        )
        last = {}
        while subscription.pending_msgs:
            last = json.loads((await subscription.next_msg(1)).data)
        return last["init"]

    for _ in range(5):
        assert control.run(run()) == schema_update(control.producer(station_name))


def test_schemas_survive_a_kill(fresh_broker: Callable[..., BrokerProcess], tmp_path: Any) -> None:
    broker = fresh_broker(data_dir=tmp_path)
    with ControlClient(broker) as control:
        control.schema("s", "protobuf", PROTO)
        control.schema("s", "protobuf", PROTO.replace("string", "int32"))
        control.activate("s", 2)
        control.station("st", schema_name="s")
        before = schema_update(control.producer("st"))
    broker.kill()
    broker.start()
    with ControlClient(broker) as control:
        assert schema_update(control.producer("st")) == before
        assert before["active_version"]["version_number"] == 2
        assert control.schema("s", "protobuf", PROTO) == "", "the newest is version 2"
        assert control.activate("s")["version_number"] == 3
