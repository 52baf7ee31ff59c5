"""
Avro, with fastavro. Messages are JSON text, as in the official clients.

Two forms of that text are accepted: plain values, as memphis.py writes them, and Avro's own JSON encoding (a union's
value as ``{"string": "x"}``, bytes as a string), as memphis.js writes them. JSON has no logical types: a date is its
number, a decimal its bytes.
"""

from __future__ import annotations

from typing import Any

import fastavro
from fastavro.validation import ValidationError

from memphis_sync._protocol.json_text import JsonWriter
from memphis_sync._schema import bounds
from memphis_sync._schema.avro_source import AvroSource, plain
from memphis_sync._schema.avro_values import AvroValues, Form
from memphis_sync._schema.base import MismatchError, TextSchema, guarded, json_source
from memphis_sync.types import SchemaInfo

_SHORTEST = 3  # characters of a record in an array: {},
_validate: Any = fastavro.validate  # its type stubs lack an option


class AvroSchema(TextSchema):
    """An Avro schema; accepts dict, list, and JSON text as str or bytes."""

    _EXPECTED = "Expecting Avro format"  # the official clients' words
    _ACCEPTED = "dict, list, or JSON text as str or bytes"

    def __init__(self, info: SchemaInfo, writer: JsonWriter) -> None:
        super().__init__(info, writer)
        source = guarded(lambda: AvroSource(json_source(info, unique_keys=True)))
        self._parsed = guarded(lambda: fastavro.parse_schema(plain(source.root)))
        self._values = AvroValues(source.root, source.named)
        self._is_branching = self._values.is_branching()
        self._has_rules_of_its_own = self._values.has_rules_of_its_own()

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
        most = len(text) // _SHORTEST * self._values.most_fields  # how many fields fastavro would check
        if not self._is_branching and most <= bounds.MAX_ABSENT:
            try:
                _validate(value, self._parsed, disable_tuple_notation=True)
            except (ValidationError, TypeError, ValueError, AttributeError):  # a value of an unexpected type
                return False
            if not self._has_rules_of_its_own:
                return True
        return self._values.of_root(value) is None


compile_source = AvroSchema
