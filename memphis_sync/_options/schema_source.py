"""The parameters of create_schema(), and the source of a schema: as text, or as a file."""

from __future__ import annotations

import codecs
import os
from pathlib import Path
from typing import Any, Optional, Union

from memphis_sync._options.arguments import check_retries, name_of
from memphis_sync._options.checks import check_path, check_str, show
from memphis_sync._options.rows import KW_ONLY, Arguments, arguments, option
from memphis_sync._schema import KINDS
from memphis_sync.errors import ConfigurationError

_BOM = "\ufeff"


def _check_kind(option: str, value: Any) -> str:
    if value not in list(KINDS):  # a list: the value may not be hashable
        raise ConfigurationError(f"{option} is {show(value)}; it must be one of {', '.join(KINDS)}")
    kind: str = value
    return kind


@arguments
class SchemaArguments(Arguments):
    """
    The parameters of Memphis.create_schema().

    Args:
        schema_name: Up to 128 letters, digits, ``_ - .``; converted to lower case.
        schema_type: ``json``, ``graphql``, ``protobuf`` or ``avro``.
        schema_path: A UTF-8 file with the schema's source; a byte order mark at its start is ignored.
        timeout_retries: As for station().
        schema_content: The source itself, instead of the file.
        message_name: For protobuf: the message type in the source, as ``Order`` or ``shop.Order``; by default the first
            one. A Memphis broker always uses the first, and another name is refused there.
    """

    schema_name: str = option(name_of("Schema"))
    schema_type: str = option(_check_kind)
    schema_path: Union[str, os.PathLike[str], None] = option(default=None)
    timeout_retries: int = option(check_retries, default=5)
    _: KW_ONLY
    schema_content: Optional[str] = option(default=None)
    message_name: Optional[str] = option(
        lambda option, value: "" if value is None else check_str(option, value, empty_ok=False), default=None
    )


def source_text(data: bytes) -> str:
    """
    A schema's source as text, without the byte order mark that some editors put in front.

    Raises:
        ValueError: It is not UTF-8; the text says what it is.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError("it is UTF-16 text; save it as UTF-8")
    try:
        text = data.decode("utf-8").removeprefix(_BOM)
    except UnicodeDecodeError as exc:
        raise ValueError(f"it is not UTF-8 text ({exc.reason} at byte {exc.start})") from exc
    return text.replace("\r\n", "\n").replace("\r", "\n")  # as a file that is opened as text


def schema_source(given: SchemaArguments) -> str:
    """
    A schema's source, from the one of the two that is given.

    Raises:
        ConfigurationError: Both are given, or none, or the file cannot be read, or it has no message names.
    """
    path, content = given.schema_path, given.schema_content
    if (path is None) == (content is None):
        raise ConfigurationError("give either schema_path or schema_content, and not both")
    if given.message_name and given.schema_type != "protobuf":
        raise ConfigurationError(
            f"message_name is {show(given.message_name)}, and schema_type {given.schema_type}; "
            "only protobuf has message names"
        )
    if content is not None:
        return check_str("schema_content", content, empty_ok=False).removeprefix(_BOM)
    path = check_path("schema_path", path, empty_ok=False)
    try:
        return source_text(Path(path).read_bytes())
    except (OSError, ValueError) as exc:
        raise ConfigurationError(f"schema_path is {path!r}, which cannot be read: {exc}") from exc
