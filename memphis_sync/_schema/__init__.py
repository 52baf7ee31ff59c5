"""
Schemas at work: what a message must look like, checked before it is sent and after it has come.

Rules:
* One module a kind, imported with the first schema of that kind; a missing library is one sentence.
* A schema is compiled once; encoding and decoding hold no state, so any number of threads may share it.
* What is checked is what is sent. The caller's objects are read, never changed.
* Sans-IO: a reference to another document is refused, not fetched.

The module names end in ``_schema`` so that they cannot be taken for the libraries they use.
"""

from __future__ import annotations

import importlib

from memphis_sync._protocol.json_text import PLAIN, JsonWriter
from memphis_sync._schema.base import FAILED, MISALIGNED, Schema, SourceError
from memphis_sync.errors import SchemaError
from memphis_sync.types import SchemaInfo

__all__ = ["FAILED", "KINDS", "MISALIGNED", "Schema", "SourceError", "compile_schema", "own_first"]

# Kind on the wire: module here, and the package that it needs.
KINDS = {
    "json": ("json_schema", "jsonschema-rs"),
    "graphql": ("graphql_schema", "graphql-core"),
    "protobuf": ("protobuf_schema", "protobuf"),
    "avro": ("avro_schema", "fastavro"),
}


def compile_schema(info: SchemaInfo, writer: JsonWriter = PLAIN) -> Schema:
    """
    Makes a schema ready for use.

    Args:
        info: What the broker says about it.
        writer: Writes dicts and lists as JSON.

    Returns:
        An object for any number of messages and threads.

    Raises:
        SchemaError: The kind is unknown, its library is not installed, or the source is wrong; ``reason`` says which.
            A wrong source is a SourceError.
    """
    what = f"schema {info.name!r} (version {info.version}, {info.type}) cannot be used"
    if info.type not in KINDS:
        reason = f"its type is unknown to this client; known are {', '.join(sorted(KINDS))}"
        raise SchemaError(f"{what}: {reason}", reason=reason)
    module_name, package = KINDS[info.type]
    try:
        module = importlib.import_module(f"{__package__}.{module_name}")
    except ImportError as exc:
        reason = f"it needs {package}, which is not installed: pip install 'memphis-sync[schemas]' ({exc})"
        raise SchemaError(f"{what}: {reason}", reason=reason) from exc
    try:
        schema: Schema = module.compile_source(info, writer)
    except SourceError as exc:
        raise SourceError(f"{what}: {exc.reason}", reason=exc.reason) from exc
    return schema


def own_first(descriptor_set: bytes, file_name: str, message_name: str = "") -> tuple[str, str]:
    """
    A protobuf descriptor set as brokers send it.

    Args:
        descriptor_set: As protoc writes it, with all imports.
        file_name: The schema's own file in it.
        message_name: The message that counts, with or without its package; "" for the file's first.

    Returns:
        The set in base64 with the schema's own file first, and the message's name without its package, as clients
        expect it.

    Raises:
        SourceError: The file holds no message, or not that one.
    """
    return importlib.import_module(f"{__package__}.protobuf_schema").own_first(descriptor_set, file_name, message_name)  # type: ignore[no-any-return]
