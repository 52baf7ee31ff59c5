"""``--format``: a line of a user's own for each message, with the letters that kcat has for them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Callable, Optional, Union

import click

if TYPE_CHECKING:
    from memphis_sync import Message

    Part = Union[bytes, Callable[[Message], bytes]]

_PIECE = re.compile(rb"%(.?)|\\(x[0-9a-fA-F]{2}|.)", re.DOTALL)
_ESCAPES = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"0": b"\0", b"\\": b"\\"}
LETTERS = "%s payload, %S its bytes, %t station, %p partition, %o sequence, %T time, %h headers, %% a percent sign"


def _headers(message: Message) -> bytes:
    from memphis_sync.message import readable_headers

    found = readable_headers(message) or {}
    return ",".join(f"{name}={value}" for name, value in found.items()).encode("utf-8", "surrogateescape")


def _time(message: Message) -> bytes:
    sent = message.timesent
    return b"" if sent is None else sent.isoformat().encode()


_FIELDS: dict[bytes, Part] = {
    b"s": lambda message: bytes(message.data),
    b"S": lambda message: b"%d" % len(message.data),
    b"t": lambda message: message.station.encode(),
    b"p": lambda message: b"" if message.partition is None else b"%d" % message.partition,
    b"o": lambda message: b"" if message.sequence is None else b"%d" % message.sequence,
    b"T": _time,
    b"h": _headers,
    b"%": b"%",
}


def parts_of(_: click.Context, __: click.Parameter, text: Optional[str]) -> Optional[list[Part]]:
    """What a format writes, piece by piece; a usage error for a letter or an escape that there is not."""
    if text is None:
        return None
    parts: list[Part] = []
    raw, end = text.encode("utf-8", "surrogateescape"), 0
    for found in _PIECE.finditer(raw):
        parts.append(raw[end : found.start()])
        parts.append(_part(found))
        end = found.end()
    parts.append(raw[end:])
    return [part for part in parts if part != b""]


def _part(found: re.Match[bytes]) -> Part:
    letter, escape = found[1], found[2]
    if letter is not None:
        field = _FIELDS.get(letter)
        if field is None:
            raise click.BadParameter(f"there is no {_shown(found[0])}; there are {LETTERS}")
        return field
    if escape[:1] == b"x":
        return bytes([int(escape[1:], 16)])
    if escape not in _ESCAPES:
        raise click.BadParameter(rf"there is no {_shown(found[0])}; there are \n, \t, \r, \0, \\ and \xHH")
    return _ESCAPES[escape]


def _shown(text: bytes) -> str:
    return repr(text.decode("utf-8", "replace"))


def formatted(message: Message, parts: list[Part]) -> bytes:
    """A message as the format has it."""
    return b"".join(part if isinstance(part, bytes) else part(message) for part in parts)
