"""
Makes the message ids of official SDKs readable for a stock nats-server: bytes in, bytes out.

Official SDKs send their ids as ``msg-id``, which only Memphis' fork of nats-server reads; a stock one reads
``Nats-Msg-Id``. This header is inserted before the other one, with the same value, and the sizes are corrected; every
other byte is passed on unchanged. Bytes that are not understood are passed on, too, and so is everything after them:
the server decides, and ends such a connection.

Source: the client parser of nats-server 2.12 to 2.15 (``server/parser.go``, ``processHeaderPub`` and
``getHeaderKeyIndex`` in ``server/client.go``): line ends, blanks between words, how a header is found.
"""

from __future__ import annotations

import re
from typing import Optional, Union

MAX_LINE = 64 * 1024  # bytes of an incomplete control line that are held back; the default limit of servers is 4096
MAX_HEADERS = 64 * 1024  # bytes of a header block that is searched
_LONG_LINE = 4000  # with two more digits a longer line could exceed the server's limit

_WORD, _BLANK = rb"[^ \t\r\n]+", rb"[ \t]+"
_HPUB = re.compile(
    rb"[Hh][Pp][Uu][Bb]" + _BLANK + b"(" + _WORD + b"(?:" + _BLANK + _WORD + b")?)" + _BLANK
    + rb"([0-9]{1,10})" + _BLANK + rb"([0-9]{1,10})[ \t]*\r?\n"
)  # fmt: skip
_PUB = re.compile(
    rb"[Pp][Uu][Bb]" + _BLANK + _WORD + b"(?:" + _BLANK + _WORD + b")?" + _BLANK + rb"([0-9]{1,10})[ \t]*\r?\n"
)
_H, _P, _U = b"Hh", b"Pp", b"Uu"
_FIRST = b"CcHhIiPpSsUu+-"  # what a client's command can start with
_FROM, _TO = b"\r\nmsg-id:", b"\r\nNats-Msg-Id:"

Piece = Union[bytes, memoryview]


class MsgIdRewriter:
    """
    One connection's bytes from client to server.

    Args:
        max_payload: The server's limit in bytes; a message that would grow beyond it keeps its headers.

    Attributes:
        added: How many messages got the second header.
        left_out: How many had no space for it; the server stores them without checking for duplicates.
        is_opaque: Whether something was not understood, so that all further bytes pass unchanged.
    """

    __slots__ = ("_held", "_skip", "added", "is_opaque", "left_out", "max_payload")

    def __init__(self, max_payload: int) -> None:
        self.max_payload = max_payload
        self.added = 0
        self.left_out = 0
        self.is_opaque = False
        self._held = b""  # the start of a command that isn't complete yet
        self._skip = 0  # bytes of a payload and its line end that are still to come

    def feed(self, data: bytes) -> list[Piece]:
        """
        Processes bytes from the client, split anywhere.

        Returns:
            The bytes to send to the server now, in order; at most MAX_LINE + MAX_HEADERS bytes are held back.
        """
        if self.is_opaque:
            return [data]
        if self._skip >= len(data):
            self._skip -= len(data)
            return [data]
        if self._held:
            data, self._held = self._held + data, b""
        return self._scan(data)

    def _scan(self, data: bytes) -> list[Piece]:
        view = memoryview(data)
        pieces: list[Piece] = []
        start, at, end = 0, self._skip, len(data)  # data[start:at] passes unchanged, and is not in pieces yet
        self._skip = 0
        while at < end:
            match = _HPUB.match(data, at)
            if match is not None:
                changed = self._headers(data, at, match)
                if changed is None:
                    break
                piece, behind, length = changed
                if piece:
                    pieces += [view[start:at], piece]
                    start = behind
                at = behind + length
                continue
            behind = self._other(data, at)
            if behind < 0:
                break
            at = behind
        if at >= end:
            self._skip = at - end
            at = end
        if self.is_opaque:
            at = end
        self._held = data[at:]
        if start < at:
            pieces.append(view[start:at] if start or at < end else data)
        return pieces

    def _headers(self, data: bytes, at: int, match: re.Match[bytes]) -> Optional[tuple[bytes, int, int]]:
        """
        A message with headers: the bytes that replace its line and headers (b"" for "unchanged"), where the headers
        end, and how many bytes follow them. None when the headers are not complete yet, or not valid.
        """
        head, size = int(match[2]), int(match[3])
        begin = match.end()
        if head > size:
            self.is_opaque = True
            return None
        behind, rest = begin + head, size - head + 2
        if head > MAX_HEADERS or size > self.max_payload:  # the server refuses the second at once
            return b"", behind, rest
        if behind > len(data):
            return None
        place = data.find(_FROM, begin, behind)
        if place < 0 or data.find(_TO, begin, behind) >= 0:
            return b"", behind, rest
        value = data[place + len(_FROM) : data.find(b"\r\n", place + len(_FROM), behind)].lstrip(b" ")
        added = b"Nats-Msg-Id: " + value + b"\r\n"
        if not value or data.find(b"\r\n", place + len(_FROM), behind) < 0:
            return b"", behind, rest
        if size + len(added) > self.max_payload or begin - at > _LONG_LINE:
            self.left_out += 1
            return b"", behind, rest
        self.added += 1
        line = b"HPUB %b %d %d\r\n" % (match[1], head + len(added), size + len(added))
        return line + data[begin : place + 2] + added + data[place + 2 : behind], behind, rest

    def _other(self, data: bytes, at: int) -> int:
        """Where any other command ends, including its payload; -1 when its line is not complete."""
        match = _PUB.match(data, at)
        if match is not None:
            return match.end() + int(match[1]) + 2
        first, second = data[at : at + 1], data[at + 1 : at + 2]
        if first not in _FIRST:
            self.is_opaque = True
            return -1
        newline = data.find(b"\n", at, at + MAX_LINE)
        if newline < 0:
            self.is_opaque = len(data) - at >= MAX_LINE
            return -1
        if first in _H or (first in _P and second in _U):  # a publish that no server accepts
            self.is_opaque = True
            return -1
        return newline + 1
