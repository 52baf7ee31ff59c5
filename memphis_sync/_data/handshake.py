"""
From an address to a connected socket whose INFO and PONG have been read, with TLS between the two if it is wanted.

One deadline for all of it, whatever the peer sends, and one error that names the address and the cause. What the server
sends after its PONG and before the link takes over is returned, so that nothing is read twice or lost.

A try is a generator over a non-blocking socket, so that a silent peer can be asked on a second connection while the
first one waits, and a closed client leaves at once.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import selectors
import socket
import ssl
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Callable, Optional

from memphis_sync._core import PING, PONG, Event, Parser, encode_connect
from memphis_sync._data.tls_loops import Stream, Tls
from memphis_sync._options.tls import NEEDS_TLS, NO_TLS, tls_reason
from memphis_sync._protocol.info import MAX_FRAMES, ServerInfo, parse_info
from memphis_sync._protocol.server_errors import is_verdict
from memphis_sync.errors import AuthenticationError, ConnectError, RemoteProtocolError
from memphis_sync.types import Credentials, ServerAddress

READ_BYTES = 65536
MAX_HANDSHAKE_BYTES = 1024 * 1024  # INFO of the largest cluster is a few thousand
CLIENT_VERSION = "0.1.0"  # what the server shows in its list of connections
AGAIN_S = 0.5  # a peer that is silent for so long may still answer, while the next one is asked, and then it again
SLICE_S = 0.2  # waits are cut so that a closed client is noticed
NOT_MEMPHIS = "this is not a Memphis broker"
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

    @property
    def stream(self) -> Optional[Stream]:
        """Socket and TLS; None on a plain connection."""
        return None if self.tls is None else Stream(self.sock, self.tls)

    @property
    def max_payload(self) -> int:
        """Largest message that the server takes, headers included, in bytes."""
        return self.info.max_payload

    @property
    def is_memphis(self) -> bool:
        """Whether this is a Memphis broker."""
        return self.info.is_memphis


class HandshakeError(ConnectError):
    """
    A try that failed after the server had been reached.

    Attributes:
        is_passing: Whether it may succeed a moment later: the server said something that is not a verdict on the
            credentials, or closed the connection.
        is_late: Whether there was no answer in time; it says less than what was found out in earlier tries.
    """

    def __init__(self, message: str = "", *, is_passing: bool = False, is_late: bool = False) -> None:
        super().__init__(message)
        self.is_passing = is_passing
        self.is_late = is_late


def is_passing(error: ConnectError) -> bool:
    """Whether another try may succeed a moment later."""
    return isinstance(error, HandshakeError) and error.is_passing


def next_error(before: ConnectError, now: ConnectError) -> ConnectError:
    """What is known after another try: its own error, unless that says only that the time was up."""
    return before if isinstance(now, HandshakeError) and now.is_late else now


def refused(address: ServerAddress, text: str) -> ConnectError:
    """The error for a ``-ERR`` in a handshake."""
    if is_verdict(text):
        return AuthenticationError(
            f"cannot connect to {address}: the broker refused the user name or its password or token ({text})"
        )
    return HandshakeError(
        f"cannot connect to {address}: the broker did not take the connection for now ({text})", is_passing=True
    )


def connect_errors(failed: list[ConnectError]) -> ConnectError:
    """Why no address gave a connection: a refusal of the credentials before anything else."""
    if len(failed) == 1:
        return failed[0]
    text = "no address gave a connection: " + "; ".join(str(exc) for exc in failed)
    error: ConnectError
    if any(isinstance(exc, AuthenticationError) for exc in failed):
        error = AuthenticationError(text)
    else:
        error = HandshakeError(text, is_passing=any(is_passing(exc) for exc in failed))
    error.__cause__ = failed[-1]
    return error


def connect_request(credentials: Credentials, connection_name: str) -> bytes:
    """The CONNECT frame. Source: NATS client protocol; user and name are Memphis' (protocol reference 1.2, 1.3)."""
    fields: dict[str, Any] = {
        "verbose": False,
        "pedantic": False,
        "headers": True,
        "no_responders": True,
        "echo": True,
        "protocol": 1,
        "lang": "python3",
        "version": CLIENT_VERSION,
        "name": f"{connection_name}::{credentials.identity}",
    }
    if credentials.token is not None:
        fields["auth_token"] = credentials.token
    else:
        fields["user"] = credentials.login
        fields["pass"] = credentials.password
    return encode_connect(json.dumps(fields).encode())


def open_connection(
    address: ServerAddress,
    credentials: Credentials,
    connection_name: str,
    deadline: float,
    context: Optional[ssl.SSLContext] = None,
    *,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Connected:
    """
    Connects and logs in.

    Args:
        address: Where to.
        credentials: Who connects.
        connection_name: Goes into CONNECT.
        deadline: By ``time.monotonic()``; for TCP and the handshake together.
        context: For TLS; None for a plain connection.
        is_stopped: Asked a few times a second; True ends the try.

    Raises:
        ConnectError: Host unknown, port refused, no answer in time, no NATS server there, TLS wanted by one side
            only, or a certificate that was refused. HandshakeError where it had been reached.
        AuthenticationError: The credentials were refused.
    """
    one = _Handshake(address, deadline, context, connect_request(credentials, connection_name))
    try:
        while True:
            for ready in _ready([one], min(time.monotonic() + SLICE_S, deadline)):
                connected = ready.go_on(in_time=time.monotonic() < deadline)
                if connected is not None:
                    one.sock = None  # it is the connection's now
                    return connected
            if is_stopped():
                raise ConnectError(f"{address}: the client is closed")
    finally:
        one.close()


def reopen_connection(
    order: Sequence[ServerAddress],
    credentials: Credentials,
    connection_name: str,
    deadline: float,
    context: Optional[ssl.SSLContext] = None,
    *,
    at_once: bool,
    is_stopped: Callable[[], bool],
    on_failed: Callable[[ServerAddress, ConnectError], None],
) -> tuple[ServerAddress, Connected]:
    """
    Connects again after an outage, to the first of several addresses that answers.

    A peer may swallow what was sent before it came back to life, and then never answer on that connection. So an
    address that is silent for AGAIN_S keeps nobody waiting: the next one is asked, and once each was, all of them anew,
    again and again. The first connection to each is kept beside the newest one, for a peer that is just slow.

    Args:
        order: The addresses, the first one to be asked first.
        credentials: As open_connection(), and so are the next three.
        connection_name: See there.
        deadline: See there.
        context: See there.
        at_once: Whether all are asked side by side from the beginning, as in an outage that lasts.
        is_stopped: See there.
        on_failed: Called with each address that gave no connection and why.

    Raises:
        ConnectError, AuthenticationError: As open_connection(), when no address is left that may still answer.
    """
    request = connect_request(credentials, connection_name)
    tries: dict[ServerAddress, list[_Handshake]] = {address: [] for address in order}
    failed: dict[ServerAddress, ConnectError] = {}
    unasked, ask_at = [] if at_once else list(order), time.monotonic()
    try:
        while True:
            now = time.monotonic()
            if ask_at <= now < deadline:
                for address in [unasked.pop(0)] if unasked else order:
                    if isinstance(failed.get(address), AuthenticationError):
                        continue  # the next word on that in the next try
                    for stale in tries[address][1:]:
                        stale.close()
                    tries[address][1:] = [_Handshake(address, deadline, context, request)]
                ask_at = now + AGAIN_S
            under_way = [one for each in tries.values() for one in each]
            for one in _ready(under_way, min(now + SLICE_S, deadline, ask_at)):
                if one not in tries[one.address]:
                    continue  # another try of the address has just failed
                try:
                    connected = one.go_on(in_time=time.monotonic() < deadline)
                except ConnectError as exc:
                    for other in tries[one.address]:  # whatever ends one of them decides
                        other.close()
                    tries[one.address] = []
                    failed[one.address] = exc
                    on_failed(one.address, exc)
                    continue
                if connected is not None:
                    one.sock = None  # it is the connection's now
                    return one.address, connected
            if not any(tries.values()):
                if not unasked or time.monotonic() >= deadline:
                    raise connect_errors(list(failed.values()))
                ask_at = time.monotonic()
            if is_stopped():
                raise ConnectError(f"{order[0]}: the client is closed")
    finally:
        for each in tries.values():
            for one in each:
                one.close()


def _ready(tries: list[_Handshake], until: float) -> list[_Handshake]:
    """The tries that can go on: those with nothing to wait for, whose sockets are ready, or whose time is up."""
    ready = [one for one in tries if one.waits_for == 0]
    if ready:
        return ready
    with selectors.DefaultSelector() as selector:
        for one in tries:
            assert one.sock is not None
            selector.register(one.sock, one.waits_for, one)
        ready = [key.data for key, _ in selector.select(max(until - time.monotonic(), 0))]
    now = time.monotonic()
    return ready + [one for one in tries if one not in ready and now >= one.until]


class _Handshake:
    """
    One connection: TCP, INFO, TLS, CONNECT and PING, PONG.

    INFO comes in plain text and says whether the server wants TLS. Source: NATS client protocol.

    Attributes:
        address: Where to.
        sock: None before the first step.
        waits_for: What of the socket, as selectors has it; 0 for nothing.
        until: When it goes on even so, by ``time.monotonic()``.
    """

    def __init__(
        self, address: ServerAddress, deadline: float, context: Optional[ssl.SSLContext], request: bytes
    ) -> None:
        self.sock: Optional[socket.socket] = None
        self.waits_for = 0
        self.until = deadline
        self._context = context
        self._tls: Optional[Tls] = None
        self.address = address
        self._deadline = deadline
        self._parser = Parser()
        self._seen = b""
        self._received = 0
        self._events: list[Event] = []
        self._steps = self._run(request)
        self._is_new = True

    def go_on(self, *, in_time: bool) -> Optional[Connected]:
        """The next step; gives the connection once there is one. Raises ConnectError."""
        try:
            if self._is_new:
                self._is_new = False
                self.waits_for = next(self._steps)
            else:
                self.waits_for = self._steps.send(in_time)
        except StopIteration as end:
            connected: Connected = end.value
            return connected
        return None

    def close(self) -> None:
        """Ends the try."""
        if self.sock is not None:
            self.sock.close()

    def _run(self, request: bytes) -> _Steps:
        yield from self._reach()
        assert self.sock is not None
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        info: ServerInfo = yield from self._read_info()
        if self._context is not None:
            yield from self._start_tls(self._context, is_demanded=info.tls_required)
        elif info.tls_required:
            raise self._error(NEEDS_TLS)
        yield from self._write(request + PING)
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
            raise self._error(f"{NOT_MEMPHIS}: it sent {MAX_FRAMES} frames and no answer to the login")
        # No subscription exists yet, so what else has come can only be PING or INFO.
        first += PONG * sum(1 for event in self._events if event.kind == "PING")
        buffered = self._parser.buffered
        rest = self._seen[len(self._seen) - buffered :] if buffered else b""
        self.sock.setblocking(True)
        return Connected(self.sock, info, first, rest, self._tls)

    def _reach(self) -> _Steps:
        """TCP, to the first of the host's addresses that takes it; each has its share of the time."""
        host = self.address
        try:
            found = socket.getaddrinfo(host.host, host.port, type=socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError) as exc:
            reason = (exc.strerror if isinstance(exc, socket.gaierror) else None) or exc
            raise ConnectError(f"cannot connect to {host}: unknown host ({reason})") from exc
        reason = "no address"
        for index, (family, kind, protocol, _, place) in enumerate(found):
            self.close()
            try:
                self.sock = sock = socket.socket(family, kind, protocol)
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
                    if time.monotonic() >= self.until or not in_time:
                        code = code or errno.ETIMEDOUT
                self.until = self._deadline
            if code == 0:
                return
            reason = (
                "connection refused: nothing listens on that port" if code == errno.ECONNREFUSED else os.strerror(code)
            )
        raise ConnectError(f"cannot connect to {host}: {reason}")

    def _start_tls(self, context: ssl.SSLContext, *, is_demanded: bool) -> _Steps:
        if not is_demanded:
            raise self._error(NO_TLS)
        if self._events or self._parser.buffered:
            # Somebody on the way may have put them there, to be taken for what comes under TLS.
            raise self._error("the server sent more than its INFO before TLS")
        self._seen = b""
        tls = Tls(context, self.address.host)
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
            raise self._error(f"{NOT_MEMPHIS}: it began with {event.kind} instead of INFO")
        try:
            return parse_info(event.payload)
        except RemoteProtocolError as exc:
            raise self._error(f"{NOT_MEMPHIS}: {exc}") from exc

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
                raise self._error(f"{NOT_MEMPHIS}: it sent more than {MAX_HANDSHAKE_BYTES} bytes in its handshake")
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
                raise self._error(f"{NOT_MEMPHIS}: {exc}") from exc
        return self._events.pop(0)

    def _error(self, reason: str, *, is_passing: bool = False) -> HandshakeError:
        return HandshakeError(f"cannot connect to {self.address}: {reason}", is_passing=is_passing)

    def _broken(self, exc: OSError) -> HandshakeError:
        return self._error(f"{CLOSED_EARLY} ({exc.strerror or exc})", is_passing=True)

    def _late(self) -> HandshakeError:
        return HandshakeError(
            f"cannot connect to {self.address}: connected, but no Memphis broker answered in time", is_late=True
        )
