"""Error codes of the C core to exceptions: one place, so that both bindings raise the same class with the same text."""

from __future__ import annotations

import re
import sys
from typing import Union

from memphis_sync._core._codes import Error
from memphis_sync.errors import (
    BufferFullError,
    ClosedError,
    ConfigurationError,
    ConnectionLostError,
    HeaderError,
    LocalProtocolError,
    MemphisError,
    PayloadTooLargeError,
    RemoteProtocolError,
)

SHOWN_BYTES = 64
"""How many offending bytes an error shows: enough for an operation and its subject, too few for a payload."""

MAX_U32 = 2**32 - 1
MAX_U64 = 2**64 - 1
MAX_SIZE = sys.maxsize // 2
"""Bound for lengths given from Python, in bytes; far above any memory."""

_FULL = frozenset({int(Error.FULL_BYTES), int(Error.FULL_MESSAGES)})
MAX_ROUTES = 64
"""MCORE_MAX_ROUTES: so many stations get a message at once."""

FORKED_LINK = "this connection was opened before the process was forked, and stays with the parent process"
FORKED_MESSAGE = (
    "this message was fetched before the process was forked, and only the process that fetched it can acknowledge it "
    "or give it back; without that the group gets it again after its ack time"
)
FORKED_TICKET = (
    "this message was produced before the process was forked, and only the process that produced it learns its outcome"
)

_NO_TOKEN = re.compile(rb"[^\x21-\x7e\x80-\xff]")
_NO_NAME = re.compile(rb"[^\x21-\x39\x3b-\x7e]")
_NO_VALUE = re.compile(rb"[\r\n\0]")


def checked_count(count: int) -> int:
    """How many routes a message has; ConfigurationError for what the core does not take."""
    if not 1 <= count <= MAX_ROUTES:
        raise ConfigurationError(f"a producer can have 1 to {MAX_ROUTES} stations, not {count}")
    return count


def append_error(code: int, count: int, size: int, block: int, stats: dict[str, int]) -> Exception:
    """
    The error for a message that the outbox refused.

    Args:
        code: Negative enum mcore_error.
        count: Of stations that were to get it.
        size: Bytes of its largest payload.
        block: Bytes of that one's header block.
        stats: Of the outbox.
    """
    if code in _FULL:  # first: a program may try again and again
        return BufferFullError(
            f"the outbox is full: {stats['queued'] + stats['in_flight']} messages wait for the broker, and it takes "
            f"outbox_max_messages={stats['max_messages']} in outbox_max_bytes={stats['max_bytes']}; raise these "
            "options of connect(), or make produce() wait for space: block_on_full_s of the producer, or produce_many()"
        )
    if code == Error.CLOSED:
        return ClosedError("the client is closed; the message was not accepted")
    if code == Error.PAYLOAD:
        return PayloadTooLargeError(
            f"message of {size} bytes with {block} bytes of headers: the broker accepts at most "
            f"max_payload={stats['max_payload']} bytes for both"
        )
    if code == Error.TOO_LARGE:
        frames = "its frame is" if count == 1 else f"its frames for {count} stations together are"
        return PayloadTooLargeError(
            f"message of {size} bytes: {frames} larger than the whole outbox (outbox_max_bytes={stats['max_bytes']})"
        )
    if code == Error.TOO_MANY:
        return ConfigurationError(
            f"a message for {count} stations is {count} messages, and the outbox holds "
            f"outbox_max_messages={stats['max_messages']}; raise this option of connect()"
        )
    if code == Error.MEMORY:
        return MemoryError("no memory for another message")
    return LocalProtocolError(f"the C core refused a message ({code})")


def link_error(code: int) -> Exception:
    """The error for a call that a data link refused; *code* is a negative enum mcore_error."""
    if code == Error.CLOSED:
        return ConnectionLostError("the data link has no connection at the moment")
    if code == Error.MEMORY:
        return MemoryError("no memory for what the data link is to keep")
    return LocalProtocolError(f"the C core refused a control frame ({code})")


def remote_error(code: int, max_payload: int, offending: Union[bytes, bytearray, memoryview]) -> RemoteProtocolError:
    """
    The error for a frame that mcore_parse refused.

    Args:
        code: Negative enum mcore_error.
        max_payload: The parser's limit in bytes.
        offending: The stream from the start of the offending frame; at most 64 bytes of it are shown.
    """
    reasons: dict[int, str] = {
        Error.CONTROL_LINE: "a control line longer than its limit",
        Error.PAYLOAD: f"a payload length that is no number or above {max_payload} bytes",
        Error.SYNTAX: "bytes that are no NATS frame",
    }
    reason = reasons.get(code, f"something that the parser refused with code {code}")
    return RemoteProtocolError(f"the server sent {reason}: {bytes(offending[:SHOWN_BYTES])!r}")


def poisoned_error(cause: MemphisError) -> LocalProtocolError:
    """The error for input to a parser that has failed and was not reset."""
    return LocalProtocolError(f"this parser has failed and takes nothing until reset(); it failed because {cause}")


def token_error(what: str, token: bytes) -> LocalProtocolError:
    """The error for a subject, reply or queue name that cannot be sent."""
    if not token:
        return LocalProtocolError(f"the {what} is empty")
    bad = _NO_TOKEN.search(token)
    if bad is None:
        return LocalProtocolError(f"the {what} {token!r} is not UTF-8")
    return LocalProtocolError(
        f"the {what} {token!r} holds {bad.group()!r} at byte {bad.start()}; blanks and control bytes cannot be sent"
    )


def is_token(token: bytes) -> bool:
    """Whether the bytes can stand in a control line; used to say which of several arguments was refused."""
    if not token or _NO_TOKEN.search(token):
        return False
    try:
        token.decode()
    except UnicodeDecodeError:
        return False
    return True


def frame_error(subject: bytes, what: str, other: bytes) -> LocalProtocolError:
    """
    The error for a SUB or PUB that was refused.

    Args:
        subject: The frame's subject.
        what: Name of the other token, ``reply`` or ``queue``.
        other: That token; empty when there is none.
    """
    return token_error(what, other) if is_token(subject) else token_error("subject", subject)


def connect_error() -> LocalProtocolError:
    """The error for CONNECT options that cannot be sent; the text never shows them, for they hold the password."""
    return LocalProtocolError("the options of CONNECT are empty or hold CR or LF; they must be one line of JSON")


def block_error(code: int) -> HeaderError:
    """The error for something that is no header block."""
    return HeaderError(f"no header block (code {code}): it must be NATS/1.0, lines of 'name: value', an empty line")


def header_error(name: bytes, value: bytes) -> HeaderError:
    """The error for a header that cannot be written; names it, and of its value shows the offending byte alone."""
    if not name:
        return HeaderError("a header has an empty name")
    bad = _NO_NAME.search(name)
    if bad is not None:
        return HeaderError(
            f"the name of header {name!r} holds {bad.group()!r} at byte {bad.start()}; "
            "a name is made of printable ASCII without blanks and ':'"
        )
    bad = _NO_VALUE.search(value)
    shown = "" if bad is None else f" holds {bad.group()!r} at byte {bad.start()}"
    return HeaderError(f"the value of header {name!r}{shown}; CR, LF and NUL cannot be sent")


def checked_number(option: str, value: object, low: int, high: int) -> int:
    """
    An integer argument inside its bounds.

    Raises:
        TypeError: *value* is no integer.
        ConfigurationError: *value* is outside *low*..*high*.
    """
    if not isinstance(value, int):
        raise TypeError(f"{option} must be an int, not {type(value).__name__}")
    if not low <= value <= high:
        raise ConfigurationError(f"{option} is {value}; it must be between {low} and {high}")
    return value
