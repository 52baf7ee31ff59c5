"""Steps that are counted before a check: never fewer than the check takes, and no walk through every way."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, strategies as st

from memphis_sync._schema import SourceError, bounds, compile_schema, json_schema
from memphis_sync._schema.json_source import JsonSource
from memphis_sync._schema.json_steps import StepCounter
from memphis_sync.types import SchemaInfo

MOST = 10**100


def steps(definition, value, most=MOST):
    return StepCounter(JsonSource(definition)).count(value, most).steps


@pytest.mark.parametrize(
    ("definition", "value", "expected"),
    [
        (True, 1, 1),
        ({}, [1, {"a": 1}], 1),
        ({"items": {}}, [1, 2, 3], 4),
        ({"items": [{}, {}], "additionalItems": {}}, [1, 2, 3], 1 + 2 + 3),
        ({"prefixItems": [{}, True, {}]}, [1, 2], 2),
        ({"contains": {}, "items": {}}, [1, 2], 5),
        ({"properties": {"a": {}, "b": True}, "additionalProperties": {}}, {"a": 1, "b": 1, "c": 1}, 3),
        ({"patternProperties": {"^a": {}, "b": {}}}, {"a": 1, "b": 1}, 1 + 2 + 4),  # a step for the expressions, twice
        ({"propertyNames": {}}, {"a": 1, "b": 1}, 3),
        ({"propertyNames": {}}, {"a" * 1024: 1}, 2 + 4),
        ({"allOf": [{"$ref": "#/$defs/a"}] * 2, "$defs": {"a": {"not": {}}}}, 1, 1 + 2 * 3),
        ({"if": {"items": {}}, "then": {"items": {}}, "else": {"items": {}}}, [1], 4 + 3),
        ({"dependentSchemas": {"a": {}}, "dependencies": {"a": {}}}, {}, 3),
        ({"items": {"$ref": "#"}}, [[[]]], 5),
        # which members are evaluated is asked once more of each part in place: a step for asking, and all below it
        ({"unevaluatedProperties": False}, {"a": 1}, 1 + 1),
        ({"allOf": [{"properties": {"a": {}}}], "unevaluatedProperties": False}, {"a": 1}, 2 + 3 + 2),
        # an anchor leads to all of that name
        ({"$defs": {n: {"$id": n, "$dynamicAnchor": "n"} for n in "ab"}, "items": {"$dynamicRef": "#n"}}, [1], 4),
    ],
    ids=range(17),
)
def test_every_way_to_a_part_is_a_step(definition, value, expected):
    definition = json.loads(json.dumps(definition))
    assert steps(definition, value) == expected


def test_ways_are_counted_and_not_gone():
    twice = {"anyOf": [{"properties": {"x": {"$ref": "#"}}}, {"properties": {"x": {"$ref": "#"}}}]}
    value = {}
    for _ in range(200):
        value = {"x": value}
    assert steps(json.loads(json.dumps(twice)), value) > 2**200
    assert bounds.MAX_STEPS < steps(json.loads(json.dumps(twice)), value, bounds.MAX_STEPS) < 10 * bounds.MAX_STEPS


PARTS = st.recursive(
    st.sampled_from(
        [
            {},
            {"type": "integer"},
            {"type": "array"},
            {"enum": [1, [1.5], "a"]},
            {"pattern": "(?=a)a"},
            {"$ref": "#/$defs/d"},
        ]
    ),
    lambda parts: st.one_of(
        st.builds(lambda key, part: {key: part}, st.sampled_from(["not", "items", "contains", "propertyNames"]), parts),
        st.builds(lambda key, part: {key: part}, st.sampled_from(["additionalProperties", "unevaluatedItems"]), parts),
        st.builds(
            lambda key, some: {key: some},
            st.sampled_from(["allOf", "anyOf", "oneOf", "prefixItems"]),
            st.lists(parts, min_size=1, max_size=3),
        ),
        st.builds(
            lambda key, some: {key: some},
            st.sampled_from(["properties", "patternProperties", "dependentSchemas"]),
            st.dictionaries(st.sampled_from("ab"), parts, max_size=2),
        ),
        st.builds(lambda one, other: {**one, **other}, parts, parts),
        st.builds(lambda *three: dict(zip(("if", "then", "else"), three)), parts, parts, parts),
    ),
    max_leaves=12,
)
VALUES = st.recursive(
    st.sampled_from([1, 1.5, "a", "ab" * 2000, None]),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.sampled_from("abc"), values, max_size=3),
    max_leaves=20,
)


@pytest.mark.skipif(not json_schema.CALLS_KEYWORDS, reason="this jsonschema-rs counts nothing to compare with")
@given(PARTS, PARTS, VALUES)
def test_it_is_never_less_than_what_the_library_counts(part, shared, value):
    text = json.dumps({**part, "$defs": {"d": shared}})
    try:
        schema = compile_schema(SchemaInfo("s", "json", 1, text))
    except SourceError:  # it leads back to itself
        return
    counting = json_schema._validator(schema._source.counted(), keywords={json_schema.COUNTER: json_schema._Counter})
    _, left = json_schema._within(bounds.MAX_STEPS, counting.is_valid, value)
    assert bounds.MAX_STEPS - left <= schema._steps.count(value, MOST).steps
