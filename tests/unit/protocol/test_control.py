"""Requests and replies: what official clients send is read, what we send is theirs, and Go's rules hold."""

from __future__ import annotations

import contextlib
import json
from dataclasses import fields
from typing import Any

import pytest
from control_client import kinds
from hypothesis import given, strategies as st

from memphis_sync._protocol.body import PlainReply, Request, StoredReply
from memphis_sync._protocol.dead_letters import CountOwed, DeadLetterReport, GivenBack
from memphis_sync._protocol.go_json import GoJsonError
from memphis_sync._protocol.requests import (
    ConsumerCreate,
    ConsumerDestroy,
    ConsumerReply,
    Notification,
    ProducerCreate,
    ProducerDestroy,
    ProducerReply,
    SchemaAttach,
    SchemaCreate,
    SchemaDetach,
    SchemaUpdate,
    StationCreate,
    StationDestroy,
    schema_change,
)
from memphis_sync.errors import RemoteProtocolError

REQUESTS = [
    StationCreate,
    StationDestroy,
    ProducerCreate,
    ProducerDestroy,
    ConsumerCreate,
    ConsumerDestroy,
    SchemaCreate,
    SchemaAttach,
    SchemaDetach,
]
VALUES = {"string": st.text(), "bool": st.booleans(), "int": st.integers(-(2**63), 2**63 - 1)}
VALUES["int64"] = VALUES["int"]
VALUES["uint64"] = st.integers(0, 2**64 - 1)


@pytest.mark.parametrize("kind", REQUESTS)
@given(data=st.data())
def test_what_is_encoded_is_decoded(kind: Any, data: st.DataObject) -> None:
    request = kind(**{item.name: data.draw(VALUES[item.metadata["kind"]]) for item in fields(kind)})
    assert kind.decode(request.encode()) == request


def test_keys_are_those_of_memphis_py() -> None:
    assert json.loads(StationCreate(name="s", username="u").encode()) == {
        "name": "s",
        "retention_type": "message_age_sec",
        "retention_value": 3600,
        "storage_type": "file",
        "replicas": 1,
        "idempotency_window_in_ms": 120000,
        "schema_name": "",
        "dls_configuration": {"poison": True, "Schemaverse": True},
        "username": "u",
        "tiered_storage_enabled": False,
        "partitions_number": 1,
        "dls_station": "",
    }
    assert json.loads(ProducerCreate(name="p", station_name="s", connection_id="c", username="u").encode()) == {
        "name": "p",
        "station_name": "s",
        "connection_id": "c",
        "producer_type": "application",
        "req_version": 4,
        "username": "u",
        "app_id": "",
        "sdk_lang": "python",
    }
    assert set(json.loads(ConsumerCreate().encode())) == {
        "name", "station_name", "connection_id", "consumer_type", "consumers_group", "max_ack_time_ms",
        "max_msg_deliveries", "start_consume_from_sequence", "last_messages", "req_version", "username", "app_id",
        "sdk_lang",
    }  # fmt: skip
    destroy = {"name": "c", "station_name": "s", "username": "u", "connection_id": "i", "req_version": 1}
    for kind in (ProducerDestroy, ConsumerDestroy):
        assert json.loads(kind(name="c", station_name="s", username="u", connection_id="i").encode()) == destroy


def test_what_an_old_client_leaves_out_is_zero() -> None:
    request = ConsumerCreate.decode(b'{"NAME": "c", "Station_Name": "s", "unknown": [1, {}], "app_id": null}')
    assert request == ConsumerCreate(
        name="c",
        station_name="s",
        connection_id="",
        consumer_type="",
        consumers_group="",
        max_ack_time_ms=0,
        max_msg_deliveries=0,
        start_consume_from_sequence=0,
        last_messages=0,
        req_version=0,
        username="",
        app_id="",
        sdk_lang="",
    )


@pytest.mark.parametrize("body", [b"{}", b"null", b" {} \r\n", b'{"name": null}'])
def test_empty_requests(body: bytes) -> None:
    assert StationDestroy.decode(body) == StationDestroy()


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "unexpected end of JSON input"),
        (b" \r\n", "unexpected end of JSON input"),
        (b"{", "unexpected end of JSON input"),
        (b'{"name"', "unexpected end of JSON input"),
        (b'{"name":', "unexpected end of JSON input"),
        (b'{"name": "x', "unexpected end of JSON input"),
        (b'{"name": "x"', "unexpected end of JSON input"),
        (b"NATS/1.0", "invalid character 'N' looking for beginning of value"),
        (b"{} x", "invalid character 'x' after top-level value"),
        (b"{a}", "invalid character 'a' looking for beginning of object key string"),
        (b'{"a" 1}', "invalid character '1' after object key"),
        (b'{"a": 1 2}', "invalid character '2' after object key:value pair"),
        (b'{"a": "\n"}', "invalid character '\\n' in string literal"),
        (b'{"a": NaN}', "invalid character 'N' looking for beginning of value"),
        (b"[" * 100_000, "exceeded max depth"),
        (b"[]", "json: cannot unmarshal array into Go value of type server.createStationRequest"),
        (b'"x"', "json: cannot unmarshal string into Go value of type server.createStationRequest"),
        (b"3", "json: cannot unmarshal number into Go value of type server.createStationRequest"),
        (b"true", "json: cannot unmarshal bool into Go value of type server.createStationRequest"),
        (
            b'{"partitions_number": 1.0}',
            "json: cannot unmarshal number 1.0 into Go struct field createStationRequest.partitions_number of type int",
        ),
        (
            b'{"partitions_number": true}',
            "json: cannot unmarshal bool into Go struct field createStationRequest.partitions_number of type int",
        ),
        (
            b'{"replicas": 9223372036854775808}',
            (
                "json: cannot unmarshal number 9223372036854775808 into Go struct field createStationRequest.replicas "
                "of type int"
            ),
        ),
        (
            b'{"name": {}}',
            "json: cannot unmarshal object into Go struct field createStationRequest.name of type string",
        ),
        (
            b'{"tiered_storage_enabled": "yes"}',
            (
                "json: cannot unmarshal string into Go struct field createStationRequest.tiered_storage_enabled "
                "of type bool"
            ),
        ),
    ],
)
def test_errors_read_like_gos(body: bytes, text: str) -> None:
    with pytest.raises(GoJsonError) as caught:
        StationCreate.decode(body)
    assert str(caught.value) == text


@given(st.binary(max_size=200))
def test_any_bytes_are_decoded_or_refused(body: bytes) -> None:
    for kind in REQUESTS:
        with contextlib.suppress(GoJsonError):
            assert kind.decode(body) is not None


def test_text_that_is_no_utf_8_is_replaced() -> None:
    assert StationDestroy.decode(b'{"station_name": "\xff", "username": "\\ud800"}') == StationDestroy(
        "\ufffd", "\ufffd"
    )


SCHEMA = SchemaUpdate("s", 3, "d", "c", "m", "json")


@pytest.mark.parametrize(
    "reply",
    [
        ProducerReply(),
        ProducerReply(SCHEMA, [1, 2], schemaverse_to_dls=True, send_notification=True, station_version=2),
        ProducerReply(partitions=[], functions={1: 5, 3: 9}),
        ProducerReply(error="User x does not exist"),
    ],
)
def test_producer_replies(reply: ProducerReply) -> None:
    assert ProducerReply.decode(reply.encode()) == reply


@pytest.mark.parametrize(
    "reply", [ConsumerReply(), ConsumerReply(SCHEMA, [1, 2]), ConsumerReply(error="user does not exist")]
)
def test_consumer_replies(reply: ConsumerReply) -> None:
    assert ConsumerReply.decode(reply.encode()) == reply


def test_consumer_errors_in_each_of_the_brokers_shapes() -> None:
    for body in (b"no", b'{"error": "no"}', b'{"schema_update": {}, "partitions_update": null, "error": "no"}'):
        assert ConsumerReply.decode(body).error == "no"
    assert ConsumerReply.decode(b"") == ConsumerReply()


def test_a_producer_reply_of_nothing_is_an_error() -> None:
    assert ProducerReply.decode(b"").error
    assert ProducerReply.decode(b"text").error == "text"


@pytest.mark.parametrize("partitions", ["x", "[1, true]", "[0]", "[-1]", '["1"]', "{}", "[1.5]"])
def test_a_partition_list_that_is_none(partitions: str) -> None:
    body = f'{{"partitions_update": {{"partitions_list": {partitions if partitions != "x" else "3"}}}}}'.encode()
    for kind in (ProducerReply, ConsumerReply):
        with pytest.raises(RemoteProtocolError, match="partition list"):
            kind.decode(body)


@pytest.mark.parametrize("functions", ["[1]", '{"a": 1}', '{"1": "x"}', '{"1": null}'])
def test_first_functions_that_are_none(functions: str) -> None:
    with pytest.raises(RemoteProtocolError, match="first functions"):
        ProducerReply.decode(f'{{"station_partitions_first_functions": {functions}}}'.encode())


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", ""),
        (b"Station  does not exist", "Station  does not exist"),
        (b'{"error": ""}', ""),
        (b'{"error": "no"}', "no"),
        (b'{"error": null}', ""),
        (b"{broken", "{broken"),
        (b"\xff", "\ufffd"),
        (b"[]", "[]"),
    ],
)
def test_plain_replies(body: bytes, text: str) -> None:
    assert PlainReply.decode(body).error == text


ANSWERED = [kind for kind in kinds(Request) if kind.REPLY is not StoredReply]


@pytest.mark.parametrize("kind", ANSWERED)
def test_the_error_reply_of_a_request_is_read_as_its_error(kind: Any) -> None:
    assert kind.REPLY.decode(kind.REPLY(error="no").encode()) == kind.REPLY(error="no")


def test_a_request_of_our_own_says_what_a_memphis_broker_offers_in_its_place() -> None:
    """Without it a client waits there as for a broker that is starting; these three are never asked of one."""
    ours = [kind for kind in ANSWERED if kind.SUBJECT.startswith("$memphis_sync_")]
    assert len(ours) > 5
    assert {kind for kind in ours if not kind.INSTEAD} == {CountOwed, DeadLetterReport, GivenBack}


def test_a_subject_stands_in_one_class() -> None:
    subjects = [kind.SUBJECT for kind in kinds()]
    assert len(subjects) == len(set(subjects)) > 20


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b'{"stream": "s", "seq": 3}', ""),
        (b'{"error": {"code": 503, "description": "no room"}}', "timeout: no room"),
        (b'{"error": "no room"}', "timeout: no room"),
        (b"{}", "timeout: its answer has no sequence"),
        (b"", "timeout: it answered b''"),
        (b"[]", "timeout: it answered b'[]'"),
    ],
)
def test_what_is_not_stored_is_told_again(body: bytes, error: str) -> None:
    assert StoredReply.decode(body).error == error


def test_a_change_of_schema_is_one_in_place_of_any_other_or_none() -> None:
    update = SchemaUpdate(name="s", version=3, content="{}", type="json")
    change = json.loads(schema_change(update))
    assert (change["UpdateType"], change["init"]["schema_name"]) == (1, "s")
    assert change["init"]["active_version"]["version_number"] == 3
    none = json.loads(schema_change(None))
    assert (none["UpdateType"], none["init"]["schema_name"]) == (2, "")


def test_a_notification_of_a_schema_failure_shows_the_message_as_text() -> None:
    notification = Notification.of_schema_failure("st", "p", "bad", b"a\xff")
    assert notification.msg == "Station: st\nProducer: p\nError: bad"
    assert (notification.type, notification.code) == ("schema_validation_fail_alert", "a\ufffd")
    assert Notification.queue_group() == "memphis_notifications_group"
