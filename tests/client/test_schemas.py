"""Schemas from a program's side: what is stored, what is refused and told, and changes while threads produce."""

from __future__ import annotations

import json
import logging
import re
import threading

import graphql
import pytest
from control_client import ControlClient
from google.protobuf.message import Message as ProtobufMessage

import memphis_sync
from memphis_sync import BulkSchemaError, ConfigurationError, Item, MemphisSchemaError, SchemaError, ServerError
from memphis_sync._protocol import subjects
from memphis_sync._protocol.dead_letters import SchemaDeadLetter
from memphis_sync._protocol.requests import Notification
from memphis_sync._schema import FAILED, MISALIGNED

JSON_A = '{"type": "object", "required": ["a"]}'
JSON_B = '{"type": "object", "required": ["b"]}'
PROTO = 'syntax = "proto3"; package pk; message Order { string f = 1; int32 n = 2; }'
AVRO = '{"type": "record", "name": "R", "fields": [{"name": "a", "type": "int"}]}'
GRAPHQL = "type Query { a: String }"


@pytest.fixture
def attached(memphis, station_name):
    """``attached(kind, content)`` makes a station with such a schema, and a producer of it."""

    def make(kind, content, **options):
        memphis.create_schema(f"s-{station_name}", kind, schema_content=content)
        memphis.station(station_name, schema_name=f"s-{station_name}", **options)
        return memphis.producer(station_name, "P1")

    return make


@pytest.fixture
def told(broker):
    """``told(n)``: the next n reports to the broker, as (subject, JSON)."""
    with ControlClient(broker) as control:
        inbox = [
            control.run(control.connection.subscribe(subject))
            for subject in (SchemaDeadLetter.SUBJECT, Notification.SUBJECT)
        ]
        control.run(control.connection.flush())

        def wait(count=1, which=0):
            return [json.loads(control.run(inbox[which].next_msg(10)).data) for _ in range(count)]

        wait.pending = lambda which=0: inbox[which].pending_msgs
        yield wait


def stored(memphis, station_name, read_all, count):
    return [message.data for message in read_all(memphis.consumer(station_name, "reader"), count)]


# ---- producing and consuming ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "content", "good", "bad"),
    [
        ("json", JSON_A, [{"a": 1}, '{"a": 2}', b'{"a": 3}', bytearray(b'{"a": 4}')], [{}, b"x", "{}", [1], 5]),
        ("avro", AVRO, [{"a": 1}, '{"a": 2}', b'{"a": 3}', memoryview(b'{"a": 4}')], [{"a": "x"}, b"x", {}, 5]),
        ("protobuf", PROTO, [{"f": "x"}, b"\n\x01y", bytearray(b"\x10\xac\x02")], [{"z": 1}, b"nope", "text", 5]),
        ("graphql", GRAPHQL, ["{ a }", b"query { a }", graphql.parse("query Q { a }")], ["{ b }", b"{", {"a": 1}, 5]),
    ],
    ids=["json", "avro", "protobuf", "graphql"],
)
def test_only_what_matches_is_stored(memphis, attached, read_all, station_name, kind, content, good, bad):
    producer = attached(kind, content)
    for message in good:
        assert producer.produce(message).station == station_name
        assert producer.produce(message, nonblocking=True).result(10)
    accepted = memphis.stats().accepted
    for message in bad:
        for nonblocking in (False, True):
            with pytest.raises(MemphisSchemaError, match=f"^{FAILED}") as caught:
                producer.produce(message, nonblocking=nonblocking)
            assert caught.value.reason
    assert memphis.stats().accepted == accepted == 2 * len(good)
    consumer = memphis.consumer(station_name, "c")
    messages = read_all(consumer, 2 * len(good))
    assert len(messages) == 2 * len(good)
    for message in messages:
        value = message.get_data_deserialized()
        if kind == "protobuf":
            assert isinstance(value, ProtobufMessage)
            assert value.SerializeToString() == message.data
            assert isinstance(message.get_data_deserialized(as_dict=True), dict)
        elif kind == "graphql":
            assert value == message.data.decode()
        else:
            assert value == json.loads(message.data)
        assert message.get_data() == message.data


def test_without_a_schema_everything_is_as_it_was(memphis, station_name, read_all):
    memphis.produce(station_name, "p", b"\x00\xff")
    (message,) = read_all(memphis.consumer(station_name, "c"), 1)
    value = message.get_data_deserialized()
    assert type(value) is bytearray
    assert value == b"\x00\xff"


def test_a_message_from_before_the_schema_is_refused_with_the_official_words(memphis, station_name, read_all):
    memphis.produce(station_name, "p", b"old")
    memphis.create_schema(f"s-{station_name}", "json", schema_content=JSON_A)
    consumer = memphis.consumer(station_name, "c")
    memphis.enforce_schema(f"s-{station_name}", station_name)
    (message,) = read_all(consumer, 1)
    with pytest.raises(SchemaError, match=f"^{MISALIGNED}"):
        message.get_data_deserialized()
    assert message.get_data() == b"old"
    memphis.detach_schema(station_name)
    assert message.get_data_deserialized() == b"old"


def test_mutable_payloads_are_copied(memphis, attached, station_name, read_all):
    producer = attached("json", JSON_A)
    buffer = bytearray(b'{"a":1}')
    delivery = producer.produce(buffer, nonblocking=True)
    buffer[:] = b"xxxxxxx"
    assert delivery.result(10)
    assert stored(memphis, station_name, read_all, 1) == [b'{"a":1}']


def test_an_official_argument_error_comes_before_the_schema(attached):
    producer = attached("json", JSON_A)
    with pytest.raises(ConfigurationError, match="ack_wait_sec is 0"):
        producer.produce({}, ack_wait_sec=0)
    with pytest.raises(memphis_sync.HeaderError):
        producer.produce({}, headers={"$memphis_x": "y"})


def test_produce_many_lists_or_raises_what_does_not_match(memphis, attached, station_name, read_all):
    producer = attached("json", JSON_A)
    rows = [{"a": 1}, {"b": 1}, Item({"a": 2}, key="k"), Item({}, key="k"), b'{"a": 3}']
    result = producer.produce_many(rows, on_error="collect")
    assert result.delivered == 3
    assert [(failure.index, failure.station) for failure in result.failed] == [(1, station_name), (3, station_name)]
    assert all(isinstance(failure.error, MemphisSchemaError) for failure in result.failed)
    with pytest.raises(BulkSchemaError, match=f"^message 1 failed, and 0 more; 1 are stored: {FAILED}") as caught:
        producer.produce_many(rows)
    assert caught.value.result.delivered == 1
    assert (caught.value.outcome, caught.value.reason) == ("not_sent", '"a" is a required property')
    assert isinstance(caught.value, MemphisSchemaError)
    assert len(stored(memphis, station_name, read_all, 4)) == 4


# ---- several stations -----------------------------------------------------------------------------------------------


@pytest.fixture
def several(memphis, station_name):
    """Stations with a JSON schema, with a protobuf schema and with none, and one producer of all three."""
    memphis.create_schema(f"j-{station_name}", "json", schema_content='{"required": ["f"]}')
    memphis.create_schema(f"p-{station_name}", "protobuf", schema_content=PROTO)
    names = [f"{station_name}-{kind}" for kind in ("json", "proto", "free")]
    memphis.station(names[0], schema_name=f"j-{station_name}")
    memphis.station(names[1], schema_name=f"p-{station_name}")
    memphis.station(names[2])
    return names, memphis.producer(names, "p")


def test_each_station_gets_its_own_form(memphis, several, read_all):
    names, producer = several
    assert list(producer.produce({"f": "x"})) == names
    assert set(producer.produce({"f": "y"}, nonblocking=True).result(10)) == set(names)
    result = producer.produce_many([{"f": "z"}])
    assert (result.delivered, result.failed) == (3, ())
    found = {name: stored(memphis, name, read_all, 3) for name in names}
    assert found[names[0]] == found[names[2]] == [b'{"f": "x"}', b'{"f": "y"}', b'{"f": "z"}']
    assert found[names[1]] == [b"\n\x01x", b"\n\x01y", b"\n\x01z"]


@pytest.mark.parametrize("nonblocking", [False, True])
def test_all_stations_are_checked_before_anything_is_taken(memphis, several, told, nonblocking):
    names, producer = several
    for message, refusing in (({"g": 1}, {0, 1}), ({"f": 5}, {1}), ({"f": "x", "n": "y"}, {1})):
        with pytest.raises(MemphisSchemaError, match=f"^{FAILED}"):
            producer.produce(message, nonblocking=nonblocking)
        reports = told(len(refusing))
        assert {report["station_name"] for report in reports} == {names[index] for index in refusing}
    assert memphis.stats().accepted == 0


def test_different_payloads_for_several_stations_are_taken_all_or_none(broker, station_name):
    with memphis_sync.connect(broker.url, outbox_max_messages=2) as client:
        client.create_schema(f"p-{station_name}", "protobuf", schema_content=PROTO)
        names = [f"{station_name}-{number}" for number in range(3)]
        for name in names:
            client.station(name)
        client.enforce_schema(f"p-{station_name}", names[0])
        with pytest.raises(
            ConfigurationError, match="a message for 3 stations is 3 messages, and the outbox holds out"
        ):
            client.producer(names, "p").produce({"f": "x"}, nonblocking=True)
        assert client.stats().accepted == 0


# ---- reports --------------------------------------------------------------------------------------------------------


def test_a_failure_is_reported_with_the_exact_bytes(memphis, attached, told, station_name):
    name = f"{station_name}.x"
    attached("json", JSON_A)
    memphis.station(name, schema_name=f"s-{station_name}", partitions_number=3)
    producer = memphis.producer(name, "P1")
    with pytest.raises(MemphisSchemaError) as caught:
        producer.produce(b"\x00\xff\x0a", headers={"k": "v"}, producer_partition_number=2)
    (report,) = told()
    assert re.fullmatch("[0-9a-f]{32}", report.pop("report_id")), "our broker knows it by that when it comes again"
    own = {"$memphis_producedBy": "p1", "$memphis_connectionId": memphis.connection_id}
    assert report == {
        "station_name": name.replace(".", "#"),
        "producer": {"name": "p1", "connection_id": memphis.connection_id},
        "message": {"data": "00ff0a", "headers": {"k": "v", **own}, "size": 3},
        "validation_error": str(caught.value),
        "partition_number": 2,
    }
    for message, data in (({"x": "\u00e9"}, b'{"x": "\\u00e9"}'), ("{}", b"{}"), ([1], b"[1]")):
        with pytest.raises(MemphisSchemaError):
            producer.produce(message)
        (report,) = told()
        assert bytes.fromhex(report["message"]["data"]) == data
        assert report["message"]["headers"] == own
        assert report["partition_number"] in (1, 2, 3)


def test_what_has_no_bytes_is_refused_without_a_dead_letter(attached, told):
    producer = attached("json", JSON_A)
    for message in (5, None, object(), {"a": {1, 2}}, "\ud800"):
        with pytest.raises(MemphisSchemaError, match=f"^{FAILED}"):
            producer.produce(message)
    with pytest.raises(MemphisSchemaError):
        producer.produce(b"last")
    assert bytes.fromhex(told()[0]["message"]["data"]) == b"last"


def test_the_stations_switch_turns_dead_letters_off(memphis, attached, told, control):
    producer = attached("json", JSON_A, send_schema_failed_msg_to_dls=False)
    with pytest.raises(MemphisSchemaError):
        producer.produce({})
    memphis.ping()  # what it may have reported is with the server
    control.tell(SchemaDeadLetter.SUBJECT, b'{"marker": true}')
    assert told() == [{"marker": True}]


def test_notifications_go_by_their_own_switch(memphis, attached, told, until, station_name, control):
    producer = attached("json", JSON_A, send_schema_failed_msg_to_dls=False)
    update = {"station_name": "", "type": "send_notification", "update": True}
    control.tell(subjects.CLIENT_UPDATES, json.dumps(update).encode())
    until(lambda: memphis._session.stations.send_notification)
    with pytest.raises(MemphisSchemaError) as caught:
        producer.produce(b'{"x": "\xff"}')
    (notification,) = told(which=1)
    assert notification == {
        "title": "Schema validation has failed",
        "msg": f"Station: {station_name}\nProducer: p1\nError: {caught.value}",
        "type": "schema_validation_fail_alert",
        "code": '{"x": "\ufffd"}',
    }
    assert not told.pending(), "no dead letter"


def test_many_failures_are_all_reported_by_the_end_of_close(broker, attached, told, station_name):
    attached("json", JSON_A)
    with memphis_sync.connect(broker.url) as client:
        producer = client.producer(station_name, "p")
        result = producer.produce_many(({"n": number} for number in range(500)), on_error="collect")
        assert (result.delivered, len(result.failed)) == (0, 500)
    data = [json.loads(bytes.fromhex(report["message"]["data"])) for report in told(500)]
    assert data == [{"n": number} for number in range(500)]


def test_a_report_that_cannot_be_sent_hides_nothing(memphis, attached, caplog, monkeypatch):
    """It waits for its turn behind a bound, and what is beyond that is counted in the log."""
    from memphis_sync._control import failure_reporter

    producer = attached("json", JSON_A)
    monkeypatch.setattr(failure_reporter, "MAX_BYTES", 100)
    with caplog.at_level(logging.WARNING, "memphis_sync.schema"), pytest.raises(MemphisSchemaError, match=r"^Schema"):
        producer.produce({"x": "y" * 200})
    monkeypatch.undo()
    with caplog.at_level(logging.WARNING, "memphis_sync.schema"), pytest.raises(MemphisSchemaError, match=r"^Schema"):
        producer.produce({})
    memphis.close()
    assert "1 reports of schema failures were dropped" in caplog.text


def test_a_report_larger_than_the_broker_takes_is_logged(attached, caplog, until):
    producer = attached("json", JSON_A)
    limit = producer._client._session.data_link().max_payload
    with caplog.at_level(logging.WARNING, "memphis_sync.schema"):
        with pytest.raises(MemphisSchemaError, match=r"^Schema"):
            producer.produce(json.dumps({"x": "y" * (limit // 2)}))
        until(lambda: "could not be sent" in caplog.text)


# ---- schemas that cannot be used ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "content", "descriptor"),
    [("json", "{", ""), ("protobuf", PROTO, "AAAA"), ("avro", "{}", ""), ("graphql", "x", ""), ("new-kind", "x", "")],
)
def test_nothing_goes_out_by_a_schema_that_cannot_be_used(
    memphis, told, station_name, until, kind, content, descriptor, control
):
    producer = memphis.producer(station_name, "p")
    consumer = memphis.consumer(station_name, "c")
    producer.produce(b"before")
    version = {"version_number": 1, "schema_content": content, "descriptor": descriptor, "message_struct_name": "Order"}
    init = {"schema_name": "broken", "type": kind, "active_version": version}
    control.tell(subjects.schema_updates(station_name), json.dumps({"UpdateType": 1, "init": init}).encode())
    until(lambda: producer._views[0].live.codec)
    for nonblocking in (False, True):
        with pytest.raises(MemphisSchemaError, match=rf"^schema 'broken' \(version 1, {kind}\) cannot be used: ."):
            producer.produce(b"x", nonblocking=nonblocking)
    (message,) = consumer.fetch(1)
    with pytest.raises(SchemaError, match=r"^schema 'broken' .* cannot be used"):
        message.get_data_deserialized()
    assert memphis.stats().accepted == 1
    control.tell(subjects.schema_updates(station_name), b'{"UpdateType": 2, "init": {}}')
    until(lambda: producer._views[0].live.codec is None)
    producer.produce(b"after")
    memphis.ping()  # what it may have reported is with the server
    control.tell(SchemaDeadLetter.SUBJECT, b'{"marker": true}')
    assert told() == [{"marker": True}], "the messages are not to blame"


# ---- changes --------------------------------------------------------------------------------------------------------


def test_a_change_holds_for_every_producer_from_the_call_that_makes_it(memphis, broker, station_name, until):
    for name, content in (("a", JSON_A), ("b", JSON_B)):
        memphis.create_schema(f"{name}-{station_name}", "json", schema_content=content)
    with memphis_sync.connect(broker.url) as other:
        here = [memphis.producer(station_name, f"p{number}") for number in range(2)]
        there = other.producer(station_name, "p")
        for change, good, bad in (
            (lambda: memphis.enforce_schema(f"a-{station_name}", station_name), {"a": 1}, {"b": 1}),
            (lambda: memphis.enforce_schema(f"b-{station_name}", station_name), {"b": 1}, {"a": 1}),
        ):
            change()
            for producer in here:
                producer.produce(good)
                with pytest.raises(MemphisSchemaError):
                    producer.produce(bad)
            until(lambda bad=bad: refuses(there, bad), limit_s=1)
            there.produce(good)
        memphis.detach_schema(station_name)
        here[0].produce(b"anything")
        until(lambda: not refuses(there, b"anything"), limit_s=1)


def refuses(producer, message):
    try:
        producer.produce(message)
    except MemphisSchemaError:
        return True
    return False


@pytest.mark.slow
def test_changes_while_threads_produce_drop_nothing(memphis, broker, station_name, in_threads, read_all):
    """
    Six threads on three producers and two clients, some blocking and some not, while schemas come, change and go. Each
    message is valid by all of them, so each must be stored, once.
    """
    memphis.station(station_name, partitions_number=2)
    for number, content in enumerate((JSON_A, JSON_B, AVRO)):
        kind = "avro" if content is AVRO else "json"
        memphis.create_schema(f"{station_name}-{number}", kind, schema_content=content)
    memphis.create_schema(f"{station_name}-0", "json", schema_content='{"required": ["a", "b"]}')
    over = threading.Event()
    with memphis_sync.connect(broker.url) as other:
        producers = [memphis.producer(station_name, "p1"), memphis.producer(station_name, "p2")]
        producers.append(other.producer(station_name, "p3"))

        def run(thread):
            if thread == 6:
                try:
                    for _ in range(4):
                        for number in range(3):
                            memphis.enforce_schema(f"{station_name}-{number}", station_name)
                        memphis.enforce_schema(f"{station_name}-0", station_name)
                        memphis.activate_schema_version(f"{station_name}-0")
                        memphis.activate_schema_version(f"{station_name}-0", 1)
                        memphis.detach_schema(station_name)
                finally:
                    over.set()
                return 0
            producer, count = producers[thread % 3], 0
            while not over.is_set() or count < 50:
                message = {"a": thread, "b": count}
                if thread < 3:
                    producer.produce(message)
                else:
                    producer.produce(json.dumps(message), nonblocking=True)
                    if count % 50 == 49:
                        producer.flush(10)
                count += 1
            assert producer.flush(10) == 0
            return count

        counts = in_threads(7, run)[:6]
    found = read_all(memphis.consumer(station_name, "c"), sum(counts))
    values = [json.loads(message.data) for message in found]
    assert sorted((value["a"], value["b"]) for value in values) == [
        (thread, number) for thread, count in enumerate(counts) for number in range(count)
    ]


# ---- the calls ------------------------------------------------------------------------------------------------------


def test_a_schema_from_a_file_or_from_text(memphis, station_name, tmp_path):
    path = tmp_path / "order.proto"
    path.write_text(PROTO)
    memphis.create_schema(station_name, "protobuf", str(path))
    memphis.create_schema(station_name, "protobuf", schema_content=PROTO)  # the same again is fine
    for wrong in ({}, {"schema_path": str(path), "schema_content": PROTO}):
        with pytest.raises(ConfigurationError, match=r"^give either schema_path or schema_content, and not both$"):
            memphis.create_schema(station_name, "protobuf", **wrong)
    with pytest.raises(ConfigurationError, match="schema_content is empty"):
        memphis.create_schema(station_name, "protobuf", schema_content="")
    with pytest.raises(ServerError, match="your Proto file is invalid: it contains no message"):
        memphis.create_schema(station_name, "protobuf", schema_content='syntax = "proto3";')


def test_versions_are_activated_by_number_or_the_newest(memphis, attached, station_name):
    producer = attached("json", JSON_A)
    memphis.create_schema(f"s-{station_name}", "json", schema_content=JSON_B)
    producer.produce({"a": 1})
    assert memphis.activate_schema_version(f"s-{station_name}") == 2
    producer.produce({"b": 1})
    with pytest.raises(MemphisSchemaError, match="version 2"):
        producer.produce({"a": 1})
    assert memphis.activate_schema_version(f"S-{station_name}", 1) == 1
    producer.produce({"a": 1})
    with pytest.raises(ServerError, match=f"Schema s-{station_name} has no version 3; it has 1 to 2"):
        memphis.activate_schema_version(f"s-{station_name}", 3)
    with pytest.raises(ServerError, match="does not exist"):
        memphis.activate_schema_version("no-such-schema")
    with pytest.raises(ConfigurationError, match="version is 0"):
        memphis.activate_schema_version(f"s-{station_name}", 0)


def test_a_station_with_a_missing_schema_is_an_error_and_not_made(memphis, station_name):
    with pytest.raises(ServerError, match=f"Schema no-{station_name} does not exist"):
        memphis.station(station_name, schema_name=f"no-{station_name}")


def test_a_closed_client_says_so_rather_than_checking(memphis, attached):
    producer = attached("json", JSON_A)
    memphis.close()
    with pytest.raises(memphis_sync.ClosedError):
        producer.produce({})


def test_sources_with_a_byte_order_mark_are_taken_without_it(memphis, station_name, tmp_path, control):
    sources = {"json": JSON_A, "avro": AVRO, "protobuf": PROTO, "graphql": GRAPHQL}
    for kind, source in sources.items():
        path = tmp_path / kind
        path.write_bytes(b"\xef\xbb\xbf" + source.replace(" ", "\r\n", 1).encode())
        memphis.create_schema(f"{station_name}-{kind}", kind, path)
        memphis.create_schema(f"{station_name}-{kind}-text", kind, schema_content=f"\ufeff{source}")
        memphis.station(f"{station_name}-{kind}", schema_name=f"{station_name}-{kind}")
        codec = memphis.producer(f"{station_name}-{kind}", "p")._views[0].live.codec
        assert codec.info.content == source.replace(" ", "\n", 1)
    # another SDK sends it as it is in the file
    assert control.schema(f"{station_name}-other", "json", f"\ufeff{JSON_A}") == ""
    utf16 = (JSON_A.encode("utf-16"), "it is UTF-16 text; save it as UTF-8")
    for text, said in (utf16, (b"\xff", "it is not UTF-8 text")):
        path.write_bytes(text)
        with pytest.raises(ConfigurationError, match=f"which cannot be read: {said}"):
            memphis.create_schema("s", "json", path)


def test_the_message_of_a_protobuf_schema_may_be_named(memphis, station_name, read_all):
    source = 'syntax = "proto3"; package pk; message Item { int32 q = 1; } message Order { repeated Item items = 1; }'
    name = f"s-{station_name}"
    memphis.create_schema(name, "protobuf", schema_content=source, message_name="pk.Order")
    memphis.station(station_name, schema_name=name)
    producer = memphis.producer(station_name, "p")
    producer.produce({"items": [{"q": 1}]})
    (message,) = read_all(memphis.consumer(station_name, "c"), 1)
    order = message.get_data_deserialized()
    assert order.DESCRIPTOR.full_name == "pk.Order"
    with pytest.raises(MemphisSchemaError, match=r"it is a message of type pk\.Item; the schema's type is pk\.Order"):
        producer.produce(order.items[0])
    memphis.create_schema(name, "protobuf", schema_content=source, message_name="Order")  # the same again is fine
    with pytest.raises(ServerError, match="has no version 2"):
        memphis.activate_schema_version(name, 2)
    memphis.create_schema(name, "protobuf", schema_content=source)  # the first message: another version
    assert memphis.activate_schema_version(name) == 2
    producer.produce({"q": 5})
    with pytest.raises(ServerError, match="it contains no message 'Basket'; it has Item, Order"):
        memphis.create_schema(name, "protobuf", schema_content=source, message_name="Basket")
    with pytest.raises(ConfigurationError, match="message_name is 'Order', and schema_type json; only protobuf has"):
        memphis.create_schema(name, "json", schema_content="{}", message_name="Order")
    with pytest.raises(ConfigurationError, match="message_name is empty"):
        memphis.create_schema(name, "protobuf", schema_content=source, message_name="")


@pytest.mark.parametrize(
    ("name", "source", "first"),
    [
        ("B", "message A {} message B {}", "A"),
        ("B", "// message B {}\nmessage A {} message B {}", "A"),
        ("B", '/* message B { */ option x = "message B {"; message A{}', "A"),
        ("A", "syntax = 'proto3';", None),
    ],
)
def test_a_memphis_broker_takes_the_first_message_only(name, source, first):
    from memphis_sync._control.api import _check_first

    said = f", which is '{first}'" if first else ""
    with pytest.raises(ConfigurationError, match=f"uses the first message of the source{said}: put that one first"):
        _check_first(name, source)
    if first:
        _check_first(first, source)
        _check_first(f"pk.{first}", source)


def test_a_source_larger_than_the_broker_takes_is_refused_before_it_is_sent(memphis, station_name):
    limit = memphis._session.control.max_payload
    content = '{"enum": ["' + "x" * limit + '"]}'
    connection = memphis.connection_id
    with pytest.raises(
        ConfigurationError, match=rf"source has {len(content)} bytes, .* accepts {limit} in one message"
    ):
        memphis.create_schema(f"s-{station_name}", "json", schema_content=content)
    with pytest.raises(
        ConfigurationError, match=f"the request has [0-9]+ bytes, and the broker accepts {limit} in one"
    ):
        publish_request(memphis, "x" * limit)
    assert memphis.connection_id == connection
    assert memphis.is_connected()


def publish_request(client, text):
    session = client._session
    return session.call(
        lambda: session.control.request("$memphis_schema_detachments", text.encode() + b"x", 5), 5, "request"
    )


def test_a_message_is_checked_by_a_schema_that_the_client_knows(memphis, station_name):
    """Without a producer of the station nothing is known of its schema."""
    memphis.create_schema(f"{station_name}-schema", "json", schema_content='{"required": ["id"]}')
    memphis.station(station_name, schema_name=f"{station_name}-schema")
    assert memphis_sync.encode_message(station_name, {}, client=memphis).schema is None
    memphis.producer(station_name, "p")
    encoded = memphis_sync.encode_message(station_name, {"id": 7}, client=memphis)
    assert encoded.payload == b'{"id": 7}'
    assert encoded.schema.name == f"{station_name}-schema"
    with pytest.raises(memphis_sync.SchemaError, match="id"):
        memphis_sync.encode_message(station_name, {}, client=memphis)
