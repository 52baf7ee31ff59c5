"""
One connection of HTTP: uvicorn's protocol with the limits that it lacks.

A connection that says nothing, says it too slowly or says nonsense gets an answer in JSON and is closed; one more than
there may be, too. Many more of TLS are closed before their handshake. One whose client stops reading is cut off.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import socket
import sys
from collections.abc import Awaitable
from typing import Any, Optional

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from .errors import as_json
from .exchange import ALWAYS, CONNECTION
from .framing import TOLD, StrictBuffer
from .settings import GatewaySettings
from .streaming import OWN_PACE

JOINED_BYTES = 65536
MOST_HANDSHAKES = 100  # beyond the connections that may be open: those get a 503 first
ACKED = slice(120, 128)  # tcpi_bytes_acked in Linux's struct tcp_info
_REASONS = {
    400: "Bad Request",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


class Joined:
    """
    A transport that sends what is written in one turn of the event loop at once: the head of an answer and its body
    would be two packets otherwise, and two calls of the system.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._parts: list[bytes] = []
        self._size = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Keeps it for the end of the turn, unless it is much: nothing gathers here."""
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)
        self._size += len(data)
        if self._size > JOINED_BYTES:
            self._flush()

    def write_now(self, data: bytes) -> None:
        """Sends it, behind what was written before."""
        self._flush()
        self._transport.write(data)

    def close(self) -> None:
        """Sends what was written, and closes."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._parts:
            self._transport.write(b"".join(self._parts))
            self._parts.clear()
            self._size = 0


def _progress(transport: asyncio.Transport) -> tuple[int, bytes]:
    """What changes when the other side takes something: what is still here, and where the system tells it, its acks."""
    acked = b""
    with contextlib.suppress(OSError):  # of a socket that is closed
        if sys.platform == "linux":
            acked = transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, ACKED.stop)
    return transport.get_write_buffer_size(), acked[ACKED]


class Heads:
    """Heads of whole answers; what is the same in all of them is put together when the date is another."""

    def __init__(self) -> None:
        self._fixed: dict[int, bytes] = {}  # by status
        self._default: Any = None

    def of(self, status: int, default: list[tuple[bytes, bytes]], size: int) -> bytes:
        """
        A head with its empty line.

        Args:
            status: The status.
            default: The server's own headers, a list that is replaced when it changes.
            size: Of the body, in bytes.
        """
        if default is not self._default:
            self._fixed.clear()
            self._default = default
        head = self._fixed.get(status)
        if head is None:
            lines = [b"HTTP/1.1 %d %b" % (status, http.HTTPStatus(status).phrase.encode("ascii"))]
            headers = (*default, *ALWAYS, (b"content-type", b"application/json"))
            lines += [b"%b: %b" % header for header in headers]
            head = self._fixed[status] = b"\r\n".join([*lines, b"content-length: "])
        return b"%b%d\r\n\r\n" % (head, size)


def limited(settings: GatewaySettings) -> type[asyncio.Protocol]:
    """The protocol of uvicorn with this gateway's limits."""
    heads = Heads()
    handshakes: set[asyncio.Task[Any]] = set()  # of TLS, under way; each is a connection that is none of uvicorn's yet

    class Limited(H11Protocol):
        """One connection."""

        _waiting: Optional[asyncio.TimerHandle] = None  # for the rest of a request's headers
        _watching: Optional[asyncio.TimerHandle] = None  # whether an answer is read

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            if self.config.is_ssl:
                self._begin_handshake()
            self._served = self.app
            self.app = self._serve

        def _begin_handshake(self) -> None:
            """The task that makes this object ends with its handshake, and refuses it when that raises."""
            if len(self.connections) + len(handshakes) >= settings.max_connections + MOST_HANDSHAKES:
                raise ConnectionRefusedError("too many connections are open or shake hands")
            accepting = asyncio.current_task()
            if accepting is not None:
                handshakes.add(accepting)
                accepting.add_done_callback(handshakes.discard)

        def _serve(self, scope: Any, receive: Any, send: Any) -> Awaitable[None]:
            scope[CONNECTION] = self
            served: Awaitable[None] = self._served(scope, receive, send)
            return served

        def whole_body(self, scope: Any) -> Optional[bytes]:
            """The whole body of a request, once; None when more of it comes."""
            cycle = self.cycle
            if cycle.scope is not scope or cycle.more_body or cycle.disconnected or cycle.response_complete:
                return None
            body = bytes(cycle.body)
            cycle.body = bytearray()
            cycle.message_event.clear()
            self.flow.resume_reading()
            return body

        def answer(self, scope: Any, status: int, body: bytes) -> bool:
            """
            Writes a whole answer of JSON at once; False: it must go the long way, by the parser's writer.

            Only to a whole request whose connection goes on: then the parser has nothing to decide about the answer.
            """
            cycle, conn = self.cycle, self.conn
            if (
                cycle.scope is not scope
                or cycle.response_started
                or cycle.disconnected
                or not cycle.keep_alive
                or self.flow.write_paused
                or self.transport.is_closing()
                or scope["method"] == "HEAD"
                or conn.their_state is not h11.DONE  # more of it comes, or the connection ends, or is to be upgraded
                or conn.our_state is not h11.SEND_RESPONSE
            ):
                return False
            cycle.response_started = cycle.response_complete = True
            cycle.message_event.set()
            assert isinstance(self.transport, Joined)
            self.transport.write_now(heads.of(status, self.server_state.default_headers, len(body)) + body)
            conn._cstate.states[h11.SERVER] = h11.DONE  # h11 has no way to say that an answer is out
            cycle.on_response()
            return True

        def connection_made(self, transport: Any) -> None:
            """Refuses one too many; gives the others a time for their first headers."""
            super().connection_made(Joined(transport, self.loop))  # type: ignore[arg-type]
            self.conn._receive_buffer = StrictBuffer()  # h11 has no option for it
            if len(self.connections) > settings.max_connections:
                self._end(503, f"{settings.max_connections} connections are open already", "Retry-After: 1\r\n")
                return
            self._wait()

        def connection_lost(self, exc: Optional[Exception]) -> None:
            """Its timers go with it."""
            self._stop_waiting()
            self._stop_watching()
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            """What was written waits for the client: watches whether it reads."""
            super().pause_writing()
            self._watch(_progress(self.transport), self.loop.time())

        def resume_writing(self) -> None:
            """It has read."""
            self._stop_watching()
            super().resume_writing()

        def data_received(self, data: bytes) -> None:
            """Watches how long headers take."""
            super().data_received(data)
            if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
                if self.conn.trailing_data[0]:
                    self._wait()
            else:
                self._stop_waiting()

        def send_400_response(self, msg: str) -> None:
            """The answer to what is not HTTP, or to too many headers."""
            if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):  # an answer, begun or whole, is out already
                self.transport.close()
                return
            fault = sys.exc_info()[1]  # the parser's, which is being handled, and shows bytes of the request
            if self.conn.our_state is h11.IDLE and getattr(fault, "error_status_hint", 400) == 431:
                self._end(431, _REASONS[431])
            else:
                self._end(400, str(fault) if str(fault) in TOLD else msg)

        def _wait(self) -> None:
            if self._waiting is None:
                self._waiting = self.loop.call_later(
                    settings.read_timeout_s, self._end, 408, "Request Timeout: the headers came too slowly"
                )

        def _stop_waiting(self) -> None:
            if self._waiting is not None:
                self._waiting.cancel()
                self._waiting = None

        def _watch(self, before: object, since: float) -> None:
            now, progress = self.loop.time(), _progress(self.transport)
            has_own_pace = self.scope is not None and OWN_PACE in self.scope and not self.transport.is_closing()
            if progress != before or has_own_pace:
                since = now
            if now - since >= settings.write_timeout_s:
                self.transport.abort()
                return
            self._watching = self.loop.call_later(settings.write_timeout_s / 10, self._watch, progress, since)

        def _stop_watching(self) -> None:
            if self._watching is not None:
                self._watching.cancel()
                self._watching = None

        def _end(self, status: int, error: str, more: str = "") -> None:
            """An answer that is written past the state of HTTP, and the end of the connection."""
            if self.transport.is_closing():
                return
            body = as_json({"error": error, "success": False})
            head = (
                f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\nAccess-Control-Allow-Origin: *\r\nVary: Origin\r\n"
                f"{more}Connection: close\r\n\r\n"
            )
            self.transport.write(head.encode("ascii") + body)
            self.transport.close()

    return Limited
