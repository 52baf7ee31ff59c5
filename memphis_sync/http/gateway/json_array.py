"""
The elements of a JSON array, each as the bytes that were sent.

They are never encoded again: integers of any size, the order of keys, keys that come twice, blanks and escapes stay as
they are. The scanner is the standard library's, which says where each value ends.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import NoReturn

_BLANK = re.compile(r"[ \t\n\r]*")


class NotAnArrayError(ValueError):
    """The text is not a JSON array; the text of the error is empty, or a colon and where."""


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# Numbers are not computed: an integer of a million digits would take a minute.
_DECODER = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_refuse)


def elements(body: bytes) -> Iterator[bytes]:
    """
    The elements of an array, one after the other; none of ``null``, as Memphis' gateway has it.

    Raises:
        NotAnArrayError: It is not a JSON array in UTF-8. Elements before the fault have been given then.
    """
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise NotAnArrayError(f": it is not UTF-8 (byte {exc.start})") from exc
    blank, scan = _BLANK.match, _DECODER.raw_decode
    is_ascii = len(text) == len(body)  # characters are bytes then
    at = _end(blank(text, 0))
    if text[at : at + 1] != "[":
        if text[at:].rstrip(" \t\n\r") == "null":
            return
        raise NotAnArrayError
    at = _end(blank(text, at + 1))
    closing = text[at : at + 1] == "]"
    while not closing:
        try:
            _, end = scan(text, at)
        except (ValueError, RecursionError) as exc:
            why = "it is nested too deeply" if isinstance(exc, RecursionError) else "no JSON value begins there"
            raise NotAnArrayError(f": character {at}: {why}") from exc
        yield body[at:end] if is_ascii else text[at:end].encode()
        if text[end : end + 1] != ",":
            end = _end(blank(text, end))
            closing = text[end : end + 1] == "]"
            if not closing and text[end : end + 1] != ",":
                raise NotAnArrayError(f": character {end}: neither ',' nor ']'")
        at = end if closing else _end(blank(text, end + 1))
    rest = _end(blank(text, at + 1))
    if rest != len(text):
        raise NotAnArrayError(f": character {rest}: more than the array")


def _end(match: re.Match[str] | None) -> int:
    assert match is not None  # it matches nothing as well
    return match.end()
