"""
Schemas: messages are checked before they are sent and when they are read.

Rules:
* One module per kind, imported with the first schema of that kind; a missing library is one sentence.
* A schema is compiled once. Encoding and decoding keep no state, so any number of threads may share it.
* What is checked is what is sent. The caller's objects are read, never changed.
* Sans-IO: a reference to another document is refused, not fetched.

The module names end in ``_schema`` so that they are not mistaken for the libraries they use.
"""

from __future__ import annotations

import importlib

from memphis_sync._protocol.json_text import PLAIN, JsonWriter
from memphis_sync._schema.base import FAILED, MISALIGNED, Schema, SourceError
from memphis_sync.errors import SchemaError
from memphis_sync.types import SchemaInfo

__all__ = ["FAILED", "KINDS", "MISALIGNED", "Schema", "SourceError", "compile_schema"]

# By kind on the wire: the module here, and the package that it needs.
KINDS = {
    "json": ("json_schema", "jsonschema-rs"),
    "graphql": ("graphql_schema", "graphql-core"),
    "protobuf": ("protobuf_schema", "protobuf"),
    "avro": ("avro_schema", "fastavro"),
}


def compile_schema(info: SchemaInfo, writer: JsonWriter = PLAIN) -> Schema:
    """
    Compiles a schema.

    Args:
        info: The schema as the broker describes it.
        writer: Writes dicts and lists as JSON.

    Returns:
        The schema, for any number of messages and threads.

    Raises:
        SchemaError: The kind is unknown, its library is not installed, or the source is wrong; ``reason`` says which.
            A wrong source is a SourceError.
    """
    what = f"schema {info.name!r} (version {info.version}, {info.type}) cannot be used"
    if info.type not in KINDS:
        reason = f"this client does not know its type; it knows {', '.join(sorted(KINDS))}"
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
