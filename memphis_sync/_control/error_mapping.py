"""What nats-py and the system raise, as errors and words of ours: the one place where they are translated."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from typing import Optional

from nats import errors as nats_errors

from memphis_sync._data.handshake import CLOSED_EARLY, NOT_MEMPHIS, HandshakeError, refused
from memphis_sync._nats import NotMemphisError, ServerSaidError
from memphis_sync._options.tls import NEEDS_TLS, NO_TLS, tls_reason
from memphis_sync.errors import (
    ClosedError,
    ConnectError,
    ConnectionLostError,
    DeadlineError,
    MemphisError,
    ServerError,
)
from memphis_sync.types import ServerAddress


class NoTlsError(nats_errors.Error):
    """The server does without TLS and the client does not; a nats-py error, so that its reconnection goes on."""

    def __str__(self) -> str:
        return NO_TLS


def request_error(exc: BaseException, what: str, address: str, timeout_s: float) -> MemphisError:
    """Any error of nats-py as one of ours."""
    if isinstance(exc, (nats_errors.TimeoutError, asyncio.TimeoutError)):
        return DeadlineError(f"{what} was not answered by {address} within {timeout_s:g} s", timeout_s=timeout_s)
    if isinstance(exc, nats_errors.NoRespondersError):
        return ServerError(
            f"nothing answers {what} at {address}: a NATS server is there, but no Memphis broker behind it "
            "(it may be starting: connect with wait_s, or try again later)",
            code=503,
        )
    if isinstance(exc, (nats_errors.ConnectionClosedError, nats_errors.ConnectionDrainingError)):
        return ClosedError(f"the connection to {address} is closed; {what} was not sent")
    if isinstance(exc, (OSError, nats_errors.Error)):
        return ConnectionLostError(f"{what}: {exc} ({address})")
    return MemphisError(f"{what}: {exc!r} ({address})")


def lost_reason(exc: BaseException) -> str:
    """Why a link was lost, in a few words."""
    if isinstance(exc, ServerSaidError):
        return str(exc)
    if isinstance(exc, nats_errors.UnexpectedEOF):
        return "the server closed the connection"
    if isinstance(exc, nats_errors.StaleConnectionError):
        return "no answer to PING"
    if isinstance(exc, ssl.SSLError):
        return tls_reason(exc)
    if isinstance(exc, OSError) and exc.errno:
        return os.strerror(exc.errno).lower()
    return str(exc) or type(exc).__name__


def connect_error(
    address: ServerAddress, exc: Optional[BaseException], timeout_s: float, *, is_tls: bool
) -> ConnectError:
    """Why an address gave no connection, with or without TLS, as one of our errors with *exc* as its cause."""
    if isinstance(exc, ConnectError):
        return exc  # the other link's handshake has found the words
    if isinstance(exc, ServerSaidError):
        error = refused(address, exc.text)
        error.__cause__ = exc
        return error
    text, is_passing = str(exc), False
    if exc is None or isinstance(exc, (asyncio.TimeoutError, TimeoutError, nats_errors.TimeoutError)):
        return _late(address, exc, timeout_s)
    if isinstance(exc, socket.gaierror):
        reason = f"unknown host ({exc.strerror})"
    elif isinstance(exc, ssl.SSLError):
        reason = tls_reason(exc) if is_tls else NEEDS_TLS  # without a context nats-py tries one of its own
    elif isinstance(exc, ConnectionRefusedError) or f"[Errno {errno.ECONNREFUSED}]" in text:
        reason = "connection refused: nothing listens on that port"
    elif isinstance(exc, ConnectionError) and CLOSED_EARLY in text:
        reason, is_passing = CLOSED_EARLY, True
    elif isinstance(exc, OSError):
        reason = os.strerror(exc.errno) if exc.errno else text
        if isinstance(exc, ConnectionError):
            reason, is_passing = f"{CLOSED_EARLY} ({reason})", True
    elif isinstance(exc, NotMemphisError):
        reason = f"{NOT_MEMPHIS}: {exc}"
    else:
        reason = text.removeprefix("nats: ") or repr(exc)
    found = HandshakeError(f"cannot connect to {address}: {reason}", is_passing=is_passing)
    found.__cause__ = exc
    return found


def _late(address: ServerAddress, exc: Optional[BaseException], timeout_s: float) -> ConnectError:
    error = HandshakeError(
        f"cannot connect to {address}: no Memphis broker answered within {timeout_s:.1f} s", is_late=True
    )
    error.__cause__ = exc
    return error
