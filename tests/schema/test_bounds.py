"""Schemas and messages made to take for ever: refused when created and when met, and a check always ends."""

from __future__ import annotations

import contextlib
import json
import threading
import time

import jsonschema_rs
import pytest

from memphis_sync._schema import FAILED, SourceError, bounds, compile_schema, json_schema
from memphis_sync.broker.request_error import RequestError
from memphis_sync.broker.service.schema_sources import compiled
from memphis_sync.errors import SchemaError
from memphis_sync.types import SchemaInfo

ENDS_S = 30.0  # of a machine that is busy; without the bounds it is years, or all of the memory


# Who counts the steps of a check: an older jsonschema-rs, as that for Python 3.9, does not call what would count.
COUNTED = ["before the check", "by the library"][: 1 + json_schema.CALLS_KEYWORDS]


@pytest.fixture(params=COUNTED)
def counted(request, monkeypatch):
    """Both ways in turn, where the library has both."""
    monkeypatch.setattr(json_schema, "CALLS_KEYWORDS", request.param == "by the library")
    return request.param


def schema_of(kind, definition):
    text = definition if isinstance(definition, str) else json.dumps(definition)
    return compile_schema(SchemaInfo("s", kind, 1, text))


def doubling(levels, keyword, link=lambda reference: reference):
    """A schema where each level leads to the next one twice."""
    parts = {f"a{n}": {keyword: [link({"$ref": f"#/$defs/a{n + 1}"})] * 2} for n in range(levels)}
    return {"$defs": {**parts, f"a{levels}": {"type": "integer"}}, "$ref": "#/$defs/a0"}


def inside(reference):
    return {"properties": {"x": reference}}


def nested(levels, leaf):
    value = leaf
    for _ in range(levels):
        value = {"x": value}
    return value


def deep(levels):
    value: object = {}
    for _ in range(levels):
        value = {"not": value}
    return value


LATE = {
    "$ref": "#/x-a",
    "x-a": {"items": {"$ref": "#/x-b"}},
    "x-b": {"items": {"allOf": [{"$ref": "#/x-c"}]}},
    "x-c": {"not": {"$ref": "#/x-c"}},
}
DRAFT_2019 = "https://json-schema.org/draft/2019-09/schema"
CHAIN = {"$defs": {**{f"b{n}": {"$ref": f"#/$defs/b{n + 1}"} for n in range(250)}, "b250": {}}, "$ref": "#/$defs/b0"}


@pytest.mark.parametrize(
    ("kind", "source", "said"),
    [
        ("json", doubling(30, "allOf"), "a value would be checked by more than 10000 parts"),
        ("json", doubling(30, "anyOf"), "a value would be checked by more than 10000 parts"),
        ("json", doubling(30, "oneOf", lambda reference: {"not": reference}), "by more than 10000 parts"),
        ("json", {"anyOf": [{"const": n} for n in range(10_001)]}, "a value would be checked by more than 10000 parts"),
        ("json", {"$ref": "#"}, "it leads back to itself without going into the value"),
        ("json", {"allOf": [{"$ref": "#"}, {"$ref": "#"}]}, "it leads back to itself without going into the value"),
        ("json", {"$dynamicAnchor": "n", "not": {"$dynamicRef": "#n"}}, "it leads back to itself without going into"),
        (
            "json",
            {"$dynamicAnchor": "n", "anyOf": [{"$dynamicRef": "#"}]},
            "it leads back to itself without going into",
        ),
        (
            "json",
            {"$schema": DRAFT_2019, "$recursiveAnchor": True, "anyOf": [{"$recursiveRef": "#"}]},
            "it leads back to itself without going into the value",
        ),
        (
            "json",
            {
                "$defs": {f"a{n}": {"$id": f"{n}", "$dynamicAnchor": "n"} for n in range(400)},
                "items": {"prefixItems": [{"$dynamicRef": "#n"}] * 400},
            },
            "references like this one may lead to parts in more than 100000 ways",
        ),
        ("json", LATE, "it leads back to itself without going into the value"),
        ("json", CHAIN, "more than 200 parts refer to each other in a row"),
        ("json", deep(150), "it is nested more than 100 levels deep"),
        ("json", "[" * 100_000, "it is nested more than 100 levels deep"),
        (
            "json",
            json.dumps({"const": "x" * bounds.MAX_SOURCE}),
            f"characters; a json schema may have {bounds.MAX_SOURCE} at most",
        ),
        ("avro", '{"type": "array", "items":' * 150 + '"int"' + "}" * 150, "it is nested more than 100 levels deep"),
        ("avro", {"type": "int", "doc": "x" * bounds.MAX_SOURCE}, "characters; a avro schema may have"),
        (
            "graphql",
            "type Query { " + "x" * 7_000_000 + ": Int }",
            "it has 7000020 characters; a graphql",
        ),
        ("graphql", "type Query { a: " + "[" * 5000 + "Int" + "]" * 5000 + " }", ""),
    ],
    ids=range(19),
)
def test_a_source_beyond_the_bounds_is_refused_by_client_and_broker(kind, source, said) -> None:
    text = source if isinstance(source, str) else json.dumps(source)
    start = time.monotonic()
    with pytest.raises(SourceError) as caught:
        schema_of(kind, text)
    assert said in caught.value.reason
    with pytest.raises(RequestError, match=r"^your (json schema|Avro file) is invalid: |Syntax Error|it has 7000020"):
        compiled("s", kind, 1, text)
    assert time.monotonic() - start < ENDS_S


def test_a_descriptor_beyond_the_bounds_is_refused() -> None:
    for info in (
        SchemaInfo("s", "protobuf", 1, "", "A" * (bounds.MAX_DESCRIPTOR + 1), "M"),
        SchemaInfo("s", "protobuf", 1, "x" * (bounds.MAX_SOURCE + 1), "", "M"),
    ):
        with pytest.raises(SourceError, match="characters"):
            compile_schema(info)


TREE = {
    "$defs": {
        "n": {
            "anyOf": [inside({"$ref": "#/$defs/n"}) | {"required": ["x"]}, inside({"$ref": "#/$defs/n"}), {"const": 1}],
            "type": ["object", "integer"],
        }
    },
    "$ref": "#/$defs/n",
}


WHOLE = {"type": "integer"}
ASKED_AGAIN = {"anyOf": [{"properties": {"x": {"$ref": "#"}}}], "type": "object"}  # by an unevaluatedProperties
LIST_OF_ANY = {
    "$id": "http://x/list",
    "$dynamicAnchor": "n",
    "anyOf": [{"items": {"$dynamicRef": "#n"}}, {"items": {"$dynamicRef": "#n"}, "minItems": 2}],
    "type": "array",
}
WIDE = {str(n): 1 for n in range(3000)}


def record(fields):
    return {"type": "record", "name": "R", "fields": fields}


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        (doubling(30, "anyOf", inside), nested(30, "x")),
        (doubling(30, "oneOf", inside), nested(30, 1)),
        (doubling(30, "allOf", lambda reference: {"additionalProperties": reference}), nested(30, "x")),
        (doubling(30, "anyOf", lambda reference: {"not": inside(reference)}), nested(30, "x")),
        (doubling(30, "anyOf", lambda reference: {"patternProperties": {"x": reference}}), nested(30, "x")),
        (TREE, nested(100, "x")),
        ({"items": {"pattern": r"^(?=a)(a|aa)+\\1$"}}, ["a" * 60 + "b"] * 20_000),
        ({"items": {"pattern": r"^(a+)+$"}}, ["a" * 60 + "b"] * 20_000),
        ({"items": {"anyOf": [{"const": n} for n in range(5000)]}}, [6000] * 20_000),
        ({"items": {"enum": [n + 0.5 for n in range(2000)]}}, [1999.5] * 20_000),
        ({"items": {"enum": [[n] for n in range(2000)]}}, [[1999]] * 100_000),
        ({"items": {"dependentRequired": {f"a{n}": ["b"] for n in range(20_000)}}}, [{}] * 200_000),
        ({"items": {"patternProperties": {f"^{n}x": WHOLE for n in range(3000)}}}, [WIDE] * 20),
        (
            {"patternProperties": {r"^(?=a)(a|aa)+\\1$": True}},
            {"a" * 60 + f"b{n}": 1 for n in range(50_000)},
        ),
        ({"items": {"anyOf": [*[False] * 100_000, True]}}, [1] * 20_000),
        ({"anyOf": [{"items": {"anyOf": [{"const": n} for n in range(5000)]}}]}, [6000] * 400),
        ({"anyOf": [{"items": {"enum": [f"{n}" for n in range(50_000)]}}]}, [1] * 2000),
        ({"anyOf": [{"items": {"required": [f"{n}" for n in range(50_000)]}}]}, [{}] * 100),
        ({**ASKED_AGAIN, "unevaluatedProperties": False}, nested(100, "x")),
        (
            {"contains": {"$ref": "#"}, "unevaluatedItems": False, "type": "array"},
            json.loads("[" * 100 + "1" + "]" * 100),
        ),
        (LIST_OF_ANY, json.loads("[" * 100 + "1" + "]" * 100)),
    ],
    ids=range(21),
)
@pytest.mark.usefixtures("counted")
def test_the_check_of_a_message_ends_and_lets_others_run(definition, message) -> None:
    ends_and_lets_others_run(schema_of("json", definition), message)


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        (record([{"name": f"f{n}", "type": ["null", "int"], "default": None} for n in range(8000)]), [{}] * 20_000),
        (record([{"name": f"f{n}", "type": ["null", "int"]} for n in range(5000)]), [{"f1": 1}] * 20_000),
        ({"type": "enum", "name": "E", "symbols": [f"s{n}" for n in range(50_000)]}, ["s49999"] * 20_000 + ["no"]),
    ],
    ids=["absent fields with a default", "absent fields that may be null", "an enum's symbols"],
)
def test_the_check_of_an_avro_message_ends_and_lets_others_run(definition, message) -> None:
    start = time.monotonic()
    schema = schema_of("avro", {"type": "array", "items": definition})
    assert time.monotonic() - start < ENDS_S
    ends_and_lets_others_run(schema, message)


def ends_and_lets_others_run(schema, message) -> None:
    gaps: list[float] = []
    over = threading.Event()

    def tick() -> None:
        last = time.monotonic()
        while not over.wait(0.01):
            gaps.append(time.monotonic() - last)
            last = time.monotonic()

    ticking = threading.Thread(target=tick)
    ticking.start()
    start = time.monotonic()
    try:
        with pytest.raises(SchemaError, match=f"^{FAILED}"):
            schema.encode(message)
    finally:
        over.set()
        ticking.join()
    assert time.monotonic() - start < ENDS_S
    assert max(gaps, default=0) < 5, "the interpreter was held"


def tree(levels):
    return {"left": tree(levels - 1), "right": tree(levels - 1)} if levels else 1


@pytest.mark.parametrize(
    ("definition", "good", "bad", "path"),
    [
        # a tree, each node checked once: the reason has its place
        (
            {"properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}}, "type": ["object", "integer"]},
            tree(10),
            {"left": {"right": "x"}},
            "/left/right",
        ),
        # any JSON, nothing of it a text
        (
            {"additionalProperties": {"$ref": "#"}, "items": {"$ref": "#"}, "not": {"type": "string"}},
            {"a": [1, {"b": [[]]}]},
            {"a": [1, {"b": ["x"]}]},
            "/a/1/b/0",
        ),
        # several ways to a part, which are tried in counted steps
        (TREE, nested(12, 1), "x", ""),
        ({"$defs": {"a/b": {"type": "integer"}}, "items": {"$ref": "#/$defs/a~1b"}}, [1], ["x"], "/0"),
        ({"$defs": {"a": {"$anchor": "here", "type": "integer"}}, "items": {"$ref": "#here"}}, [1], ["x"], "/0"),
        (
            {"$id": "http://x/y", "$defs": {"a": {"$id": "z", "type": "integer"}}, "items": {"$ref": "z"}},
            [1],
            ["x"],
            "/0",
        ),
        (
            {"properties": {"a": {"type": "integer"}}, "additionalProperties": {"$ref": "#/properties/a"}},
            {"b": 1},
            {"b": ""},
            "/b",
        ),
        (
            {"allOf": [{"type": "array"}, {"items": {"$ref": "#/allOf/2"}}, {"type": ["array", "integer"]}]},
            [1],
            ["x"],
            "/0",
        ),
        ({"x-own": {"a": {"type": "integer"}}, "items": {"$ref": "#/x-own/a"}}, [1], ["x"], "/0"),
        ({"items": {"enum": [1, "a", None, [1.5]], "multipleOf": 0.5}}, [1, "a", [1.5]], ["x"], "/0"),
        (
            {"patternProperties": {"^a": WHOLE, "b$": WHOLE}, "dependentRequired": {"a": ["b"]}},
            {"a": 1, "b": 1},
            {"ab": ""},
            "/ab",
        ),
        (True, [1], None, ""),
        ({**ASKED_AGAIN, "unevaluatedProperties": False}, nested(8, {}), nested(3, 1), ""),
        ({**LIST_OF_ANY, "unevaluatedItems": False}, [[[]], []], [[[]], [1]], ""),
        (
            {"$schema": DRAFT_2019, "$recursiveAnchor": True, "items": {"$recursiveRef": "#"}, "type": "array"},
            [[[]], []],
            [[[]], [1]],
            "/1/0",
        ),
    ],
    ids=range(15),
)
@pytest.mark.usefixtures("counted")
def test_what_real_schemas_do_stays_as_it_is(definition, good, bad, path) -> None:
    """Also when steps are counted: that schema is another one."""
    schema = schema_of("json", definition)
    text = json.dumps(good)
    assert schema.encode(text) == text.encode()
    schema._in_steps(good, text)
    if bad is None:
        return
    with pytest.raises(SchemaError) as caught:
        schema.encode(json.dumps(bad))
    assert caught.value.path == path
    with pytest.raises(jsonschema_rs.ValidationError):
        schema._in_steps(bad, json.dumps(bad))


def test_what_another_way_makes_needless_counts_only_before_the_check(counted) -> None:
    """A library that counts for itself comes to the end of the first way, and there it is done."""
    schema = schema_of("json", TREE)
    if counted == "by the library":
        assert schema.encode(nested(100, 1))
    else:
        with pytest.raises(SchemaError, match="checking it against this schema takes more than 2000000 steps"):
            schema.encode(nested(100, 1))


@pytest.mark.usefixtures("counted")
def test_a_large_message_meets_long_lists_and_many_names() -> None:
    """None of them is so long that it counts: texts and whole numbers are sets, and real messages fill their fields."""
    for definition, message in (
        ({"items": {"enum": list(range(5000))}}, [4999] * 50_000),
        ({"items": {"enum": [f"place {n}" for n in range(5000)]}}, ["place 4999"] * 50_000),
        ({"patternProperties": {"^1": WHOLE, "^2": WHOLE}}, {str(n): 1 for n in range(50_000)}),
        ({"items": {"properties": {f"f{n}": WHOLE for n in range(300)}}}, [{"f1": 1}] * 10_000),
    ):
        assert schema_of("json", definition).encode(message)
    fields = [{"name": f"f{n}", "type": ["null", "int"], "default": None} for n in range(100)]
    assert schema_of("avro", {"type": "array", "items": record(fields)}).encode([{"f1": 1}] * 20_000)


@pytest.mark.usefixtures("counted")
def test_a_large_message_is_checked_in_counted_steps_with_the_same_reason(monkeypatch) -> None:
    definition = {"items": {"properties": {"id": {"type": "integer", "maximum": 9}}}}
    schema = schema_of("json", definition)
    monkeypatch.setattr(schema, "_uncounted", 0)
    assert schema.encode([{"id": 1}] * 100)
    with pytest.raises(SchemaError, match="the value is greater than the maximum of 9") as caught:
        schema.encode([{"id": 1}] * 50 + [{"id": 10}])
    assert caught.value.path == "/50/id"


def test_of_too_many_ways_that_fail_none_is_named() -> None:
    schema = schema_of("json", {"anyOf": [{"items": {"enum": [1, 2]}}, {"type": "integer"}]})
    with pytest.raises(SchemaError, match="the value is not valid under any of the schemas listed in the 'anyOf' keyw"):
        schema.encode([1, 2, 3] * 100)
    with pytest.raises(SchemaError, match="it does not match; the schema has too many alternatives to say why"):
        schema.encode([1, 2, 3] * 1000)
    assert schema.encode([1, 2] * 1000)


def what_json_says(text):
    with pytest.raises(ValueError, match="line") as caught:
        json.loads(text)
    return str(caught.value)


@pytest.mark.parametrize(
    ("definition", "said"),
    [
        (
            {"properties": {"a": {"type": "strin"}}},
            'at /properties/a/type: it is "strin"; a type is one of array, bool',
        ),
        ({"properties": {"a": {"type": []}}}, "at /properties/a/type: it is []; a type is one of array"),
        ({"properties": {"a": {"minimum": "x"}}}, 'at /properties/a/minimum: the value is not of type "number"'),
        ({"properties": {"a/b": {"pattern": "("}}}, "at /properties/a~1b/pattern: "),
        ({"required": "a"}, 'at /required: the value is not of type "array"'),
        ({"properties": {"a": {"$ref": "#/$defs/nope"}}}, "at /properties/a/$ref: there is nothing at '#/$defs/nope'"),
        (
            {"$defs": {"a": {"items": {"$ref": "#/definitions/a"}}}},
            "at /$defs/a/items/$ref: there is nothing at '#/def",
        ),
        ({"anyOf": [{}, {"$ref": "#nope"}]}, "at /anyOf/1/$ref: there is nothing at '#nope'"),
        ({"items": {"patternProperties": {"(": {"pattern": "a"}}}}, "at /items/patternProperties/(: "),
        ('{"type": "object",}', what_json_says('{"type": "object",}')),
        ('{\n "type": object}', "Expecting value: line 2 column 10"),
        ("[]", "a JSON schema must be an object or a boolean, not list"),
    ],
)
def test_an_invalid_json_schema_says_where_and_why(definition, said) -> None:
    text = definition if isinstance(definition, str) else json.dumps(definition)
    with pytest.raises(RequestError) as caught:
        compiled("s", "json", 1, text)
    assert str(caught.value).startswith("your json schema is invalid: ")
    assert said in str(caught.value)


def test_the_check_of_a_graphql_document_ends() -> None:
    schema = schema_of("graphql", "type Query { a: Query b: Int }")
    fragments = "".join(f"fragment F{n} on Query {{ a {{ ...F{n + 1} ...F{n + 1} }} }} " for n in range(100))
    for document in (
        "{ " + "b " * 6000 + "}",
        "{ " + "b " * 4990 + "}",
        "{ " + "a{" * 3000 + "b" + "}" * 3000 + " }",
        "{ " + " ".join(f"a {{ b x{n}: b }}" for n in range(600)) + " }",
        "{ ...F0 } " + fragments + "fragment F100 on Query { b }",
    ):
        start = time.monotonic()
        with contextlib.suppress(SchemaError):
            schema.encode(document)
        assert time.monotonic() - start < ENDS_S
