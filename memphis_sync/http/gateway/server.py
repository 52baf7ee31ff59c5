"""
The gateway as a process: uvicorn with limits that it lacks, and its end.

A connection that says nothing, says it too slowly or says nonsense gets an answer in JSON and is closed; one more than
there may be, too. One whose client stops reading an answer is cut off. SIGTERM and Ctrl-C let the requests under way
end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import h11
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from .app import create_app
from .errors import as_json
from .framing import TOLD, StrictBuffer
from .settings import GatewaySettings
from .streaming import OWN_PACE

log = logging.getLogger("memphis_sync.gateway")

KEEP_ALIVE_S = 75  # longer than the 60 s of proxies in front, so that they close first
JOINED_BYTES = 65536
ACKED = slice(120, 128)  # tcpi_bytes_acked in Linux's struct tcp_info
SPARE_FILES = 200  # connections that are just refused, threads' and loops' own, logs
_REASONS = {
    400: "Bad Request",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


def run(settings: GatewaySettings) -> int:
    """
    Serves until SIGTERM or Ctrl-C; must be called on the main thread.

    Returns:
        The exit code: 0 after SIGTERM, 130 after Ctrl-C, 1 when it could not listen, with one sentence on standard
        error.
    """
    try:
        listener = _listen(settings)
    except OSError as exc:
        sys.stderr.write(
            f"memphis-sync gateway: --port {settings.port}: cannot listen on {settings.host}: {exc.strerror or exc}\n"
        )
        return 1
    _allow_files(settings)
    with contextlib.closing(listener):
        server = Server(settings, listener)
        server.run(sockets=[listener])
    return server.exit_code


def _allow_files(settings: GatewaySettings) -> None:
    """Raises this process's limit of open files to what its connections need, as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = settings.max_connections + 2 * settings.max_clients + SPARE_FILES
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < needed:
        log.warning("%d open files are allowed; %d are needed for all connections", allowed, needed)


def uvicorn_config(app: Starlette, settings: GatewaySettings) -> uvicorn.Config:
    """How uvicorn serves a gateway."""
    return uvicorn.Config(
        app,
        http=limited(settings),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(int(settings.end_s), 1),
        h11_max_incomplete_event_size=settings.header_limit,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
        ssl_ca_certs=None if settings.tls_ca is None else str(settings.tls_ca),
        ssl_cert_reqs=0 if settings.tls_ca is None else 2,
    )


def _listen(settings: GatewaySettings) -> socket.socket:
    if settings.fd is not None:
        inherited = socket.socket(fileno=settings.fd)
        inherited.setblocking(False)
        return inherited
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # With its protocol named, or asyncio would not turn off the delay of small packets.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
        listener.listen(2048)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


class Server(uvicorn.Server):
    """uvicorn that says when it listens, and ends with the exit code of the signal."""

    def __init__(self, settings: GatewaySettings, listener: socket.socket) -> None:
        self._app = create_app(settings)
        super().__init__(uvicorn_config(self._app, settings))
        self._settings, self._listener = settings, listener
        self.exit_code = 0

    async def startup(self, sockets: Optional[list[socket.socket]] = None) -> None:
        """Starts, and tells."""
        await super().startup(sockets)
        port = self._listener.getsockname()[1]
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        url = f"{self._settings.scheme}://{host}:{port}"
        if self._settings.ready_file is not None:
            line = json.dumps({"url": url, "host": self._settings.host, "port": port, "pid": os.getpid()})
            _write_whole(self._settings.ready_file, f"{line}\n")
        log.info("%s serves %s", url, self._settings.url.partition("?")[0])

    async def shutdown(self, sockets: Optional[list[socket.socket]] = None) -> None:
        """Has what waits for messages answer with what it has, lets go of open pages, and waits for all requests."""
        sessions = self._app.state.sessions
        sessions.is_ending = True
        for end in sessions.at_end:
            end()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C let it end; a second one ends it at once."""

        def end(number: int, _: Any) -> None:
            self.exit_code = 130 if number == signal.SIGINT else 0
            self.force_exit = self.should_exit
            self.should_exit = True

        earlier = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in earlier.items():
                signal.signal(number, handler)


def _write_whole(path: Path, text: str) -> None:
    """Writes a file that is never seen half-written."""
    part = path.with_name(f"{path.name}.{os.getpid()}")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


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


def limited(settings: GatewaySettings) -> type[asyncio.Protocol]:
    """The protocol of uvicorn with this gateway's limits."""

    class Limited(H11Protocol):
        """One connection."""

        _waiting: Optional[asyncio.TimerHandle] = None  # for the rest of a request's headers
        _watching: Optional[asyncio.TimerHandle] = None  # whether an answer is read

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
