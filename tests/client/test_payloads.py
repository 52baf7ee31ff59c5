"""Dict and list messages: what a client sends of them, and what it refuses before anything is taken."""

from __future__ import annotations

import array
import datetime as dt
import decimal
import json
import socket

import pytest

import memphis_sync
from memphis_sync import ConfigurationError, SchemaError


@pytest.mark.parametrize("nonblocking", [False, True])
@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"mean": float("nan")}, "at /mean: it is nan, which JSON does not have; put None there, or leave it out"),
        ({"a": {float("inf"): 1}}, "at /a/inf: the key is inf"),
        (
            [{"at": dt.date(2026, 1, 1)}],
            r"at /0/at: it is of type date.*send value.isoformat\(\), or give connect\(json_d",
        ),
    ],
)
def test_what_json_has_no_word_for_is_refused_with_its_place(memphis, station_name, message, said, nonblocking):
    producer = memphis.producer(station_name, "p")
    with pytest.raises(ConfigurationError, match=said):
        producer.produce(message, nonblocking=nonblocking)
    assert memphis.stats().accepted == 0


def test_json_default_holds_with_and_without_a_schema_and_for_several_stations(broker, station_name, read_all):
    def default(value):
        if isinstance(value, decimal.Decimal):
            return str(value)
        raise LookupError("not one of ours")

    message = {"total": decimal.Decimal("12.50")}
    with memphis_sync.connect(broker.url, json_default=default) as client:
        client.create_schema(
            f"s-{station_name}", "json", schema_content='{"properties": {"total": {"type": "string"}}}'
        )
        names = [station_name, f"{station_name}-checked"]
        client.station(names[0])
        client.station(names[1], schema_name=f"s-{station_name}")
        for where in (names[0], names[1], names):
            producer = client.producer(where, "p")
            producer.produce(message)
            with pytest.raises(
                (ConfigurationError, SchemaError), match=r"at /a/0: .*json_default raised LookupError for a set: no"
            ):
                producer.produce({"a": [{1}]})
        for name in names:
            assert [item.data for item in read_all(client.consumer(name, "c"), 2)] == [b'{"total": "12.50"}'] * 2


def test_json_default_must_be_callable():
    with pytest.raises(ConfigurationError, match="json_default is 'str'; it must be callable or None"):
        memphis_sync.connect("localhost", "u", password="p", json_default="str")


def test_a_text_with_nan_is_not_json(memphis, station_name, read_all):
    memphis.produce(station_name, "p", '{"a": NaN}')
    memphis.produce(station_name, "p", "NaN")
    batch = read_all(memphis.consumer(station_name, "c"), 2)
    assert [row["data"] for row in memphis_sync.Messages(batch).to_dicts()] == ['{"a": NaN}', "NaN"]


DEEP = b"[" * 100_000
ODD_PAYLOADS = [b"first", DEEP, b"\xff\xfe", b"", b"\x00", b'{"a":' * 2000, b"1" * 5000, b'"\\ud800"', b"last"]
ODD_HEADERS = [
    b"x",
    b"NATS/1.0",
    b"NATS/1.0\r\n",
    b"NATS/1.0 503 \xff\r\n\r\n",
    b"NATS/1.0\r\na: \xff\r\n\r\n",
    b"NATS/1.0\r\n: \r\n\r\n",
    b"NATS/1.0\r\nnonsense\r\n\r\n",
    b"NATS/1.0\r\n\r\n",
]
SOURCES = {
    "json": '{"maxItems": 1}',
    "avro": '"long"',
    "protobuf": 'syntax = "proto3"; message M { bytes b = 1; }',
    "graphql": "type Query { a: Int }",
}


@pytest.fixture
def odd_station(memphis, broker, control, station_name):
    """A station with what its own clients would never send, and its count of messages."""
    memphis.station(station_name)
    for payload in ODD_PAYLOADS:
        memphis.produce(station_name, "p", payload)
    subject = f"{station_name}$1.final".encode()
    frames = [b"HPUB %b %d %d\r\n%b%b\r\n" % (subject, len(head), len(head) + 4, head, b"body") for head in ODD_HEADERS]
    login = {"user": "root$1", "pass": broker.password, "name": "odd::root", "headers": True, "verbose": False}
    with socket.create_connection((broker.host, broker.port), 10) as sock:
        sock.sendall(b"CONNECT %b\r\n%bPING\r\n" % (json.dumps(login).encode(), b"".join(frames)))
        said = b""
        while b"PONG\r\n" not in said:
            piece = sock.recv(4096)
            assert piece, said
            said += piece
    return station_name, control.jetstream(f"STREAM.INFO.{station_name}$1")["state"]["messages"]


def test_no_odd_message_costs_the_batch(memphis, odd_station, read_all):
    name, count = odd_station
    assert count >= len(ODD_PAYLOADS) + 4, "the server refuses some of the headers"
    batch = read_all(memphis.consumer(name, "c"), count)
    rows = memphis_sync.Messages(batch).to_dicts()
    assert len(rows) == count
    assert [row["data"] for row in rows[: len(ODD_PAYLOADS)]] == [
        "first",
        "[" * 100_000,
        b"\xff\xfe",
        "",
        "\x00",
        '{"a":' * 2000,
        rows[6]["data"],
        "\ud800",
        "last",
    ]
    assert rows[6]["data"] == "1" * 5000 or rows[6]["data"] > 0, "by the version of Python"
    assert all(isinstance(row["headers"], dict) for row in rows)
    assert {type(message.get_data_deserialized()) for message in batch} == {bytearray}


@pytest.mark.parametrize("kind", list(SOURCES))
def test_an_odd_message_is_a_schema_error_and_nothing_else(memphis, odd_station, read_all, kind):
    name, count = odd_station
    memphis.create_schema(f"s-{name}", kind, schema_content=SOURCES[kind])
    memphis.enforce_schema(f"s-{name}", name)
    refused = 0
    for message in read_all(memphis.consumer(name, "c"), count):
        for options in ({}, {"as_dict": True}):
            try:
                message.get_data_deserialized(**options)
            except SchemaError:
                refused += 1
    assert refused >= 4


class Odd:
    """An object whose every attribute is an error."""

    def __getattr__(self, name):
        raise LookupError(name)


def released():
    view = memoryview(b"abc")
    view.release()
    return view


@pytest.mark.parametrize("kind", [None, *SOURCES])
def test_no_message_makes_produce_raise_what_it_does_not_document(memphis, station_name, kind):
    if kind is not None:
        memphis.create_schema(f"s-{station_name}", kind, schema_content=SOURCES[kind])
    memphis.station(station_name, schema_name="" if kind is None else f"s-{station_name}")
    producer = memphis.producer(station_name, "p")
    never = [
        {"a": float("nan")},
        {1: {2}},
        {(1,): 1},
        object(),
        Odd(),
        5,
        None,
        released(),
        "\ud800",
        1j,
        print,
        [Odd()],
    ]
    for message in never:
        for nonblocking in (False, True):
            with pytest.raises((ConfigurationError, SchemaError)):
                producer.produce(message, nonblocking=nonblocking)
    assert memphis.stats().accepted == 0


def test_views_of_any_form_are_their_bytes(memphis, station_name, read_all):
    numbers = array.array("i", [1, 2])
    views = [memoryview(numbers), memoryview(b"abcdef").cast("B", (2, 3)), memoryview(b"a-b-")[::2], memoryview(b"")]
    for view in views:
        memphis.produce(station_name, "p", view)
    found = [message.data for message in read_all(memphis.consumer(station_name, "c"), 4)]
    assert found == [numbers.tobytes(), b"abcdef", b"ab", b""]
