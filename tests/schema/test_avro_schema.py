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
        ({"id": 2**31}, "shop.Order.id", "it is out of range: an int is from -2147483648 to 2147483647"),
        ({"id": 1, "big": 2**63}, "shop.Order.big", "it is out of range: a long is from -9223372036854775808 to 9223"),
        ({"id": 1, "note": 5}, "shop.Order.note", "it is of type int, expected null or string"),
        ({"id": 1, "note": {"string": 5}}, "shop.Order.note", "it is of type dict, expected null or string"),
        ({"id": 1, "note": {"int": 5}}, "shop.Order.note", "it is of type dict, expected null or string"),
        ({"id": 1, "lines": [{"sku": "a"}, {"sku": 5}]}, "shop.Line.sku", "it is of type int, expected string"),
        ({"id": 1, "lines": {}}, "shop.Order.lines", "it is of type dict, expected array"),
        ({"id": 1, "when": "2026"}, "shop.Order.when", "it is of type str, expected timestamp-millis"),
        ({"id": 1, "kind": "OTHER"}, "shop.Order.kind", "it is a string that is not one of PLAIN, GIFT"),
        ({"id": 1, "counts": {"a": "x"}}, "shop.Order.counts", "it is of type str, expected int"),
        ([], "", "it is of type list, expected record shop.Order"),
        ("5", "", "it is of type int, expected record shop.Order"),
        ("null", "", "it is missing or null, expected record shop.Order"),
        ({"id": dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc)}, "/id", "a dict that cannot be written as"),
        ({"id": 1, "price": float("inf")}, "/price", "a dict that cannot be written as JSON"),
        (b"{", "", "Expecting Avro format: "),
        (b"\xff", "", "Expecting Avro format: it is not UTF-8 text"),
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


# ---- logical types: JSON has the number or the text that stands for them --------------------------------------------


def field(kind, **more):
    return {"type": "record", "name": "R", "fields": [{"name": "v", "type": kind, **more}]}


def logical(kind, name, **more):
    return {"type": kind, "logicalType": name, **more}


@pytest.mark.parametrize(
    ("kind", "good", "bad", "reason"),
    [
        (logical("int", "date"), 19000, "2024-01-01", "it is of type str, expected date"),
        (logical("int", "time-millis"), 86_399_999, "10:00:00", "it is of type str, expected time-millis"),
        (logical("int", "time-millis"), 0, 86_400_000, "it is out of range: a time-millis is from 0 to 86399999"),
        (logical("long", "time-micros"), 86_399_999_999, -1, "it is out of range: a time-micros is from 0 to 863999"),
        (
            logical("long", "timestamp-millis"),
            -5,
            "2024-01-01T00:00:00Z",
            "it is of type str, expected timestamp-millis",
        ),
        (logical("long", "timestamp-micros"), 5, "2024-01-01T00:00:00", "it is of type str, expected timestamp-micros"),
        (logical("long", "local-timestamp-millis"), 5, "2024-01-01", "it is of type str, expected local-timestamp-"),
        (logical("long", "timestamp-millis"), 2**63 - 1, 2**63, "it is out of range: a long is from"),
        (
            logical("string", "uuid"),
            "12345678-1234-1234-1234-123456789abc",
            "not one",
            "it is a string that is not a UUID",
        ),
        (logical("string", "uuid"), "12345678-1234-1234-1234-123456789ABC", 5, "it is of type int, expected uuid"),
        (
            logical("bytes", "decimal", precision=4, scale=2),
            "\u0004\u00d2",
            "1234.5",
            "it is out of range: this decimal has",
        ),
        (logical("bytes", "decimal", precision=4), "\u0001", 12.5, "it is of type float, expected decimal"),
        (logical("string", "date"), "any text: not a type that a date has", 5, "it is of type int, expected string"),
        (logical("int", "of-mine"), 5, "5", "it is of type str, expected int"),
        (["null", logical("int", "date")], 5, "2024-01-01", "it is of type str, expected null or date"),
        ({"type": "array", "items": logical("int", "date")}, [5], ["2024-01-01"], "it is of type str, expected date"),
        ({"type": "fixed", "name": "F", "size": 2}, "ab", "abc", "it is out of range: it has 3 bytes; F has 2"),
        ("bytes", "\u00ff", "\u0100", "it is a string with characters beyond U+00FF"),
    ],
)
def test_a_logical_type_is_what_stands_for_it(kind, good, bad, reason) -> None:
    schema = avro(field(kind))
    assert schema.encode({"v": good}) == json.dumps({"v": good}).encode()
    with pytest.raises(SchemaError) as caught:
        schema.encode({"v": bad})
    assert (caught.value.path, caught.value.reason[: len(reason)]) == ("R.v", reason)
    with pytest.raises(SchemaError, match=f"^{MISALIGNED}"):
        schema.decode(json.dumps({"v": bad}).encode())


@pytest.mark.parametrize(
    ("kind", "value", "path", "reason"),
    [
        (
            ["null", {"type": "record", "name": "S", "fields": [{"name": "x", "type": "int"}]}],
            {"x": "a"},
            "S.x",
            "it is of ty",
        ),
        (["int", "string"], 2**31, "R.v", "it is out of range: an int is"),
        (
            ["null", {"type": "array", "items": ["null", {"type": "map", "values": "int"}]}],
            [{"k": 1.5}],
            "R.v",
            "it is of type fl",
        ),
        (
            [
                "null",
                {"type": "record", "name": "A", "fields": [{"name": "a", "type": "int"}]},
                {
                    "type": "record",
                    "name": "B",
                    "fields": [
                        {
                            "name": "b",
                            "type": [
                                "null",
                                {"type": "record", "name": "C", "fields": [{"name": "c", "type": "long"}]},
                            ],
                        }
                    ],
                },
            ],
            {"b": {"c": True}},
            "C.c",
            "it is of type bool, expected long",
        ),
    ],
)
def test_the_reason_is_of_the_deepest_place(kind, value, path, reason) -> None:
    with pytest.raises(SchemaError) as caught:
        avro(field(kind)).encode({"v": value})
    assert (caught.value.path, caught.value.reason[: len(reason)]) == (path, reason)


# ---- sources --------------------------------------------------------------------------------------------------------


ENUM = {"type": "enum", "name": "E", "symbols": ["A", "B"]}


@pytest.mark.parametrize(
    ("definition", "said"),
    [
        (
            {"type": "record", "name": "R", "fields": [{"name": "my-field", "type": "int"}]},
            "at /fields/0/name: the name 'my-field' is not",
        ),
        (
            {"type": "record", "name": "R", "fields": [{"name": "1a", "type": "int"}]},
            "at /fields/0/name: the name '1a' is not",
        ),
        ({"type": "record", "name": "R", "fields": [{"type": "int"}]}, "at /fields/0/name: it has no name"),
        ({"type": "record", "name": "R", "fields": [{"name": "a"}]}, "at /fields/0: it has no type"),
        (
            {"type": "record", "name": "R", "fields": [{"name": "a", "type": "int"}, {"name": "a", "type": "int"}]},
            "at /fields/1/name: the record has the field 'a' twice",
        ),
        ({"type": "record", "name": "R", "fields": {}}, "at /fields: a record needs a list of fields"),
        ({"type": "record", "name": "my-record", "fields": []}, "at /name: the name 'my-record' is not valid"),
        (
            {"type": "record", "name": "R", "namespace": "a..b", "fields": []},
            "at /namespace: the namespace 'a..b' is not",
        ),
        ({"type": "record", "fields": []}, "at /name: it has no name"),
        ({"type": "record", "name": "int", "fields": []}, "at /name: the name 'int' is that of a built-in type"),
        ([["int"]], "at /0: a union must not contain another union"),
        (field([["int"], "null"]), "at /fields/0/type/0: a union must not contain another union"),
        (["int", "int"], "at /1: the union has int twice"),
        ([{"type": "array", "items": "int"}, {"type": "array", "items": "long"}], "at /1: the union has array twice"),
        ([ENUM, "E"], "at /1: the union has E twice"),
        ([], "a union needs at least one type"),
        (
            field("int", default="x"),
            "at /fields/0/default: the default does not match: it is of type str, expected int",
        ),
        (field("int", default=2**31), "at /fields/0/default: the default does not match: it is out of range: an int"),
        (
            field(["null", "string"], default="x"),
            "at /fields/0/default: the default does not match: it is of type str, expected null; a union's",
        ),
        (
            field("bytes", default="\u0100"),
            "at /fields/0/default: the default does not match: it is a string with char",
        ),
        (
            field(ENUM, default="C"),
            "at /fields/0/default: the default does not match: it is a string that is not one of A, B",
        ),
        (field(logical("int", "date"), default="2024-01-01"), "at /fields/0/default: the default does not match"),
        ({**ENUM, "default": "C"}, "at /default: the default is not one of the symbols"),
        ({**ENUM, "symbols": ["A", "A"]}, "at /symbols/1: the symbol 'A' occurs twice"),
        ({**ENUM, "symbols": ["a-b"]}, "at /symbols/0: the symbol 'a-b' is not valid"),
        ({**ENUM, "symbols": []}, "at /symbols: an enum needs a list of symbols"),
        ({"type": "fixed", "name": "F", "size": -1}, "at /size: the size of a fixed must be a whole number"),
        ({"type": "fixed", "name": "F"}, "at /size: "),
        ({"type": "array"}, "it has no items"),
        ({"type": "map", "value": "int"}, "it has no values"),
        (field("Nothing"), "at /fields/0/type: the type 'Nothing' is not defined before this place"),
        (field(5), "at /fields/0/type: a type must be a name, an object or a list of types, not a number"),
        (
            {"type": "record", "name": "R", "fields": [{"name": "a", "type": ENUM}, {"name": "b", "type": ENUM}]},
            "at /fields/1/type/name: the name 'E' is already that of another type",
        ),
        (
            {"type": "record", "name": "R", "fields": [{"name": "a", "type": "int", "order": "up"}]},
            "at /fields/0/order: ",
        ),
        ({"type": "record", "name": "R", "aliases": "x", "fields": []}, "at /aliases: "),
        ('{"type": "int", "type": "long"}', "an object has the key 'type' twice"),
        ('{"type": "record",\n "name": }', "Expecting value: line 2 column 10"),
    ],
)
def test_a_source_that_breaks_a_rule_is_refused_with_its_place(definition, said) -> None:
    with pytest.raises(SourceError) as caught:
        avro(definition)
    assert caught.value.reason.startswith(said)


@pytest.mark.parametrize(
    "definition",
    [
        {"type": "record", "name": "a.b.R", "fields": [{"name": "next", "type": ["null", "R"], "default": None}]},
        {"type": "record", "name": "R", "namespace": "", "fields": [{"name": "_x1", "type": {"type": "int"}}]},
        {"type": "record", "name": "R", "doc": "d", "aliases": ["old.R"], "fields": [], "more": {"of": "mine"}},
        {"type": "record", "name": "R", "fields": [], "items": 5, "values": "x", "symbols": 7},
        {**ENUM, "fields": 5, "items": ["no type"]},
        {"type": "fixed", "name": "F", "size": 2, "fields": 5, "symbols": 7, "values": 5},
        {"type": "error", "name": "E", "fields": [{"name": "m", "type": "string"}]},
        {**ENUM, "default": "A"},
        field(ENUM, default="B"),
        field({"type": "map", "values": ["null", "int"]}, default={"a": None}),
        field({"type": "record", "name": "S", "fields": [{"name": "x", "type": "int"}]}, default={"x": 5}),
        field("bytes", default="\u00ff"),
        field("double", default=1),
        field(logical("bytes", "decimal", precision=4, scale=2)),
        ["null", {"type": "array", "items": "int"}, {"type": "map", "values": "int"}, ENUM],
        {
            "type": "record",
            "name": "x.A",
            "fields": [
                {"name": "a", "type": {"type": "fixed", "name": "F", "size": 2}},
                {"name": "b", "type": "x.F"},
                {"name": "c", "type": {"type": "F"}},
            ],
        },
    ],
)
def test_a_source_by_the_rules_is_taken(definition) -> None:
    avro(definition)


def nested(levels, leaf):
    value = leaf
    for _ in range(levels):
        value = {"next": value}
    return value


def test_a_union_that_forks_at_each_level_is_checked_in_bounded_time() -> None:
    """Each of two types leads back to both: a check that tries all ways takes two to the power of sixty."""
    kinds = ["null", "A", "B"]
    schema = avro(
        {
            "type": "record",
            "name": "A",
            "fields": [
                {
                    "name": "next",
                    "type": ["null", "A", {"type": "record", "name": "B", "fields": [{"name": "next", "type": kinds}]}],
                }
            ],
        }
    )
    assert schema.encode(nested(60, None)) == json.dumps(nested(60, None)).encode()
    with pytest.raises(SchemaError, match="it is of type str, expected null or record A or record B"):
        schema.encode(nested(60, "x"))


def test_a_chain_of_unions_is_checked_in_bounded_time() -> None:
    kind: object = "int"
    again: object = "int"
    for level in range(24):
        kind = [
            {"type": "record", "name": f"A{level}", "fields": [{"name": "next", "type": kind}]},
            {"type": "record", "name": f"B{level}", "fields": [{"name": "next", "type": again}]},
        ]
        again = [f"A{level}", f"B{level}"]
    schema = avro(kind)
    assert schema.encode(nested(24, 5))
    with pytest.raises(SchemaError, match="expected int"):
        schema.encode(nested(24, "x"))


@given(
    st.recursive(
        st.none() | st.integers(-5, 5) | st.text(max_size=2),
        lambda inner: (
            st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "b", "next"]), inner, max_size=3)
        ),
        max_leaves=6,
    )
)
def test_both_ways_to_check_say_the_same(value) -> None:
    definition = {
        "type": "record",
        "name": "A",
        "fields": [
            {"name": "a", "type": ["null", "int", "A"]},
            {
                "name": "b",
                "type": ["string", {"type": "array", "items": ["int", "A"]}, {"type": "map", "values": "int"}],
                "default": "",
            },
        ],
    }
    schema = avro(definition)
    found = []
    for is_branching in (False, True):
        schema._is_branching = is_branching
        found.append(schema._matches(value, ""))
    assert found[0] == found[1]
