"""GraphQL: documents that are valid for the schema, sent as their own text."""

from __future__ import annotations

import graphql
import pytest
from hypothesis import given, strategies as st

from memphis_sync._schema import FAILED, MISALIGNED, SourceError, compile_schema
from memphis_sync.errors import SchemaError
from memphis_sync.types import SchemaInfo

SOURCE = "type Query { greeting(name: String!): String students: [Student!] } type Student { id: ID! name: String }"


def graphql_schema(source: str) -> object:
    return compile_schema(SchemaInfo("g", "graphql", 1, source))


SCHEMA = graphql_schema(SOURCE)
QUERY = 'query Q { greeting(name: "\u00e9") students { id name } }'


@pytest.mark.parametrize(
    "message",
    [QUERY, QUERY.encode(), bytearray(QUERY.encode()), memoryview(QUERY.encode()), graphql.parse(QUERY)],
    ids=["str", "bytes", "bytearray", "memoryview", "document"],
)
def test_a_document_is_sent_as_its_own_text(message) -> None:
    payload = SCHEMA.encode(message)
    assert type(payload) is bytes
    assert payload == QUERY.encode()
    assert SCHEMA.decode(payload) == QUERY


def test_a_document_without_locations_is_written_anew() -> None:
    payload = SCHEMA.encode(graphql.parse(QUERY, no_location=True))
    assert graphql.print_ast(graphql.parse(payload.decode())) == graphql.print_ast(graphql.parse(QUERY))


@pytest.mark.parametrize(
    ("message", "path", "reason"),
    [
        ("query { nothing }", "1:9", "Cannot query field 'nothing' on type 'Query'."),
        ("query {\n  students { id\n nothing } }", "3:2", "Cannot query field 'nothing' on type 'Student'."),
        ("query { greeting }", "1:9", "of type 'String!' is required, but it was not provided."),
        ("query { greeting(name: 5) }", "1:24", "String cannot represent a non string value"),
        ("query { students }", "1:9", "Field 'students' of type '[Student!]' must have a selection of subfields."),
        ("query {", "1:8", "Invalid message format, expected GraphQL: Syntax Error"),
        ("", "1:1", "Invalid message format, expected GraphQL: Syntax Error"),
        (b"\xff", "", "Invalid message format, expected GraphQL: it is not UTF-8 text"),
        ("\ud800", "", "the text cannot be written as UTF-8"),
        (graphql.parse("{ nothing }"), "1:3", "Cannot query field 'nothing'"),
        ({"query": "x"}, "", "Unsupported message type: dict"),
        (5, "", "Unsupported message type: int"),
        (None, "", "Unsupported message type: NoneType"),
    ],
)
def test_what_does_not_match_is_refused_with_place_and_reason(message, path, reason) -> None:
    with pytest.raises(SchemaError) as caught:
        SCHEMA.encode(message)
    assert str(caught.value).startswith(FAILED)
    assert str(caught.value).count(FAILED) == 1
    assert caught.value.path == path
    assert reason in caught.value.reason


def test_a_deep_document_is_refused_and_not_a_crash() -> None:
    with pytest.raises(SchemaError, match=f"^{FAILED}.*Invalid message format, expected GraphQL: "):
        SCHEMA.encode("{a" * 100_000)


def test_a_payload_that_does_not_match_is_refused_with_the_consumers_words() -> None:
    for payload in (b"{ nothing }", b"{", b"\xff"):
        with pytest.raises(SchemaError, match=f"^{MISALIGNED}"):
            SCHEMA.decode(payload)


@pytest.mark.parametrize("source", ["", "{", "type A { b: Nothing }", "type A { b: String }", "query { a }", "x" * 100])
def test_a_source_that_is_no_schema_is_refused(source) -> None:
    with pytest.raises(SourceError, match=r"^schema 'g' \(version 1, graphql\) cannot be used: ."):
        graphql_schema(source)


@given(st.lists(st.sampled_from(["id", "name"]), min_size=1, max_size=5), st.text(st.characters(codec="ascii")))
def test_what_goes_in_comes_out(taken_or_refused, fields, comment) -> None:
    document = f"{{ students {{ {' '.join(fields)} }} }}"
    assert SCHEMA.decode(SCHEMA.encode(document)) == document
    taken_or_refused(SCHEMA, comment.encode())
