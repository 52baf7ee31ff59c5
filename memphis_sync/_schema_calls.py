"""The calls that create schemas and tie them to stations."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

from memphis_sync import options as opt
from memphis_sync._arguments import check_name, check_retries
from memphis_sync._connection import Connection
from memphis_sync._hints import hint_keywords
from memphis_sync._requests import CREATE_S
from memphis_sync.errors import ConfigurationError

SCHEMA_TYPES = ("json", "graphql", "protobuf", "avro")


@hint_keywords()
class SchemaCalls(Connection):
    """Schemas, as a part of the client."""

    def create_schema(
        self,
        schema_name: str,
        schema_type: str,
        schema_path: Optional[str] = None,
        timeout_retries: int = 5,
        *,
        schema_content: Optional[str] = None,
    ) -> None:
        """
        Creates a schema, or a new version of one that exists. The first version is active; a later one waits for
        activate_schema_version(). The newest version's own content again is fine, and changes nothing.

        Args:
            schema_name: Up to 128 letters, digits, ``_ - .``; lower-cased.
            schema_type: ``json``, ``graphql``, ``protobuf`` or ``avro``.
            schema_path: A UTF-8 file with the schema's source. For protobuf, the first message in it counts.
            timeout_retries: How often a request without an answer is repeated; each waits up to 20 s.
            schema_content: The source itself, in place of the file.

        Raises:
            ConfigurationError: An argument is out of its bounds, or the file cannot be read; nothing was sent.
            ServerError: The broker refused, with its own text.
            DeadlineError, ConnectionLostError, ClosedError, ForkedError: As station().
        """
        name = check_name("schema_name", "Schema", schema_name)
        if schema_type not in SCHEMA_TYPES:
            raise ConfigurationError(
                f"schema_type is {opt.show(schema_type)}; it must be one of {', '.join(SCHEMA_TYPES)}"
            )
        content = _content(schema_path, schema_content)
        retries = check_retries(timeout_retries)
        self._call(
            self._requests.create_schema(name, schema_type, content, retries), CREATE_S, retries, "create_schema()"
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


def _content(schema_path: Optional[str], schema_content: Optional[str]) -> str:
    """A schema's source, from the one of the two that is given."""
    if (schema_path is None) == (schema_content is None):
        raise ConfigurationError("give either schema_path or schema_content, and not both")
    if schema_content is not None:
        return opt.check_str("schema_content", schema_content, empty_ok=False)
    path = Path(opt.check_str("schema_path", schema_path, empty_ok=False))
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigurationError(f"schema_path is {schema_path!r}, which cannot be read: {exc}") from exc
