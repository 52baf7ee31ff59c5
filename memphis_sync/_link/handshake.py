"""
From an address to a connected socket whose INFO and PONG have been read, with TLS between the two if it is wanted.

One attempt, one deadline, one error that names the address and the cause. What the server sends after its PONG and
before the link takes over is returned, so that nothing is read twice or lost.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import time
from dataclasses import dataclass
from typing import Any, Optional

from memphis_sync._codec import PING, PONG, Event, Parser, encode_connect
from memphis_sync._link.secure import Stream, Tls
from memphis_sync._tls import NEEDS_TLS, NO_TLS, tls_reason
from memphis_sync.errors import AuthenticationError, ConnectError, RemoteProtocolError
from memphis_sync.types import Credentials, ServerAddress

READ_BYTES = 65536
CLIENT_VERSION = "0.1.0"  # what the server shows in its list of connections
_NOT_NATS = "it does not speak the NATS protocol, so it is no Memphis broker"


@dataclass(frozen=True)
class Connected:
    """
    A socket that is ready for the link.

    Attributes:
        sock: Blocking, without a timeout.
        info: The server's INFO.
        first: Frames that the link must write before all others: answers to what came during the handshake.
        rest: Bytes read behind the last whole frame.
        tls: What encrypts; None on a plain connection.
    """

    sock: socket.socket
    info: dict[str, Any]
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
        return int(self.info.get("max_payload") or 1048576)

    @property
    def is_memphis(self) -> bool:
        """Whether this is a Memphis broker: its INFO has ``connection_id`` (protocol reference 1.1)."""
        return "connection_id" in self.info


def connect_request(credentials: Credentials, connection_name: str) -> bytes:
    """The CONNECT frame. Source: NATS client protocol; the user form is Memphis' (protocol reference 1.2)."""
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
) -> Connected:
    """
    Connects and logs in.

    Args:
        context: For TLS; None for a plain connection.
        deadline: By ``time.monotonic()``; for name resolution, TCP and the handshake together.

    Raises:
        ConnectError: Host unknown, port refused, no answer in time, no NATS server there, TLS wanted by one side
            only, or a certificate that was refused.
        AuthenticationError: The credentials were refused.
    """
    try:
        sock = socket.create_connection((address.host, address.port), timeout=_left(deadline))
    except socket.gaierror as exc:
        raise ConnectError(f"{address}: the host name cannot be resolved ({exc.strerror or exc})") from exc
    except (socket.timeout, TimeoutError) as exc:
        raise ConnectError(f"{address}: no TCP connection in time") from exc
    except OSError as exc:
        raise ConnectError(f"{address}: {exc.strerror or exc}") from exc
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected = _Handshake(sock, address, deadline, context).run(connect_request(credentials, connection_name))
        sock.settimeout(None)
    except BaseException:
        sock.close()
        raise
    return connected


def _left(deadline: float) -> float:
    # 1 ms, not 0: a timeout of 0 would make the socket non-blocking and the error misleading.
    return max(deadline - time.monotonic(), 0.001)


class _Handshake:
    """
    INFO, TLS, CONNECT and PING, PONG on a connected socket.

    INFO comes in plain text and says whether the server wants TLS. Source: NATS client protocol.
    """

    def __init__(
        self, sock: socket.socket, address: ServerAddress, deadline: float, context: Optional[ssl.SSLContext]
    ) -> None:
        self._sock = sock
        self._context = context
        self._tls: Optional[Tls] = None
        self._address = address
        self._deadline = deadline
        self._parser = Parser()
        self._seen = b""
        self._events: list[Event] = []

    def run(self, connect: bytes) -> Connected:
        info = self._read_info()
        if self._context is not None:
            self._start_tls(self._context, bool(info.get("tls_required")))
        elif info.get("tls_required"):
            raise ConnectError(f"{self._address}: {NEEDS_TLS}")
        self._write(connect + PING)
        first = b""
        while True:
            event = self._next()
            if event.kind == "PONG":
                break
            if event.kind == "PING":
                first += PONG
            elif event.kind == "-ERR":
                self._refused(event.payload.decode("utf-8", "replace"))
        # No subscription exists yet, so what else has come can only be PING or INFO.
        first += PONG * sum(1 for event in self._events if event.kind == "PING")
        buffered = self._parser.buffered
        rest = self._seen[len(self._seen) - buffered :] if buffered else b""
        return Connected(self._sock, info, first, rest, self._tls)

    def _start_tls(self, context: ssl.SSLContext, is_demanded: bool) -> None:
        if not is_demanded:
            raise ConnectError(f"{self._address}: {NO_TLS}")
        if self._events or self._parser.buffered:
            # Somebody on the way may have put them there, to be taken for what comes under TLS.
            raise ConnectError(f"{self._address}: the server sent more than its INFO before TLS")
        self._seen = b""
        tls = Tls(context, self._address.host)
        try:
            while not tls.negotiate():
                self._send(tls.take())
                tls.put(self._receive())
            self._send(tls.take())
        except ssl.SSLError as exc:
            with contextlib.suppress(ConnectError):
                self._send(tls.take())  # the alert, which tells the server's log why
            raise ConnectError(f"{self._address}: {tls_reason(exc)}") from exc
        self._tls = tls

    def _write(self, data: bytes) -> None:
        if self._tls is None:
            self._send(data)
            return
        # A server that refuses our certificate ends the connection, and the reason can be read all the same.
        with contextlib.suppress(ConnectError):
            self._send(self._tls.encrypt(memoryview(data)))

    def _send(self, data: bytes) -> None:
        self._sock.settimeout(_left(self._deadline))
        try:
            self._sock.sendall(data)
        except OSError as exc:
            raise ConnectError(f"{self._address}: {exc.strerror or exc}") from exc

    def _read_info(self) -> dict[str, Any]:
        event = self._next()
        if event.kind == "-ERR":
            self._refused(event.payload.decode("utf-8", "replace"))
        if event.kind != "INFO":
            raise ConnectError(f"{self._address}: {_NOT_NATS} (it began with {event.kind})")
        try:
            info = json.loads(event.payload)
        except ValueError as exc:
            raise ConnectError(f"{self._address}: {_NOT_NATS} (its INFO is not JSON)") from exc
        if not isinstance(info, dict):
            raise ConnectError(f"{self._address}: {_NOT_NATS} (its INFO is no JSON object)")
        return info

    def _receive(self) -> bytes:
        self._sock.settimeout(_left(self._deadline))
        try:
            data = self._sock.recv(READ_BYTES)
        except (socket.timeout, TimeoutError) as exc:
            raise ConnectError(f"{self._address}: connected, but no NATS greeting in time") from exc
        except OSError as exc:
            raise ConnectError(f"{self._address}: {exc.strerror or exc}") from exc
        if not data:
            raise ConnectError(f"{self._address}: the server closed the connection during the handshake")
        return data

    def _next(self) -> Event:
        while not self._events:
            data = self._receive()
            if self._tls is not None:
                self._tls.put(data)
                try:
                    data = self._tls.decrypt()
                except ssl.SSLError as exc:
                    raise ConnectError(f"{self._address}: {tls_reason(exc)}") from exc
            self._seen += data
            try:
                self._events = self._parser.feed(data)
            except RemoteProtocolError as exc:
                raise ConnectError(f"{self._address}: {_NOT_NATS}: {exc}") from exc
        return self._events.pop(0)

    def _refused(self, text: str) -> None:
        if "authorization" in text.lower() or "authentication" in text.lower():
            raise AuthenticationError(f"{self._address}: the broker refused the credentials ({text})")
        raise ConnectError(f"{self._address}: the broker refused the connection ({text})")
