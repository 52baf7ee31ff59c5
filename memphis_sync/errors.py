"""
The exceptions and warnings of the client, as one tree.

    MemphisError
    |-- ConfigurationError (ValueError)  a bad argument, before any IO: names the option, the value and what is allowed
    |-- UsageError (RuntimeError)
    |   |-- ClosedError                  the client, producer, consumer or station was closed or destroyed
    |   |-- OwnThreadError               a blocking call on one of the client's own threads: it would deadlock
    |   `-- ForkedError                  it was made before a fork, and this is the child
    |-- TransportError
    |   |-- ConnectError                 each address with its own reason; MemphisConnectError is its old name
    |   |   `-- AuthenticationError      below it, because programs catch MemphisConnectError
    |   `-- ConnectionLostError
    |-- DeadlineError (TimeoutError)     .timeout_s
    |-- ServerError                      .code .err_code .description
    |   `-- StationNotFoundError
    |-- ProduceError                     .outcome .message_id
    |   |-- BufferFullError (BufferError)
    |   |-- AckTimeoutError (DeadlineError)
    |   |-- PayloadTooLargeError (ValueError)
    |   |-- RejectedError (ServerError)  the broker refused the message: its own code and text
    |   |   `-- StationGoneError (StationNotFoundError)
    |   `-- MultiStationError            .results: one PubAck or error for each station
    |-- SchemaError                      .path .reason; MemphisSchemaError is its old name
    |-- HeaderError (ValueError)         MemphisHeaderError is its old name
    `-- ProtocolError
        |-- LocalProtocolError           this side was asked to send something illegal
        `-- RemoteProtocolError          the peer sent something illegal; the text shows the bytes

Every exception pickles with all its attributes. A password is in none of the texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Optional, Union

if TYPE_CHECKING:
    from memphis_sync.types import PubAck

Outcome = Literal["not_sent", "rejected", "unknown"]


def _rebuild(cls: type[MemphisError], args: tuple[Any, ...], state: dict[str, Any]) -> MemphisError:
    """Rebuilds an error for pickle."""
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class MemphisError(Exception):
    """
    Anything that this client raises on purpose.

    Attributes:
        retryable: Whether the same call may succeed later, without any change.
    """

    retryable: bool = False

    def __init__(self, message: str = "") -> None:
        super().__init__(message)

    @property
    def message(self) -> str:
        """The text, as ``str()`` gives it; memphis.py's name for it."""
        return str(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__.copy())


class ConfigurationError(MemphisError, ValueError):
    """A bad argument or option; raised before any IO."""


class UsageError(MemphisError, RuntimeError):
    """A call that is not possible in the present state of the object."""


class ClosedError(UsageError):
    """The client, producer, consumer or station was closed or destroyed; the message was not accepted."""


class OwnThreadError(UsageError):
    """A blocking call made on one of the client's own threads, where it would wait for itself."""


class ForkedError(UsageError):
    """A message, a delivery or an iteration from before a fork was used in the child; it stays with the parent."""


class TransportError(MemphisError):
    """The connection to the broker failed."""

    retryable = True


class ConnectError(TransportError):
    """No connection could be made; the text gives each address with its reason."""


class AuthenticationError(ConnectError):
    """The broker refused the credentials."""

    retryable = False


class ConnectionLostError(TransportError):
    """The connection ended while a call was waiting on it."""


class DeadlineError(MemphisError, TimeoutError):
    """
    A call did not finish within its timeout.

    Attributes:
        timeout_s: The timeout in seconds.
    """

    retryable = True

    def __init__(self, message: str = "", *, timeout_s: float = 0.0) -> None:
        super().__init__(message)
        self.timeout_s = timeout_s


class ServerError(MemphisError):
    """
    The broker replied with an error.

    Attributes:
        code: HTTP-like status of JetStream; 0 when the broker sent only a text.
        err_code: JetStream's own error code; 0 when there is none.
        description: The broker's text, unchanged.
    """

    def __init__(self, message: str = "", *, code: int = 0, err_code: int = 0, description: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.err_code = err_code
        self.description = description or message


class StationNotFoundError(ServerError):
    """The station or its consumer group does not exist, or was destroyed."""


class ProduceError(MemphisError):
    """
    A message was not confirmed.

    Attributes:
        outcome: ``not_sent`` (the broker did not receive it), ``rejected`` (the broker refused it) or ``unknown`` (it
            may be stored; send it again only with the same message id and to the same partition: the text says how).
        message_id: The id of the message; None without one.
    """

    def __init__(self, message: str = "", *, outcome: Outcome = "not_sent", message_id: Optional[str] = None) -> None:
        super().__init__(message)
        self.outcome: Outcome = outcome
        self.message_id = message_id


class BufferFullError(ProduceError, BufferError):
    """
    The queue is full; the message was not accepted. The text names its capacity, its content, and the two options that
    change it.
    """

    retryable = True


class AckTimeoutError(ProduceError, DeadlineError):
    """
    The broker did not confirm the message in time. ``outcome`` is ``unknown`` once it was written, before that
    ``not_sent``.
    """

    def __init__(
        self,
        message: str = "",
        *,
        outcome: Outcome = "unknown",
        message_id: Optional[str] = None,
        timeout_s: float = 0.0,
    ) -> None:
        ProduceError.__init__(self, message, outcome=outcome, message_id=message_id)
        self.timeout_s = timeout_s


class PayloadTooLargeError(ProduceError, ValueError):
    """Payload and headers are larger than the broker's ``max_payload``; nothing was sent."""


class RejectedError(ProduceError, ServerError):
    """The broker refused the message; ``outcome`` is ``rejected``, and it is not stored."""

    def __init__(
        self,
        message: str = "",
        *,
        message_id: Optional[str] = None,
        code: int = 0,
        err_code: int = 0,
        description: str = "",
    ) -> None:
        ProduceError.__init__(self, message, outcome="rejected", message_id=message_id)
        self.code = code
        self.err_code = err_code
        self.description = description or message


class StationGoneError(RejectedError, StationNotFoundError):
    """The station's partition has no responders, so the station was destroyed. The message is not stored."""


class MultiStationError(ProduceError):
    """
    A message for several stations was not confirmed by all of them.

    Attributes:
        results: By station, its PubAck or its error.
    """

    def __init__(
        self,
        message: str = "",
        *,
        outcome: Outcome = "unknown",
        results: Optional[Mapping[str, Union[PubAck, ProduceError, SchemaError]]] = None,
    ) -> None:
        super().__init__(message, outcome=outcome)
        self.results = dict(results or {})


class SchemaError(MemphisError):
    """
    The message does not match the station's schema, or cannot be sent because of its type; it was not accepted.

    Also raised when the schema itself cannot be used: no message is sent unchecked.

    Attributes:
        path: Where in the message: a JSON pointer (JSON), a dotted name (Avro, protobuf), line:column (GraphQL); ""
            for the message as a whole.
        reason: What is wrong there, without the message's values; protobuf's own texts may quote one.
        outcome: ``not_sent``, as in a ProduceError.
        message_id: None, as in a ProduceError.
    """

    outcome: Outcome = "not_sent"
    message_id: Optional[str] = None

    def __init__(self, message: str = "", *, path: str = "", reason: str = "") -> None:
        super().__init__(message)
        self.path = path
        self.reason = reason or message


class HeaderError(MemphisError, ValueError):
    """A header is reserved, or cannot be encoded."""


class UnacknowledgedError(MemphisError):
    """
    Some messages of a batch could not be acknowledged; see Messages.ack().

    Attributes:
        errors: The error of each of them, by its place in the list.
    """

    def __init__(self, message: str = "", *, errors: Optional[Mapping[int, MemphisError]] = None) -> None:
        super().__init__(message)
        self.errors = dict(errors or {})


class ProtocolError(MemphisError):
    """The NATS or Memphis protocol was violated."""


class LocalProtocolError(ProtocolError):
    """This side was asked to send something illegal."""


class RemoteProtocolError(ProtocolError):
    """The peer sent something illegal; the text shows the offending bytes."""


class UndeliveredWarning(RuntimeWarning):
    """
    Messages were still unconfirmed when a client ended.

    It is a RuntimeWarning, because Python hides a ResourceWarning by default.

    Attributes:
        count: How many messages.
        failed: How many others had failed without anybody asking about them; set at the end of the process.
    """

    count: int = 0
    failed: int = 0


MemphisConnectError = ConnectError
MemphisSchemaError = SchemaError
MemphisHeaderError = HeaderError
