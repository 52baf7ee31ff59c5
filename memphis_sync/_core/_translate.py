"""Error codes of the C core to exceptions: one place, so that both bindings raise the same class with the same text."""

from __future__ import annotations

import re
import sys
from typing import Union

from memphis_sync.errors import ConfigurationError, HeaderError, LocalProtocolError, MemphisError, RemoteProtocolError

SHOWN_BYTES = 64
"""How many offending bytes an error shows: enough for an operation and its subject, too few for a payload."""

MAX_U32 = 2**32 - 1
MAX_U64 = 2**64 - 1
MAX_SIZE = sys.maxsize // 2
"""Bound for lengths given from Python, in bytes; far above any memory."""

E_ROOM = -2
E_CONTROL_LINE = -3
E_PAYLOAD = -4
E_SYNTAX = -5

_NO_TOKEN = re.compile(rb"[^\x21-\x7e\x80-\xff]")
_NO_NAME = re.compile(rb"[^\x21-\x39\x3b-\x7e]")
_NO_VALUE = re.compile(rb"[\r\n\0]")


def frames_of(count: int) -> str:
    """What of a message for so many stations does not fit into the outbox, in words."""
    return "its frame is" if count == 1 else f"its frames for {count} stations together are"


def remote_error(code: int, max_payload: int, offending: Union[bytes, bytearray, memoryview]) -> RemoteProtocolError:
    """
    The error for a frame that mcore_parse refused.

    Args:
        code: Negative enum mcore_error.
        max_payload: The parser's limit in bytes.
        offending: The stream from the start of the offending frame; at most 64 bytes of it are shown.
    """
    reasons = {
        E_CONTROL_LINE: "a control line longer than its limit",
        E_PAYLOAD: f"a payload length that is no number or above {max_payload} bytes",
        E_SYNTAX: "bytes that are no NATS frame",
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


def frame_error(code: int, subject: bytes, what: str, other: bytes) -> MemphisError:
    """
    The error for a SUB, PUB or HPUB that was refused.

    Args:
        code: Negative enum mcore_error.
        subject: The frame's subject.
        what: Name of the other token, ``reply`` or ``queue``.
        other: That token; empty when there is none.
    """
    if not is_token(subject):
        return token_error("subject", subject)
    if not is_token(other) and other:
        return token_error(what, other)
    return block_error(code)


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
