"""
The known bugs of Memphis 1.4's broker (protocol reference 12.1), one by one: none is copied where anybody could tell.

| bug | here |
|---|---|
| B1 `msg-id` only | sdk_port reads it (test_sdk_port); on the other port `Nats-Msg-Id` works, as on any nats-server |
| B2 an earlier `msg-id` text | unit/test_message_ids: an_earlier_header_that_has_the_text_hides_nothing |
| B3 success although nothing was made | test_stations: refusals; an existing one stays a success, SDKs rely on it |
| B4 success after a failure midway | test_stations: streams that are there already |
| B5 `last_messages` on one partition | test_consumers: last_messages_on_one_partition |
| B6 rejoining with another start | test_consumers: the_start_position_counts_only_when_the_group_is_made |
| B7 the last joiner's settings win | kept: members of all SDKs expect their own settings to hold (test_consumers) |
| B8 two replies, three shapes | test_fuzz: one reply; errors are always plain text, for memphis.py fails on JSON |
| B9 deliveries above 10 become 10 | kept: SDKs send larger numbers and expect success (test_consumers) |
| B10 nack of partition 0 | here |
| B11 dead letter without headers | here |
| B12 protobuf without a message | here |
| B13 last partition of a dead-letter station | here |
| B14 ack of a dead letter by another group | here |
| B15 the group of another partition | here |
| B16 `schemaverse_to_dls` pushed with the old value | does not apply: no request changes that setting |
| B17 `remove_station` for REST only | test_stations: destruction announces it; test_transcripts |
| B18 roles; the user named in JSON | does not apply: there are no roles, and whoever may connect may do all of it |
| B19 schema names and types unchecked | here |
| B20 descriptor always `_1.proto` | here |
| B21 activation is not pushed | here |
| B22 requests with headers | test_hostile_requests |
| B23 keys in any case | kept, SDKs rely on it (test_hostile_requests) |
| B24 32-bit columns | here; test_stations: 3 GiB of retention |
| B25 destroying a producer always succeeds | kept, SDKs rely on it (test_producers) |
| B26 plain NATS clients in token mode | here |
| B27 a typo makes a station | kept, SDKs rely on it; the log tells (test_producers) |
| B28 SDK defaults with a short retention | kept: the request asks for both (test_stations, test_transcripts) |
| B29 permissions come late | does not apply: there are none |
| B30 an HTTP call for each creation | does not apply: the broker calls nobody |
| B31, B35 another connection of the same id | here |
| B32 an empty name in a text | kept, SDKs know the text (test_stations) |
| B33 external name in a nack | here |
| B34 the race of creations by name | test_producers: 20 at once |
| B36 a pull without an answer | test_transcripts: answered |
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import nats
import pytest
from control_client import ControlClient

from memphis_sync._protocol.requests import SchemaActivate, SchemaAttach, SchemaCreate
from memphis_sync.broker import BrokerProcess

PROTO = 'syntax = "proto3";\nmessage First { int32 n = 1; }\n'
PROTO_2 = 'syntax = "proto3";\nmessage First { int32 n = 1; string s = 2; }\n'


def tell(control: ControlClient, subject: str, body: object) -> None:
    """Publishes without a reply, as SDKs report dead letters."""

    async def send() -> None:
        assert control.connection is not None
        await control.connection.publish(subject, body if isinstance(body, bytes) else json.dumps(body).encode())
        await control.connection.flush()

    control.run(send())


def dead_letters(control: ControlClient, station: str, count: int) -> list[dict[str, Any]]:
    """The station's dead letters, as soon as there are as many."""
    deadline = time.monotonic() + 20
    while True:
        body = {"station_name": station, "username": "root", "limit": 100}
        reply = json.loads(control.raw("$memphis_sync_dls_list", json.dumps(body).encode()))
        assert reply["error"] == ""
        rows: list[dict[str, Any]] = reply["rows"]
        if len(rows) >= count or time.monotonic() > deadline:
            assert len(rows) == count, rows
            return rows
        time.sleep(0.02)


def nack(station: str, partition: int, sequence: int, group: str) -> dict[str, Any]:
    return {"station_name": station, "error": "why", "partition": partition, "cg_name": group, "seq": sequence}


@pytest.fixture
def grouped(control: ControlClient, station_name: str) -> Iterator[str]:
    """A station of two partitions with one message in each, and groups a and b; its name has a dot."""
    name = f"{station_name}.st"
    assert control.station(name, partitions_number=2) == ""
    for partition in (1, 2):
        control.publish(f"{name.replace('.', '#')}${partition}.final", b"x")
    for group in ("a", "b"):
        assert control.consumer(name, group).startswith("{")
    yield name
    assert control.destroy_station(name) == ""


def test_b10_a_nack_of_partition_0_or_of_nothing_is_dropped(control: ControlClient, grouped: str) -> None:
    internal = grouped.replace(".", "#")
    for body in (nack(internal, 0, 1, "a"), nack(internal, 9, 1, "a"), nack(internal, -1, 1, "a"), {}, b"{", b""):
        tell(control, "$memphis_nacked_dls", body)
    tell(control, "$memphis_nacked_dls", nack(internal, 1, 99, "a"))
    tell(control, "$memphis_nacked_dls", nack(internal, 2, 1, "a"))
    (row,) = dead_letters(control, grouped, 1)
    assert (row["partition"], row["sequence"], row["groups"], row["error"]) == (2, 1, ["a"], "why")


def test_b11_a_dead_letter_without_headers_is_kept_and_copied(control: ControlClient, station_name: str) -> None:
    dls = f"{station_name}-dls"
    assert control.station(station_name, dls_station=dls) == ""
    for message in ({"data": "6162", "headers": None}, {"data": "6162"}, {"data": "zz", "headers": {}}):
        tell(
            control,
            "$memphis_schemaverse_dls",
            {"station_name": station_name, "producer": {"name": "p"}, "message": message, "validation_error": "no"},
        )
    assert [row["type"] for row in dead_letters(control, station_name, 3)] == ["schema"] * 3
    deadline = time.monotonic() + 20
    while control.jetstream(f"STREAM.INFO.{dls}$1")["state"]["messages"] < 3:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    copy = control.jetstream(f"STREAM.MSG.GET.{dls}$1", {"seq": 1})["message"]
    assert base64.b64decode(copy["data"]) == b"ab"
    assert f"station: {station_name}".encode() in base64.b64decode(copy["hdrs"])


@pytest.mark.parametrize("content", ['syntax = "proto3";', 'syntax = "proto3"; enum E { A = 0; }', ""])
def test_b12_a_protobuf_schema_without_a_message_is_refused(
    control: ControlClient, station_name: str, content: str
) -> None:
    request = SchemaCreate(station_name, "protobuf", "root", content)
    assert json.loads(control.raw("$memphis_schema_creations", request.encode()))["error"]
    assert control.station(station_name) == ""


def test_b13_a_dead_letter_station_uses_all_its_partitions_and_gets_each_message_once(
    control: ControlClient, station_name: str
) -> None:
    dls = f"{station_name}-dls"
    assert control.station(dls, partitions_number=3) == ""
    assert control.station(station_name, dls_station=dls) == ""
    for group in ("a", "b"):
        assert control.consumer(station_name, group).startswith("{")
    for sequence in range(1, 41):
        control.publish(f"{station_name}$1.final", b"x")
        tell(control, "$memphis_nacked_dls", nack(station_name, 1, sequence, "a"))
    tell(control, "$memphis_nacked_dls", nack(station_name, 1, 1, "b"))
    assert len(dead_letters(control, station_name, 40)) == 40
    deadline = time.monotonic() + 20
    while True:
        counts = [control.jetstream(f"STREAM.INFO.{dls}${number}")["state"]["messages"] for number in (1, 2, 3)]
        if sum(counts) >= 40:
            break
        assert time.monotonic() < deadline, counts
        time.sleep(0.02)
    assert 0 not in counts


def test_b14_only_the_groups_own_ack_takes_it_off_a_dead_letter(control: ControlClient, grouped: str) -> None:
    tell(control, "$memphis_nacked_dls", nack(grouped.replace(".", "#"), 1, 1, "a"))
    (row,) = dead_letters(control, grouped, 1)
    for body in ({"id": row["id"], "cg_name": "b"}, {"id": row["id"], "cg_name": "a.c"}, {"id": row["id"]}, {}, b"["):
        tell(control, "$memphis_pm_acks", body)
    tell(control, "$memphis_nacked_dls", nack(grouped.replace(".", "#"), 2, 1, "a"))  # behind them in the queue
    assert row in dead_letters(control, grouped, 2)
    tell(control, "$memphis_pm_acks", {"id": row["id"], "cg_name": "A"})
    assert [other["partition"] for other in dead_letters_but(control, grouped, row["id"])] == [2]


def dead_letters_but(control: ControlClient, station: str, number: int) -> list[dict[str, Any]]:
    """What is left when a dead letter has gone."""
    deadline = time.monotonic() + 20
    while True:
        rows = json.loads(
            control.raw("$memphis_sync_dls_list", json.dumps({"station_name": station, "username": "root"}).encode())
        )["rows"]
        if number not in [row["id"] for row in rows]:
            return rows  # type: ignore[no-any-return]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_b15_a_group_is_added_to_the_message_of_its_partition_only(control: ControlClient, grouped: str) -> None:
    internal = grouped.replace(".", "#")
    for partition, group in ((1, "a"), (2, "a"), (2, "b")):
        tell(control, "$memphis_nacked_dls", nack(internal, partition, 1, group))
    deadline = time.monotonic() + 20
    expected = {(1, ("a",)), (2, ("a", "b"))}
    while {(row["partition"], tuple(sorted(row["groups"]))) for row in dead_letters(control, grouped, 2)} != expected:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("name", ["", "../../evil", "a b", "x" * 129, ".a"])
def test_b19_schema_names_and_types_are_checked(control: ControlClient, name: str) -> None:
    request = SchemaCreate(name, "protobuf", "root", PROTO)
    assert "Schema" in json.loads(control.raw("$memphis_schema_creations", request.encode()))["error"]
    unknown = SchemaCreate("known-name", "xml", "root", "<a/>")
    assert json.loads(control.raw("$memphis_schema_creations", unknown.encode()))["error"]


def test_b20_b21_versions_have_files_of_their_own_and_an_activation_is_pushed(
    control: ControlClient, station_name: str
) -> None:
    assert control.station(station_name) == ""

    async def listen() -> Any:
        assert control.connection is not None
        return await control.connection.subscribe(f"$memphis_schema_updates_{station_name}")

    for content in (PROTO, PROTO_2):
        made = control.raw(
            "$memphis_schema_creations", SchemaCreate(station_name.upper(), "protobuf", "root", content).encode()
        )
        assert made == b'{"error":""}'
    updates = control.run(listen())
    assert control.raw("$memphis_schema_attachments", SchemaAttach(station_name, station_name, "root").encode()) == b""
    assert json.loads(control.run(updates.next_msg(5)).data)["init"]["active_version"]["version_number"] == 1
    control.raw("$memphis_sync_schema_activations", SchemaActivate(station_name, 2, "root").encode())
    active = json.loads(control.run(updates.next_msg(5)).data)["init"]["active_version"]
    assert active["version_number"] == 2
    assert f"{station_name}_2.proto".encode() in base64.b64decode(active["descriptor"])


def test_b24_numbers_are_as_large_as_jetstreams(control: ControlClient, station_name: str) -> None:
    large = {"retention_type": "messages", "retention_value": 2**40}
    assert control.station(station_name, **large) == ""
    assert control.stream(f"{station_name}$1")["max_msgs"] == 2**40
    assert control.consumer(station_name, start_consume_from_sequence=2**40).startswith("{")
    info = control.durable(f"{station_name}$1", "c")
    assert info is not None
    assert info["config"]["opt_start_seq"] == 2**40


def test_b26_a_plain_nats_client_connects_with_the_token(fresh_broker: Callable[..., BrokerProcess]) -> None:
    broker = fresh_broker(token="t0ken")

    async def plain() -> int:
        connection = await nats.connect(f"nats://{broker.host}:{broker.port}", token="t0ken", name="no colons")
        await connection.request("$memphis_producer_creations", PRODUCER, timeout=10)
        ack = await connection.jetstream().publish("plain$1.final", b"x")
        await connection.close()
        return ack.seq

    assert asyncio.run(plain()) == 1


PRODUCER = json.dumps(
    {"name": "p", "station_name": "plain", "username": "any", "producer_type": "application", "req_version": 4}
).encode()


def test_b31_b35_a_connection_that_closes_takes_no_other_of_its_id_with_it(
    broker: BrokerProcess, control: ControlClient, station_name: str
) -> None:
    with ControlClient(broker, connection_id="twice") as first:
        assert first.consumer(station_name, "member", consumers_group="g").startswith("{")
        with ControlClient(broker, connection_id="twice"):
            pass
        assert control.consumer(station_name, "other", consumers_group="g").startswith("{")
        assert control.destroy_consumer(station_name, "other") == ""
        assert control.durable(f"{station_name}$1", "g") is not None, "the group still has a connected member"


def test_b33_a_nack_with_a_dotted_name_holds_nothing_up(control: ControlClient, grouped: str) -> None:
    began = time.monotonic()
    tell(control, "$memphis_nacked_dls", nack(grouped.upper(), 1, 1, "A"))
    assert control.station(f"{grouped}-2") == ""
    assert control.consumer(f"{grouped}-2").startswith("{")
    assert time.monotonic() - began < 10
    (row,) = dead_letters(control, grouped, 1)
    assert row["groups"] == ["a"]
    assert control.destroy_station(f"{grouped}-2") == ""


def test_notifications_are_a_line_in_the_log_and_many_are_few(fresh_broker: Callable[..., BrokerProcess]) -> None:
    broker = fresh_broker()
    with ControlClient(broker) as control:
        tell(control, "$memphis_notifications", {"Title": "a\ntitle", "Msg": "x" * 10_000, "Code": "c", "Type": "t"})
        for number in range(50):
            tell(control, "$memphis_notifications", {"title": f"n{number}", "msg": "m"})
        for body in (b"{", b"[]", {"title": 1}):
            tell(control, "$memphis_notifications", body)
        assert control.destroy_station("")
    lines = [line for line in broker.output().splitlines() if "a client notifies" in line]
    assert re.search(r"a client notifies: 'a\\ntitle', 'x{200}'$", lines[0])
    assert 1 <= len(lines) < 10
    assert "Traceback" not in broker.output()


def test_every_bug_of_the_list_has_its_row() -> None:
    assert __doc__ is not None
    rows = {
        int(number)
        for bugs in re.findall(r"^\| ((?:B\d+[, ]*)+)", __doc__, re.MULTILINE)
        for number in re.findall(r"\d+", bugs)
    }
    assert rows == set(range(1, 37))
    named = set(re.findall(r"\((test_\w+)\)|(?:\| |; )(test_\w+)", __doc__))
    files = {name for pair in named for name in pair if name}
    assert all((Path(__file__).parent / f"{name}.py").exists() for name in files), files
