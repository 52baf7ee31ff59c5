"""
Avro, through fastavro. Messages travel as JSON text, as in the official clients.

Two forms of that text are taken: plain values, as memphis.py writes them, and Avro's own JSON encoding (a union's value
as ``{"string": "x"}``, bytes as text), as memphis.js writes them. JSON has no logical types: a date is its number, a
decimal its bytes.
"""

from __future__ import annotations

from typing import Any

import fastavro
from fastavro.validation import ValidationError

from memphis_sync._protocol.json_text import JsonWriter
from memphis_sync._schema import bounds
from memphis_sync._schema.avro_source import AvroSource, plain
from memphis_sync._schema.avro_values import AvroValues, Form
from memphis_sync._schema.base import (
    MismatchError,
    Schema,
    guarded,
    json_of,
    json_source,
    raw_bytes,
    read,
    text_of,
    unsupported,
    utf8_of,
)
from memphis_sync.types import SchemaInfo

_EXPECTED = "Expecting Avro format"  # the official clients' words
_SHORTEST = 3  # characters of a record in an array: {},
_validate: Any = fastavro.validate  # its type stubs lack an option


class AvroSchema(Schema):
    """An Avro schema; takes dict, list, and JSON text as str or bytes."""

    def __init__(self, info: SchemaInfo, writer: JsonWriter) -> None:
        super().__init__(info, writer)
        source = guarded(lambda: AvroSource(json_source(info, unique_keys=True)))
        self._parsed = guarded(lambda: fastavro.parse_schema(plain(source.root)))
        self._values = AvroValues(source.root, source.named)
        self._is_branching = self._values.is_branching()
        self._has_rules_of_its_own = self._values.has_rules_of_its_own()

    def _encode(self, message: Any) -> bytes:
        if isinstance(message, (dict, list)):
            text = json_of(message, self._writer)
            self._check(read(text, _EXPECTED), text)
            return text.encode()
        if isinstance(message, str):
            payload, text = utf8_of(message), message
        else:
            given = raw_bytes(message)
            if given is None:
                raise unsupported(message, "dict, list, or JSON text as str or bytes")
            payload, text = given, text_of(given, _EXPECTED)
        self._check(read(text, _EXPECTED), text)
        return payload

    def _decode(self, payload: bytes, *, as_dict: bool) -> Any:
        text = text_of(payload, _EXPECTED)
        value = read(text, _EXPECTED)
        self._check(value, text)
        return value

    def _check(self, value: Any, text: str) -> None:
        try:
            if self._matches(value, text):
                return
            if self._values.of_root(value, Form.AVRO_JSON) is None:
                return
            fault = self._values.of_root(value, Form.EXPLAINED)
        except RecursionError as exc:
            raise MismatchError("it is nested too deep to be checked") from exc
        if fault is None:
            raise MismatchError("it matches neither as plain values nor in Avro's own JSON encoding")
        raise MismatchError(fault.reason, fault.path)

    def _matches(self, value: Any, text: str) -> bool:
        """Whether a plain value matches."""
        most = len(text) // _SHORTEST * self._values.most_fields  # that fastavro would look at in it
        if not self._is_branching and most <= bounds.MAX_ABSENT:
            try:
                _validate(value, self._parsed, disable_tuple_notation=True)
            except (ValidationError, TypeError, ValueError, AttributeError):  # a value of a type it never expects
                return False
            if not self._has_rules_of_its_own:
                return True
        return self._values.of_root(value) is None


def compile_source(info: SchemaInfo, writer: JsonWriter) -> AvroSchema:
    """The schema of an info; raises SourceError."""
    return AvroSchema(info, writer)
