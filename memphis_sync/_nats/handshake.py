"""
From an address to a connected socket whose INFO and PONG have been read, with TLS between the two if it is wanted.

One deadline for all of it, whatever the peer sends, and one error that names the address and the cause. What the server
sends after its PONG and before the link takes over is returned, so that nothing is read twice or lost.

A try is a generator over a non-blocking socket: whoever drives it (``connecting``) waits, on a thread or on a loop.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import ssl
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, Callable, Optional

from memphis_sync._base import native
from memphis_sync._core import PING, PONG, Event, Parser, fork_generation
from memphis_sync._nats.errors import HandshakeError, refused
from memphis_sync._nats.lookup import Lookup, look_up
from memphis_sync._nats.tls import Tls
from memphis_sync._options.tls import NEEDS_TLS, NO_TLS, tls_reason
from memphis_sync._protocol.info import MAX_FRAMES, ServerInfo, parse_info
from memphis_sync.errors import ConnectError, RemoteProtocolError
from memphis_sync.types import ServerAddress

READ_BYTES = 65536
MAX_HANDSHAKE_BYTES = 1024 * 1024  # INFO of the largest cluster is a few thousand
STEPS = DNS, TCP, INFO, TLS, LOGIN = ("DNS", "TCP", "INFO", "TLS", "login")
LOOK_UP = -1  # what a try waits for besides its socket: its `lookup`
CLOSED_EARLY = "the server closed the connection during the handshake"
_BUSY = (errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EALREADY)
_Steps = Generator[int, bool, Any]  # yields what it waits for on its socket; gets False once the time is up


@dataclass(frozen=True)
class Connected:
    """
    A socket that is ready for the link.

    Attributes:
        sock: Blocking, without a timeout.
        info: What the server's INFO says.
        first: Frames that the link must write before all others: answers to what came during the handshake.
        rest: Bytes read behind the last whole frame.
        tls: What encrypts; None on a plain connection.
    """

    sock: socket.socket
    info: ServerInfo
    first: bytes
    rest: bytes
    tls: Optional[Tls] = None

    def close(self) -> None:
        """Ends a connection that nobody takes."""
        end(self.sock)
        self.sock.close()


def end(sock: socket.socket) -> None:
    """Ends a connection for the peer too, at once: a forked child may have a copy of the socket, which lives on."""
    with contextlib.suppress(OSError):  # it is not connected
        sock.shutdown(socket.SHUT_RDWR)


@dataclass(frozen=True)
class Login:
    """
    How to log in.

    Attributes:
        request: Gives the CONNECT frame for a server, once its INFO is known.
        context: For TLS; None for a plain connection.
        any_context: For a server that demands TLS where *context* is None; None refuses it.
        tls_name: What the certificate must be for; "" means the host of the address.
        peer: What is expected there, for error texts.
    """

    request: Callable[[ServerAddress, ServerInfo], bytes] = field(repr=False)
    context: Optional[ssl.SSLContext] = None
    any_context: Optional[Callable[[], ssl.SSLContext]] = None
    tls_name: str = ""
    peer: str = "Memphis broker"


class Handshake:
    """
    One connection: TCP, INFO, TLS, CONNECT and PING, PONG.

    INFO comes in plain text and says whether the server wants TLS. Source: NATS client protocol.

    Attributes:
        address: Where to.
        sock: None before the first step, and when it is the connection's.
        waits_for: What of the socket, as selectors has it; 0 for nothing, or LOOK_UP.
        until: When it goes on even so, by ``time.monotonic()``.
        lookup: The question for the host's addresses, if it has asked.
        passed: The steps that are done, each with when, by ``time.monotonic()``: STEPS in their order. One fails in the
            step behind the last of them.
        info: What the server's INFO says, once it is read.
    """

    def __init__(self, address: ServerAddress, deadline: float, login: Login) -> None:
        self.address = address
        self.sock: Optional[socket.socket] = None
        self.waits_for = 0
        self.until = deadline
        self.lookup: Optional[Lookup] = None
        self.passed: list[tuple[str, float]] = []
        self.info: Optional[ServerInfo] = None
        self._deadline = deadline
        self._limit_s = max(deadline - time.monotonic(), 0.0)
        self._login = login
        self._generation = fork_generation()
        self._tls: Optional[Tls] = None
        self._parser = Parser()
        self._seen = b""
        self._received = 0
        self._events: list[Event] = []
        self._steps = self._run()
        self._is_new = True

    def go_on(self) -> Optional[Connected]:
        """The next step; gives the connection once there is one. Raises ConnectError."""
        try:
            if self._is_new:
                self._is_new = False
                self.waits_for = next(self._steps)
            else:
                self.waits_for = self._steps.send(time.monotonic() < self._deadline)
        except StopIteration as end:
            self.sock = None
            connected: Connected = end.value
            return connected
        return None

    @property
    def is_ready(self) -> bool:
        """Whether it can go on whatever its socket says."""
        is_found = self.lookup is not None and self.lookup.is_over.is_set()
        return self.waits_for == 0 or (self.waits_for == LOOK_UP and is_found)

    def fileno(self) -> int:
        """The socket's, for selectors."""
        assert self.sock is not None
        return self.sock.fileno()

    def close(self) -> None:
        """Ends the try."""
        if self.sock is not None:
            if fork_generation() == self._generation:  # else the garbage collector of a child ends it
                end(self.sock)
            self.sock.close()

    def _run(self) -> _Steps:
        yield from self._reach()
        self._pass(TCP)
        assert self.sock is not None
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.info = info = yield from self._read_info()
        self._pass(INFO)
        context = self._login.context
        if context is None and info.tls_required:
            if self._login.any_context is None:
                raise self._error(NEEDS_TLS)
            context = self._login.any_context()
        if context is not None:
            yield from self._start_tls(context, is_demanded=info.tls_required)
        self._pass(TLS)
        yield from self._write(self._login.request(self.address, info) + PING)
        first = b""
        for _ in range(MAX_FRAMES):
            event: Event = yield from self._next()
            if event.kind == "PONG":
                break
            if event.kind == "PING":
                yield from self._write(PONG)
            elif event.kind == "-ERR":
                raise refused(self.address, event.payload.decode("utf-8", "replace"))
        else:
            raise self._odd(f"it sent {MAX_FRAMES} frames and no answer to the login")
        self._pass(LOGIN)
        # No subscription exists yet, so what else has come can only be PING or INFO.
        first += PONG * sum(1 for event in self._events if event.kind == "PING")
        buffered = self._parser.buffered
        rest = self._seen[len(self._seen) - buffered :] if buffered else b""
        self.sock.setblocking(True)
        return Connected(self.sock, info, first, rest, self._tls)

    def _pass(self, step: str) -> None:
        self.passed.append((step, time.monotonic()))

    def _reach(self) -> _Steps:
        """TCP, to the first of the host's addresses that takes it; each has its share of the time."""
        host, port = self.address.host, self.address.port
        try:
            found = native.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        except (OSError, UnicodeError):  # a name
            self.lookup = look_up(host, port)
            yield LOOK_UP
            answer = self.lookup.found
            if answer is None:
                raise self._late() from None
            if isinstance(answer, Exception):
                reason = getattr(answer, "strerror", None) or answer
                raise ConnectError(f"cannot connect to {self.address}: unknown host ({reason})") from answer
            found = answer
        self._pass(DNS)
        reason = "no address"
        for index, (family, kind, protocol, _, place) in enumerate(found):
            self.close()
            try:
                self.sock = sock = native.new_socket(family, kind, protocol)
                sock.setblocking(False)
                code = sock.connect_ex(place)
            except OSError as exc:
                reason = exc.strerror or str(exc)
                continue
            if code in _BUSY:
                now = time.monotonic()
                self.until = now + max(self._deadline - now, 0) / (len(found) - index)
                while code in _BUSY:
                    in_time = yield selectors.EVENT_WRITE
                    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    if not in_time:
                        raise self._late()
                    if time.monotonic() >= self.until:
                        code = code or errno.ETIMEDOUT
                self.until = self._deadline
            if code == 0:
                return
            reason = (
                "connection refused: nothing listens on that port" if code == errno.ECONNREFUSED else os.strerror(code)
            )
        raise ConnectError(f"cannot connect to {self.address}: {reason}")

    def _start_tls(self, context: ssl.SSLContext, *, is_demanded: bool) -> _Steps:
        if not is_demanded:
            raise self._error(NO_TLS)
        if self._events or self._parser.buffered:
            # Somebody on the way may have put them there, to be taken for what comes under TLS.
            raise self._error("the server sent more than its INFO before TLS")
        self._seen = b""
        tls = Tls(context, self._login.tls_name or self.address.host)
        try:
            while not tls.negotiate():
                yield from self._send(tls.take())
                tls.put((yield from self._receive()))
            yield from self._send(tls.take())
        except ssl.SSLError as exc:
            with contextlib.suppress(ConnectError):
                yield from self._send(tls.take())  # the alert, which tells the server's log why
            raise self._error(tls_reason(exc)) from exc
        self._tls = tls

    def _write(self, data: bytes) -> _Steps:
        if self._tls is None:
            yield from self._send(data)
            return
        # A server that refuses our certificate ends the connection, and the reason can be read all the same.
        with contextlib.suppress(ConnectError):
            yield from self._send(self._tls.encrypt(memoryview(data)))

    def _send(self, data: bytes) -> _Steps:
        assert self.sock is not None
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self.sock.send(rest) :]
            except BlockingIOError:
                yield from self._wait(selectors.EVENT_WRITE)
            except OSError as exc:
                raise self._broken(exc) from exc

    def _read_info(self) -> _Steps:
        event: Event = yield from self._next()
        if event.kind == "-ERR":
            raise refused(self.address, event.payload.decode("utf-8", "replace"))
        if event.kind != "INFO":
            raise self._odd(f"it began with {event.kind} instead of INFO")
        try:
            return parse_info(event.payload)
        except RemoteProtocolError as exc:
            raise self._odd(str(exc)) from exc

    def _receive(self) -> _Steps:
        assert self.sock is not None
        while True:
            if time.monotonic() >= self._deadline:  # a peer that never stops sending is out of time as well
                raise self._late()
            try:
                data = self.sock.recv(READ_BYTES)
            except BlockingIOError:
                yield from self._wait(selectors.EVENT_READ)
                continue
            except OSError as exc:
                raise self._broken(exc) from exc
            if not data:
                raise self._error(CLOSED_EARLY, is_passing=True)
            self._received += len(data)
            if self._received > MAX_HANDSHAKE_BYTES:
                raise self._odd(f"it sent more than {MAX_HANDSHAKE_BYTES} bytes in its handshake")
            return data

    def _wait(self, event: int) -> _Steps:
        in_time = yield event
        if not in_time:
            raise self._late()

    def _next(self) -> _Steps:
        while not self._events:
            data: bytes = yield from self._receive()
            if self._tls is not None:
                self._tls.put(data)
                try:
                    data = self._tls.decrypt()
                except ssl.SSLError as exc:
                    raise self._error(tls_reason(exc)) from exc
            self._seen += data
            try:
                self._events = self._parser.feed(data)
            except RemoteProtocolError as exc:
                raise self._odd(str(exc)) from exc
        return self._events.pop(0)

    def _error(self, reason: str, *, is_passing: bool = False) -> HandshakeError:
        return HandshakeError(f"cannot connect to {self.address}: {reason}", is_passing=is_passing)

    def _broken(self, exc: OSError) -> HandshakeError:
        return self._error(f"{CLOSED_EARLY} ({exc.strerror or exc})", is_passing=True)

    def _odd(self, what: str) -> HandshakeError:
        return self._error(f"this is not a {self._login.peer}: {what}")

    def _late(self) -> HandshakeError:
        return HandshakeError(
            f"cannot connect to {self.address}: no {self._login.peer} answered within {self._limit_s:.1f} s",
            is_late=True,
        )
