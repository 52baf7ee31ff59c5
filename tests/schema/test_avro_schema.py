"""Avro: JSON text on the wire, as plain values or in Avro's own JSON encoding."""

from __future__ import annotations

import datetime as dt
import json

import pytest
from hypothesis import given, strategies as st

from memphis_sync._schema import FAILED, MISALIGNED, SourceError, compile_schema
from memphis_sync.errors import SchemaError
from memphis_sync.types import SchemaInfo

ORDER = {
    "type": "record",
    "name": "Order",
    "namespace": "shop",
    "fields": [
        {"name": "id", "type": "int"},
        {"name": "big", "type": "long", "default": 0},
        {"name": "price", "type": "double", "default": 0.5},
        {"name": "note", "type": ["null", "string"], "default": None},
        {"name": "either", "type": ["int", "string"], "default": 1},
        {
            "name": "lines",
            "type": {
                "type": "array",
                "items": {"type": "record", "name": "Line", "fields": [{"name": "sku", "type": "string"}]},
            },
            "default": [],
        },
        {"name": "when", "type": {"type": "long", "logicalType": "timestamp-millis"}, "default": 0},
        {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["PLAIN", "GIFT"]}, "default": "PLAIN"},
        {"name": "counts", "type": {"type": "map", "values": "int"}, "default": {}},
    ],
}


def avro(definition) -> object:
    text = definition if isinstance(definition, str) else json.dumps(definition)
    return compile_schema(SchemaInfo("order", "avro", 1, text))


SCHEMA = avro(ORDER)


@pytest.mark.parametrize(
    "message",
    [
        {"id": 1},
        {"id": -(2**31), "big": 2**63 - 1, "price": 1, "note": "x", "either": "y"},
        {"id": 1, "note": None, "lines": [{"sku": "a"}, {"sku": "b"}], "when": 1_700_000_000_000},
        {"id": 1, "kind": "GIFT", "counts": {"a": 1}},
        {"id": 1, "unknown": "fields are ignored"},
        {"id": 1, "note": {"string": "Avro's own JSON"}},
        {"id": 1, "note": {"string": "x"}, "either": {"int": 5}, "lines": [{"sku": "a"}]},
    ],
)
def test_what_matches_is_sent_as_json(message) -> None:
    before = repr(message)
    text = json.dumps(message)
    for given_as in (message, text, text.encode(), bytearray(text.encode()), memoryview(text.encode())):
        payload = SCHEMA.encode(given_as)
        assert type(payload) is bytes
        assert payload == text.encode()
    assert repr(message) == before
    assert SCHEMA.decode(text.encode()) == message


@pytest.mark.parametrize(
    ("message", "path", "reason"),
    [
        ({}, "shop.Order.id", "it is missing or null, expected int"),
        ({"id": "secret"}, "shop.Order.id", "it is of type str, expected int"),
        ({"id": 1.0}, "shop.Order.id", "it is of type float, expected int"),
        ({"id": True}, "shop.Order.id", "it is of type bool, expected int"),
        ({"id": 2**31}, "shop.Order.id", "it is of type int, expected int"),
        ({"id": 1, "big": 2**63}, "shop.Order.big", "it is of type int, expected long"),
        ({"id": 1, "note": 5}, "shop.Order.note", "it is of type int, expected null or string"),
        ({"id": 1, "note": {"string": 5}}, "shop.Order.note", "it is of type dict, expected null or string"),
        ({"id": 1, "note": {"int": 5}}, "shop.Order.note", "it is of type dict, expected null or string"),
        ({"id": 1, "lines": [{"sku": "a"}, {"sku": 5}]}, "shop.Line.sku", "it is of type int, expected string"),
        ({"id": 1, "lines": {}}, "shop.Order.lines", "it is of type dict, expected array"),
        ({"id": 1, "when": "2026"}, "shop.Order.when", "it is of type str, expected timestamp-millis"),
        ({"id": 1, "kind": "OTHER"}, "shop.Order.kind", "it is of type str, expected one of PLAIN, GIFT"),
        ({"id": 1, "counts": {"a": "x"}}, "shop.Order.counts", "it is of type str, expected int"),
        ([], "", "it is of type list, expected record shop.Order"),
        ("5", "", "it is of type int, expected record shop.Order"),
        ("null", "", "it is missing or null, expected record shop.Order"),
        ({"id": dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc)}, "/id", "a dict that cannot be written as"),
        ({"id": 1, "price": float("inf")}, "/price", "a dict that cannot be written as JSON"),
        (b"{", "", "Expecting Avro format: "),
        (b"\xff", "", "Expecting Avro format: it is no UTF-8 text"),
        (b"\x02\x00", "", "Expecting Avro format: "),
        (5, "", "Unsupported message type: int"),
        (None, "", "Unsupported message type: NoneType"),
    ],
)
def test_what_does_not_match_is_refused_with_place_and_reason(message, path, reason) -> None:
    with pytest.raises(SchemaError) as caught:
        SCHEMA.encode(message)
    error = caught.value
    assert str(error).startswith(FAILED)
    assert (error.path, error.reason[: len(reason)]) == (path, reason)
    assert "secret" not in str(error), "values stay out of texts"
    if isinstance(message, dict) and "cannot be written" not in reason:
        with pytest.raises(SchemaError, match=f"^{MISALIGNED}"):
            SCHEMA.decode(json.dumps(message).encode())


def test_bytes_are_text_in_avros_own_json() -> None:
    schema = avro({"type": "record", "name": "R", "fields": [{"name": "raw", "type": "bytes"}]})
    assert schema.encode({"raw": "\u00ff\u0000"}) == b'{"raw": "\\u00ff\\u0000"}'
    with pytest.raises(SchemaError):
        schema.encode({"raw": "\u0100"})
    with pytest.raises(SchemaError, match="cannot be written as JSON"):
        schema.encode({"raw": b"\xff"})


@pytest.mark.parametrize(
    ("source", "good"),
    [('"int"', b"5"), ('{"type": "array", "items": "int"}', b"[1, 2]"), ('["null", "string"]', b'"x"')],
)
def test_schemas_that_are_no_records(source, good) -> None:
    schema = avro(source)
    assert schema.encode(good) == good
    with pytest.raises(SchemaError):
        schema.encode(b'{"a": 1}')


@pytest.mark.parametrize(
    "source",
    ["", "{", "5", '"nothing"', '{"type": "record"}', '{"type": "record", "name": "a", "fields": [1]}', "null"],
)
def test_a_source_that_is_no_schema_is_refused(source) -> None:
    with pytest.raises(SourceError, match=r"^schema 'order' \(version 1, avro\) cannot be used: ."):
        avro(source)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
ORDERS = st.fixed_dictionaries(
    {"id": st.integers(-(2**31), 2**31 - 1)},
    optional={
        "big": st.integers(-(2**63), 2**63 - 1),
        "price": st.floats(allow_nan=False, allow_infinity=False),
        "note": st.none() | TEXT,
        "either": st.integers(-(2**31), 2**31 - 1) | TEXT,
        "lines": st.lists(st.fixed_dictionaries({"sku": TEXT}), max_size=3),
        "kind": st.sampled_from(["PLAIN", "GIFT"]),
        "counts": st.dictionaries(TEXT, st.integers(-(2**31), 2**31 - 1), max_size=3),
    },
)


@given(ORDERS)
def test_what_goes_in_comes_out(message) -> None:
    assert SCHEMA.decode(SCHEMA.encode(message)) == message


@given(st.binary(max_size=40))
def test_any_bytes_are_taken_or_refused(taken_or_refused, data) -> None:
    taken_or_refused(SCHEMA, data)
