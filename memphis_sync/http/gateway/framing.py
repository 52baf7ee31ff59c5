"""
What the parser of HTTP forgives, and a server behind a proxy must not: where one request ends and the next one begins
may have one reading only.
"""

from __future__ import annotations

from typing import Optional

from h11 import LocalProtocolError
from h11._receivebuffer import ReceiveBuffer

BARE_LF = "Invalid HTTP request received: a line of its headers ends with LF alone; it must be CR LF"
FOLDED = "Invalid HTTP request received: a header begins with a blank; each must be on one line"
EXTENSIONS = "Invalid HTTP request received: the extensions of its chunks are too long"
TOLD = frozenset({BARE_LF, FOLDED, EXTENSIONS})

CHUNK_SIZE_BYTES = 22  # the 20 digits that the parser takes, CR and LF
MOST_EXTENSION_BYTES = 4096  # of all chunks of a body: nobody reads them


class StrictBuffer(ReceiveBuffer):
    """
    Where the parser takes its lines from: it looks at those of headers and trailers, and of chunks, never at a body.

    Source: RFC 9112, 2.2 (bare LF), 5.2 (folded lines), 7.1.1 (limit of extensions).
    """

    def __init__(self) -> None:
        super().__init__()
        self._extension_bytes = 0

    def maybe_extract_lines(self) -> Optional[list[bytearray]]:
        """The lines up to an empty one, without their ends; None before it is there."""
        before = len(self)
        lines = super().maybe_extract_lines()
        if lines is None:
            return None
        self._extension_bytes = 0
        if before - len(self) != sum(map(len, lines)) + 2 * len(lines) + 2:
            raise LocalProtocolError(BARE_LF)
        for line in lines:
            if line.startswith((b" ", b"\t")):
                raise LocalProtocolError(FOLDED)
        return lines

    def maybe_extract_next_line(self) -> Optional[bytearray]:
        """The line in front of a chunk, with its end; None before it is there."""
        line = super().maybe_extract_next_line()
        if line is not None and len(line) > CHUNK_SIZE_BYTES:
            self._extension_bytes += len(line) - CHUNK_SIZE_BYTES
            if self._extension_bytes > MOST_EXTENSION_BYTES:
                raise LocalProtocolError(EXTENSIONS)
        return line
