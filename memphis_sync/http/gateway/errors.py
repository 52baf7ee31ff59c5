"""
Every error is an answer in JSON, and which one it is stands here.

Two shapes, as in Memphis' own gateway: ``{"error": ..., "success": false}``, and ``{"message": ...}`` for logins and
for a token that is not accepted. ``outcome`` is there when a message was involved: it says whether it may be stored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Optional

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from memphis_sync.errors import (
    AckTimeoutError,
    AuthenticationError,
    BufferFullError,
    ClosedError,
    ConfigurationError,
    DeadlineError,
    HeaderError,
    MemphisError,
    PayloadTooLargeError,
    ProduceError,
    SchemaError,
    ServerError,
    StationNotFoundError,
    TransportError,
)

RETRY_AFTER_S = 1  # a client is back within a second of its broker
AGAIN = {"retry-after": str(RETRY_AFTER_S)}


class Problem(Exception):  # noqa: N818  it is an answer, raised from wherever it is found
    """
    An answer that is not a success.

    Args:
        status: The HTTP status.
        body: What is answered, as JSON.
        headers: More headers of the answer.
    """

    def __init__(self, status: int, body: Mapping[str, Any], headers: Optional[Mapping[str, str]] = None) -> None:
        super().__init__(status, body)
        self.status = status
        self.body = dict(body)
        self.headers = dict(headers or {})


def refused(status: int, error: str, headers: Optional[Mapping[str, str]] = None, **more: Any) -> Problem:
    """A Problem with ``{"error": error, "success": false}`` and what else is given."""
    return Problem(status, {"error": error, "success": False, **more}, headers)


def message(status: int, text: Any, headers: Optional[Mapping[str, str]] = None) -> Problem:
    """A Problem with ``{"message": text}``: the shape of everything about logins."""
    return Problem(status, {"message": text}, headers)


def unauthorized() -> Problem:
    """The one answer to every token and password that is not accepted."""
    return message(401, "Unauthorized", {"www-authenticate": "Bearer"})


# The first row that fits decides. None: what the error's outcome says.
STATUS: tuple[tuple[type[MemphisError], Optional[int]], ...] = (
    (BufferFullError, 503),
    (AckTimeoutError, None),
    (PayloadTooLargeError, 413),
    (StationNotFoundError, 404),
    (AuthenticationError, 401),
    (TransportError, 503),
    (ClosedError, 503),  # the client has ended under the request; the next one opens another
    (DeadlineError, 504),
    (SchemaError, 400),
    (HeaderError, 400),
    (ConfigurationError, 400),
    (ProduceError, None),
    (MemphisError, 500),
)
_NOT_ALLOWED = 403  # to the user, at the broker
_BREAKS_SCHEMA = "Schema validation has failed: "  # what clients of Memphis' gateway look for
OUTCOMES = {"not_sent": 503, "rejected": 500, "unknown": 504}


def status_of(error: MemphisError) -> int:
    """The status that an error of the client becomes."""
    if isinstance(error, ServerError) and error.code == _NOT_ALLOWED:
        return _NOT_ALLOWED
    status = next(status for kind, status in STATUS if isinstance(error, kind))
    return OUTCOMES[error.outcome] if status is None and isinstance(error, ProduceError) else status or 500


def details_of(error: MemphisError) -> dict[str, Any]:
    """What an answer says of an error: its text, and whether its message may be stored."""
    if isinstance(error, SchemaError):
        return {
            "error": str(error) if str(error).startswith(_BREAKS_SCHEMA) else f"{_BREAKS_SCHEMA}{error}",
            "outcome": error.outcome,
            "path": error.path,
            "reason": error.reason,
        }
    found: dict[str, Any] = {"error": str(error)}
    if isinstance(error, ProduceError):
        found["outcome"] = error.outcome
        if error.message_id is not None:
            found["message_id"] = error.message_id
    return found


def problem_of(error: MemphisError) -> Problem:
    """The answer to an error of the client."""
    status = status_of(error)
    if status == 401:
        return unauthorized()
    return Problem(status, {**details_of(error), "success": False}, AGAIN if status == 503 else None)


def busy(error: str) -> Problem:
    """The answer when the gateway has no room for a request; nothing was done."""
    return refused(503, error, AGAIN)


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode


def as_json(body: Any) -> bytes:
    """JSON as Memphis' gateway writes it: compact, sorted, and safe inside of a page."""
    text = _encode(body)
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text.encode("utf-8", "replace")


class Answer(Response):
    """
    JSON without headers of its own: a connection may write it in one step, else it is sent like any response.

    Args:
        body: The JSON.
        status: The HTTP status.
    """

    def __init__(self, body: bytes, status: int = 200) -> None:
        self.body, self.status_code, self.background = body, status, None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends it."""
        await Response(self.body, self.status_code, None, "application/json")(scope, receive, send)


def answer(body: Any, status: int = 200, headers: Optional[Mapping[str, str]] = None) -> Response:
    """An answer in JSON."""
    return Response(as_json(body), status, headers, "application/json") if headers else Answer(as_json(body), status)
