"""
The service's connection: nats-py's, made safe against what any client of the server can send to it.

nats-py trusts whoever publishes. Its reader stops for good (no error, no reconnect) at a request whose headers are
shorter than ``NATS/1.0`` or whose status line or reply subject is no UTF-8, and reconnects at a reply subject with a
vertical tab in it: one frame of any client would silence the broker. So the frames are read here, and what
cannot be decoded is served without its headers, or dropped when there is nowhere to send the answer.

Source: ``nats/aio/client.py`` and ``nats/protocol/parser.py`` of nats-py 2.16. The parts overridden here are not its
public interface; tests/broker/test_fuzz.py fails when a release changes them.
"""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING, Any, NamedTuple, Optional

from nats.aio.client import Client
from nats.errors import ProtocolError
from nats.protocol.parser import Parser

if TYPE_CHECKING:
    from nats.aio.msg import Msg

log = logging.getLogger("memphis_sync.broker")

PENDING_BYTES = 32 * 1024 * 1024  # of requests on one subject that wait to be served; what comes on top is dropped
_MAX_LINE = 1024 * 1024  # servers have 4096 as default; a delivered line is a little longer than the one sent
_LOG_S = 1.0  # between two lines about errors of the connection


class _Frames(Parser):
    """
    Reads what the server sends, and calls nats-py's client as its own parser does.

    Only a blank parts the words of a line: everything else, control characters too, may stand in a reply subject.
    """

    def __init__(self, client: ServiceConnection) -> None:
        self._client = client
        super().__init__(client)

    def reset(self) -> None:
        """For a new connection."""
        super().reset()
        self._buffer = bytearray()
        self._message: Optional[_Message] = None  # whose headers and payload are still to come

    async def parse(self, data: bytes = b"") -> None:
        """Takes what was read."""
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
        try:
            if kind in (b"MSG", b"HMSG"):
                self._message = _Message.of(words, has_headers=kind == b"HMSG")
            elif kind == b"PING":
                await client._process_ping()
            elif kind == b"PONG":
                await client._process_pong()
            elif kind == b"-ERR":
                await client._process_err(line[5:].decode("utf-8", "replace").lower())
            elif kind == b"INFO":
                await client._process_info(json.loads(line[5:]))
            elif kind != b"+OK":
                raise ProtocolError("nats: unknown protocol")
        except (ValueError, IndexError) as exc:
            raise ProtocolError(f"nats: malformed line: {exc}") from exc


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
        return cls(words[1], int(words[2]), reply, head, int(words[-1]))


class ServiceConnection(Client):
    """A nats-py client that no message can stop."""

    def __init__(self) -> None:
        super().__init__()
        self._ps = _Frames(self)
        self._logged_at = -_LOG_S
        self._not_logged = 0

    async def _process_headers(self, headers: bytes) -> Optional[dict[str, str]]:
        try:
            found: Optional[dict[str, str]] = await super()._process_headers(headers)
        except (IndexError, ValueError):  # no headers at all, or a status that is no UTF-8
            return None
        return found

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: Optional[dict[str, str]]
    ) -> Optional[Msg]:
        try:
            message: Msg = super()._build_message(sid, subject, reply, data, headers)
        except UnicodeDecodeError:
            self.complain("a request whose reply subject is no text was dropped")
            return None
        return message

    async def on_error(self, exc: Exception) -> None:
        """nats-py's error callback."""
        self.complain(f"NATS connection: {exc or type(exc).__name__}")

    def complain(self, text: str) -> None:
        """A line in the log, at most one in _LOG_S: a stranger could cause any number of them."""
        now = time.monotonic()
        if now - self._logged_at < _LOG_S:
            self._not_logged += 1
            return
        more = f" (and {self._not_logged} lines before it that are not shown)" if self._not_logged else ""
        self._logged_at, self._not_logged = now, 0
        log.warning("%s%s", text, more)


async def open_connection(servers: list[str], **options: Any) -> ServiceConnection:
    """A connection that comes back by itself; arguments are those of ``nats.connect()``."""
    connection = ServiceConnection()
    await connection.connect(servers, error_cb=connection.on_error, **options)
    return connection
