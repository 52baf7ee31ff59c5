"""The source of a schema that create_schema() is given: as text, or as a file."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Optional

from memphis_sync._options import checks as opt
from memphis_sync.errors import ConfigurationError

_BOM = "\ufeff"


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


def schema_source(schema_path: object, schema_content: Optional[str]) -> str:
    """
    A schema's source, from the one of the two that is given.

    Raises:
        ConfigurationError: Both are given, or none, or the file cannot be read.
    """
    if (schema_path is None) == (schema_content is None):
        raise ConfigurationError("give either schema_path or schema_content, and not both")
    if schema_content is not None:
        return opt.check_str("schema_content", schema_content, empty_ok=False).removeprefix(_BOM)
    path = opt.check_path("schema_path", schema_path, empty_ok=False)
    try:
        return source_text(Path(path).read_bytes())
    except (OSError, ValueError) as exc:
        raise ConfigurationError(f"schema_path is {path!r}, which cannot be read: {exc}") from exc
