"""
Checks a schema's source, with the error texts of a Memphis broker, and compiles ``.proto`` text to a descriptor.

The check is the clients' own compiler: what it accepts, clients can use. protoc runs in a process of its own (see
protoc.py): an untrusted source may crash or stall it.
"""

from __future__ import annotations

import re

from memphis_sync._schema import KINDS, SourceError, compile_schema
from memphis_sync.broker.request_error import RequestError
from memphis_sync.broker.service import protoc
from memphis_sync.errors import SchemaError
from memphis_sync.types import SchemaInfo

_EMPTY = "your schema content is invalid"
_LOG_LINE = re.compile(r"WARNING: All log messages|[IWEF]\d{4} ")  # protoc's own, beside what it says of the source
_MAX_DETAIL = 1000  # characters of a compiler's text


def compiled(name: str, kind: str, version: int, content: str, message_name: str = "") -> SchemaInfo:
    """
    Compiles a schema version to all that clients need of it. May take seconds: not for the event loop.

    Args:
        name: The schema's name, checked.
        kind: Its type, in lower case.
        version: The version's number; protobuf's file is named after it.
        content: The source.
        message_name: The message type to use from a protobuf source; "" for the first.

    Raises:
        RequestError: The type is unknown, the source is wrong, or it does not hold that message.
    """
    if kind not in KINDS:
        raise RequestError(f"unsupported schema type {kind!r}; it has to be one of {', '.join(sorted(KINDS))}")
    content = content.removeprefix("\ufeff")  # a byte order mark, as some editors put in front
    if not content.strip():
        raise RequestError(_EMPTY)
    descriptor = message = ""
    if kind == "protobuf":
        descriptor, message = _descriptor(f"{name}_{version}.proto", content, message_name)
    elif message_name:
        raise RequestError(
            f"only protobuf schemas have a message's name, and this one is a {kind} schema: {message_name!r}"
        )
    info = SchemaInfo(name, kind, version, content, descriptor, message)
    try:
        compile_schema(info)
    except SourceError as exc:
        raise RequestError(_invalid(kind, exc.reason[:_MAX_DETAIL])) from exc
    except SchemaError as exc:  # its library is not installed beside this broker
        raise RequestError(str(exc)) from exc
    return info


def _invalid(kind: str, detail: str) -> str:
    if kind == "json":
        return f"your json schema is invalid: {detail}"
    if kind == "graphql":
        return detail
    return f"your {'Proto' if kind == 'protobuf' else 'Avro'} file is invalid: {detail}"


def _descriptor(file_name: str, content: str, message_name: str) -> tuple[str, str]:
    """The descriptor set in base64, the schema's own file first, and the name of the message type to use."""
    packages = protoc.find()
    if packages is None:
        raise RequestError(
            "this broker has no protoc: grpcio-tools is not installed: pip install 'memphis-sync[broker]'"
        )
    try:
        found = protoc.descriptor_set(packages, file_name, content.encode("utf-8", "replace"))
    except protoc.ProtocError as exc:
        about = "\n".join(line for line in str(exc).splitlines() if not _LOG_LINE.match(line))
        raise RequestError(_invalid("protobuf", about[:_MAX_DETAIL] or "protoc does not say why")) from exc
    from memphis_sync._schema.protobuf_schema import own_first  # noqa: PLC0415  the library is an extra

    try:
        return own_first(found, file_name, message_name)
    except SourceError as exc:
        raise RequestError(_invalid("protobuf", exc.reason)) from exc
