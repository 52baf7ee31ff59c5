"""
Reads what a server sends, and calls nats-py's client as its own parser does.

nats-py's parser takes any blank of any alphabet for the end of a word, so that a vertical tab in somebody's reply
subject breaks the connection; only an ASCII blank parts the words of a line here.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple, Optional

from nats.errors import ProtocolError
from nats.protocol.parser import Parser

from memphis_sync._protocol.server_errors import error_text

if TYPE_CHECKING:
    from nats.aio.client import Client

_MAX_LINE = 1024 * 1024  # servers have 4096 as default; a delivered line is a little longer than the one sent


class Frames(Parser):
    """A HardenedClient's parser. Whatever is wrong with a frame is a ProtocolError: the connection is made anew."""

    def __init__(self, client: Client) -> None:
        self._client = client
        super().__init__(client)

    def reset(self) -> None:
        """For a new connection."""
        super().reset()
        self._buffer = bytearray()
        self._message: Optional[_Message] = None  # whose headers and payload are still to come

    async def parse(self, data: bytes = b"") -> None:
        """Takes what was read."""
        try:
            await self._parse(data)
        except (ProtocolError, OSError):
            raise
        except Exception as exc:  # else nats-py would log it and stop reading, without a word to anybody
            raise ProtocolError(f"nats: malformed frame: {exc!r}") from exc

    async def _parse(self, data: bytes) -> None:
        self._buffer += data
        while True:
            if self._message is None:
                end = self._buffer.find(b"\r\n")
                if end < 0:
                    if len(self._buffer) > _MAX_LINE:
                        raise ProtocolError("nats: a line without an end")
                    return
                line = bytes(self._buffer[:end])
                del self._buffer[: end + 2]
                await self._take_line(line)
            else:
                message = self._message
                if len(self._buffer) < message.size + 2:
                    return
                content = bytes(self._buffer[: message.size])
                del self._buffer[: message.size + 2]
                self._message = None
                await self._client._process_msg(
                    message.sid, message.subject, message.reply, content[message.head :], content[: message.head]
                )

    async def _take_line(self, line: bytes) -> None:
        words = line.split(b" ")
        kind, client = words[0].upper(), self._client
        if kind in (b"MSG", b"HMSG"):
            self._message = _Message.of(words, has_headers=kind == b"HMSG")
        elif kind == b"PING":
            await client._process_ping()
        elif kind == b"PONG":
            await client._process_pong()
        elif kind == b"-ERR":
            await client._process_err(error_text(line))
        elif kind == b"INFO":
            await client._process_info(json.loads(line[5:]))
        elif kind != b"+OK":
            raise ProtocolError("nats: unknown protocol")


class _Message(NamedTuple):
    """The line of a MSG or HMSG."""

    subject: bytes
    sid: int
    reply: bytes
    head: int
    size: int

    @classmethod
    def of(cls, words: list[bytes], *, has_headers: bool) -> _Message:
        numbers = 2 if has_headers else 1
        words = [word for word in words if word]  # a message without a reply may come with two blanks
        reply = words[3] if len(words) == 4 + numbers else b""
        head = int(words[-2]) if has_headers else 0
        size = int(words[-1])
        if not 0 <= head <= size:
            raise ProtocolError("nats: a length that cannot be")
        return cls(words[1], int(words[2]), reply, head, size)
