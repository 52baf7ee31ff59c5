"""What nats-py and the system raise, as errors and words of ours: the one place where they are translated."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from typing import Optional

from nats import errors as nats_errors

from memphis_sync._tls import NEEDS_TLS, NO_TLS, tls_reason
from memphis_sync.errors import (
    AuthenticationError,
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
            f"nothing answers {what} at {address}: a NATS server is there, but no Memphis broker behind it",
            code=503,
        )
    if isinstance(exc, (nats_errors.ConnectionClosedError, nats_errors.ConnectionDrainingError)):
        return ClosedError(f"the connection to {address} is closed; {what} was not sent")
    if isinstance(exc, (OSError, nats_errors.Error)):
        return ConnectionLostError(f"{what}: {exc} ({address})")
    return MemphisError(f"{what}: {exc!r} ({address})")


def lost_reason(exc: BaseException) -> str:
    """Why a link was lost, in a few words."""
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
    text = str(exc)
    kind: type[ConnectError] = ConnectError
    if exc is None or isinstance(exc, (asyncio.TimeoutError, TimeoutError, nats_errors.TimeoutError)):
        reason = f"no NATS server answered within {timeout_s:.1f} s"
    elif "authorization violation" in text.lower() or "authentication" in text.lower():
        kind, reason = (
            AuthenticationError,
            "the broker refused the user name or its password or token (Authorization Violation)",
        )
    elif isinstance(exc, socket.gaierror):
        reason = f"unknown host ({exc.strerror})"
    elif isinstance(exc, ssl.SSLError):
        reason = tls_reason(exc) if is_tls else NEEDS_TLS  # without a context nats-py tries one of its own
    elif isinstance(exc, ConnectionRefusedError) or f"[Errno {errno.ECONNREFUSED}]" in text:
        reason = "connection refused: nothing listens on that port"
    elif isinstance(exc, OSError):
        reason = os.strerror(exc.errno) if exc.errno else text
    elif isinstance(exc, (ValueError, asyncio.IncompleteReadError)) or "INFO" in text or "info message" in text:
        reason = "this is not a NATS server: it did not begin with INFO"
    else:
        reason = text.removeprefix("nats: ") or repr(exc)
    error = kind(f"cannot connect to {address}: {reason}")
    error.__cause__ = exc
    return error
