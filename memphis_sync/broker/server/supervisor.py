"""
Runs a broker: starts and watches nats-server, runs the service, and stops both.

nats-server is started first and boots while this process imports its NATS client, so that the broker is ready sooner.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from memphis_sync.broker.options import (
    DEFAULT_ROOT_PASSWORD,
    BrokerError,
    BrokerOptions,
    default_data_dir,
    nats_address,
)
from memphis_sync.broker.server.nats_server import IDLE_S, NatsServer, in_url, reachable
from memphis_sync.broker.server.processes import Progress

if TYPE_CHECKING:
    from memphis_sync.broker.sdk_port.proxy import SdkProxy
    from memphis_sync.broker.server.http_gateway import HttpGateway
    from memphis_sync.broker.service.service import Service

log = logging.getLogger("memphis_sync.broker")

_POLL_S = 0.002
_WATCH_S = 0.5  # how often nats-server and its disk are checked
_START_IDLE_S = 6 * IDLE_S  # how long a starting nats-server may do nothing; reading its store may take longer
_SHORT_LIFE_S = 5.0  # a nats-server that ends sooner than this after its start has failed
_MAX_FAILURES = 5  # after so many failures in a row the broker gives up
_INTERRUPTED = 130  # exit code after Ctrl-C


def run(options: BrokerOptions) -> int:
    """
    Runs a broker until SIGTERM or Ctrl-C; must be called on the main thread.

    Returns:
        The exit code: 0 after SIGTERM, 130 after Ctrl-C, 1 when it could not be started or kept running, with one
        sentence on standard error.
    """
    try:
        with _data_dir(options) as data_dir:
            server = None if data_dir is None else NatsServer(options, data_dir)
            try:
                if server is not None:
                    server.prepare()
                    server.spawn()
                return asyncio.run(_Broker(options, server).run())
            finally:
                if server is not None:
                    server.stop()
    except BrokerError as exc:
        sys.stderr.write(f"memphis-sync broker: {exc}\n")
        return 1
    except KeyboardInterrupt:  # before the signal handlers were in place
        return _INTERRUPTED


@contextlib.contextmanager
def _data_dir(options: BrokerOptions) -> Iterator[Optional[Path]]:
    """The data folder; a temporary one is removed at the end. None when an existing server is served."""
    if options.nats is not None:
        yield None
    elif options.ephemeral:
        try:
            folder = tempfile.mkdtemp(prefix="memphis-sync-")
        except OSError as exc:
            raise BrokerError(f"no temporary folder can be created: {exc}; set TMPDIR to a usable folder") from exc
        try:
            yield Path(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    else:
        yield options.data_dir or default_data_dir()


class _Broker:
    """One run: its loop, its signals, its nats-server."""

    def __init__(self, options: BrokerOptions, server: Optional[NatsServer]) -> None:
        self._options = options
        self._server = server
        self._stop: asyncio.Event
        self._child_ended: asyncio.Event
        self._exit_code = 0
        self._is_restart = False  # nats-server was terminated to be started again
        self._relay: Optional[SdkProxy] = None
        self._gateway: Optional[HttpGateway] = None

    async def run(self) -> int:
        """Runs until a signal or an error; returns the exit code."""
        self._stop, self._child_ended = asyncio.Event(), asyncio.Event()  # here: Python 3.9 binds them to the loop
        self._catch_signals()
        service = await self._start_service()
        if service is None:
            return self._exit_code
        try:
            await self._start_relay()
            if await self._start_gateway():
                self._say_ready()
                await self._until_ended(service)
        finally:
            if self._gateway is not None:
                await self._gateway.stop()
            if self._relay is not None:
                self._relay.stop()
            await service.stop()
            if self._options.ready_file is not None:
                self._options.ready_file.unlink(missing_ok=True)
        log.info("stopped")
        return self._exit_code

    async def _until_ended(self, service: Service) -> None:
        """Runs until a signal; ends the process, so that it can be restarted, when the service has lost its server."""
        ended = asyncio.ensure_future(service.wait_ended())
        running = asyncio.ensure_future(self._stop.wait() if self._server is None else self._supervise(self._server))
        serving = None if self._gateway is None else asyncio.ensure_future(self._gateway.supervise())
        try:
            await asyncio.wait((ended, running), return_when=asyncio.FIRST_COMPLETED)
            if not running.done() and not self._stop.is_set():
                raise BrokerError(f"the NATS server can no longer be used: {ended.result()}")
            await running
        finally:
            for task in filter(None, (ended, running, serving)):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):  # one of them was raised above
                    await task

    def _catch_signals(self) -> None:
        def stop(code: int) -> None:
            self._exit_code = code
            self._stop.set()
            self._child_ended.set()  # wakes _supervise()

        loop = asyncio.get_running_loop()
        try:
            loop.add_signal_handler(signal.SIGTERM, stop, 0)
            loop.add_signal_handler(signal.SIGINT, stop, _INTERRUPTED)
            loop.add_signal_handler(signal.SIGCHLD, self._child_ended.set)
        except (NotImplementedError, AttributeError, ValueError):  # Windows; or not on the main thread
            log.debug("no signal handlers here: Ctrl-C ends the broker through KeyboardInterrupt")

    async def _start_service(self) -> Optional[Service]:
        """The running service; None when a signal came meanwhile."""
        from memphis_sync.broker.service.service import Service  # noqa: PLC0415  nats is imported while nats-server boots

        if self._server is None:
            assert self._options.nats is not None
            url, login = self._options.nats, {}
        else:
            if not await self._listening(self._server):
                return None
            url = f"nats://{in_url(reachable(self._options.host))}:{self._server.port}"
            login = self._server.connect_options()
        server = self._server
        service = Service(self._options, url, login, lambda: "" if server is None else server.disk.trouble)
        start, stop = asyncio.ensure_future(service.start()), asyncio.ensure_future(self._stop.wait())
        await asyncio.wait((start, stop), return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not start.done():  # a signal came before the server replied
            start.cancel()
            return None
        await start
        return service

    async def _start_relay(self) -> None:
        """Opens the port for official SDKs, if one is configured."""
        options, server = self._options, self._server
        if options.sdk_port is None:
            return
        from memphis_sync.broker.sdk_port.proxy import SdkProxy, server_certificate  # noqa: PLC0415  most brokers have none

        if server is None:
            servers = [nats_address(url) for url in (options.nats or "").split(",")]
            self._relay = SdkProxy(options.host, options.sdk_port, lambda: servers)
        else:
            host, certificate = reachable(options.host), None
            if options.tls_cert is not None:
                ca = None if options.tls_ca is None else str(options.tls_ca)
                certificate = server_certificate(str(options.tls_cert), str(options.tls_key), ca)
            self._relay = SdkProxy(
                options.host,
                options.sdk_port,
                lambda: [(host, server.port)],
                certificate=certificate,
                trust=server.connect_options().get("tls"),
            )
        await self._relay.start()
        log.info("official SDKs find duplicates by their msg_id on port %d", self._relay.port)

    async def _start_gateway(self) -> bool:
        """Starts the gateway for HTTP, if one is configured; False when a signal came meanwhile."""
        options, server = self._options, self._server
        if options.http_port is None:
            return True
        from memphis_sync.broker.server.http_gateway import HttpGateway, addresses  # noqa: PLC0415  most brokers have none

        if server is None:
            servers = addresses(options.nats or "")
        else:
            servers = f"{in_url(reachable(options.host))}:{server.port}"
        keeps_keys = server is not None and not options.ephemeral
        self._gateway = HttpGateway(options, server.data_dir if server is not None and keeps_keys else None, servers)
        start, stop = asyncio.ensure_future(self._gateway.start()), asyncio.ensure_future(self._stop.wait())
        await asyncio.wait((start, stop), return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not start.done():
            start.cancel()
            return False
        await start
        log.info("HTTP on port %d", self._gateway.port)
        return True

    async def _listening(self, server: NatsServer) -> bool:
        """Waits until nats-server listens, while it makes progress; False when a signal came."""
        progress = Progress(server.pid)
        while not server.is_up():
            server.output.read()
            if self._stop.is_set():
                return False
            if server.exit_code() is not None:
                raise BrokerError(f"nats-server could not start: {server.failure()}")
            if progress.idle_s() > _START_IDLE_S:
                raise BrokerError(f"nats-server does not listen and does nothing; see its log in {server.data_dir}")
            await asyncio.sleep(_POLL_S)
        return True

    async def _supervise(self, server: NatsServer) -> None:
        """Restarts nats-server when it ends or its streams need it, until a signal comes."""
        failures, started = 0, time.monotonic()
        self._follow_output(server)
        while not self._stop.is_set():
            self._child_ended.clear()
            if server.exit_code() is None:
                await self._watch(server)
                continue
            server.output.read()
            if server.disk.is_full:  # without space it would end again
                await self._wait_for_room(server)
                failures = 0
            elif not self._is_restart:
                failures = failures + 1 if time.monotonic() - started < _SHORT_LIFE_S else 1
                if failures > _MAX_FAILURES:
                    raise BrokerError(f"nats-server ended {failures} times in a row: {server.failure()}")
                log.error("nats-server (pid %d) ended with code %s; restarting it", server.pid, server.exit_code())
                await asyncio.sleep(0.1 * (2 ** (failures - 1) - 1))
            self._is_restart = False
            if self._stop.is_set():
                return
            self._ignore_output(server)
            server.spawn()
            self._follow_output(server)
            started = time.monotonic()
            with contextlib.suppress(BrokerError):  # it ended again: the next round counts it
                if await self._listening(server):
                    log.info("nats-server is back (pid %d)", server.pid)
                    self._write_ready_file()

    async def _wait_for_room(self, server: NatsServer) -> None:
        """Waits until the disk has space, or a signal comes."""
        log.error("nats-server (pid %d) ended: its disk is full; it is restarted when there is space", server.pid)
        while not self._stop.is_set() and not await asyncio.to_thread(server.disk.wants_restart):
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stop.wait(), _WATCH_S)

    def _follow_output(self, server: NatsServer) -> None:
        """Reads the output of nats-server as it comes: a full pipe would block it."""
        handle, loop = server.output.fileno(), asyncio.get_running_loop()
        if handle is None:
            return

        def take() -> None:
            server.output.read()
            if server.output.has_ended:
                loop.remove_reader(handle)

        with contextlib.suppress(NotImplementedError):
            loop.add_reader(handle, take)

    @staticmethod
    def _ignore_output(server: NatsServer) -> None:
        handle = server.output.fileno()
        if handle is not None:
            with contextlib.suppress(NotImplementedError):
                asyncio.get_running_loop().remove_reader(handle)

    async def _watch(self, server: NatsServer) -> None:
        """Watches nats-server for _WATCH_S or until it ends: raises its store's limit, or ends it to be restarted."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._child_ended.wait(), _WATCH_S)
        server.output.read()
        if server.disk.is_limited:
            await asyncio.to_thread(server.raise_limit)
        if server.disk.is_full and await asyncio.to_thread(server.disk.wants_restart):
            self._is_restart = True
            server.terminate()

    def _say_ready(self) -> None:
        """Writes the ready file, and to standard output the line to connect with, and one for HTTP."""
        self._write_ready_file(is_first=True)
        options, server = self._options, self._server
        is_default = server is not None and options.token is None and options.root_password == DEFAULT_ROOT_PASSWORD
        login = f"root:{DEFAULT_ROOT_PASSWORD}@" if is_default else ""  # any other secret is not printed
        with contextlib.suppress(OSError, ValueError):  # it may be closed
            sys.stdout.write(self._url(login) + "\n")
            if self._gateway is not None:
                sys.stdout.write(self._gateway.url + "\n")
            sys.stdout.flush()
        log.info("ready, %s", "serving an existing NATS server" if server is None else f"data in {server.data_dir}")
        if is_default and not options.is_loopback:
            log.warning("other machines can reach the broker, and root has its default password")

    def _url(self, login: str = "") -> str:
        if self._server is None:
            host, port = nats_address(self._options.nats or "")
        else:
            host, port = reachable(self._options.host), self._server.port
        return f"{self._options.scheme}://{login}{in_url(host)}:{port}"

    def _write_ready_file(self, *, is_first: bool = False) -> None:
        """Writes one line of JSON, in one step and without secrets."""
        path, server = self._options.ready_file, self._server
        if path is None:
            return
        nats_host, nats_port = nats_address(self._options.nats or "localhost")
        facts = {
            "url": self._url(),
            "host": nats_host if server is None else self._options.host,
            "port": nats_port if server is None else server.port,
            "pid": os.getpid(),
            "nats_pid": None if server is None else server.pid,
            "data_dir": None if server is None else str(server.data_dir),
            "sdk_port": None if self._relay is None else self._relay.port,
            "http_url": None if self._gateway is None else self._gateway.url,
            "http_port": None if self._gateway is None else self._gateway.port,
        }
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            temporary.write_text(json.dumps(facts) + "\n")
            temporary.replace(path)
        except OSError as exc:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            if is_first:
                raise BrokerError(f"the ready file {path} cannot be written: {exc.strerror or exc}") from exc
            log.warning("the ready file %s cannot be written now: %s", path, exc)
