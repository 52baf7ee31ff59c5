"""What becomes a dead letter, and what stands in it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from dead_letter_client import HEADERS, DeadLetterClient

from memphis_sync._protocol.dead_letter_headers import read_headers

if TYPE_CHECKING:
    from memphis_sync.broker import BrokerProcess


FOLDER = Path(__file__).parents[1] / "transcripts"


@pytest.fixture
def client(broker: BrokerProcess) -> Iterator[DeadLetterClient]:
    with DeadLetterClient(broker) as connected:
        yield connected


def make(client: DeadLetterClient, station: str, *groups: str, **settings: Any) -> None:
    """A station with groups that get each message once, for a tenth of a second."""
    assert client.station(station, **settings) == ""
    for group in groups or ("g",):
        reply = client.consumer(station, f"c-{group}", consumers_group=group, max_ack_time_ms=100, max_msg_deliveries=1)
        assert reply.startswith("{"), reply


# ---- unacknowledged -------------------------------------------------------------------------------------------------


def test_what_was_delivered_too_often_is_kept_whole(client: DeadLetterClient, station_name: str) -> None:
    station = f"dotted.{station_name}"
    make(client, station, "group.one", partitions_number=3)
    payload = bytes(range(256))
    before = time.time_ns()
    client.produce(station, b"first", partition=3)
    assert client.produce(station, payload, partition=3) == 2
    client.pull(station, "group.one", partition=3, count=2)
    # JetStream tells of messages that run out together in any order.
    (_, row) = sorted(client.wait_for(station, 2), key=lambda found: found.sequence)
    assert (row.station, row.type, row.partition, row.sequence) == (station, "poison", 3, 2)
    assert (row.producer, row.groups, row.error) == ("p", ("group.one",), "")
    assert before <= row.time_ns <= time.time_ns()
    assert row.data is not None
    assert row.data[row.header_bytes :] == payload
    assert (
        row.data[: row.header_bytes]
        == b"NATS/1.0\r\n" + b"".join(f"{name}: {value}\r\n".encode() for name, value in HEADERS.items()) + b"\r\n"
    )
    assert row.size == len(row.data)


def test_a_message_without_headers(client: DeadLetterClient, station_name: str) -> None:
    make(client, station_name)
    client.produce(station_name, b"", headers=None)
    client.pull(station_name, "g")
    (row,) = client.wait_for(station_name, 1)
    assert (row.producer, row.size, row.header_bytes, row.data) == ("unknown", 0, 0, b"")


def test_groups_of_one_message_share_a_row_and_partitions_do_not(client: DeadLetterClient, station_name: str) -> None:
    """Sequence 1 is there in each partition; Memphis adds a group to all of them."""
    make(client, station_name, "a", "b", partitions_number=2)
    for partition in (1, 2):
        assert client.produce(station_name, b"%d" % partition, partition=partition) == 1
        client.pull(station_name, "a", partition=partition)
    client.wait_for(station_name, 2)
    client.pull(station_name, "b", partition=2)
    one, two = sorted(client.wait_for(station_name, 2, groups=3), key=lambda row: row.partition)
    assert (one.groups, two.groups) == (("a",), ("a", "b"))
    assert (one.data or b"")[one.header_bytes :] == b"1"


@pytest.mark.parametrize("case", ["switch off", "resent", "unknown group", "connector"])
def test_what_is_not_kept(client: DeadLetterClient, station_name: str, case: str) -> None:
    make(client, station_name, dls_poison=case != "switch off")
    resent = {"$memphis_producedBy": "$memphis_dls"}
    sequence = client.produce(station_name, b"x", headers=resent if case == "resent" else HEADERS)
    group = "g"
    if case == "connector":
        group = "sink"
        assert client.consumer(station_name, group, consumer_type="connector").startswith("{")
    client.nack(station_name, sequence, "nobody" if case == "unknown group" else group)
    client.wait_until_idle()
    assert client.letters(station_name) == []


def test_streams_of_others_are_none_of_our_business(client: DeadLetterClient, station_name: str) -> None:
    """The advisories of all streams of the account come in, of such as look like a partition's too."""
    for stream in (f"plain-{station_name}", f"plain-{station_name}$1"):
        assert "error" not in client.jetstream(f"STREAM.CREATE.{stream}", {"name": stream, "subjects": [f"{stream}.a"]})
        config = {"durable_name": "g", "ack_policy": "explicit", "ack_wait": 50_000_000, "max_deliver": 1}
        body = {"stream_name": stream, "config": config}
        assert "error" not in client.jetstream(f"CONSUMER.DURABLE.CREATE.{stream}.g", body)
        client.raw(f"{stream}.a", b"x")
        partition = int(stream.endswith("$1"))
        station = f"plain-{station_name}" if partition else stream

        def exhaust(station: str = station, partition: int = partition) -> None:
            client.pull(station, "g", partition=partition)

        client.received(f"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{stream}.g", 1, exhaust)
    client.wait_until_idle()
    assert client.page(f"plain-{station_name}").error == f"station plain-{station_name} does not exist"


# ---- given up -------------------------------------------------------------------------------------------------------


def test_a_message_that_a_consumer_gave_up(client: DeadLetterClient, station_name: str) -> None:
    make(client, station_name)
    client.nack(station_name, client.produce(station_name, b"x"), error="cannot read it")
    (row,) = client.wait_for(station_name, 1)
    assert (row.type, row.partition, row.sequence, row.groups) == ("poison", 1, 1, ("g",))
    assert (row.error, row.producer) == ("cannot read it", "p")


@pytest.mark.parametrize("body", [
    b'{"station_name": "%s", "partition": 0, "cg_name": "g", "seq": 1}',
    b'{"station_name": "%s", "cg_name": "g", "seq": 1}',
    b'{"STATION_NAME": "%s", "Partition": 1, "CG_NAME": "G", "Seq": 1, "more": []}',
])  # fmt: skip
def test_reports_as_clients_really_send_them(client: DeadLetterClient, station_name: str, body: bytes) -> None:
    """Partition 0 kills a Memphis broker, again at each restart; upper case is never stored there."""
    make(client, station_name)
    client.produce(station_name, b"x")
    client.tell("$memphis_nacked_dls", body % station_name.upper().encode())
    (row,) = client.wait_for(station_name, 1)
    assert (row.partition, row.groups) == (1, ("g",))


def test_an_external_name_with_dots_freezes_nothing(client: DeadLetterClient, station_name: str) -> None:
    station = f"eu.{station_name}"
    make(client, station, "group.one")
    client.produce(station, b"x")
    client.tell("$memphis_nacked_dls", b'{"station_name":"%s","partition":1,"cg_name":"group.one","seq":1}'
                % station.encode())  # fmt: skip
    begin = time.monotonic()
    assert client.station(f"other-{station_name}") == ""
    assert time.monotonic() - begin < 10, "a Memphis broker creates no station for half a minute"
    client.wait_for(station, 1)


def test_a_report_for_a_partition_that_is_not_there(client: DeadLetterClient, station_name: str) -> None:
    make(client, station_name, partitions_number=2)
    client.produce(station_name, b"x")
    for partition in (0, 3, -1, 2**40):
        client.nack(station_name, 1, partition=partition)
    client.nack(station_name, 99)
    client.nack(f"no-{station_name}", 1)
    client.wait_until_idle()
    assert client.letters(station_name) == []
    client.nack(station_name, 1)
    client.wait_for(station_name, 1)


def test_one_row_for_both_ways_to_go_wrong_and_the_reason_is_kept(client: DeadLetterClient, station_name: str) -> None:
    make(client, station_name, "a", "b", retention_type="messages", retention_value=1)
    client.produce(station_name, b"x")
    client.pull(station_name, "a")
    client.wait_for(station_name, 1)
    client.produce(station_name, b"pushes the first one out")
    client.nack(station_name, 1, "b", error="why")
    (row,) = client.wait_for(station_name, 1, groups=2)
    assert (row.groups, row.error) == (("a", "b"), "why")
    for _ in range(3):
        client.nack(station_name, 1, "b", error="another")
    client.wait_until_idle()
    assert client.letters(station_name) == [row], "reported again, it is still the same"


def test_a_report_as_a_request_is_answered_when_the_message_is_kept(
    client: DeadLetterClient, station_name: str
) -> None:
    """Where messages are kept until they are acknowledged, a message is gone when its consumer ends it."""
    make(client, station_name, retention_type="ack_based")
    sequence = client.produce(station_name, b"x")
    body = b'{"station_name": "%s", "partition": 1, "cg_name": "g", "seq": %d, "error": "no"}'
    assert client.raw("$memphis_sync_dls_report", body % (station_name.encode(), sequence)) == b""
    (row,) = client.letters(station_name)
    assert (row.error, row.groups) == ("no", ("g",))
    error = client.raw("$memphis_sync_dls_report", body % (station_name.encode(), 99)).decode()
    assert error == f"message 99 of station {station_name}, partition 1 is not there any more"


# ---- broke the schema -----------------------------------------------------------------------------------------------


def test_a_message_that_broke_the_schema(client: DeadLetterClient, station_name: str) -> None:
    station = f"eu.{station_name}"
    assert client.station(station, dls_schemaverse=False) == "", "the switch is for clients: they ask before they send"
    before = time.time_ns()
    client.schema_failure(station, "00ff", partition_number=2)
    client.schema_failure(station, "00ff", partition_number=2)
    one, two = client.wait_for(station, 2)
    assert one.id < two.id, "reported twice, it happened twice"
    assert (one.type, one.partition, one.sequence, one.groups) == ("schema", 2, 0, ())
    assert (one.producer, one.error) == ("p", "wrong")
    assert before <= one.time_ns <= time.time_ns()
    assert (one.data or b"")[one.header_bytes :] == b"\x00\xff"
    assert b"kind: test\r\n" in (one.data or b"")[: one.header_bytes]


@pytest.mark.parametrize(
    ("message", "payload"),
    [
        (b'{"data": "6869", "headers": null}', b"hi"),
        (b'{"data": "6869"}', b"hi"),
        (b'{"data": "7ba2261223a317d"}', b'{\n"a":1}'),
        (b'{"data": "00f"}', b"00f"),
        (b'{"data": "not hexadecimal", "headers": {}}', b"not hexadecimal"),
        (b'{"data": null, "headers": {"a b": "no name", "k": "two\\r\\nlines", "u": "\\u00fc"}}', b""),
        (b"null", b""),
    ],
)  # fmt: skip
def test_what_harms_a_memphis_broker(
    client: DeadLetterClient, station_name: str, message: bytes, payload: bytes
) -> None:
    """Null headers with a dead-letter station kill it for good; what is no hexadecimal is stored ten times."""
    assert client.station(station_name, dls_station=f"{station_name}-dls") == ""
    client.tell(
        "$memphis_schemaverse_dls",
        b'{"station_name": "%s", "producer": {"name": "p"}, "message": %s, "validation_error": "e"}'
        % (station_name.encode(), message),
    )
    (row,) = client.wait_for(station_name, 1)
    assert (row.data or b"")[row.header_bytes :] == payload
    client.wait_until_idle()
    assert client.letters(station_name) == [row]
    ((copied, headers),) = client.stored(f"{station_name}-dls$1")
    assert (copied, headers["station"], headers["type"]) == (payload, station_name, "failed_schema")


# ---- nothing that comes in stops the rest ---------------------------------------------------------------------------


def test_what_others_publish_where_the_queue_is_pushed(client: DeadLetterClient, station_name: str) -> None:
    make(client, station_name)
    client.produce(station_name, b"x")
    assert client.connection is not None
    for reply in ("", "inbox", "$JS.ACK.", "$JS.ACK.a.b.c.d.e.f.g", "$JS.ACK.a.b.1.1.1.1.1"):
        client.run(client.connection.publish("$memphis_sync_dls_intake", b"{}", reply=reply))
    client.nack(station_name, 1)
    client.wait_for(station_name, 1)


def test_reports_of_the_official_sdks_as_recorded(client: DeadLetterClient) -> None:
    """Each is kept, and nothing of it is lost; their stations and groups have the names that were recorded."""
    reports: dict[str, list[bytes]] = {"$memphis_nacked_dls": [], "$memphis_schemaverse_dls": []}
    for path in sorted(FOLDER.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            frame = json.loads(line)
            if frame["op"] == "PUB" and frame.get("subject") in reports:
                reports[frame["subject"]].append(frame["payload"].encode())
    assert all(len(bodies) >= 2 for bodies in reports.values()), f"hardly a report in {FOLDER}"
    for body in reports["$memphis_nacked_dls"]:
        given = json.loads(body)
        station = given["station_name"].replace("#", ".")
        assert client.station(station, partitions_number=9) == ""
        assert client.consumer(station, given["cg_name"]).startswith("{")
        for _ in range(given["seq"]):
            client.produce(station, b"payload", partition=given["partition"])
        client.tell("$memphis_nacked_dls", body)
        (row,) = client.wait_for(station, 1)
        assert (row.partition, row.sequence) == (given["partition"], given["seq"])
        assert (row.error, row.groups) == (given["error"], (given["cg_name"].lower(),))
        assert client.destroy_station(station) == ""
    for body in reports["$memphis_schemaverse_dls"]:
        given = json.loads(body)
        station = given["station_name"].replace("#", ".")
        assert client.station(station) == ""
        client.tell("$memphis_schemaverse_dls", body)
        (row,) = client.wait_for(station, 1)
        assert row.type == "schema"
        assert (row.producer, row.error) == (given["producer"]["name"], given["validation_error"])
        assert read_headers((row.data or b"")[: row.header_bytes]) == given["message"]["headers"]
        digits = given["message"]["data"]
        # memphis.js wrote a line end as one digit.
        payload = bytes.fromhex(digits) if digits != "7b2261223aa2278227d" else b'{"a":\n"x"}'
        assert (row.data or b"")[row.header_bytes :] == payload
        assert client.destroy_station(station) == ""


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"{}",
        b'{"station_name": 1}',
        b'{"station_name": "a.*.>", "seq": 1, "partition": 1, "cg_name": "*"}',
        b'{"station_name": "%s", "seq": -1, "partition": 1, "cg_name": "g", "message": 1}',
        b'{"station_name": "%s", "seq": 1, "partition": 1, "cg_name": "> x", "message": ""}',
        b'{"station_name": "%s", "message": {"headers": [], "data": "00"}}',
        b'{"station_name": "%s", "message": {"headers": {"k": 1}, "data": "00"}}',
        b'{"station_name": "%s", "message": []}',
        b'{"id": 1e3, "cg_name": "g"}',
        b'{"id": -1, "cg_name": "g"}',
        b'{"id": 9223372036854775807, "cg_name": "g"}',
        b'{"id": 1, "cg_name": null}',
        b'{"stream": "%s$1", "consumer": "nobody", "stream_seq": 1}',
        b'{"stream": "%s$99", "consumer": "g", "stream_seq": 1}',
        b'{"stream": "$$", "consumer": "g", "stream_seq": 18446744073709551615}',
        b"[" * 100_000,
    ],
)
def test_a_body_that_is_no_report(client: DeadLetterClient, station_name: str, body: bytes) -> None:
    make(client, station_name)
    client.produce(station_name, b"x")
    text = body.replace(b"%s", station_name.encode())
    for subject in (
        "$memphis_nacked_dls",
        "$memphis_schemaverse_dls",
        "$memphis_pm_acks",
        "$memphis_sync_dls_group_gone",
        f"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{station_name}$1.g",
    ):
        client.tell(subject, text)
    client.wait_until_idle()
    assert client.letters(station_name) == []
    client.nack(station_name, 1)
    client.wait_for(station_name, 1)
