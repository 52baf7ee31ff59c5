"""GraphQL, through graphql-core: a message is a document (a query, say) that is valid for the schema."""

from __future__ import annotations

from typing import Any

import graphql

from memphis_sync._protocol.json_text import JsonWriter
from memphis_sync._schema import bounds
from memphis_sync._schema.base import (
    MismatchError,
    Schema,
    guarded,
    raw_bytes,
    source_of,
    text_of,
    unsupported,
    utf8_of,
)
from memphis_sync.types import SchemaInfo

_EXPECTED = "Invalid message format, expected GraphQL"  # memphis.py's words
_MAX_ERRORS = 10  # are told of one document


class GraphQLSchema(Schema):
    """A GraphQL schema; takes a document as str, bytes or DocumentNode."""

    def __init__(self, info: SchemaInfo, writer: JsonWriter) -> None:
        super().__init__(info, writer)
        self._schema = guarded(lambda: _built(source_of(info)))

    def _encode(self, message: Any) -> bytes:
        if isinstance(message, graphql.DocumentNode):
            message = _source_of(message)
        if isinstance(message, str):
            payload, text = utf8_of(message), message
        else:
            given = raw_bytes(message)
            if given is None:
                raise unsupported(message, "a GraphQL document, or its text as str or bytes")
            payload, text = given, text_of(given, _EXPECTED)
        self._check(text)
        return payload

    def _decode(self, payload: bytes, *, as_dict: bool) -> str:
        text = text_of(payload, _EXPECTED)
        self._check(text)
        return text

    def _check(self, text: str) -> None:
        try:
            document = graphql.parse(text, max_tokens=bounds.MAX_TOKENS)
            errors = graphql.validate(self._schema, document, max_errors=_MAX_ERRORS)
        except graphql.GraphQLSyntaxError as exc:
            raise MismatchError(f"{_EXPECTED}: {exc.message}", _place(exc)) from exc
        except RecursionError as exc:
            raise MismatchError(f"{_EXPECTED}: it is nested too deep") from exc
        if errors:
            raise MismatchError("; ".join(error.message for error in errors), _place(errors[0]))


def _built(content: str) -> graphql.GraphQLSchema:
    schema = graphql.build_schema(content)
    graphql.assert_valid_schema(schema)  # else the first message would find it out
    return schema


def _source_of(document: graphql.DocumentNode) -> str:
    """The text that a document was parsed from; written anew when it does not know (parsed without locations)."""
    return graphql.print_ast(document) if document.loc is None else document.loc.source.body


def _place(error: graphql.GraphQLError) -> str:
    return f"{error.locations[0].line}:{error.locations[0].column}" if error.locations else ""


def compile_source(info: SchemaInfo, writer: JsonWriter) -> GraphQLSchema:
    """The schema of an info; raises SourceError."""
    return GraphQLSchema(info, writer)
