"""
The gateway for HTTP, as a child process: its socket, its start, its end.

Rules:
* The broker imports nothing of HTTP; the child is ``memphis-sync gateway`` as anybody may run it beside a broker.
* The listening socket is the broker's, and the child inherits it. So the port stays the same when the child is
  replaced, and clients that connect meanwhile wait instead of being refused.
* The child knows no password of the broker's users: whoever sends a request logs in with their own. Its keys for JWTs
  come through the environment or from a file that only its owner can read, never on its command line.
* It ends first when the broker ends, so that the requests it has accepted can be finished. If the broker is killed, it
  is killed too (Linux).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import ssl
import sys
import time
from pathlib import Path
from typing import Optional
from urllib.parse import urlencode

from memphis_sync.broker.options import BrokerError, BrokerOptions, nats_address
from memphis_sync.broker.server.nats_server import in_url, open_private, reachable
from memphis_sync.broker.server.own_program import own_program
from memphis_sync.broker.server.processes import die_with_parent

log = logging.getLogger("memphis_sync.broker")

KEYS = "MEMPHIS_SYNC_GATEWAY_JWT_KEYS"  # the environment variable in which the child finds them
KEYS_FILE = "http-jwt.keys"
_START_S = 60.0  # imports on a busy machine; it needs about one second
_STOP_S = 30.0  # for the requests it has accepted: the deadline of a message is 15 s
_TRY_S = 5.0  # for the answer to one question whether it is ready
_POLL_S = 0.02
_SHORT_LIFE_S = 5.0  # a child that ends sooner than this after its start has failed
_LONGEST_PAUSE_S = 10.0
_BACKLOG = 2048
_KEY_BYTES = 48


class HttpGateway:
    """
    One gateway process at a time, on one listening socket.

    Args:
        options: The broker's options; ``http_port`` is not None.
        data_dir: Where its keys are kept; None to keep them in memory.
        servers: Where the broker listens, ``host:port`` separated by commas.

    Attributes:
        port: Where it listens.

    Raises:
        BrokerError: The port cannot be used, or the keys cannot be read or written.
    """

    def __init__(self, options: BrokerOptions, data_dir: Optional[Path], servers: str) -> None:
        self._options = options
        self._socket = _listen(options.host, options.http_port or 0)
        self.port: int = self._socket.getsockname()[1]
        self._command = [*own_program("memphis_sync.cli", uses_client=True), "gateway", *self._arguments(servers)]
        self._environment = _environment()
        if KEYS not in self._environment:
            if data_dir is not None:
                self._command += ["--jwt-keys-file", str(_keys_file(data_dir))]
            else:  # the same for the next child
                self._environment[KEYS] = secrets.token_urlsafe(_KEY_BYTES)
        self._process: Optional[asyncio.subprocess.Process] = None
        self._is_ending = False

    @property
    def pid(self) -> int:
        """Process id of the child; 0 before the first start()."""
        return self._process.pid if self._process else 0

    @property
    def url(self) -> str:
        """The URL for HTTP, without credentials."""
        return f"{self._options.http_scheme}://{in_url(reachable(self._options.host))}:{self.port}"

    async def start(self) -> None:
        """
        Starts the child and waits until it answers.

        Raises:
            BrokerError: It ended or hangs; it has said why on standard error.
        """
        try:
            process = self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=sys.stderr if sys.stderr is not None else asyncio.subprocess.DEVNULL,
                env=self._environment,
                pass_fds=(self._socket.fileno(),),
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGKILL),
            )
        except OSError as exc:
            raise BrokerError(f"the gateway for HTTP cannot be started: {exc}") from exc
        ended, answered = asyncio.ensure_future(process.wait()), asyncio.ensure_future(self._answered())
        try:
            await asyncio.wait((ended, answered), timeout=_START_S, return_when=asyncio.FIRST_COMPLETED)
            if process.returncode is not None:
                raise BrokerError(f"the gateway for HTTP ended with code {process.returncode} instead of answering")
            if not answered.done():
                raise BrokerError(f"the gateway for HTTP does not answer after {_START_S:g} s")
        finally:
            for task in (ended, answered):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    async def supervise(self) -> None:
        """Starts another child when one ends, after a pause that grows with each failure; until it is cancelled."""
        failures, started = 0, time.monotonic()
        while True:
            assert self._process is not None
            code = await self._process.wait()
            failures = failures + 1 if time.monotonic() - started < _SHORT_LIFE_S else 1
            pause_s = min(0.1 * 2 ** (failures - 1), _LONGEST_PAUSE_S)
            log.error(
                "the gateway for HTTP (pid %d) ended with code %s; restarting it in %.1f s", self.pid, code, pause_s
            )
            await asyncio.sleep(pause_s)
            started = time.monotonic()
            try:
                await self.start()
            except BrokerError as exc:
                log.error("%s", exc)  # noqa: TRY400  one line, the next round tries again
                await self._end()
            else:
                log.info("the gateway for HTTP is back (pid %d)", self.pid)

    async def stop(self) -> None:
        """Ends the child: it accepts nothing more, and finishes what it has accepted."""
        self._socket.close()
        await self._end()

    async def _end(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), _STOP_S)
        except asyncio.TimeoutError:
            log.warning("the gateway for HTTP (pid %d) does not end; killing it", self.pid)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _answered(self) -> None:
        """Waits until it answers a request."""
        while True:
            with contextlib.suppress(OSError, asyncio.TimeoutError, asyncio.IncompleteReadError):
                if await asyncio.wait_for(self._ask(), _TRY_S):
                    return
            await asyncio.sleep(_POLL_S)

    async def _ask(self) -> bool:
        host = reachable(self._options.host)
        context = None
        if self._options.tls_cert is not None:  # it is our own child behind our own socket
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        reader, writer = await asyncio.open_connection(host, self.port, ssl=context)
        try:
            writer.write(b"GET /monitoring/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return (await reader.readuntil(b"\r\n")).split()[1:2] == [b"200"]
        finally:
            writer.close()

    def _arguments(self, servers: str) -> list[str]:
        options = self._options
        query = {}
        if options.tls_cert is not None:
            query["ca_file"] = str(options.tls_cert.absolute())
        if options.tls_ca is not None:
            query |= {"cert_file": query["ca_file"], "key_file": str(options.tls_key and options.tls_key.absolute())}
        scheme = "memphis+tls" if "tls://" in (options.nats or "") else options.scheme
        arguments = ["--url", f"{scheme}://{servers}/?{urlencode(query, safe='/')}".rstrip("/?")]
        arguments += ["--fd", str(self._socket.fileno())]
        if options.tls_cert is not None:
            arguments += ["--tls-cert", str(options.tls_cert), "--tls-key", str(options.tls_key)]
        return arguments


def addresses(nats: str) -> str:
    """Host and port of each NATS server of some URLs, as a client's URL has them."""
    places = [nats_address(url) for url in nats.split(",")]
    return ",".join(f"{in_url(host)}:{port}" for host, port in places)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(
            address[:2],
            family=family,
            backlog=_BACKLOG,
            dualstack_ipv6=host == "::" and socket.has_dualstack_ipv6(),
        )
    except OSError as exc:
        raise BrokerError(f"port {port} for HTTP cannot be used: {exc.strerror or exc}") from exc


def _environment() -> dict[str, str]:
    """The environment of the child: without what the broker or another client would read from it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MEMPHIS")}
    return {**kept, **{name: value for name, value in os.environ.items() if name.startswith("MEMPHIS_SYNC_GATEWAY_")}}


def _keys_file(data_dir: Path) -> Path:
    """The file with the key of this data folder; made when there is none, or an empty one that a full disk has left."""
    path = data_dir.absolute() / KEYS_FILE
    try:
        if not path.exists() or not path.stat().st_size:
            with open_private(path, os.O_TRUNC) as file:
                file.write(secrets.token_urlsafe(_KEY_BYTES) + "\n")
    except OSError as exc:
        raise BrokerError(f"the file of keys {path} cannot be used: {exc.strerror or exc}") from exc
    return path
