"""
Avro, through fastavro. Messages travel as JSON text, as in the official clients.

Two forms of that text are taken: plain values, as memphis.py writes them, and Avro's own JSON encoding (a union's value
as ``{"string": "x"}``, bytes as text), as memphis.js writes them.
"""

from __future__ import annotations

import io
import json
from typing import Any

import fastavro
from fastavro.validation import ValidationError

from memphis_sync._schema.base import (
    MismatchError,
    Schema,
    guarded,
    json_of,
    raw_bytes,
    read,
    source_of,
    text_of,
    unsupported,
    utf8_of,
)
from memphis_sync._wire.json_text import JsonWriter
from memphis_sync.types import SchemaInfo

_EXPECTED = "Expecting Avro format"  # the official clients' words
_validate: Any = fastavro.validate  # its type stubs lack an option


class AvroSchema(Schema):
    """An Avro schema; takes dict, list, and JSON text as str or bytes."""

    def __init__(self, info: SchemaInfo, writer: JsonWriter) -> None:
        super().__init__(info, writer)
        self._parsed = guarded(lambda: fastavro.parse_schema(json.loads(source_of(info))))

    def _encode(self, message: Any) -> bytes:
        if isinstance(message, (dict, list)):
            text, value = json_of(message, self._writer)
            self._check(value, text)
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
            _validate(value, self._parsed, disable_tuple_notation=True)
        except ValidationError as exc:
            if not self._is_avro_json(text):
                raise _mismatch(exc) from exc
        except (TypeError, ValueError, AttributeError, RecursionError) as exc:  # a value of a type it never expects
            if not self._is_avro_json(text):
                raise MismatchError(f"it cannot be checked: {exc}") from exc

    def _is_avro_json(self, text: str) -> bool:
        """Whether the text matches in Avro's own JSON encoding; only looked at when it does not match as it is."""
        try:
            (datum,) = fastavro.json_reader(io.StringIO(text), self._parsed)
            # The reader takes a text for a number and an object for an array without a word, so its result is checked
            # like any other, and written again to see that it was not made up.
            _validate(datum, self._parsed, disable_tuple_notation=True)
            again = io.StringIO()
            fastavro.json_writer(again, self._parsed, [datum])
            return _agrees(json.loads(text), json.loads(again.getvalue()))
        except Exception:  # noqa: BLE001  the reader expects the right form and fails anyhow on others
            return False


def _agrees(given: Any, written: Any) -> bool:
    """Whether two JSON values say the same; what was written may have more fields, which had defaults."""
    if isinstance(written, dict):
        return isinstance(given, dict) and all(_agrees(given[key], written[key]) for key in written if key in given)
    if isinstance(written, list):
        return isinstance(given, list) and len(given) == len(written) and all(map(_agrees, given, written))
    return bool(given == written) and isinstance(given, bool) == isinstance(written, bool)


def _mismatch(exc: ValidationError) -> MismatchError:
    """Path and reason of the first error; all types that the place could have had, but not the value."""
    first = exc.errors[0]
    path = str(first.field)
    wanted = dict.fromkeys(_type_name(error.schema) for error in exc.errors if error.field == first.field)
    found = "missing or null" if first.datum is None else f"of type {type(first.datum).__name__}"
    return MismatchError(f"it is {found}, expected {' or '.join(wanted)}", path)


def _type_name(schema: Any) -> str:
    if not isinstance(schema, dict):
        return str(schema)
    kind = str(schema.get("logicalType") or schema.get("type"))
    if kind == "enum":
        return f"one of {', '.join(schema['symbols'])}"
    return f"{kind} {schema['name']}" if "name" in schema else kind


def compile_source(info: SchemaInfo, writer: JsonWriter) -> AvroSchema:
    """The schema of an info; raises SourceError."""
    return AvroSchema(info, writer)
