"""Requests that no SDK sends: each gets exactly one reply, and the service goes on."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from control_client import ControlClient, kinds

from memphis_sync._protocol.body import Request, StoredReply
from memphis_sync._protocol.requests import Notification

STATION, PRODUCER, CONSUMER = (f"$memphis_{kind}_creations" for kind in ("station", "producer", "consumer"))

WRONG = "json: cannot unmarshal"
IN_STATION = "into Go struct field createStationRequest"
IN_CONSUMER = "into Go struct field createConsumerRequest"

BODIES = [
    b"",
    b" \r\n",
    b"{",
    b"}",
    b"null",
    b"[]",
    b'"text"',
    b"1",
    b"true",
    b"{}",
    b"\xff\xfe\x00",
    b"NATS/1.0\r\n\r\n{}",
    b"[" * 200_000,
    b'{"name":' * 100_000,
    b'{"name": NaN}',
    b'{"name": 1e999}',
    b'{"partitions_number": ' + b"9" * 10_000 + b"}",
    b'{"name": null, "station_name": null, "username": null}',
    b'{"name": {"a": []}, "station_name": [], "username": 1}',
    b'{"name": "\\ud800", "station_name": "\\udfff", "username": "\\ud800"}',
    b'{"name": "st", "username": "' + b"x" * 1_000_000 + b'", "partitions_number": 1}',
    b'{"name": "p", "station_name": "st", "username": "' + b"x" * 8_000_000 + b'"}',
    b'{"name": "' + b"n" * 8_000_000 + b'"}',
]


# Body 21 is a legal destruction of a producer that isn't there, which is no error.
NOTHING_TO_DESTROY = ("$memphis_producer_destructions", 21)


ANSWERED = sorted({kind.SUBJECT for kind in kinds(Request) if kind.REPLY is not StoredReply} - {Notification.SUBJECT})


@pytest.mark.parametrize("subject", ANSWERED)
@pytest.mark.parametrize("number", range(len(BODIES)))
def test_one_reply_and_no_success(control: ControlClient, subject: str, number: int) -> None:
    async def ask() -> list[bytes]:
        assert control.connection is not None
        inbox = control.connection.new_inbox()
        subscription = await control.connection.subscribe(inbox)
        await control.connection.publish(subject, BODIES[number], reply=inbox)
        replies = [(await subscription.next_msg(10)).data]
        await control.connection.request("$memphis_station_destructions", b"", timeout=10)  # a second one would be here
        while subscription.pending_msgs:
            replies.append((await subscription.next_msg(1)).data)
        await subscription.unsubscribe()
        return replies

    replies = control.run(ask())
    assert len(replies) == 1
    if (subject, number) != NOTHING_TO_DESTROY:
        assert replies[0] != b"", "an empty reply says that it was done"
    assert len(replies[0]) < 10_000
    if replies[0].startswith(b"{"):
        assert json.loads(replies[0])["error"]


@pytest.mark.parametrize(
    ("subject", "body", "text"),
    [
        (STATION, {"partitions_number": 1.5}, f"{WRONG} number 1.5 {IN_STATION}.partitions_number of type int"),
        (STATION, {"partitions_number": "1"}, f"{WRONG} string {IN_STATION}.partitions_number of type int"),
        (
            STATION,
            {"dls_configuration": 1},
            f"{WRONG} number {IN_STATION}.dls_configuration of type server.dls_configuration",
        ),
        (CONSUMER, {"name": 1}, f"{WRONG} number {IN_CONSUMER}V0.name of type string"),
        (
            CONSUMER,
            {"start_consume_from_sequence": -1},
            f"{WRONG} number -1 {IN_CONSUMER}V1.start_consume_from_sequence of type uint64",
        ),
        (
            "$memphis_schema_creations",
            {"name": "s"},
            '{"error":"unsupported schema type \'\'; it has to be one of avro, graphql, json, protobuf"}',
        ),
        ("$memphis_schema_attachments", {"name": "s"}, "Station name can not be empty"),
        ("$memphis_schema_detachments", {}, "Station name can not be empty"),
        (
            "$memphis_sync_schema_activations",
            {"name": "no-such-schema"},
            '{"version_number":0,"error":"Schema no-such-schema does not exist"}',
        ),
    ],
)
def test_texts(control: ControlClient, subject: str, body: dict[str, Any], text: str) -> None:
    assert control.raw(subject, json.dumps(body).encode()).decode() == text


def test_keys_match_in_any_case_and_unknown_ones_are_ignored(control: ControlClient, station_name: str) -> None:
    body = {"NAME": station_name, "UserName": "root", "Partitions_Number": 2, "what": [{"ever": 1}]}
    assert control.raw(STATION, json.dumps(body).encode() + b"\r\n") == b""
    assert control.stream(f"{station_name}$2")


def test_a_request_with_nats_headers_is_served(control: ControlClient, station_name: str) -> None:
    body = json.dumps({"name": station_name, "username": "root", "partitions_number": 1}).encode()
    assert control.raw(STATION, body, headers={"traceparent": "00-1-2-03"}) == b""
    assert control.stream(f"{station_name}$1")


def test_a_request_without_a_reply_subject_is_served(control: ControlClient, station_name: str) -> None:
    async def send() -> None:
        assert control.connection is not None
        body = json.dumps({"name": station_name, "username": "root", "partitions_number": 1}).encode()
        await control.connection.publish(STATION, body)
        await control.connection.flush()

    control.run(send())
    assert control.station(station_name, partitions_number=1) == ""
    assert control.stream(f"{station_name}$1")


def test_a_flood_of_bad_requests_does_not_keep_others_waiting(control: ControlClient, station_name: str) -> None:
    async def flood() -> None:
        assert control.connection is not None
        for number in range(5000):
            await control.connection.publish(STATION, b"{" * (number % 50), reply="nobody.listens")
        await asyncio.wait_for(control.connection.flush(), 10)

    control.run(flood())
    assert control.station(station_name) == ""


def test_dead_letters_are_not_an_error(control: ControlClient) -> None:
    async def send() -> None:
        assert control.connection is not None
        for subject in (
            "$memphis_nacked_dls",
            "$memphis_schemaverse_dls",
            "$memphis_pm_acks",
            "$memphis_notifications",
        ):
            await control.connection.publish(subject, b'{"station_name": "x", "partition": 0}')
        await control.connection.flush()

    control.run(send())
    assert control.destroy_station("") == "Station name can not be empty"
