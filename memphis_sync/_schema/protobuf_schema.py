"""
Protobuf, with the protobuf package, from the descriptor set that the broker compiled.

Each schema has its own descriptor pool, so two versions of one message do not conflict. A set may contain its files in
any order, and without Google's ``google/protobuf/*.proto``, which then come from the installed package.
"""

from __future__ import annotations

import base64
import importlib
import re
from collections.abc import Iterator
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.message import DecodeError, EncodeError, Message

from memphis_sync._protocol.json_text import JsonWriter
from memphis_sync._schema import bounds
from memphis_sync._schema.base import (
    MismatchError,
    Schema,
    SourceError,
    guarded,
    raw_bytes,
    refused,
    source_of,
    unsupported,
)
from memphis_sync._schema.protobuf_dicts import DictReader
from memphis_sync.types import SchemaInfo

_EXPECTED = "Invalid message format, expecting protobuf"  # the official clients' words
_WELL_KNOWN = re.compile(r"google/protobuf/([a-z_]+)\.proto\Z")
_UNKNOWN_FIELD = re.compile(r'has no field named "([^"]*)" at "([^"]*)"')
_PLACE = re.compile(r' at "?([A-Za-z_][\w.\[\]]*?)"?\.*(?:\n|\Z)')
_MAX_NAMES = 20  # message names that an error shows
_CHAIN = re.compile(r"Failed to parse (\S+) field: ")


class ProtobufSchema(Schema):
    """A protobuf message type; accepts a message object, its bytes, or a dict in protobuf's JSON mapping."""

    def __init__(self, info: SchemaInfo, writer: JsonWriter) -> None:
        super().__init__(info, writer)
        source_of(info)  # checks its size
        files = guarded(lambda: _files_of(info.descriptor))
        self._pool = descriptor_pool.DescriptorPool()
        self._class: Any = guarded(lambda: _message_class(self._pool, files, info.message_struct_name))
        self._parse = self._class.FromString  # a fresh message each time
        self._name: str = self._class.DESCRIPTOR.full_name
        self._dicts = DictReader(self._pool, writer.default)

    def _encode(self, message: Any) -> bytes:
        # One function: with a call for each step a small message would cost twice as much as in the library alone.
        if type(message) is bytes:
            payload = message
        elif isinstance(message, dict):
            return self._encode_dict(message)
        else:
            serialize = getattr(message, "SerializeToString", None)
            given = raw_bytes(message) if serialize is None else self._serialized(message)
            if given is None:
                raise unsupported(message, "a protobuf message, its bytes, or a dict")
            payload = given
        try:
            parsed = self._parse(payload)
        except DecodeError as exc:
            raise MismatchError(_EXPECTED) from exc
        if not parsed.IsInitialized():
            raise _incomplete(parsed)
        return payload

    def _encode_dict(self, message: dict[Any, Any]) -> bytes:
        try:
            copied = self._dicts.copy(message, self._class.DESCRIPTOR)
            filled = json_format.ParseDict(copied, self._class(), descriptor_pool=self._pool)
        except json_format.ParseError as exc:
            raise _mismatch(str(exc)) from exc
        except MismatchError:
            raise
        except Exception as exc:  # raised by the user's types, or by a dict nested too deep
            raise MismatchError(f"the dict cannot be read: {exc}") from exc
        if not filled.IsInitialized():
            raise _incomplete(filled)
        return bytes(filled.SerializeToString())

    def _decode(self, payload: bytes, *, as_dict: bool) -> Any:
        try:
            message = self._parse(payload)
        except DecodeError as exc:
            raise MismatchError(_EXPECTED) from exc
        if not message.IsInitialized():
            raise _incomplete(message)
        if not as_dict:
            return message
        try:
            return json_format.MessageToDict(message, preserving_proto_field_name=True, descriptor_pool=self._pool)
        except Exception as exc:  # an Any of an unknown type, a Struct with NaN, a year beyond 9999
            raise MismatchError(f"it cannot be written as a dict: {exc}") from exc

    def _serialized(self, message: Any) -> bytes:
        name = getattr(getattr(message, "DESCRIPTOR", None), "full_name", self._name)
        if name != self._name:
            raise MismatchError(f"it is a message of type {name}; the schema's type is {self._name}")
        try:
            serialized: bytes = message.SerializeToString()
        except EncodeError as exc:
            raise MismatchError(str(exc)) from exc
        except Exception as exc:  # only protobuf's own objects are known to raise nothing else
            raise MismatchError(f"the {type(message).__name__} cannot be written: {exc}") from exc
        return serialized


def _incomplete(message: Message) -> MismatchError:
    """The error for missing required fields (proto2), which parsing does not check."""
    missing: list[str] = message.FindInitializationErrors()  # type: ignore[attr-defined,unused-ignore]
    return MismatchError(f"required fields are missing: {', '.join(missing)}", missing[0])


def _mismatch(text: str) -> MismatchError:
    """The error for a text of json_format, which names the path in one of three ways."""
    unknown = _UNKNOWN_FIELD.search(text)
    if unknown:
        name, place = unknown.groups()
        return MismatchError(text, f"{_below_root(place)}.{name}".lstrip("."))
    chain = ".".join(_CHAIN.findall(text))
    place = _PLACE.search(text)
    return MismatchError(text, (_below_root(place.group(1)) if place else "") or chain)


def _below_root(place: str) -> str:
    """``Test.items[1].id`` -> ``items[1].id``: the root is the message itself."""
    return place.partition(".")[2]


def _files_of(descriptor: str) -> list[Any]:
    if len(descriptor) > bounds.MAX_DESCRIPTOR:
        most = bounds.MAX_DESCRIPTOR
        raise refused(f"its descriptor has {len(descriptor)} characters; it may have {most} at most")
    files = descriptor_pb2.FileDescriptorSet.FromString(base64.b64decode(descriptor)).file
    if not files:
        raise SourceError("the descriptor set is empty")
    return list(files)


def _message_class(pool: Any, files: list[Any], struct_name: str) -> Any:
    by_name = {file.name: file for file in files}
    added: set[str] = set()

    def add(name: str) -> None:
        if name in added:
            return
        added.add(name)
        file = by_name.get(name) or _well_known(name)
        for dependency in file.dependency:
            add(dependency)
        pool.Add(file)

    for file in files:
        add(file.name)
    name = _full_name(files, struct_name)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))


def _full_name(files: list[Any], struct_name: str) -> str:
    """
    The message's name with its package. A broker puts the schema's own file first in a set, so names are searched in
    the set's order; the file's name does not help, since brokers keep that of version 1.
    """
    for file in files:
        prefix = f"{file.package}." if file.package else ""
        for name in _messages_of(file):
            if struct_name in ("", name, prefix + name):
                return prefix + name
    raise SourceError(f"the descriptor set has no message {struct_name!r}")


def _messages_of(file: Any) -> Iterator[str]:
    """Names of a file's messages without the package, nested ones last."""
    level = [(message.name, message) for message in file.message_type]
    while level:
        yield from (name for name, _ in level)
        level = [
            (f"{name}.{inner.name}", inner)
            for name, message in level
            for inner in message.nested_type
            if not inner.options.map_entry
        ]


def _well_known(name: str) -> Any:
    match = _WELL_KNOWN.match(name)
    if match is None:
        raise SourceError(f"the descriptor set lacks {name}, which it imports")
    module = importlib.import_module(f"google.protobuf.{match.group(1)}_pb2")
    return descriptor_pb2.FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb)


def own_first(descriptor_set: bytes, file_name: str, message_name: str = "") -> tuple[str, str]:
    """
    A protobuf descriptor set as brokers send it: memphis.py expects the schema's own file first, protoc writes it last.

    Args:
        descriptor_set: As protoc writes it, with all imports.
        file_name: The schema's own file in it.
        message_name: The message of the schema, with or without its package; "" for the file's first.

    Returns:
        The set in base64 with the schema's own file first, and the message's name without its package.

    Raises:
        SourceError: The file has no message, or not that one.
    """
    files = descriptor_pb2.FileDescriptorSet.FromString(descriptor_set).file
    own = next(file for file in files if file.name == file_name)
    names = list(_messages_of(own))
    if not names:
        raise refused("it contains no message")
    name = message_name or names[0]
    if own.package and name.startswith(f"{own.package}."):
        name = name[len(own.package) + 1 :]
    if name not in names:
        raise refused(f"it contains no message {message_name!r}; it has {', '.join(names[:_MAX_NAMES])}")
    ordered = descriptor_pb2.FileDescriptorSet(file=[own, *(file for file in files if file is not own)])
    return base64.b64encode(ordered.SerializeToString()).decode(), name


compile_source = ProtobufSchema
