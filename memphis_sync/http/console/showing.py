"""
How values are shown: numbers, sizes, times, text that cannot play tricks, JSON as it was sent, bytes in hexadecimal.

What others have written (names, headers, payloads, texts of errors) passes visible() here and the escapes of the
templates there; neither alone is enough.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Literal, NoReturn, Optional

from memphis_sync.types import Retention

if TYPE_CHECKING:
    from memphis_sync.info import StationInfo

NOT_KNOWN = "\N{EN DASH}"
MAX_TEXT = 64 * 1024  # bytes of a payload shown as text: more slows a browser, and nobody reads it
MAX_HEX = 8 * 1024  # bytes shown in hexadecimal, where each takes four characters
MAX_PREVIEW = 160  # characters of a payload in a list
_HEX_WIDTH = 16
_DEEPEST = 24  # levels of JSON that get an indentation of their own: it is what takes the space
_NOT_ASCII = re.compile(r"[^\x20-\x7e]")
_TOKEN = re.compile(r'\s*("(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+)', re.DOTALL)
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")

View = Literal["json", "text", "hex"]


@dataclass(frozen=True)
class Payload:
    """
    A payload as it is shown.

    Attributes:
        view: How.
        text: The characters.
        shown: How many of its bytes those are.
        size: How many it has.
        views: The ways in which it can be shown.
    """

    view: View
    text: str
    shown: int
    size: int
    views: tuple[View, ...]


def visible(text: object, *, keep: str = "") -> str:
    """
    Text with what is invisible, or changes how its neighbours are shown, as escapes: control characters, marks of
    direction, lone surrogates.

    Args:
        text: Anything; its ``str()``.
        keep: Characters that stay as they are.
    """

    def show(match: re.Match[str]) -> str:
        char = match[0]
        return char if char.isprintable() or char in keep else char.encode("unicode_escape").decode()

    return _NOT_ASCII.sub(show, str(text))


def number(value: float) -> str:
    """1234567 -> ``1,234,567``."""
    return f"{value:,.0f}"


def rate(per_second: float) -> str:
    """Messages a second: one decimal as long as it says something."""
    return f"{per_second:,.1f}" if 0 < per_second < 100 else f"{per_second:,.0f}"


def size(count: float) -> str:
    """Bytes in the largest unit that leaves at least 1."""
    power = 0
    while abs(count) >= 1024 and power < len(_UNITS) - 1:
        count, power = count / 1024, power + 1
    return f"{count:,.1f} {_UNITS[power]}" if power else f"{count:,.0f} B"


def moment(time: Optional[datetime]) -> str:
    """A time in UTC, to the millisecond."""
    if time is None:
        return NOT_KNOWN
    return time.astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + " UTC"


def span(seconds: float) -> str:
    """A span of time in its two largest units."""
    units = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
    whole = int(seconds)
    if whole < 1:
        return f"{seconds * 1000:.0f} ms"
    parts = []
    for unit, name in units:
        if whole >= unit:
            parts.append(f"{whole // unit} {name}")
            whole %= unit
    return " ".join(parts[:2])


def retention(station: StationInfo) -> str:
    """What limits a station's messages, in words."""
    value = station.retention_value
    if station.retention is Retention.ACK_BASED:
        return "until acknowledged"
    if not value:
        return "for ever"
    if station.retention is Retention.MESSAGES:
        return f"the newest {number(value)}"
    return f"the newest {size(value)}" if station.retention is Retention.BYTES else f"for {span(value)}"


def preview(data: bytes) -> str:
    """A payload in one short line."""
    text = _as_text(data[: MAX_PREVIEW * 4], is_cut=len(data) > MAX_PREVIEW * 4)
    if text is None:
        return data[:24].hex(" ") + (" …" if len(data) > 24 else "")
    return visible(text[:MAX_PREVIEW]) + ("…" if len(text) > MAX_PREVIEW or len(data) > MAX_PREVIEW * 4 else "")


def payload(data: bytes, wanted: str = "") -> Payload:
    """
    A payload for people: indented if it is JSON, as text if it is UTF-8, in hexadecimal otherwise.

    Args:
        data: The payload.
        wanted: One of these views, if it can be shown so; the best one otherwise.
    """
    text = _as_text(data[:MAX_TEXT], is_cut=len(data) > MAX_TEXT)
    indented = None if text is None or len(data) > MAX_TEXT else indented_json(text)
    views: list[View] = ["hex"]
    if text is not None:
        views.insert(0, "text")
    if indented is not None:
        views.insert(0, "json")
    view = next((each for each in views if each == wanted), views[0])
    if view == "hex":
        return Payload(view, hex_dump(data[:MAX_HEX]), min(len(data), MAX_HEX), len(data), tuple(views))
    chosen = indented if view == "json" else text
    shown = visible(chosen, keep="\n\t")
    return Payload(view, shown, min(len(data), MAX_TEXT), len(data), tuple(views))


def indented_json(text: str) -> Optional[str]:
    """
    JSON with a line for each element; None if it is not JSON.

    Its tokens stay as they are: decoded and encoded again, numbers would be rounded and keys that occur twice be lost.
    """
    try:
        value = json.loads(text, parse_int=str, parse_float=str, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, (dict, list)):
        return text.strip()
    lines: list[str] = []
    line, depth, before = "", 0, ""
    for part in _TOKEN.findall(text):
        if part in "]}":
            depth -= 1
            if before not in "[{":
                lines.append(line)
                line = "  " * min(depth, _DEEPEST)
        elif before and before in "[{,":
            lines.append(line)
            line = "  " * min(depth, _DEEPEST)
        line += ": " if part == ":" else part
        if part in "[{":
            depth += 1
        before = part
    return "\n".join([*lines, line])


def hex_dump(data: bytes) -> str:
    """Bytes as offset, hexadecimal and ASCII, 16 a line."""
    lines = []
    for at in range(0, len(data), _HEX_WIDTH):
        row = data[at : at + _HEX_WIDTH]
        shown = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        lines.append(f"{at:08x}  {row.hex(' '):<{_HEX_WIDTH * 3 - 1}}  {shown}")
    return "\n".join(lines)


def _as_text(data: bytes, *, is_cut: bool) -> Optional[str]:
    """UTF-8 as text; None if it is not, or if it holds what no text does. A cut may have split the last character."""
    try:
        text = data.decode()
    except UnicodeDecodeError as exc:
        if not is_cut or exc.start < len(data) - 3:
            return None
        text = data[: exc.start].decode()
    return None if "\0" in text else text


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
