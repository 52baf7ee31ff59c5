"""The gateway as a process: where it listens, how uvicorn serves it, and its end at SIGTERM and Ctrl-C."""

from __future__ import annotations

import contextlib
import gc
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

import uvicorn
from starlette.applications import Starlette

from .app import create_app
from .connection import limited
from .settings import GatewaySettings

log = logging.getLogger("memphis_sync.gateway")

KEEP_ALIVE_S = 75  # longer than the 60 s of proxies in front, so that they close first
NEW_OBJECTS = 10_000  # before the garbage of cycles is looked for: requests make none, and many at once look like some
SPARE_FILES = 200  # connections that are just refused, threads' and loops' own, logs


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
        gc.collect()
        gc.freeze()  # what is here stays
        gc.set_threshold(NEW_OBJECTS)
        port = self._listener.getsockname()[1]
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        url = f"{self._settings.scheme}://{host}:{port}"
        log.info("%s serves %s", url, self._settings.url.partition("?")[0])
        if self._settings.ready_file is not None:  # after all else: who waits for it goes on
            line = json.dumps({"url": url, "host": self._settings.host, "port": port, "pid": os.getpid()})
            _write_whole(self._settings.ready_file, f"{line}\n")

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
