"""What the kinds of schemas share: the interface, the texts, and how payloads become bytes and text."""

from __future__ import annotations

import json
import marshal
from collections.abc import Iterable
from typing import Any, Callable, Optional

from memphis_sync._protocol.json_text import JsonWriter, NotJsonError, read_json
from memphis_sync._schema import bounds
from memphis_sync.errors import SchemaError
from memphis_sync.types import SchemaInfo

# The texts of the official clients: programs look for them.
FAILED = "Schema validation has failed: "
MISALIGNED = (
    "Deserialization has been failed since the message format does not align with the currently attached schema: "
)
_BUFFERS = (bytes, bytearray, memoryview)


class SourceError(SchemaError):
    """The schema's own source is wrong."""


class MismatchError(Exception):
    """
    A message does not match; becomes a SchemaError with the text that the caller expects.

    Attributes:
        reason: What is wrong.
        path: Where.
    """

    def __init__(self, reason: str, path: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.path = path

    def public(self, prefix: str, info: SchemaInfo) -> SchemaError:
        """The error for the user."""
        where = f"at {self.path}: " if self.path else ""
        by = f"(schema {info.name!r}, version {info.version})"
        return SchemaError(f"{prefix}{where}{self.reason} {by}", path=self.path, reason=self.reason)


class Schema:
    """
    A compiled schema.

    Attributes:
        info: What it was made of.

    Args:
        info: What to make it of.
        writer: Writes dicts and lists as JSON.
    """

    def __init__(self, info: SchemaInfo, writer: JsonWriter) -> None:
        self.info = info
        self._writer = writer

    def encode(self, message: Any) -> bytes:
        """
        Checks a message.

        Args:
            message: bytes, bytearray, memoryview or what else the kind takes.

        Returns:
            The bytes to send; never a buffer that the caller may still change.

        Raises:
            SchemaError: It does not match, or is of a type that the kind does not take. The text begins with
                "Schema validation has failed: ".
        """
        try:
            return self._encode(message)
        except MismatchError as exc:
            raise exc.public(FAILED, self.info) from exc.__cause__
        except Exception as exc:  # of an object that is not what it seems, or deep in a library
            raise MismatchError(_unreadable(exc)).public(FAILED, self.info) from exc

    def decode(self, payload: bytes, *, as_dict: bool = False) -> Any:
        """
        Checks a payload and gives its content.

        Args:
            payload: As it came.
            as_dict: For protobuf: a dict instead of a message object. The other kinds have one form only.

        Raises:
            SchemaError: It does not match. The text begins with "Deserialization has been failed".
        """
        try:
            return self._decode(payload, as_dict=as_dict)
        except MismatchError as exc:
            raise exc.public(MISALIGNED, self.info) from exc.__cause__
        except Exception as exc:
            raise MismatchError(_unreadable(exc)).public(MISALIGNED, self.info) from exc

    def _encode(self, message: Any) -> bytes:
        raise NotImplementedError

    def _decode(self, payload: bytes, *, as_dict: bool) -> Any:
        raise NotImplementedError


def raw_bytes(message: Any) -> Optional[bytes]:
    """A bytes-like message as bytes, copied unless it is bytes already; None for anything else."""
    if type(message) is bytes:
        return message
    return bytes(message) if isinstance(message, _BUFFERS) else None


def text_of(payload: bytes, expected: str) -> str:
    """A payload as UTF-8 text."""
    try:
        return payload.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise MismatchError(f"{expected}: it is no UTF-8 text ({exc.reason} at byte {exc.start})") from exc


def utf8_of(text: str) -> bytes:
    """A text as UTF-8."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as exc:
        raise MismatchError(f"the text cannot be written as UTF-8: {exc.reason} at character {exc.start}") from exc


def _unreadable(exc: Exception) -> str:
    if isinstance(exc, RecursionError):
        return "it is nested too deep"
    return f"it cannot be read: {type(exc).__name__}: {exc}"


def is_plain(value: Any) -> bool:
    """
    Whether a value is made of Python's own types only, so that its JSON says just what it says itself. marshal, in C,
    takes no subclass of them, which may say something else of itself.
    """
    try:
        marshal.dumps(value)
    except ValueError:
        return False
    return True


def json_of(message: Any, writer: JsonWriter) -> str:
    """A dict or list as the JSON text that is sent, and that is to be checked: others get nothing else."""
    try:
        return writer.write(message)
    except NotJsonError as exc:
        reason = f"a {type(message).__name__} that cannot be written as JSON: {exc.reason}"
        raise MismatchError(reason, exc.path) from exc.__cause__


def read(text: str, expected: str) -> Any:
    """What a JSON text says; *expected* begins the reason when it is not JSON."""
    try:
        return read_json(text)
    except NotJsonError as exc:
        raise MismatchError(f"{expected}: {exc.reason}") from exc.__cause__


def unsupported(message: Any, taken: str) -> MismatchError:
    """The error for a message of a type that the kind does not take; the first words are the official clients'."""
    return MismatchError(f"Unsupported message type: {type(message).__name__}; this schema takes {taken}")


def source_of(info: SchemaInfo) -> str:
    """
    The source's text, without a byte order mark in front.

    Raises:
        SourceError: It is larger than any that is used.
    """
    most = bounds.MAX_GRAPHQL_SOURCE if info.type == "graphql" else bounds.MAX_SOURCE
    if len(info.content) > most:
        raise refused(f"it has {len(info.content)} characters, and a {info.type} schema has {most} at most")
    return info.content.removeprefix("\ufeff")


def json_source(info: SchemaInfo, *, unique_keys: bool = False) -> Any:
    """
    A source that is JSON.

    Raises:
        SourceError: It is not, is larger or deeper than any that is used, or (with *unique_keys*) has a key twice.
    """
    try:
        value = json.loads(source_of(info), object_pairs_hook=_once if unique_keys else None)
    except RecursionError as exc:
        raise _too_deep() from exc
    level = [value]
    for _ in range(bounds.MAX_DEPTH):
        level = [inner for item in level if isinstance(item, (dict, list)) for inner in _inside(item)]
        if not level:
            return value
    raise _too_deep()


def _inside(item: Any) -> Iterable[Any]:
    return item.values() if isinstance(item, dict) else item


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise refused(f"an object has the key {twice!r} twice")
    return made


def _too_deep() -> SourceError:
    return refused(f"it is nested more than {bounds.MAX_DEPTH} levels deep")


def refused(reason: str, path: str = "") -> SourceError:
    """The error for a source, with the place in it."""
    text = f"at {path}: {reason}" if path else reason
    return SourceError(text, reason=text)


def guarded(compile_it: Callable[[], Any]) -> Any:
    """
    Runs a library's compiler on a source from anywhere: whatever it raises means that the source is wrong.

    Raises:
        SourceError: With the library's text.
    """
    try:
        return compile_it()
    except SourceError:
        raise
    except Exception as exc:  # libraries raise KeyError, TypeError and worse for odd sources
        reason = str(exc).strip() or type(exc).__name__
        raise SourceError(reason, reason=reason) from exc
