"""JSON Schema: what is taken, what is refused with which path, and that what is checked is what is sent."""

from __future__ import annotations

import collections
import decimal
import enum
import json
from typing import NamedTuple

import pytest
from hypothesis import given, strategies as st

from memphis_sync._protocol.json_text import JsonWriter
from memphis_sync._schema import FAILED, MISALIGNED, SourceError, compile_schema
from memphis_sync.errors import SchemaError
from memphis_sync.types import SchemaInfo

ORDER = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "properties": {
        "id": {"type": "integer", "minimum": 1},
        "note": {"type": ["string", "null"]},
        "lines": {"type": "array", "items": {"type": "object", "required": ["sku"]}},
        "a/b~c": {"type": "boolean"},
        "mail": {"type": "string", "format": "email"},
        "1": {"type": "string"},
    },
    "required": ["id"],
}


def json_schema(definition) -> object:
    text = definition if isinstance(definition, str) else json.dumps(definition)
    return compile_schema(SchemaInfo("order", "json", 3, text))


SCHEMA = json_schema(ORDER)


class Colour(str, enum.Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("message", "sent"),
    [
        ({"id": 1}, b'{"id": 1}'),
        ({"id": 1.0, "note": None}, b'{"id": 1.0, "note": null}'),
        ({"id": 1, "note": "\u00e9"}, b'{"id": 1, "note": "\\u00e9"}'),
        ({"id": 2**63}, b'{"id": 9223372036854775808}'),
        ({"id": 1, "lines": ({"sku": 1},)}, b'{"id": 1, "lines": [{"sku": 1}]}'),
        ({"id": 1, "note": Colour.RED}, b'{"id": 1, "note": "red"}'),
        ({"id": 1, 1: "text"}, b'{"id": 1, "1": "text"}'),
        ('{"id": 1}', b'{"id": 1}'),
        (' {"id":1, "note":"\u00e9"}\n', ' {"id":1, "note":"\u00e9"}\n'.encode()),
        (b'{"id":1}', b'{"id":1}'),
        (bytearray(b'{"id":1}'), b'{"id":1}'),
        (memoryview(b'{"id":1}'), b'{"id":1}'),
        (memoryview(b'}1:"di"{')[::-1], b'{"id":1}'),
    ],
)
def test_what_matches_is_sent_as_it_is(message, sent) -> None:
    payload = SCHEMA.encode(message)
    assert type(payload) is bytes
    assert payload == sent
    assert SCHEMA.decode(payload) == json.loads(sent)


@pytest.mark.parametrize(
    ("message", "path", "reason"),
    [
        ({}, "", '"id" is a required property'),
        ({"id": "secret"}, "/id", 'the value is not of type "integer"'),
        ({"id": 0}, "/id", "the value is less than the minimum of 1"),
        ({"id": True}, "/id", 'the value is not of type "integer"'),
        ({"id": 1, "lines": [{"sku": 1}, {}]}, "/lines/1", '"sku" is a required property'),
        ({"id": 1, "a/b~c": 1}, "/a~1b~0c", 'the value is not of type "boolean"'),
        ({"id": 1, "mail": "nobody"}, "/mail", 'the value is not a "email"'),
        ({"id": 1, 1: 5}, "/1", 'the value is not of type "string"'),
        ([], "", 'the value is not of type "object"'),
        ("[]", "", 'the value is not of type "object"'),
        ("5", "", 'the value is not of type "object"'),
        ({"id": float("nan")}, "/id", "a dict that cannot be written as JSON: it is nan"),
        ({"id": object()}, "/id", "a dict that cannot be written as JSON: it is of type object"),
        ({"id": 1, "lines": [{1, 2}]}, "/lines/0", "a dict that cannot be written as JSON: it is of type set"),
        ("", "", "Expecting Json format: Expecting value"),
        (b"", "", "Expecting Json format: Expecting value"),
        (b"{", "", "Expecting Json format: Expecting property name"),
        (b'{"id": 1} x', "", "Expecting Json format: Extra data"),
        (b'{"id": NaN}', "", "Expecting Json format: NaN is not a JSON value"),
        (b'{"id": -Infinity}', "", "Expecting Json format: -Infinity is not a JSON value"),
        (b"\xff\xfe{\x00}\x00", "", "Expecting Json format: it is not UTF-8 text"),
        ("\ud800", "", "the text cannot be written as UTF-8"),
        ("[" * 100_000, "", "Expecting Json format: "),
        (5, "", "Unsupported message type: int"),
        (None, "", "Unsupported message type: NoneType"),
        (object(), "", "Unsupported message type: object"),
    ],
)
def test_what_does_not_match_is_refused_with_place_and_reason(message, path, reason) -> None:
    with pytest.raises(SchemaError) as caught:
        SCHEMA.encode(message)
    error = caught.value
    assert error.path == path
    assert error.reason.startswith(reason)
    where = f"at {path}: " if path else ""
    assert str(error) == f"{FAILED}{where}{error.reason} (schema 'order', version 3)"
    assert "secret" not in str(error), "values stay out of texts"


class OneValue(dict):
    """What a web framework's form is: items() gives one value a key, indexing and get() all of them."""

    def items(self):
        return [(key, values[0]) for key, values in super().items()]


class Doubled(list):
    def __iter__(self):
        return iter([2 * item for item in list.__iter__(self)])


class Number(enum.IntEnum):
    ONE = 1


class Pair(NamedTuple):
    left: int
    right: str


@pytest.mark.parametrize(
    ("message", "sent", "definition", "refused_by"),
    [
        (OneValue(size=["L", "M"]), {"size": "L"}, {"type": "string"}, {"type": "array"}),
        (
            {"size": OneValue(a=[1])},
            {"size": {"a": 1}},
            {"properties": {"a": {"type": "integer"}}},
            {"maxProperties": 0},
        ),
        ({"size": (1, 2)}, {"size": [1, 2]}, {"type": "array"}, {"type": "object"}),
        ({"size": Pair(1, "x")}, {"size": [1, "x"]}, {"type": "array"}, {"type": "object"}),
        ({"size": Number.ONE}, {"size": 1}, {"const": 1}, {"type": "string"}),
        (
            {"size": {2: "x", None: 1}},
            {"size": {"2": "x", "null": 1}},
            {"required": ["2", "null"]},
            {"maxProperties": 1},
        ),
        ({"size": {True: 1}}, {"size": {"true": 1}}, {"required": ["true"]}, {"required": ["True"]}),
        (collections.defaultdict(list, size=[1]), {"size": [1]}, {"type": "array"}, {"type": "object"}),
    ],
)
def test_what_is_sent_is_what_is_checked(message, sent, definition, refused_by) -> None:
    """Whatever a subclass says of itself: others see the text only."""
    payload = json_schema({"properties": {"size": definition}, "required": ["size"]}).encode(message)
    assert json.loads(payload) == sent
    with pytest.raises(SchemaError) as caught:
        json_schema({"properties": {"size": refused_by}}).encode(message)
    assert caught.value.path == "/size"
    assert json_schema({"properties": {"size": definition}}).decode(payload) == sent


def test_a_list_that_shows_other_values_is_checked_as_it_is_written() -> None:
    message = Doubled([2, 3])
    text = json.dumps(message)
    for number in range(8):
        schema = json_schema({"contains": {"const": number}})
        if number in json.loads(text):
            assert schema.encode(message) == text.encode()
        else:
            with pytest.raises(SchemaError):
                schema.encode(message)


def test_a_default_of_the_users_is_used_and_its_result_checked() -> None:
    def default(value):
        if isinstance(value, decimal.Decimal):
            return str(value)
        raise TypeError("unknown")

    schema = compile_schema(
        SchemaInfo("s", "json", 1, '{"properties": {"a": {"type": "string", "maxLength": 3}}}'), JsonWriter(default)
    )
    assert schema.encode({"a": decimal.Decimal("1.5")}) == b'{"a": "1.5"}'
    with pytest.raises(SchemaError, match="longer than 3 characters") as caught:
        schema.encode({"a": decimal.Decimal("1.55")})
    assert caught.value.path == "/a"
    with pytest.raises(SchemaError, match="json_default raised TypeError for a set: unknown") as caught:
        schema.encode({"b": [{1}]})
    assert caught.value.path == "/b/0"


def test_a_deep_value_is_refused_and_not_a_crash() -> None:
    deep: object = {}
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(SchemaError, match=f"^{FAILED}"):
        json_schema({}).encode(deep)


def test_the_callers_objects_stay_as_they_are() -> None:
    message = {"id": 1, "lines": [{"sku": 1}], 1: "x"}
    before = repr(message)
    SCHEMA.encode(message)
    assert repr(message) == before
    buffer = bytearray(b'{"id":1}')
    payload = SCHEMA.encode(buffer)
    buffer[:] = b"xxxxxxxx"
    assert payload == b'{"id":1}'


def test_a_payload_that_does_not_match_is_refused_with_the_consumers_words() -> None:
    for payload in (b"{}", b"\xff", b"nothing", b'{"id": NaN}'):
        with pytest.raises(SchemaError, match=f"^{MISALIGNED}"):
            SCHEMA.decode(payload)


@pytest.mark.parametrize(
    ("draft", "definition", "good", "bad"),
    [
        ("http://json-schema.org/draft-04/schema#", {"minimum": 5, "exclusiveMinimum": True}, b"6", b"5"),
        ("http://json-schema.org/draft-06/schema#", {"exclusiveMinimum": 5}, b"6", b"5"),
        ("http://json-schema.org/draft-07/schema#", {"if": {"const": 1}, "then": False}, b"2", b"1"),
        ("http://json-schema.org/draft-07/schema#", {"format": "ipv4"}, b'"127.0.0.1"', b'"x"'),
        (
            "https://json-schema.org/draft/2019-09/schema",
            {"properties": {"a": {}}, "unevaluatedProperties": False},
            b'{"a":1}',
            b'{"b":1}',
        ),
        (
            "https://json-schema.org/draft/2020-12/schema",
            {"prefixItems": [{"type": "string"}], "items": False},
            b'["a"]',
            b"[1]",
        ),
    ],
)
def test_every_draft_by_its_own_rules(draft, definition, good, bad) -> None:
    schema = json_schema({"$schema": draft, **definition})
    assert schema.encode(good) == good
    with pytest.raises(SchemaError, match=f"^{FAILED}"):
        schema.encode(bad)


def test_without_a_draft_the_newest_counts() -> None:
    schema = json_schema({"prefixItems": [{"type": "string"}]})
    with pytest.raises(SchemaError):
        schema.encode([1])
    assert json_schema(True).encode(b"5") == b"5"
    with pytest.raises(SchemaError):
        json_schema(False).encode(b"5")


def test_references_inside_the_schema_are_followed_and_others_refused(tmp_path) -> None:
    inside = json_schema({"$ref": "#/$defs/a", "$defs": {"a": {"type": "integer"}}})
    assert inside.encode(b"1") == b"1"
    outside = tmp_path / "other.json"
    outside.write_text('{"type": "integer"}')
    for uri in (outside.as_uri(), "http://127.0.0.1:1/schema.json", "other.json"):
        with pytest.raises(SourceError):
            json_schema({"$ref": uri})


@pytest.mark.parametrize("source", ["", "{", "5", "[]", '"{}"', "null", '{"type": "nope"}', '{"pattern": "("}', "NaN"])
def test_a_source_that_is_no_schema_is_refused(source) -> None:
    with pytest.raises(SourceError, match=r"^schema 'order' \(version 3, json\) cannot be used: ."):
        json_schema(source)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda children: (
        st.lists(children, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), children, max_size=4)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), VALUES, max_size=4))
def test_what_goes_in_comes_out(value) -> None:
    schema = json_schema({"type": "object"})
    assert schema.decode(schema.encode(value)) == value
    assert schema.encode(json.dumps(value)) == json.dumps(value).encode()


@given(st.binary(max_size=40))
def test_any_bytes_are_taken_or_refused(taken_or_refused, data) -> None:
    taken_or_refused(SCHEMA, data)


def test_keys_that_become_the_same_text_are_checked_as_they_are_read() -> None:
    schema = json_schema({"properties": {"1": {"type": "string"}}})
    assert schema.encode({1: 5, "1": "x"}) == b'{"1": 5, "1": "x"}'
    with pytest.raises(SchemaError):
        schema.encode({"1": "x", 1: 5})
