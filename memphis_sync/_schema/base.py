"""What the kinds of schemas share: the interface, messages that are text, sources and their errors."""

from __future__ import annotations

import json
import marshal
from collections.abc import Iterable
from typing import Any, Callable, ClassVar, Optional

from memphis_sync._protocol.json_text import JsonWriter, NotJsonError, read_json
from memphis_sync._schema import bounds
from memphis_sync.errors import SchemaError
from memphis_sync.types import SchemaInfo

# The texts of the official clients, which programs look for.
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
        path: Where in the message; "" for the whole.
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

    Args:
        info: The schema as the broker describes it; also an attribute.
        writer: Writes dicts and lists as JSON.
    """

    def __init__(self, info: SchemaInfo, writer: JsonWriter) -> None:
        self.info = info
        self._writer = writer

    def encode(self, message: Any) -> bytes:
        """
        Checks a message.

        Args:
            message: bytes, bytearray, memoryview or another type that the kind accepts.

        Returns:
            The bytes to send; never a buffer that the caller may still change.

        Raises:
            SchemaError: It does not match, or the kind does not accept its type. The text begins with
                "Schema validation has failed: ".
        """
        try:
            return self._encode(message)
        except MismatchError as exc:
            raise exc.public(FAILED, self.info) from exc.__cause__
        except Exception as exc:  # raised by the message object itself, or deep in a library
            raise MismatchError(_unreadable(exc)).public(FAILED, self.info) from exc

    def decode(self, payload: bytes, *, as_dict: bool = False) -> Any:
        """
        Checks a payload and returns its content.

        Args:
            payload: As received.
            as_dict: For protobuf, return a dict instead of a message object; ignored by the other kinds.

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


class TextSchema(Schema):
    """A schema of messages that are text: it checks the text that is sent, and the text that was received."""

    _EXPECTED: ClassVar[str]  # begins the reason when the text cannot be read
    _ACCEPTED: ClassVar[str]  # the types, for the error

    def _encode(self, message: Any) -> bytes:
        message = self._written(message)
        if isinstance(message, str):
            try:
                payload, text = message.encode("utf-8"), message
            except UnicodeEncodeError as exc:
                where = f"{exc.reason} at character {exc.start}"
                raise MismatchError(f"the text cannot be written as UTF-8: {where}") from exc
        else:
            given = raw_bytes(message)
            if given is None:
                raise unsupported(message, self._ACCEPTED)
            payload, text = given, self._text_of(given)
        self._check_text(text)
        return payload

    def _decode(self, payload: bytes, *, as_dict: bool) -> Any:
        return self._check_text(self._text_of(payload))

    def _written(self, message: Any) -> Any:
        """A dict or list as JSON; anything else unchanged."""
        if not isinstance(message, (dict, list)):
            return message
        try:
            return self._writer.write(message)
        except NotJsonError as exc:
            reason = f"a {type(message).__name__} that cannot be written as JSON: {exc.reason}"
            raise MismatchError(reason, exc.path) from exc.__cause__

    def _check_text(self, text: str) -> Any:
        """Checks JSON text and returns what it says."""
        try:
            value = read_json(text)
        except NotJsonError as exc:
            raise MismatchError(f"{self._EXPECTED}: {exc.reason}") from exc.__cause__
        self._check(value, text)
        return value

    def _check(self, value: Any, text: str) -> None:
        raise NotImplementedError

    def _text_of(self, payload: bytes) -> str:
        try:
            return payload.decode("utf-8")
        except UnicodeDecodeError as exc:
            raise MismatchError(f"{self._EXPECTED}: it is not UTF-8 text ({exc.reason} at byte {exc.start})") from exc


def raw_bytes(message: Any) -> Optional[bytes]:
    """A bytes-like message as bytes; None for anything else."""
    if type(message) is bytes:
        return message
    return bytes(message) if isinstance(message, _BUFFERS) else None


def _unreadable(exc: Exception) -> str:
    if isinstance(exc, RecursionError):
        return "it is nested too deep"
    return f"it cannot be read: {type(exc).__name__}: {exc}"


def is_plain(value: Any) -> bool:
    """
    Whether a value consists of Python's own types only, so that its JSON says exactly what it says. marshal, in C,
    refuses subclasses, which may be written differently.
    """
    try:
        marshal.dumps(value)
    except ValueError:
        return False
    return True


def unsupported(message: Any, accepted: str) -> MismatchError:
    """The error for a message of a type that the kind does not accept; the official clients' words come first."""
    return MismatchError(f"Unsupported message type: {type(message).__name__}; this schema accepts {accepted}")


def source_of(info: SchemaInfo) -> str:
    """
    The source's text, without a byte order mark.

    Raises:
        SourceError: It is too large.
    """
    most = bounds.MAX_GRAPHQL_SOURCE if info.type == "graphql" else bounds.MAX_SOURCE
    if len(info.content) > most:
        raise refused(f"it has {len(info.content)} characters; a {info.type} schema may have {most} at most")
    return info.content.removeprefix("\ufeff")


def json_source(info: SchemaInfo, *, unique_keys: bool = False) -> Any:
    """
    A source that is JSON.

    Raises:
        SourceError: It is not JSON, is too large or too deep, or (with *unique_keys*) an object has a key twice.
    """
    try:
        value = json.loads(source_of(info), object_pairs_hook=_once if unique_keys else None)
    except RecursionError as exc:
        raise _too_deep() from exc
    level = [value]
    for _ in range(bounds.MAX_DEPTH):
        level = [inner for item in level for inner in members(item)]
        if not level:
            return value
    raise _too_deep()


def members(value: Any) -> Iterable[Any]:
    """What a JSON object or array contains; nothing for other values."""
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


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
    """The error for a wrong source, with the place in it."""
    return SourceError(f"at {path}: {reason}" if path else reason)


def guarded(compile_it: Callable[[], Any]) -> Any:
    """
    Runs a library's compiler on an untrusted source: whatever it raises means that the source is wrong.

    Raises:
        SourceError: With the library's text.
    """
    try:
        return compile_it()
    except SourceError:
        raise
    except Exception as exc:  # libraries raise KeyError, TypeError and worse for odd sources
        raise SourceError(str(exc).strip() or type(exc).__name__) from exc
