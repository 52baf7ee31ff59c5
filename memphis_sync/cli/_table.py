"""
Tables on stdout: aligned and with a heading on a terminal, else a line of columns separated by TAB for each row.

No colour, so there is none to switch off. A narrow terminal shows fewer columns: those at the end are left out.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Any

_GAP = 2
_LEAST = 8  # characters of the last column that is shown, which may be cut
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_UNIT = 1024


class Size(int):
    """A number of bytes."""


def write_table(
    headings: Sequence[str], rows: Sequence[Sequence[Any]], *, for_people: bool = False, indent: str = ""
) -> None:
    """
    Writes a table.

    Args:
        headings: Of the columns.
        rows: Each with a value for each heading.
        for_people: Align it in a pipe, too.
        indent: In front of each line, when it is aligned.
    """
    out = sys.stdout.buffer
    if not (for_people or sys.stdout.isatty()):
        lines = ["\t".join(one_line(_plain(value)) for value in row) for row in rows]
    else:
        lines = _aligned([list(headings), *([one_line(_short(value)) for value in row] for row in rows)], rows, indent)
    out.write("".join(line + os.linesep for line in lines).encode("utf-8", "replace"))
    out.flush()


def one_line(text: str) -> str:
    """Text from others as one column: a line end, a TAB or a terminal's escape sequence is shown, not obeyed."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _aligned(cells: list[list[str]], rows: Sequence[Sequence[Any]], indent: str) -> list[str]:
    width = max(1, shutil.get_terminal_size().columns - len(indent))
    widths = [max(map(len, column)) for column in zip(*cells)]
    if sum(widths) + _GAP * (len(widths) - 1) > width:
        widths[0] = min(widths[0], max(_LEAST, width // 2))
    are_numbers = [isinstance(value, int) and not isinstance(value, bool) for value in (rows[0] if rows else cells[0])]
    shown, used = 1, widths[0]
    for each, is_number in zip(widths[1:], are_numbers[1:]):
        if used + _GAP + (each if is_number else min(each, _LEAST)) > width:
            break
        used += each + _GAP
        shown += 1
    lines = []
    for cell in cells:
        line = ""
        for text, each, is_number in zip(cell[:shown], widths, are_numbers):
            line += (str.rjust if is_number else str.ljust)(_cut(text, each), each) + " " * _GAP
        lines.append(indent + _cut(line.rstrip(), width))
    return lines


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _plain(value: object) -> str:
    """For a program: numbers without separators, times as ISO 8601."""
    if isinstance(value, datetime):
        return value.isoformat()
    return "" if value is None else str(int(value) if isinstance(value, Size) else value)


def _short(value: object) -> str:
    """For people."""
    if isinstance(value, datetime):
        local = value.astimezone()
        return local.strftime("%H:%M:%S" if local.date() == datetime.now().astimezone().date() else "%Y-%m-%d %H:%M")
    if isinstance(value, Size):
        return size_text(value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else _plain(value)


def size_text(size: int) -> str:
    """A number of bytes with a unit: ``1.5 MiB``."""
    amount, unit = float(size), 0
    while amount >= _UNIT and unit < len(_UNITS) - 1:
        amount, unit = amount / _UNIT, unit + 1
    return f"{amount:.1f} {_UNITS[unit]}" if unit else f"{size} B"
