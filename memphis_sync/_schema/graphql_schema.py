"""GraphQL, with graphql-core: a message is a document, for instance a query, that is valid for the schema."""

from __future__ import annotations

from typing import Any

import graphql

from memphis_sync._protocol.json_text import JsonWriter
from memphis_sync._schema import bounds
from memphis_sync._schema.base import MismatchError, TextSchema, guarded, source_of
from memphis_sync.types import SchemaInfo

_MAX_ERRORS = 10  # reported for one document


class GraphQLSchema(TextSchema):
    """A GraphQL schema; accepts a document as str, bytes or DocumentNode."""

    _EXPECTED = "Invalid message format, expected GraphQL"  # memphis.py's words
    _ACCEPTED = "a GraphQL document, or its text as str or bytes"

    def __init__(self, info: SchemaInfo, writer: JsonWriter) -> None:
        super().__init__(info, writer)
        self._schema = guarded(lambda: _built(source_of(info)))

    def _written(self, message: Any) -> Any:
        return _source_of(message) if isinstance(message, graphql.DocumentNode) else message

    def _check_text(self, text: str) -> str:
        try:
            document = graphql.parse(text, max_tokens=bounds.MAX_TOKENS)
            errors = graphql.validate(self._schema, document, max_errors=_MAX_ERRORS)
        except graphql.GraphQLSyntaxError as exc:
            raise MismatchError(f"{self._EXPECTED}: {exc.message}", _place(exc)) from exc
        except RecursionError as exc:
            raise MismatchError(f"{self._EXPECTED}: it is nested too deep") from exc
        if errors:
            raise MismatchError("; ".join(error.message for error in errors), _place(errors[0]))
        return text


def _built(content: str) -> graphql.GraphQLSchema:
    schema = graphql.build_schema(content)
    graphql.assert_valid_schema(schema)  # otherwise only the first message would show it
    return schema


def _source_of(document: graphql.DocumentNode) -> str:
    """The text that a document was parsed from, or new text when it was parsed without locations."""
    return graphql.print_ast(document) if document.loc is None else document.loc.source.body


def _place(error: graphql.GraphQLError) -> str:
    return f"{error.locations[0].line}:{error.locations[0].column}" if error.locations else ""


compile_source = GraphQLSchema
