"""
Replies of the control plane.

Plain replies are empty on success and an error text otherwise. Producer and consumer creations are answered with JSON
that has every key, also on error; a consumer's errors come as plain text, for memphis.py fails on a JSON error there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

from memphis_sync.errors import RemoteProtocolError

_SHOWN_BYTES = 64  # of an unreadable reply, in the error text


@dataclass(frozen=True)
class SchemaUpdate:
    """A station's schema as the broker sends it; ``name`` is empty when there is none."""

    name: str = ""
    type: str = ""
    version: int = 0
    descriptor: str = ""
    content: str = ""
    message_struct_name: str = ""

    def to_json(self) -> dict[str, Any]:
        """The object as it stands in replies and updates."""
        return {
            "schema_name": self.name,
            "active_version": {
                "version_number": self.version,
                "descriptor": self.descriptor,
                "schema_content": self.content,
                "message_struct_name": self.message_struct_name,
            },
            "type": self.type,
        }

    @classmethod
    def from_json(cls, value: object) -> SchemaUpdate:
        """Reads the object; anything that is missing stays empty."""
        outer = value if isinstance(value, dict) else {}
        inner = outer.get("active_version")
        active: dict[str, Any] = inner if isinstance(inner, dict) else {}
        version = active.get("version_number", 0)
        return cls(
            name=str(outer.get("schema_name") or ""),
            type=str(outer.get("type") or ""),
            version=version if isinstance(version, int) else 0,
            descriptor=str(active.get("descriptor") or ""),
            content=str(active.get("schema_content") or ""),
            message_struct_name=str(active.get("message_struct_name") or ""),
        )


@dataclass(frozen=True)
class ProducerReply:
    """
    What a producer creation is answered with.

    Attributes:
        partitions: The station's partition numbers; None when the station has none, or on error.
        functions: The first function of each partition that has one.
        error: The broker's text; empty on success.
    """

    schema_update: SchemaUpdate = field(default_factory=SchemaUpdate)
    partitions: Optional[list[int]] = None
    schemaverse_to_dls: bool = False
    send_notification: bool = False
    station_version: int = 0
    functions: Mapping[int, int] = field(default_factory=dict)
    error: str = ""

    def encode(self) -> bytes:
        """The reply's body."""
        functions = None if self.error else {str(partition): number for partition, number in self.functions.items()}
        return _dump(
            {
                "schema_update": self.schema_update.to_json(),
                "partitions_update": {"partitions_list": self.partitions},
                "schemaverse_to_dls": self.schemaverse_to_dls,
                "send_notification": self.send_notification,
                "station_version": self.station_version,
                "station_partitions_first_functions": functions,
                "error": self.error,
            }
        )

    @classmethod
    def decode(cls, body: bytes) -> ProducerReply:
        """
        Reads a reply's body; one that is no JSON object is an error text.

        Raises:
            RemoteProtocolError: The object's members have other types than they must.
        """
        reply = _load(body)
        if reply is None:
            return cls(error=_text(body) or "the broker answered a producer creation with nothing")
        version = reply.get("station_version", 0)
        return cls(
            schema_update=SchemaUpdate.from_json(reply.get("schema_update")),
            partitions=_partitions(reply, body),
            schemaverse_to_dls=reply.get("schemaverse_to_dls") is True,
            send_notification=reply.get("send_notification") is True,
            station_version=version if isinstance(version, int) else 0,
            functions=_functions(reply, body),
            error=_error(reply),
        )


@dataclass(frozen=True)
class ConsumerReply:
    """
    What a consumer creation is answered with.

    Attributes:
        partitions: The station's partition numbers; None when the station has none, or on error.
        error: The broker's text; empty on success.
    """

    schema_update: SchemaUpdate = field(default_factory=SchemaUpdate)
    partitions: Optional[list[int]] = None
    error: str = ""

    def encode(self) -> bytes:
        """The reply's body: JSON on success, else the bare text."""
        if self.error:
            return self.error.encode("utf-8", "replace")
        return _dump(
            {
                "schema_update": self.schema_update.to_json(),
                "partitions_update": {"partitions_list": self.partitions},
                "error": "",
            }
        )

    @classmethod
    def decode(cls, body: bytes) -> ConsumerReply:
        """
        Reads a reply's body; one that is no JSON object is an error text, an empty one a success that tells nothing.

        Raises:
            RemoteProtocolError: The object's members have other types than they must.
        """
        reply = _load(body)
        if reply is None:
            return cls(error=_text(body))
        return cls(SchemaUpdate.from_json(reply.get("schema_update")), _partitions(reply, body), _error(reply))


@dataclass(frozen=True)
class SchemaCreateReply:
    """
    What a schema creation is answered with.

    Attributes:
        error: The broker's text; empty on success.
    """

    error: str = ""

    def encode(self) -> bytes:
        """The reply's body."""
        return _dump({"error": self.error})


@dataclass(frozen=True)
class SchemaActivateReply:
    """
    What the activation of a schema version is answered with.

    Attributes:
        version: The number of the version that is active now; 0 on error.
        error: The broker's text; empty on success.
    """

    version: int = 0
    error: str = ""

    def encode(self) -> bytes:
        """The reply's body."""
        return _dump({"version_number": self.version, "error": self.error})

    @classmethod
    def decode(cls, body: bytes) -> SchemaActivateReply:
        """Reads a reply's body; one that is no JSON object is an error text."""
        reply = _load(body)
        if reply is None:
            return cls(error=_text(body) or "the broker answered a schema activation with nothing")
        version = reply.get("version_number")
        return cls(version if isinstance(version, int) else 0, _error(reply))


def schema_change(update: Optional[SchemaUpdate]) -> bytes:
    """The body of ``$memphis_schema_updates_<station>``: a schema in place of any other, or None for no schema."""
    kind = 2 if update is None else 1
    return _dump({"UpdateType": kind, "init": (update or SchemaUpdate()).to_json()})


def parse_plain_reply(body: bytes) -> str:
    """
    The error text of a plain reply.

    Returns:
        "" on success; else the text, or the ``error`` of a JSON object (some brokers answer so).
    """
    reply = _load(body)
    return _text(body) if reply is None else _error(reply)


def _dump(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _load(body: bytes) -> Optional[dict[str, Any]]:
    """The JSON object in *body*; None when it is anything else, which then is a text."""
    if not body.lstrip().startswith(b"{"):
        return None
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _text(body: bytes) -> str:
    return body.decode("utf-8", "replace").strip()


def _error(reply: Mapping[str, Any]) -> str:
    error = reply.get("error")
    return "" if error is None else str(error)


def _unexpected(what: str, body: bytes) -> RemoteProtocolError:
    return RemoteProtocolError(f"the broker's reply has {what}: {body[:_SHOWN_BYTES]!r}")


def _partitions(reply: Mapping[str, Any], body: bytes) -> Optional[list[int]]:
    update = reply.get("partitions_update")
    numbers = update.get("partitions_list") if isinstance(update, dict) else None
    if numbers is None:
        return None
    if not isinstance(numbers, list) or not all(type(number) is int and number > 0 for number in numbers):
        raise _unexpected("a partition list that is not one of positive integers", body)
    return numbers


def _functions(reply: Mapping[str, Any], body: bytes) -> dict[int, int]:
    functions = reply.get("station_partitions_first_functions")
    if functions is None:
        return {}
    try:
        return {int(partition): int(number) for partition, number in functions.items()}
    except (AttributeError, TypeError, ValueError) as exc:
        raise _unexpected("first functions that are no map of integers", body) from exc
