"""The calls that create schemas and tie them to stations."""

from __future__ import annotations

from pathlib import Path

from memphis_sync import options as opt
from memphis_sync._arguments import check_name, check_retries
from memphis_sync._connection import Connection
from memphis_sync._requests import CREATE_S
from memphis_sync.errors import ConfigurationError

SCHEMA_TYPES = ("json", "graphql", "protobuf", "avro")


class SchemaCalls(Connection):
    """Schemas, as a part of the client."""

    def create_schema(self, schema_name: str, schema_type: str, schema_path: str, timeout_retries: int = 5) -> None:
        """
        Creates a schema from a file, or a new version of one that exists.

        Args:
            schema_name: Up to 128 letters, digits, ``_ - .``; lower-cased.
            schema_type: ``json``, ``graphql``, ``protobuf`` or ``avro``.
            schema_path: A UTF-8 file with the schema's source.
            timeout_retries: How often a request without an answer is repeated; each waits up to 20 s.

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
        path = Path(opt.check_str("schema_path", schema_path, empty_ok=False))
        try:
            content = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigurationError(f"schema_path is {schema_path!r}, which cannot be read: {exc}") from exc
        retries = check_retries(timeout_retries)
        self._call(
            self._requests.create_schema(name, schema_type, content, retries), CREATE_S, retries, "create_schema()"
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
