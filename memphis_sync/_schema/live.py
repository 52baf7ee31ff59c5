"""
The schema of one station while producers and consumers use it.

The event loop installs a new StationCodec as soon as an update arrives; from then on every message is checked against
it. It is compiled in the background, and a message that comes sooner waits for it. When a schema cannot be compiled,
each message fails with the reason, and none is sent unchecked.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Optional

from memphis_sync._base import primitives
from memphis_sync._base.logs import Log
from memphis_sync._core import fork_generation
from memphis_sync._protocol.json_text import PLAIN, JsonWriter, NotJsonError, read_json
from memphis_sync._schema import Schema, compile_schema
from memphis_sync.errors import SchemaError
from memphis_sync.types import SchemaInfo

log = Log("memphis_sync.schema")


def decoded(codec: Optional[StationCodec], payload: bytes, *, as_dict: bool) -> Any:
    """A consumed payload decoded by the station's schema; a bytearray when there is no schema."""
    return bytearray(payload) if codec is None else codec.decode(payload, as_dict=as_dict)


def json_of(payload: bytes) -> Any:
    """
    A payload as a JSON value, whatever the station's schema.

    Raises:
        SchemaError: It is not JSON.
    """
    try:
        return read_json(payload.decode("utf-8"))
    except UnicodeDecodeError as exc:
        reason = f"it is not UTF-8 text ({exc.reason} at byte {exc.start})"
    except NotJsonError as exc:
        reason = exc.reason
    raise SchemaError(f"the payload is not JSON: {reason}", reason=reason)


class StationCodec:
    """
    A schema that is compiled once, by the first user.

    Args:
        info: The schema.
        station: Internal name of the station, for the log.
        writer: Writes dicts and lists as JSON.
    """

    def __init__(self, info: SchemaInfo, station: str, writer: JsonWriter = PLAIN) -> None:
        self.info = info
        self._station = station
        self._writer = writer
        # Held while the schema is compiled; no other lock is acquired meanwhile. A signal handler that interrupts this
        # and produces compiles it a second time. By generation: a forked child inherits messages that it may decode,
        # and a lock that a thread of its parent may hold.
        self._locks: dict[int, AbstractContextManager[bool]] = {}
        self._schema: Optional[Schema] = None
        self._error: Optional[SchemaError] = None

    @property
    def has_failed(self) -> bool:
        """Whether the schema was found to be unusable."""
        return self._error is not None

    def prepare(self) -> None:
        """Compiles the schema unless that was done; an error is kept and raised for each message."""
        with self._locks.setdefault(fork_generation(), primitives.RLock()):
            if self._schema is not None or self._error is not None:
                return
            try:
                schema = self._schema = compile_schema(self.info, self._writer)
                # From now on without this layer, which would be a third of the cost of a small message.
                self.encode = schema.encode  # type: ignore[method-assign]
            except SchemaError as exc:
                self._error = exc
        if self._error is not None:
            log.warning("station %s: no message can be produced or decoded: %s", self._station, self._error)

    def encode(self, message: Any) -> bytes:
        """See Schema.encode."""
        return (self._schema or self._compiled()).encode(message)

    def decode(self, payload: bytes, *, as_dict: bool = False) -> Any:
        """See Schema.decode."""
        return (self._schema or self._compiled()).decode(payload, as_dict=as_dict)

    def _compiled(self) -> Schema:
        self.prepare()
        if self._schema is None:
            assert self._error is not None
            # A new one each time: an exception that is raised again accumulates tracebacks of all threads.
            raise SchemaError(str(self._error), reason=self._error.reason) from self._error
        return self._schema
