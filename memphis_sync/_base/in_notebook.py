"""
How an object is shown in a notebook: a small table of what it knows about itself.

Nothing is requested for it, and it raises nothing. All text is escaped, since payloads and names come from anybody, and
there is neither style nor script.
"""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Iterable
from typing import ClassVar

ROWS = 20
CHARACTERS = 200  # of a value


class InNotebook:
    """Base of a class whose objects a notebook shows as a table: their attributes that ``_shown`` names."""

    __slots__ = ()

    _shown: ClassVar[tuple[str, ...]] = ()

    def _repr_html_(self) -> str:
        rows: list[tuple[object, ...]] = []
        names = [field.name for field in dataclasses.fields(self)] if dataclasses.is_dataclass(self) else self._shown
        for name in names:
            value = value_of(self, name)
            if dataclasses.is_dataclass(value):
                rows += [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
            else:
                rows.append((name, value))
        return table(type(self).__name__ if dataclasses.is_dataclass(self) else value_of(self, "__repr__"), rows)


def value_of(thing: object, name: str) -> object:
    """An attribute, or what it returns; "?" when it raises."""
    try:
        value = getattr(thing, name)
        return value() if callable(value) else value
    except Exception:  # noqa: BLE001  a closed client, headers that are none: whatever it is, the cell goes on
        return "?"


def table(title: object, rows: Iterable[Iterable[object]], head: Iterable[str] = (), *, count: int = 0) -> str:
    """A table with a title; *count* is how many rows there are, if not all of them are among *rows*."""
    shown = list(rows)[:ROWS]
    lines = ["".join(f"<td>{text_of(value)}</td>" for value in row) for row in shown]
    names = "".join(f"<th>{text_of(name)}</th>" for name in head)
    more = f"<p>and {count - len(shown)} more</p>" if count > len(shown) else ""
    body = "".join(f"<tr>{line}</tr>" for line in ([names] if names else []) + lines)
    return f"<div><p>{text_of(title)}</p><table>{body}</table>{more}</div>"


def text_of(value: object) -> str:
    """A value as escaped text, the start of it when it is long."""
    try:
        if isinstance(value, (bytes, bytearray)):
            text = value[: CHARACTERS + 1].decode(errors="backslashreplace")
        else:
            text = "" if value is None else str(value)
    except Exception:  # noqa: BLE001  of the program's __str__
        text = "?"
    return html.escape(text if len(text) <= CHARACTERS else f"{text[:CHARACTERS]}…")
