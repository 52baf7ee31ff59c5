"""
Dicts in protobuf's JSON mapping, prepared for protobuf's own reader.

That reader treats bytes as base64 text, skips characters that are not base64, truncates a Decimal to an integer, and
removes "@type" from the dict of an Any. So it gets a copy of the dicts and lists, in which bytes have become base64
text, and ``json_default`` has converted values that JSON has no form for.
"""

from __future__ import annotations

import base64
import datetime as dt
import math
import operator
from typing import Any, Callable, Optional

from google.protobuf.descriptor import FieldDescriptor

from memphis_sync._options.checks import is_numpy_bool
from memphis_sync._protocol.json_text import Default, no_form
from memphis_sync._schema.base import MismatchError

_BUFFERS = (bytes, bytearray, memoryview)
_PLAIN = frozenset({str, int, float, bool, type(None)})
_INTEGERS = frozenset(getattr(FieldDescriptor, f"CPPTYPE_{n}") for n in ("INT32", "INT64", "UINT32", "UINT64", "ENUM"))
_FLOATS = frozenset({FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE})
_URL_SAFE = str.maketrans("-_", "+/")
_TIMESTAMP, _DURATION = "google.protobuf.Timestamp", "google.protobuf.Duration"
_ANY = "google.protobuf.Any"
# Messages with a special form in JSON; that of a wrapper is the form of its only field.
_OWN_FORM = frozenset(
    f"google.protobuf.{name}" for name in ("Duration", "FieldMask", "ListValue", "Struct", "Timestamp", "Value")
)
_WRAPPERS = frozenset(
    f"google.protobuf.{name}Value"
    for name in ("Bool", "Bytes", "Double", "Float", "Int32", "Int64", "String", "UInt32", "UInt64")
)
Convert = Callable[[Any, str], Any]  # from a value and its path to the value in the copy


class DictReader:
    """
    Copies the dicts of one schema.

    Args:
        pool: The schema's, in which the type of an Any is searched.
        default: As for JsonWriter.
    """

    def __init__(self, pool: Any, default: Optional[Default]) -> None:
        self._pool = pool
        self._default = default
        self._fields: dict[str, dict[str, Convert]] = {}  # by a message's full name

    def copy(self, value: dict[Any, Any], descriptor: Any) -> Any:
        """
        A copy of a dict that protobuf's reader understands correctly.

        Raises:
            MismatchError: A field does not accept its value; the path is protobuf's, ``items[1].id``.
        """
        return self._message(descriptor, value, "")

    def _message(self, descriptor: Any, value: Any, path: str) -> Any:
        if not isinstance(value, dict):
            return self._plain(value, path)
        fields = self._fields.get(descriptor.full_name)
        if fields is None:
            fields = self._fields[descriptor.full_name] = self._converters(descriptor)
        start = f"{path}." if path else ""
        copied: dict[Any, Any] = {}
        for key, item in value.items():
            if item is None:
                copied[key] = None
                continue
            convert = fields.get(key)
            if convert is None:  # an extension, or an unknown field, for which the reader raises
                convert = self._extension(key)
            copied[key] = item if convert is None else convert(item, f"{start}{key}")
        return copied

    def _converters(self, descriptor: Any) -> dict[str, Convert]:
        found: dict[str, Convert] = {}
        for field in descriptor.fields:
            found[field.name] = found[field.json_name] = self._converter(field)
        return found

    def _extension(self, key: Any) -> Optional[Convert]:
        if not isinstance(key, str) or not (key.startswith("[") and key.endswith("]")):
            return None
        try:
            return self._converter(self._pool.FindExtensionByName(key[1:-1]))
        except KeyError:
            return None

    def _converter(self, field: Any) -> Convert:
        """What converts a field's value."""
        message = field.message_type
        if message is not None and message.GetOptions().map_entry:
            inner = self._single(message.fields_by_name["value"])
            return lambda value, path: self._map(inner, value, path)
        inner = self._single(field)
        if _is_repeated(field):
            return lambda value, path: self._list(inner, value, path)
        return inner

    def _single(self, field: Any) -> Convert:
        message = field.message_type
        if message is not None:
            return self._of_message(message)
        if field.type == FieldDescriptor.TYPE_BYTES:
            return self._bytes
        return lambda value, path: value if type(value) in _PLAIN else self._scalar(field, value, path)

    def _of_message(self, message: Any) -> Convert:
        if message.full_name == _ANY:
            return self._any
        if message.full_name in _WRAPPERS:
            return self._single(message.fields_by_name["value"])
        if message.full_name == _TIMESTAMP:
            return self._timestamp
        if message.full_name == _DURATION:
            return self._duration
        if message.full_name in _OWN_FORM:
            return self._plain
        return lambda value, path: self._message(message, value, path)

    def _map(self, inner: Convert, value: Any, path: str) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: item if item is None else inner(item, f'{path}["{key}"]') for key, item in value.items()}

    def _list(self, inner: Convert, value: Any, path: str) -> Any:
        if not isinstance(value, (list, tuple)):
            if self._default is None or isinstance(value, (str, int, float, dict)):
                kind = type(value).__name__
                raise MismatchError(f"it is of type {kind}; the field is repeated, so it must be a list", path)
            return self._plain(value, path)
        return [item if item is None else inner(item, f"{path}[{place}]") for place, item in enumerate(value)]

    def _any(self, value: Any, path: str) -> Any:
        if not isinstance(value, dict) or not isinstance(value.get("@type"), str):
            return value
        try:
            message = self._pool.FindMessageTypeByName(value["@type"].rpartition("/")[2])
        except KeyError:
            return dict(value)
        if message.full_name in _OWN_FORM or message.full_name in _WRAPPERS or message.full_name == _ANY:
            convert = self._of_message(message)
            return {key: convert(item, f"{path}.value") if key == "value" else item for key, item in value.items()}
        return self._message(message, value, path)

    def _timestamp(self, value: Any, path: str) -> Any:
        if not isinstance(value, dt.datetime) or (value.utcoffset() is None and self._default is not None):
            return self._plain(value, path)
        if value.utcoffset() is None:
            todo = "add one, for instance with value.replace(tzinfo=datetime.timezone.utc)"
            raise MismatchError(f"it is a datetime without a time zone; {todo}", path)
        return f"{value.astimezone(dt.timezone.utc).replace(tzinfo=None).isoformat()}Z"

    def _duration(self, value: Any, path: str) -> Any:
        if not isinstance(value, dt.timedelta):
            return self._plain(value, path)
        seconds, rest = divmod(abs(value) // dt.timedelta(microseconds=1), 1_000_000)
        return f"{'-' if value < dt.timedelta() else ''}{seconds}.{rest:06}s"

    def _scalar(self, field: Any, value: Any, path: str) -> Any:
        """A value of a type that JSON does not have."""
        if isinstance(value, _BUFFERS):
            raise MismatchError(f"it is {type(value).__name__}; the field accepts {_name(field)}", path)
        if isinstance(value, (str, int, float)):
            return value
        if is_numpy_bool(value):  # in older versions it counts as 1 or 0
            return self._plain(value, path)
        if field.cpp_type in _INTEGERS and hasattr(type(value), "__index__"):
            return operator.index(value)
        if field.cpp_type in _FLOATS and hasattr(type(value), "__float__"):
            return float(value)
        return self._plain(value, path)

    def _bytes(self, value: Any, path: str) -> str:
        """A bytes field's value as base64 text: bytes are encoded, a str must be base64 already."""
        if isinstance(value, _BUFFERS):
            return base64.b64encode(value.tobytes() if isinstance(value, memoryview) else value).decode()
        if self._default is not None and type(value) not in _PLAIN:
            value = self._instead_of(value, path)
            if isinstance(value, _BUFFERS):
                return self._bytes(value, path)
        if not isinstance(value, str):
            what = "bytes, bytearray, memoryview or base64 text"
            raise MismatchError(f"it is of type {type(value).__name__}; the field accepts {what}", path)
        if not _is_base64(value):
            raise MismatchError("it is a str that is not base64; pass bytes as they are", path)
        return value

    def _plain(self, value: Any, path: str) -> Any:
        """A value of any JSON type, with all that it contains."""
        if isinstance(value, float) and not math.isfinite(value):
            raise MismatchError(f"it is {float(value)}, which has no form in JSON", path)
        if type(value) in _PLAIN or isinstance(value, (str, int, float)):
            return value
        if isinstance(value, dict):
            return {key: self._plain(item, f"{path}.{key}") for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._plain(item, f"{path}[{place}]") for place, item in enumerate(value)]
        if self._default is None:
            raise MismatchError(no_form(value), path)
        return self._plain(self._instead_of(value, path), path)

    def _instead_of(self, value: Any, path: str) -> Any:
        assert self._default is not None
        try:
            return self._default(value)
        except Exception as exc:
            what = f"json_default raised {type(exc).__name__} for a {type(value).__name__}"
            raise MismatchError(f"{what}: {exc}", path) from exc


def _is_repeated(field: Any) -> bool:
    try:
        return bool(field.is_repeated)
    except AttributeError:  # before protobuf 6
        return bool(field.label == FieldDescriptor.LABEL_REPEATED)


def _name(field: Any) -> str:
    kinds = {
        FieldDescriptor.CPPTYPE_STRING: "a str: decode it",
        FieldDescriptor.CPPTYPE_BOOL: "True or False",
        FieldDescriptor.CPPTYPE_ENUM: "a name or number of its enum",
    }
    return kinds.get(field.cpp_type, "a number")


def _is_base64(text: str) -> bool:
    """Whether a text is base64, of either alphabet, with or without padding."""
    digits = text.rstrip("=")
    plain = digits.translate(_URL_SAFE)
    if len(text) - len(digits) not in (0, -len(digits) % 4):
        return False
    try:
        data = base64.b64decode(plain + "=" * (-len(digits) % 4), validate=True)
    except ValueError:
        return False
    return (
        base64.b64encode(data).decode().rstrip("=") == plain
    )  # otherwise the last digit has bits that are not part of the value
