"""
JSON as the Memphis broker reads it: Go's rules.

Official clients rely on them: keys match in any case, unknown keys are ignored, ``null`` means "not given", the last of
several equal keys wins, invalid UTF-8 becomes U+FFFD. Error texts follow Go's decoder: clients show them to users.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, NoReturn, Union

GoType = Literal["string", "bool", "int", "int64", "uint64", "[]int64", "[]string", "map[string]string"]

_RANGES = {"int": (-(2**63), 2**63 - 1), "int64": (-(2**63), 2**63 - 1), "uint64": (0, 2**64 - 1)}
ZERO: Mapping[str, Any] = {
    "string": "",
    "bool": False,
    "int": 0,
    "int64": 0,
    "uint64": 0,
    "[]int64": (),
    "[]string": (),
}
_MAX_DIGITS = 40  # any longer number is out of every range; Python refuses to convert really long ones at all
_END = "unexpected end of JSON input"
_PLACES = (
    ("Expecting value", "looking for beginning of value"),
    ("Expecting property name", "looking for beginning of object key string"),
    ("Illegal trailing comma", "looking for beginning of object key string"),
    ("Expecting ':'", "after object key"),
    ("Expecting ','", "after object key:value pair"),
    ("Extra data", "after top-level value"),
    ("Invalid control character", "in string literal"),
    ("Invalid \\", "in string escape code"),
)


class GoJsonError(ValueError):
    """A body that Go's decoder would refuse; the text is (close to) the decoder's own."""


class _Number(str):
    """The text of a number that is no plain integer: Go prints it as it was written."""

    __slots__ = ()


def _integer(text: str) -> Union[int, _Number]:
    return int(text) if len(text) <= _MAX_DIGITS else _Number(text)


def _no_constant(text: str) -> NoReturn:
    raise GoJsonError(f"invalid character {_quoted(text.lstrip('-'))} looking for beginning of value")


def _quoted(text: str) -> str:
    return "'" + text[:1].encode("unicode_escape").decode() + "'"


def _syntax_text(exc: json.JSONDecodeError) -> str:
    if exc.msg.startswith("Unterminated string") or exc.pos >= len(exc.doc.rstrip(" \t\r\n")):
        return _END
    where = next((text for start, text in _PLACES if exc.msg.startswith(start)), "in JSON input")
    return f"invalid character {_quoted(exc.doc[exc.pos :])} {where}"


def parse_object(body: bytes, struct: str) -> dict[str, Any]:
    """
    Reads a JSON object.

    Args:
        body: The message's payload; any bytes.
        struct: The name for error texts of what is being read.

    Returns:
        The object's members with their keys in lower case.

    Raises:
        GoJsonError: It is no JSON, or no object.
    """
    text = body.decode("utf-8", "replace")
    if not text.strip(" \t\r\n"):
        raise GoJsonError(_END)
    try:
        value = json.loads(text, parse_int=_integer, parse_float=_Number, parse_constant=_no_constant)
    except json.JSONDecodeError as exc:
        raise GoJsonError(_syntax_text(exc)) from exc
    except RecursionError as exc:
        raise GoJsonError("exceeded max depth") from exc
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise GoJsonError(f"json: cannot unmarshal {_described(value)} into Go value of type server.{struct}")
    return {key.lower(): item for key, item in value.items()}


def _described(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, (int, _Number)):
        return "number"
    return "array" if isinstance(value, list) else "object" if isinstance(value, dict) else "string"


def _refuse(value: Any, path: str, go_type: str) -> NoReturn:
    described = _described(value)
    if described == "number" and go_type in _RANGES:
        described = f"number {value}"
    raise GoJsonError(f"json: cannot unmarshal {described} into Go struct field {path} of type {go_type}")


def take(members: Mapping[str, Any], key: str, go_type: GoType, struct: str) -> Any:
    """
    One member of an object, checked.

    Args:
        members: What parse_object() gave.
        key: The member's name.
        go_type: What it must be.
        struct: The name for the error text, ``<struct>.<key>``.

    Returns:
        str, bool, int, a tuple of int or str, or a mapping of str; the type's zero value when the member is missing or
        null. Lone surrogates become U+FFFD.

    Raises:
        GoJsonError: The member has another type or is out of its range.
    """
    value = members.get(key.lower())
    if value is None:
        return {} if go_type == "map[string]string" else ZERO[go_type]
    if go_type == "string":
        if not isinstance(value, str) or isinstance(value, _Number):
            _refuse(value, f"{struct}.{key}", go_type)
        return value if value.isascii() else value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if go_type == "bool":
        if not isinstance(value, bool):
            _refuse(value, f"{struct}.{key}", go_type)
        return value
    if go_type == "[]int64":
        return _list(value, key, go_type, "int64", struct)
    if go_type == "[]string":
        return _list(value, key, go_type, "string", struct)
    if go_type == "map[string]string":
        return _strings(value, key, struct)
    low, high = _RANGES[go_type]
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        _refuse(value, f"{struct}.{key}", go_type)
    return value


def _list(value: Any, key: str, go_type: GoType, inner: GoType, struct: str) -> tuple[Any, ...]:
    """A list of integers or texts, as a tuple; a null in it is the zero value."""
    if not isinstance(value, list):
        _refuse(value, f"{struct}.{key}", go_type)
    return tuple(take({key.lower(): item}, key, inner, struct) for item in value)


def _strings(value: Any, key: str, struct: str) -> dict[str, str]:
    """An object of strings, with its keys as they are; a null in it is ""."""
    if not isinstance(value, dict):
        _refuse(value, f"{struct}.{key}", "map[string]string")
    texts = {name: take({key.lower(): item}, key, "string", struct) for name, item in value.items()}
    return {take({key.lower(): name}, key, "string", struct): text for name, text in texts.items()}


def take_object(members: Mapping[str, Any], key: str, struct: str, inner: str) -> dict[str, Any]:
    """
    A nested object's members with their keys in lower case; none when it is missing or null.

    Raises:
        GoJsonError: The member is no object.
    """
    value = members.get(key.lower())
    if value is None:
        return {}
    if not isinstance(value, dict):
        _refuse(value, f"{struct}.{key}", inner)
    return {name.lower(): item for name, item in value.items()}
