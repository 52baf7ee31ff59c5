"""
The second port for official SDKs: a relay that makes their message ids work (see msg_id_rewriter.py).

It stands between client and nats-server, so no message is copied in JetStream. Our own clients need no relay: they send
``Nats-Msg-Id`` on the nats-server's own port.

Rules:
* When one side does not read, the other is not read either: little more than _HIGH_BYTES wait in each direction.
* When one side closes, the other is closed after the last bytes are written; if that takes too long, it is aborted.
* Login, pings and errors are the server's business: the relay passes them on.
* With TLS both sides use it, and the relay shows the broker's certificate to both.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
import ssl
import sys
import time
from typing import Any, Callable, Optional

from memphis_sync.broker.options import BrokerError
from memphis_sync.broker.sdk_port.msg_id_rewriter import MsgIdRewriter

log = logging.getLogger("memphis_sync.broker")

_HIGH_BYTES = 256 * 1024  # how much may wait for one side before the other is no longer read
_READ_BYTES = 64 * 1024  # read from a client at once, so that others wait less than a millisecond
_GREETING_BYTES = 64 * 1024  # limit of the server's first line
_GREETING_S = 5.0  # for connecting to the server and its first line, and for a TLS handshake
_CLOSE_S = 5.0  # for writing the last bytes after the other side has closed
_LOG_S = 10.0  # between two warnings
_OWN_FILES = 64  # open files that the broker itself needs
_MAX_PAYLOAD = re.compile(rb'"max_payload":\s*([0-9]{1,10})')
_DEFAULT_MAX_PAYLOAD = 1024 * 1024  # for a server that does not state it


class SdkProxy:
    """
    The listener and its connections.

    Args:
        host: Address to listen on.
        port: Port to listen on; 0 for a free one.
        servers: Returns host and port of the nats-servers; a connection goes to the first that accepts it.
        certificate: TLS context towards clients; None for plain connections.
        trust: TLS context towards the server; None for plain connections.

    Attributes:
        port: The actual one, after start().
        added: How many messages got the second header.
        left_out: How many had no space for it, and are stored without checking for duplicates.
    """

    def __init__(
        self,
        host: str,
        port: int,
        servers: Callable[[], list[tuple[str, int]]],
        *,
        certificate: Optional[ssl.SSLContext] = None,
        trust: Optional[ssl.SSLContext] = None,
    ) -> None:
        self._host = host
        self.port = port
        self._servers = servers
        self.certificate = certificate
        self.trust = trust
        self.added = 0
        self.left_out = 0
        self.connections: set[_Client] = set()
        self._max_connections = _connections_allowed()
        self._listener: Optional[asyncio.AbstractServer] = None
        self._warned_at = -_LOG_S

    async def start(self) -> None:
        """
        Starts to listen.

        Raises:
            BrokerError: The port cannot be used.
        """
        loop = asyncio.get_running_loop()
        try:
            self._listener = await loop.create_server(lambda: _Client(self), sock=await self._socket())
        except OSError as exc:
            raise BrokerError(f"the port for SDKs, {self.port} on {self._host!r}, cannot be used: {exc}") from exc
        self.port = self._listener.sockets[0].getsockname()[1]

    async def _socket(self) -> socket.socket:
        """
        A socket bound as a nats-server would bind it: to one address of a name, preferably IPv4; for ``::`` to all
        addresses of both kinds.
        """
        host = self._host or "0.0.0.0"  # noqa: S104  as the user asked for
        found = await asyncio.get_running_loop().getaddrinfo(host, self.port, type=socket.SOCK_STREAM)
        family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
        both = host == "::" and socket.has_dualstack_ipv6()
        return socket.create_server(address[:2], family=family, backlog=100, dualstack_ipv6=both)

    def stop(self) -> None:
        """Stops listening and ends all connections."""
        if self._listener is not None:
            self._listener.close()
        for client in list(self.connections):
            client.end()

    @property
    def is_full(self) -> bool:
        """Whether another connection would leave the broker too few open files."""
        return len(self.connections) >= self._max_connections

    async def connect(self, client: _Client) -> _Server:
        """
        Connects to the first nats-server that accepts, and reads its first line.

        Raises:
            OSError: No server accepts.
        """
        loop, failure = asyncio.get_running_loop(), OSError("no server")
        for host, port in self._servers():
            server = _Server(client)
            try:
                await asyncio.wait_for(loop.create_connection(lambda s=server: s, host, port), _GREETING_S)  # type: ignore[misc]
                await asyncio.wait_for(asyncio.shield(server.greeting), _GREETING_S)
            except (OSError, asyncio.TimeoutError) as exc:
                failure = OSError(f"{host}:{port}: {exc or type(exc).__name__}")
                server.close()
            except BaseException:
                server.close()
                raise
            else:
                return server
        raise failure

    def count(self, ids: MsgIdRewriter) -> None:
        """Adds the counts of a connection, and warns when ids were left out."""
        self.added += ids.added
        ids.added = 0
        if ids.left_out:
            self.left_out += ids.left_out
            ids.left_out = 0
            self.warn("%d messages so far had no space for a second header: their ids are ignored", self.left_out)

    def warn(self, text: str, *values: object) -> None:
        """Logs a warning, at most every _LOG_S seconds."""
        now = time.monotonic()
        if now - self._warned_at >= _LOG_S:
            self._warned_at = now
            log.warning(f"SDK port: {text}", *values)  # noqa: G004  the text is a constant


class _Side(asyncio.BaseProtocol):
    """What both sides share: a transport, and pausing the other side."""

    def __init__(self) -> None:
        self.transport: Optional[asyncio.Transport] = None
        self.peer: Optional[_Side] = None
        self._closing: Optional[asyncio.TimerHandle] = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.take(transport)

    def take(self, transport: Any) -> None:
        self.transport = transport
        transport.set_write_buffer_limits(high=_HIGH_BYTES)

    def pause_writing(self) -> None:
        if self.peer is not None and self.peer.transport is not None:
            with contextlib.suppress(RuntimeError):  # Python 3.9's TLS transport, when it is closing
                self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.peer is not None and self.peer.transport is not None:
            with contextlib.suppress(RuntimeError):
                self.peer.transport.resume_reading()

    def connection_lost(self, exc: Optional[Exception]) -> None:
        if self._closing is not None:
            self._closing.cancel()
        self.transport = None
        if self.peer is not None:
            self.peer.close()

    def close(self) -> None:
        """Writes what waits, then closes; aborts when that takes too long."""
        if self.transport is None or self._closing is not None:
            return
        self._closing = asyncio.get_running_loop().call_later(_CLOSE_S, self.transport.abort)
        self.transport.close()


class _Server(_Side, asyncio.Protocol):
    """The side of the nats-server: its first line is kept, everything later goes to the client unchanged."""

    def __init__(self, client: _Client) -> None:
        super().__init__()
        self._client = client
        self.greeting: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._first = b""

    def data_received(self, data: bytes) -> None:
        if not self.greeting.done():
            self._first += data
            if b"\n" in self._first:
                assert self.transport is not None
                self.transport.pause_reading()  # until the client has it
                self.greeting.set_result(self._first)
            elif len(self._first) > _GREETING_BYTES:
                self.close()
        elif self._client.transport is not None:
            self._client.transport.write(data)

    def connection_lost(self, exc: Optional[Exception]) -> None:
        super().connection_lost(exc)
        if not self.greeting.done():
            self.greeting.set_exception(ConnectionError("the server closed the connection"))
            self.greeting.exception()  # so that asyncio does not log it when nobody waits


class _Client(_Side, asyncio.BufferedProtocol):
    """The side of the SDK: its bytes go through MsgIdRewriter."""

    def __init__(self, relay: SdkProxy) -> None:
        super().__init__()
        self._relay = relay
        self._ids = MsgIdRewriter(_DEFAULT_MAX_PAYLOAD)
        self._opening: Optional[asyncio.Task[None]] = None
        self._is_let_in = False
        self._early = b""  # received with the end of the handshake, before the certificate was checked
        self._buffer = memoryview(bytearray(_READ_BYTES))  # a view: asyncio slices it under TLS, and writes there

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self.transport is not None
        if self._relay.is_full:
            self._relay.warn("a connection was refused: the limit of open files is reached")
            self.transport.write(b"-ERR 'maximum connections exceeded'\r\n")
            self.close()
            return
        self._relay.connections.add(self)
        self.transport.pause_reading()  # until the server is connected
        self._opening = asyncio.get_running_loop().create_task(self._open())

    async def _open(self) -> None:
        try:
            server = await self._relay.connect(self)
        except OSError as exc:
            log.debug("SDK port: the server accepted no connection: %s", exc)
            self.close()  # as the server's own port would while it is down
            return
        self.peer, server.peer = server, self
        if self.transport is None or server.transport is None:  # closed meanwhile
            server.close()
            self.close()
            return
        greeting = server.greeting.result()
        match = _MAX_PAYLOAD.search(greeting)
        if match is not None:
            self._ids.max_payload = int(match[1])
        try:
            if self._relay.trust is not None:
                await _start_tls(server, self._relay.trust, server_side=False)
            if self.transport is not None:
                self.transport.write(greeting)
            if self._relay.certificate is not None:
                await _start_tls(self, self._relay.certificate, server_side=True)
                self._check_certificate()
        except (OSError, asyncio.TimeoutError) as exc:
            log.debug("SDK port: the TLS handshake failed: %s", exc)
            server.close()
            self.close()
            return
        if self.transport is not None and server.transport is not None:
            self._is_let_in = True
            early, self._early = self._early, b""
            if early:
                self._pass_on(early)
            self.transport.resume_reading()
            server.transport.resume_reading()

    def _check_certificate(self) -> None:
        """
        Raises:
            ConnectionError: The client needs a certificate and sent none; it was sent an error.
        """
        context, transport = self._relay.certificate, self.transport
        if context is None or transport is None or context.verify_mode == ssl.CERT_NONE:
            return
        if not transport.get_extra_info("peercert"):
            transport.write(b"-ERR 'the broker demands a client certificate'\r\n")
            raise ConnectionError("a client without a certificate")

    def get_buffer(self, sizehint: int) -> memoryview:
        """The buffer for the next bytes."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Processes the *nbytes* that were received."""
        data = bytes(self._buffer[:nbytes])
        if self._is_let_in:
            self._pass_on(data)
        else:
            self._early += data

    def _pass_on(self, data: bytes) -> None:
        server = self.peer
        if server is None or server.transport is None:
            return
        pieces = self._ids.feed(data)
        if len(pieces) == 1:
            server.transport.write(pieces[0])
        elif pieces:
            server.transport.write(b"".join(pieces))
        if self._ids.added or self._ids.left_out:
            self._relay.count(self._ids)

    def connection_lost(self, exc: Optional[Exception]) -> None:
        self._relay.connections.discard(self)
        super().connection_lost(exc)

    def end(self) -> None:
        """Aborts both sides."""
        if self._opening is not None:
            self._opening.cancel()
        for side in (self, self.peer):
            if side is not None and side.transport is not None:
                side.transport.abort()


async def _start_tls(side: _Side, context: ssl.SSLContext, *, server_side: bool) -> None:
    if side.transport is None:
        raise ConnectionError("closed before the TLS handshake")
    transport = await asyncio.get_running_loop().start_tls(
        side.transport,
        side,
        context,
        server_side=server_side,
        ssl_handshake_timeout=_GREETING_S,
    )
    if transport is None:  # it was closed meanwhile
        raise ConnectionError("closed during the TLS handshake")
    transport.pause_reading()
    side.take(transport)


def server_certificate(cert: str, key: str, ca: Optional[str]) -> ssl.SSLContext:
    """
    The TLS context towards clients, from the same files as that of the nats-server.

    Raises:
        BrokerError: They cannot be used.
    """
    try:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ca)
        context.load_cert_chain(cert, key, password=lambda: "")
    except (ssl.SSLError, OSError) as exc:
        raise BrokerError(f"{cert} and {key} cannot be used for TLS: {exc}") from exc
    if ca is not None:
        # Not CERT_REQUIRED: asyncio ends such a handshake without an alert, which some clients mistake for success.
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def _connections_allowed() -> int:
    """How many connections fit into the limit of open files, at two each; raises it as far as the system allows."""
    if sys.platform == "win32":
        return 4096
    import resource  # noqa: PLC0415  not on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else 65536
    if soft == resource.RLIM_INFINITY or soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # macOS has a lower limit than it reports
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, 65536), hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, (min(soft, 65536) - _OWN_FILES) // 2)
