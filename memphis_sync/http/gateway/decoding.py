"""Content encodings of a body without an end: decoded as it comes, a bounded piece at a time."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any, Callable, Union

from .bodies import PIECE
from .errors import Problem, refused

SLICE = 4096  # what is behind the end of one stream is copied, and many streams may follow each other


class Identity:
    """A body that is sent as it is."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The pieces that some more bytes become."""
        yield data

    def end(self) -> None:
        """There is no more. Raises the Problem, 400, of a body that ends too early."""


class Inflating(Identity):
    """
    Streams of gzip or zlib, one after the other.

    Args:
        name: The encoding.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._begin = b""  # too little to know its format by
        self._stream: Any = None  # zlib's; None between two

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The same. Raises the Problem, 400, of one that is broken."""
        data, self._begin = self._begin + data, b""
        for begin in range(0, len(data), SLICE):
            rest = self._begin + data[begin : begin + SLICE]
            self._begin = b""
            while rest:
                if self._stream is None:
                    if len(rest) == 1:
                        self._begin = rest
                        break
                    self._stream = zlib.decompressobj(self._window(rest))
                try:
                    piece = self._stream.decompress(rest, PIECE)
                except zlib.error as exc:
                    raise _broken(self._name) from exc
                if piece:
                    yield piece
                rest = self._stream.unconsumed_tail
                if self._stream.eof:
                    rest, self._stream = self._stream.unused_data, None
                elif not rest and len(piece) == PIECE:
                    yield from self._kept()

    def end(self) -> None:
        """The same."""
        if self._stream is not None or self._begin:
            raise _broken(self._name)

    def _kept(self) -> Iterator[bytes]:
        """What the stream has read, and had no room for."""
        while piece := self._stream.decompress(b"", PIECE):
            yield piece
        if self._stream.eof:
            self._stream = None

    def _window(self, rest: bytes) -> int:
        if self._name != "deflate":
            return 16 + zlib.MAX_WBITS
        # In zlib's format, as the standard says, or bare, as some clients do: RFC 1950, 2.2.
        is_zlib = rest[0] & 0x0F == 8 and int.from_bytes(rest[:2], "big") % 31 == 0
        return zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS


class Unbrotli(Identity):
    """A stream of brotli."""

    def __init__(self, name: str) -> None:
        import brotli  # type: ignore[import-untyped]  # noqa: PLC0415  few requests have it

        self._name, self._error, self._stream = name, brotli.error, brotli.Decompressor()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The same. Raises the Problem, 400, of one that is broken."""
        try:
            while piece := self._stream.process(data, output_buffer_limit=PIECE):
                yield piece
                data = b""  # all of it is inside
        except self._error as exc:
            raise _broken(self._name) from exc

    def end(self) -> None:
        """The same."""
        if not self._stream.is_finished():
            raise _broken(self._name)


def _broken(name: str) -> Problem:
    return refused(400, f"what is behind this line is not valid {name}; the stream ends here")


Decoding = Union[Identity, Inflating, Unbrotli]
_KINDS: dict[str, Callable[[str], Decoding]] = {
    "gzip": Inflating,
    "x-gzip": Inflating,
    "deflate": Inflating,
    "br": Unbrotli,
}


def decoding_of(encodings: list[str]) -> Decoding:
    """
    What decodes a body.

    Args:
        encodings: Values of the header.

    Raises:
        Problem: 415, an unknown encoding, or several.
    """
    names = [name.strip().lower() for value in encodings for name in value.split(",")]
    names = [name for name in names if name not in ("", "identity")]
    if not names:
        return Identity()
    kind = _KINDS.get(names[0])
    if kind is None or len(names) > 1:
        known = ", ".join(sorted(_KINDS))
        raise refused(
            415, f"content encoding {', '.join(names)[:40]!r} is not supported here; it must be one of {known}"
        )
    return kind(names[0])
