"""The calls that create schemas and tie them to stations."""

from __future__ import annotations

import codecs
import os
from pathlib import Path
from typing import Optional, Union

from memphis_sync._base.hints import hint_keywords
from memphis_sync._connection import Connection
from memphis_sync._control.requests import CREATE_S
from memphis_sync._options import checks as opt
from memphis_sync._options.arguments import check_name, check_retries
from memphis_sync.errors import ConfigurationError

_BOM = "\ufeff"
SCHEMA_TYPES = ("json", "graphql", "protobuf", "avro")


@hint_keywords()
class SchemaCalls(Connection):
    """Schemas, as a part of the client."""

    def create_schema(
        self,
        schema_name: str,
        schema_type: str,
        schema_path: Union[str, os.PathLike[str], None] = None,
        timeout_retries: int = 5,
        *,
        schema_content: Optional[str] = None,
        message_name: Optional[str] = None,
    ) -> None:
        """
        Creates a schema, or a new version of one that exists. The first version is active; a later one waits for
        activate_schema_version(). The newest version's own content again is fine, and changes nothing.

        Args:
            schema_name: Up to 128 letters, digits, ``_ - .``; lower-cased.
            schema_type: ``json``, ``graphql``, ``protobuf`` or ``avro``.
            schema_path: A UTF-8 file with the schema's source; a byte order mark in front is left out.
            timeout_retries: How often a request without an answer is repeated; each waits up to 20 s.
            schema_content: The source itself, in place of the file.
            message_name: For protobuf: the message in the source that counts, as ``Order`` or ``shop.Order``. None: the
                first one. A Memphis broker always takes the first; there another name is refused.

        Raises:
            ConfigurationError: An argument is out of its bounds, the file cannot be read, or the source is larger than
                the broker takes; nothing was sent.
            ServerError: The broker refused, with its own text.
            DeadlineError, ConnectionLostError, ClosedError, ForkedError: As station().
        """
        name = check_name("schema_name", "Schema", schema_name)
        if schema_type not in SCHEMA_TYPES:
            raise ConfigurationError(
                f"schema_type is {opt.show(schema_type)}; it must be one of {', '.join(SCHEMA_TYPES)}"
            )
        content = _content(schema_path, schema_content)
        message = "" if message_name is None else opt.check_str("message_name", message_name, empty_ok=False)
        if message and schema_type != "protobuf":
            raise ConfigurationError(
                f"message_name is {opt.show(message)}, and schema_type {schema_type}; only protobuf has message names"
            )
        retries = check_retries(timeout_retries)
        self._call(
            self._requests.create_schema(name, schema_type, content, message, retries),
            CREATE_S,
            retries,
            "create_schema()",
        )

    def activate_schema_version(self, schema_name: str, version: Optional[int] = None, timeout_retries: int = 5) -> int:
        """
        Makes another version of a schema the active one; clients of the stations that use it follow within a second.

        Needs the broker of memphis-sync: a Memphis broker does this through its REST interface only.

        Args:
            schema_name: The schema.
            version: Its number, from 1; None for the newest.
            timeout_retries: How often a request without an answer is repeated; each waits up to 20 s.

        Returns:
            The number of the version that is active now.

        Raises:
            ConfigurationError: An argument is out of its bounds; nothing was sent.
            ServerError: There is no such schema or version, or the broker is a Memphis one (``code`` 503).
            DeadlineError, ConnectionLostError, ClosedError, ForkedError: As station().
        """
        name = check_name("schema_name", "Schema", schema_name)
        number = 0 if version is None else opt.check_int("version", version, 1, 2**31 - 1)
        retries = check_retries(timeout_retries)
        return self._call(
            self._requests.activate_schema_version(name, number, retries),
            CREATE_S,
            retries,
            "activate_schema_version()",
        )

    def enforce_schema(self, name: str, station_name: str, timeout_retries: int = 5) -> None:
        """
        Makes a station take only messages that match a schema.

        Raises:
            ConfigurationError: A name breaks the rules; nothing was sent.
            StationNotFoundError, ServerError: There is no such station or schema, or the broker refused.
            DeadlineError, ConnectionLostError, ClosedError, ForkedError: As station().
        """
        schema = check_name("name", "Schema", name)
        station = check_name("station_name", "Station", station_name)
        retries = check_retries(timeout_retries)
        self._call(self._requests.attach_schema(schema, station, retries), CREATE_S, retries, "enforce_schema()")

    def attach_schema(self, name: str, station_name: str) -> None:
        """The old name of enforce_schema()."""
        self.enforce_schema(name, station_name)

    def detach_schema(self, station_name: str, timeout_retries: int = 5) -> None:
        """Makes a station take any message again. Raises as enforce_schema()."""
        station = check_name("station_name", "Station", station_name)
        retries = check_retries(timeout_retries)
        self._call(self._requests.detach_schema(station, retries), CREATE_S, retries, "detach_schema()")


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


def _content(schema_path: object, schema_content: Optional[str]) -> str:
    """A schema's source, from the one of the two that is given."""
    if (schema_path is None) == (schema_content is None):
        raise ConfigurationError("give either schema_path or schema_content, and not both")
    if schema_content is not None:
        return opt.check_str("schema_content", schema_content, empty_ok=False).removeprefix(_BOM)
    path = opt.check_path("schema_path", schema_path, empty_ok=False)
    try:
        return source_text(Path(path).read_bytes())
    except (OSError, ValueError) as exc:
        raise ConfigurationError(f"schema_path is {path!r}, which cannot be read: {exc}") from exc
