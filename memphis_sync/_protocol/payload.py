"""Converts messages to payloads for a station without a schema."""

from __future__ import annotations

from typing import Any

from memphis_sync._core import encode_header
from memphis_sync._protocol.json_text import PLAIN, JsonWriter, NotJsonError, remedy
from memphis_sync.errors import ConfigurationError, HeaderError

PAYLOADS = "bytes, bytearray, memoryview, str, dict, list, a protobuf message or a GraphQL document"


def payload_of(message: Any, json_text: JsonWriter = PLAIN) -> Any:
    """
    What the C core takes: bytes, str or a buffer.

    Raises:
        ConfigurationError: The message is of another type, or something in it has no JSON form: where, and what to do.
    """
    if isinstance(message, (bytes, bytearray)):
        return message
    if isinstance(message, str):
        return message.encode("utf-8")
    try:
        if isinstance(message, memoryview):
            return _bytes_of(message)
        if isinstance(message, (dict, list)):
            return json_text.write(message).encode()
        return _document_of(message)
    except NotJsonError as exc:
        raise ConfigurationError(
            f"message is a {type(message).__name__} that cannot be written as JSON: {exc}"
        ) from exc.__cause__
    except ConfigurationError:
        raise
    except Exception as exc:  # of an object that is not what it seems; a memoryview that was released
        raise ConfigurationError(
            f"message is a {type(message).__name__} that cannot be read: {type(exc).__name__}: {exc}"
        ) from exc


def _bytes_of(message: memoryview) -> Any:
    """A view of single bytes without gaps: the C core takes no other."""
    if not message.c_contiguous:
        return message.tobytes()
    return message if message.format == "B" and message.ndim == 1 else message.cast("B")


def _document_of(message: Any) -> bytes:
    """A protobuf message or a GraphQL document, by its own shape: no library needs to be installed."""
    serialize = getattr(message, "SerializeToString", None)
    if callable(serialize):
        try:
            return bytes(serialize())
        except Exception as exc:  # protobuf's EncodeError, which is not imported for this
            raise ConfigurationError(f"message is a {type(message).__name__} that cannot be written: {exc}") from exc
    source = getattr(getattr(getattr(message, "loc", None), "source", None), "body", None)
    if isinstance(source, str):
        return source.encode("utf-8")
    raise ConfigurationError(unsupported(message))


def unsupported(message: Any) -> str:
    """The words for a message of a type that is not taken, with what may stand for it."""
    instead = remedy(message)
    hint = f"; send {instead.replace('value', 'message', 1)} instead" if instead else ""
    return f"message is of type {type(message).__name__}; it must be {PAYLOADS}{hint}"


def size_of(payload: Any) -> int:
    """Bytes that a payload takes on the wire."""
    if isinstance(payload, str):
        return len(payload.encode("utf-8"))
    return payload.nbytes if isinstance(payload, memoryview) else len(payload)


def message_id(msg_id: str) -> bytes:
    """A caller's message id, checked."""
    if not isinstance(msg_id, str):
        raise ConfigurationError(f"msg_id is of type {type(msg_id).__name__}; it must be a str or None")
    encoded = msg_id.encode("utf-8", "surrogatepass")
    try:
        encode_header(b"msg-id", encoded)
    except HeaderError as exc:
        raise ConfigurationError(f"msg_id is {msg_id!r}; it must hold no CR, LF or NUL") from exc
    return encoded


def not_utf8(exc: UnicodeEncodeError) -> ConfigurationError:
    """A str with half of a surrogate pair in it."""
    return ConfigurationError(f"message is a str that cannot be written as UTF-8: {exc.reason} at {exc.start}")
