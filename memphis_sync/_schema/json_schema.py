"""
JSON Schema, drafts 4, 6, 7, 2019-09 and 2020-12 (the default), through jsonschema-rs.

``format`` is asserted for draft 7 and older, as in the broker's own library; a ``$ref`` to another document is refused.
"""

from __future__ import annotations

import json
from typing import Any, Union

import jsonschema_rs

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

_EXPECTED = "Expecting Json format"  # the official clients' words
_MAX_INT = 2.0**63
_MASK = "the value"  # in the library's texts: a message's content does not belong into logs


class JsonSchema(Schema):
    """A JSON schema; takes dict, list, and JSON text as str or bytes."""

    def __init__(self, info: SchemaInfo, writer: JsonWriter) -> None:
        super().__init__(info, writer)
        self._validate = guarded(lambda: _validator(source_of(info))).validate

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
            try:
                self._validate(value)
            except jsonschema_rs.ValidationError:
                raise
            except ValueError:  # older ones hold no integer beyond 64 bits: as a float it is close enough
                self._validate(json.loads(text, parse_int=_number))
        except jsonschema_rs.ValidationError as exc:
            raise _mismatch(exc) from exc
        except (ValueError, RecursionError) as exc:  # nested too deep
            raise MismatchError(f"it cannot be checked: {exc}") from exc


def _validator(content: str) -> Any:
    definition = json.loads(content)
    if not isinstance(definition, (dict, bool)):  # the library would take a text for the schema's source
        raise TypeError(f"a JSON schema is an object or a boolean, not {type(definition).__name__}")
    return jsonschema_rs.validator_for(definition, retriever=_refuse, mask=_MASK)


def _number(text: str) -> Union[int, float]:
    number = float(text)
    return int(text) if abs(number) < _MAX_INT else number


def _refuse(uri: str) -> Any:
    raise LookupError(f"references to other documents are not followed, as {uri[:100]}")


def _mismatch(exc: Any) -> MismatchError:
    path = "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in exc.instance_path)
    return MismatchError(exc.message, path)


def compile_source(info: SchemaInfo, writer: JsonWriter) -> JsonSchema:
    """The schema of an info; raises SourceError."""
    return JsonSchema(info, writer)
