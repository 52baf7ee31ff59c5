"""
JSON as it is sent and read: text by RFC 8259, without NaN and infinities, which Python writes and reads but other
languages refuse.

The coders are made once: a call of json.dumps or json.loads with options makes one each time. Where a value has no JSON
form is looked for only after the coder has refused the whole.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import json
import math
import pathlib
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Callable, NoReturn, Optional

Default = Callable[[Any], Any]

_MAX_PATH = 200  # characters of a path that are shown
_ASK_DEFAULT = "or give connect(json_default=...) a function that returns one that has"
_BYTES = (bytes, bytearray, memoryview)


class NotJsonError(Exception):
    """
    A value that has no JSON form, or a text that is not JSON.

    Attributes:
        reason: What is wrong, and what to do about it.
        path: Where in the value, as a JSON pointer (RFC 6901); "" for the whole.
    """

    def __init__(self, reason: str, path: str = "") -> None:
        super().__init__(f"at {path}: {reason}" if path else reason)
        self.reason = reason
        self.path = path


class JsonWriter:
    """
    Writes values as JSON: ASCII, as the official clients write it.

    Args:
        default: Called with each value that JSON has no form for, as json.dumps calls its own; returns what stands for
            it. None: such a value is refused.
    """

    def __init__(self, default: Optional[Default] = None) -> None:
        self.default = default
        self._encode = json.JSONEncoder(allow_nan=False, default=default).encode

    def write(self, value: Any) -> str:
        """
        A value as JSON text.

        Raises:
            NotJsonError: Something in it has no JSON form, or *default* raised.
        """
        try:
            return self._encode(value)
        except Exception as exc:  # what json raises, and whatever the user's own types and function raise
            raise _refusal(value, self.default, exc) from exc


PLAIN = JsonWriter()


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


_read = json.JSONDecoder(parse_constant=_no_constant).decode


def read_json(text: str) -> Any:
    """
    Reads JSON text.

    Raises:
        NotJsonError: It is not JSON, or nested deeper than Python reads it.
    """
    try:
        return _read(text)
    except RecursionError as exc:
        raise NotJsonError("it is nested too deep") from exc
    except ValueError as exc:
        raise NotJsonError(str(exc)) from exc


def json_or_text(payload: bytes) -> object:
    """A payload as people read it: a JSON value; if it is not JSON, text; if it is not UTF-8, bytes."""
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return payload
    try:
        return read_json(text)
    except NotJsonError:
        return text


def remedy(value: Any) -> str:
    """What to write instead of a value of a type that JSON has no form for; "" when only its author knows."""
    if _is_numpy(value):
        is_time = getattr(getattr(value, "dtype", None), "kind", "") in ("M", "m")
        return "value.astype(str).tolist()" if is_time else "value.tolist()"
    for kinds, what in _REMEDIES:
        if isinstance(value, kinds):
            return what
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return "dataclasses.asdict(value)"
    if hasattr(value, "model_dump"):
        return 'value.model_dump(mode="json")'
    if hasattr(value, "to_dict"):  # a pandas frame, and what follows its example
        return "value.to_dict()"
    return "list(value)" if isinstance(value, Iterable) and not isinstance(value, type) else ""


_REMEDIES: tuple[tuple[Any, str], ...] = (
    (_BYTES, "base64.b64encode(value).decode()"),
    (enum.Enum, "value.value"),
    ((decimal.Decimal, uuid.UUID, pathlib.PurePath), "str(value)"),
    ((dt.date, dt.time), "value.isoformat()"),
    (dt.timedelta, "value.total_seconds()"),
    (Mapping, "dict(value)"),
)


class _Found(Exception):  # noqa: N818  control flow inside this module
    """The place that was looked for."""


def _refusal(value: Any, default: Optional[Default], cause: Exception) -> NotJsonError:
    """The error for a value that the coder refused: where, why, and what to do."""
    if isinstance(cause, RecursionError):
        return NotJsonError("it is nested too deep")
    steps: list[str] = []
    try:
        _search(value, default, steps)
    except _Found as found:
        return NotJsonError(str(found), _pointer(steps))
    except Exception as exc:  # noqa: BLE001  of the user's own types
        return NotJsonError(f"{type(exc).__name__}: {exc}", _pointer(steps))
    return NotJsonError(f"{type(cause).__name__}: {cause}")


def _search(root: Any, default: Optional[Default], steps: list[str]) -> None:
    """Walks through a value as the coder does, without recursion; *steps* is the way to where it is."""
    inside: list[tuple[Any, Iterator[tuple[Optional[str], Any]]]] = []
    item = root
    while True:
        children = _children(item, default, steps)
        if any(item is outer for outer, _ in inside):
            raise _Found("it holds itself")
        inside.append((item, children))
        while True:
            try:
                step, item = next(inside[-1][1])
            except StopIteration:
                inside.pop()
                if not inside:
                    return
                steps.pop()
                continue
            steps.append("" if step is None else _step(step))
            break


def _children(item: Any, default: Optional[Default], steps: list[str]) -> Iterator[tuple[Optional[str], Any]]:
    """What is inside a value, with its step; a value in place of another has none. Raises _Found if it has no form."""
    if item is None or isinstance(item, (str, bool)):
        return
    if isinstance(item, int):
        int.__repr__(item)  # more digits than Python writes: a ValueError that says so
    elif isinstance(item, float):
        if not math.isfinite(item):
            raise _Found(f"it is {float(item)}, which JSON does not have; put None there, or leave it out")
    elif isinstance(item, dict):
        for key, inner in item.items():
            _check_key(key, steps)
            yield (key if isinstance(key, str) else json.dumps(key)), inner
    elif isinstance(item, (list, tuple)):
        for number, inner in enumerate(item):
            yield str(number), inner
    elif default is None:
        raise _Found(no_form(item))
    else:
        try:
            inner = default(item)
        except Exception as exc:
            raise _Found(f"json_default raised {type(exc).__name__} for a {type(item).__name__}: {exc}") from exc
        yield None, inner


def no_form(value: Any) -> str:
    """The reason to refuse a value of a type that JSON has no form for."""
    instead = remedy(value)
    todo = f"send {instead}, {_ASK_DEFAULT}" if instead else f"send something that has one, {_ASK_DEFAULT}"
    kind = f"numpy.{type(value).__name__}" if _is_numpy(value) else type(value).__name__  # it has a bool of its own
    return f"it is of type {kind}, which has no form in JSON; {todo}"


def _is_numpy(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "numpy"


def _check_key(key: Any, steps: list[str]) -> None:
    if isinstance(key, float) and not math.isfinite(key):
        steps.append("/" + str(float(key)))
        raise _Found(f"the key is {float(key)}, which JSON does not have; make it a text")
    if key is not None and not isinstance(key, (str, int, float)):
        steps.append(f"/<{type(key).__name__}>")
        raise _Found(f"the key is of type {type(key).__name__}; JSON has texts as keys: make it one, as with str(key)")


def _step(step: str) -> str:
    return "/" + step.replace("~", "~0").replace("/", "~1")


def _pointer(steps: list[str]) -> str:
    path = "".join(steps)
    return path if len(path) <= _MAX_PATH else f"{path[:_MAX_PATH]}..."
