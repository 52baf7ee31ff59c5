"""
The elements of a JSON array, each as the bytes that were sent.

They are never encoded again: integers of any size, the order of keys, keys that come twice, blanks and escapes stay as
they are. The scanner is the standard library's, which says where each value ends.

It lets nobody in while it is inside of a value, and a value may be the whole body. A large body is scanned in a thread,
with hooks in Python, at each of which others have their turn, and without the garbage collector, which would look at
the million lists of such a value again and again, while all wait.
"""

from __future__ import annotations

import asyncio
import gc
import json
import re
import threading
from collections.abc import Iterator
from typing import Any, Callable, NoReturn, TypeVar

T = TypeVar("T")

LARGE = 65536  # bytes, from which on a body is not scanned on the event loop
_BLANK = re.compile(r"[ \t\n\r]*")


class NotAnArrayError(ValueError):
    """The text is not a JSON array; the text of the error is empty, or a colon and where."""


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# Numbers are not computed: an integer of a million digits would take a minute.
_DECODER = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_refuse)
# Functions in Python, where another thread may go on; only where a value ends is asked for.
_PATIENT = json.JSONDecoder(
    parse_int=lambda _: None, parse_float=lambda _: None, parse_constant=_refuse, object_pairs_hook=lambda _: None
)


def scanner(size: int) -> json.JSONDecoder:
    """What checks a text of so many bytes, and says where its values end; the values are not for use."""
    return _DECODER if size <= LARGE else _PATIENT


async def beside(size: int, function: Callable[..., T], *args: Any) -> T:
    """Calls what reads or checks so many bytes: at once when these are few, else in a thread."""
    if size <= LARGE:
        return function(*args)

    def patiently() -> T:
        with _uncollected:
            return function(*args)

    return await asyncio.get_running_loop().run_in_executor(None, patiently)


class _Uncollected:
    """Without the garbage collector while anybody is inside."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._was_on = False

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._was_on = gc.isenabled()
                gc.disable()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside and self._was_on:
                gc.enable()


_uncollected = _Uncollected()


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
    blank, scan = _BLANK.match, scanner(len(body)).raw_decode
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
