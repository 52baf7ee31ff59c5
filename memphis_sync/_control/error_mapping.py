"""Converts what nats-py and the system raise into errors and texts of this package; the only place that does so."""

from __future__ import annotations

import asyncio
import os
import ssl

from nats import errors as nats_errors

from memphis_sync._nats import ServerSaidError
from memphis_sync._options.tls import tls_reason
from memphis_sync.errors import (
    ClosedError,
    ConnectionLostError,
    DeadlineError,
    MemphisError,
    ServerError,
)

NOT_ALLOWED = 403


def not_allowed(subject: str, text: str) -> ServerError:
    """The error of a question that the user may not ask; *text* is the server's."""
    return ServerError(f"the user is not allowed to ask {subject}: {text}", code=NOT_ALLOWED, description=text)


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
