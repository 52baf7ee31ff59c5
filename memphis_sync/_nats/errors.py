"""Error texts for what a server did during a handshake or sent later; the same for both links."""

from __future__ import annotations

from nats.errors import Error

from memphis_sync._protocol.server_errors import is_complaint, is_verdict
from memphis_sync.errors import AuthenticationError, ConnectError
from memphis_sync.types import ServerAddress


class ServerSaidError(Error):
    """
    The server sent ``-ERR``; an error of nats-py's, so that its reconnecting goes on.

    Attributes:
        text: What it said, without the quotes.
    """

    def __init__(self, text: str) -> None:
        super().__init__(f"the broker said {text!r}")
        self.text = text

    @property
    def is_complaint(self) -> bool:
        """Whether it concerns a single operation."""
        return is_complaint(self.text)


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
    """The error for a ``-ERR`` in a handshake, whose cause is a ServerSaidError."""
    error: ConnectError
    if is_verdict(text):
        error = AuthenticationError(
            f"cannot connect to {address}: the broker refused the user name or its password or token ({text})"
        )
    else:
        error = HandshakeError(
            f"cannot connect to {address}: the broker refused the connection for now ({text})", is_passing=True
        )
    error.__cause__ = ServerSaidError(text)
    return error


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
