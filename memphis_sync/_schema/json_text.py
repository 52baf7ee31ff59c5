"""
JSON as it is sent: UTF-8 text without NaN and infinities, which Python writes and reads but other languages refuse.

The coders are made once: a call of json.loads with options makes one each time.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from memphis_sync._schema.base import MismatchError

_write = json.JSONEncoder(allow_nan=False).encode


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


_read = json.JSONDecoder(parse_constant=_no_constant).decode


def dump(value: Any) -> str:
    """
    A dict or list as JSON text: ASCII, as the official clients write it.

    Raises:
        MismatchError: Something in it has no JSON form.
    """
    try:
        return _write(value)
    except (TypeError, ValueError, RecursionError) as exc:
        raise MismatchError(f"a {type(value).__name__} that cannot be written as JSON: {exc}") from exc


def load(text: str, expected: str) -> Any:
    """
    Reads JSON text.

    Args:
        text: The text.
        expected: Beginning of the error's reason.

    Raises:
        MismatchError: It is no JSON.
    """
    try:
        return _read(text)
    except (ValueError, RecursionError) as exc:
        raise MismatchError(f"{expected}: {exc}") from exc
