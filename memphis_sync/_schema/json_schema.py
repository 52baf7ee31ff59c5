"""
JSON Schema, drafts 4, 6, 7, 2019-09 and 2020-12 (the default), with jsonschema-rs.

``format`` is checked for draft 7 and older, as in a Memphis broker's library. A ``$ref`` to other documents is refused.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any, Callable, Union

import jsonschema_rs

from memphis_sync._protocol.json_text import JsonWriter
from memphis_sync._schema import bounds
from memphis_sync._schema.base import MismatchError, TextSchema, guarded, is_plain, json_source, members, refused
from memphis_sync._schema.json_source import COUNTER, JsonSource, at_pointer, escaped
from memphis_sync._schema.json_steps import StepCounter
from memphis_sync.types import SchemaInfo

_MAX_INT = 2.0**63
_MAX_REASON = 400  # characters of the library's text about a source
_MAX_SHOWN = 60  # characters of a wrong value in it
_TYPES = "array, boolean, integer, null, number, object, string"
# Whether the library supports custom keywords; its version for Python 3.9 does not.
CALLS_KEYWORDS = "keywords" in inspect.signature(jsonschema_rs.validator_for).parameters
_MASK = "the value"  # in the library's texts, so that the content of messages is in no log


class JsonSchema(TextSchema):
    """A JSON schema; accepts dict, list, and JSON text as str or bytes."""

    _EXPECTED = "Expecting Json format"  # the official clients' words
    _ACCEPTED = "dict, list, or JSON text as str or bytes"

    def __init__(self, info: SchemaInfo, writer: JsonWriter) -> None:
        super().__init__(info, writer)
        definition = guarded(lambda: _definition(info))
        self._source = guarded(lambda: JsonSource(definition))
        self._validator = guarded(lambda: _validator(definition))
        self._steps = StepCounter(self._source)
        cost = self._source.cost()
        self._has_alternatives = cost.has_alternatives
        self._uncounted = 0 if cost.is_branching else bounds.MAX_UNCOUNTED // cost.parts  # characters of a text
        self._patterns = cost.patterns
        self._counting: Any = None

    def _encode(self, message: Any) -> bytes:
        text = self._written(message)
        if text is not message and len(text) <= self._uncounted and is_plain(message):
            try:
                self._at_once(message, text)  # the same result, without parsing the text
            except jsonschema_rs.ValidationError as exc:
                raise _mismatch(exc) from exc
            except ValueError:  # for instance keys that JSON turns into text
                pass
            else:
                return bytes(text.encode())
        return super()._encode(text)

    def _check(self, value: Any, text: str) -> None:
        check = self._at_once if len(text) <= self._uncounted else self._in_steps
        try:
            try:
                check(value, text)
            except jsonschema_rs.ValidationError:
                raise
            except ValueError:  # older versions accept no integer beyond 64 bits: a float is close enough
                check(json.loads(text, parse_int=_number), text)
        except jsonschema_rs.ValidationError as exc:
            raise _mismatch(exc) from exc
        except (ValueError, RecursionError) as exc:  # nested too deep
            raise MismatchError(f"it cannot be checked: {exc}") from exc

    def _at_once(self, value: Any, text: str) -> None:
        """Checks a value in one call, which holds the GIL."""
        if not self._has_alternatives:
            self._validator.validate(value)
        elif not self._validator.is_valid(value):
            self._explain(self._validator.validate, value, text)

    def _in_steps(self, value: Any, text: str) -> None:
        """
        Checks a value in counted steps, between which other threads run. A library without custom keywords checks it in
        one call, if that takes few enough steps.
        """
        if self._patterns and _widest(value) * self._patterns > bounds.MAX_MATCHES:
            raise _too_many()
        if not CALLS_KEYWORDS:
            if self._steps.count(value, bounds.MAX_STEPS).steps > bounds.MAX_STEPS:
                raise _too_many()
            self._at_once(value, text)
            return
        validator = self._counting
        if validator is None:  # two threads may each make one
            validator = self._counting = _validator(self._source.counted(), keywords={COUNTER: _Counter})
        matches, left = _within(bounds.MAX_STEPS, validator.is_valid, value)
        if left < 0:  # whatever the outcome: the rest was not checked
            raise _too_many()
        if not matches:
            self._explain(lambda value: _within(bounds.MAX_STEPS, validator.validate, value), value, text)

    def _explain(self, validate: Callable[[Any], Any], value: Any, text: str) -> None:
        """
        Raises the reason why a value does not match. The library makes an error for each alternative that fails, so it
        is not called when there are too many.
        """
        if self._has_alternatives:
            steps, errors = self._steps.count(value, bounds.MAX_STEPS)
            if (
                steps > bounds.MAX_STEPS
                or errors > bounds.MAX_ERRORS
                or errors * len(text) > bounds.MAX_ERROR_CHARACTERS
            ):
                raise MismatchError("it does not match; the schema has too many alternatives to say why")
        validate(value)
        raise MismatchError("it does not match")


_LEFT: ContextVar[list[int]] = ContextVar("steps left for the running check")


def _within(steps: int, check: Callable[[Any], Any], value: Any) -> tuple[Any, int]:
    """The result of a check, and how many steps were left; fewer than 0 when there were not enough."""
    left = [steps]
    token = _LEFT.set(left)
    try:
        return check(value), left[0]
    except ValueError:
        if left[0] >= 0:
            raise
        return None, left[0]
    finally:
        _LEFT.reset(token)


class _Counter:
    """The keyword that counts: jsonschema-rs calls it for each subschema that a value is checked against."""

    def __init__(self, parent: Any, weight: list[int], path: Any) -> None:
        self._steps, self._patterns = weight

    def validate(self, instance: Any) -> None:
        left = _LEFT.get()
        left[0] -= self._steps
        if type(instance) is str:
            left[0] -= len(instance) >> 10
        elif self._patterns and type(instance) is dict:
            left[0] -= len(instance) * self._patterns // bounds.MATCHES_A_STEP
        if left[0] < 0:
            raise ValueError("too many steps")


def _too_many() -> MismatchError:
    return MismatchError(f"checking it against this schema takes more than {bounds.MAX_STEPS} steps")


def _widest(value: Any) -> int:
    """How many keys the largest object in a value has."""
    most = 0
    level = [value]
    while level:
        most = max(most, *(len(item) for item in level if isinstance(item, dict)), 0)
        level = [inner for item in level for inner in members(item) if isinstance(inner, (dict, list))]
    return most


def _definition(info: SchemaInfo) -> Any:
    definition = json_source(info)
    if not isinstance(definition, (dict, bool)):  # the library would parse a str as the schema's source
        raise refused(f"a JSON schema must be an object or a boolean, not {type(definition).__name__}")
    return definition


def _validator(definition: Any, **options: Any) -> Any:
    if hasattr(jsonschema_rs, "FancyRegexOptions"):  # otherwise the library's own bound applies
        options["pattern_options"] = jsonschema_rs.FancyRegexOptions(backtrack_limit=bounds.MAX_BACKTRACKS)
    try:
        return jsonschema_rs.validator_for(definition, retriever=_refuse, mask=_MASK, **options)
    except jsonschema_rs.ValidationError as exc:
        path = _pointer(exc.instance_path)
        reason = exc.message
        if path.endswith("/type") and "anyOf" in reason:
            found = json.dumps(at_pointer(definition, path))
            reason = f"it is {found[:_MAX_SHOWN]}; a type is one of {_TYPES}, or a list of them"
        elif reason.endswith('"regex"') and _has_pattern(definition, path):
            path += "/pattern"  # which older versions leave out
        raise refused(reason[:_MAX_REASON], path) from exc


def _has_pattern(definition: Any, path: str) -> bool:
    found = at_pointer(definition, path)
    is_named = path.rpartition("/")[0].endswith("/patternProperties")  # the path ends with the expression already
    return isinstance(found, dict) and isinstance(found.get("pattern"), str) and not is_named


def _number(text: str) -> Union[int, float]:
    number = float(text)
    return int(text) if abs(number) < _MAX_INT else number


def _refuse(uri: str) -> Any:
    raise LookupError(f"references to other documents are not followed: {uri[:100]}")


def _mismatch(exc: Any) -> MismatchError:
    return MismatchError(exc.message, _pointer(exc.instance_path))


def _pointer(steps: Iterable[Any]) -> str:
    return "".join(f"/{escaped(str(step))}" for step in steps)


compile_source = JsonSchema
