"""
What a broker holds, as plain values that are made at one moment: stations, groups, schemas, members, messages.

Nothing here is kept up to date; ask again for newer figures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, Optional, TypedDict, TypeVar

from memphis_sync._base.in_notebook import ROWS, InNotebook, table, value_of
from memphis_sync._base.refusals import NotAwaited
from memphis_sync._protocol.json_text import json_or_text
from memphis_sync._schema.live import json_of
from memphis_sync.types import Retention, Storage

_T = TypeVar("_T")


class Listing(NotAwaited, list[_T]):
    """A list that a notebook shows as a table, a row for each item."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        names = list(getattr(type(self[0]), "_listed", ()) or (item.name for item in fields(self[0]))) if self else []  # type: ignore[arg-type]
        rows = ([value_of(item, name) for name in names] for item in self[:ROWS])
        return table(f"{len(self)} in all", rows, names, count=len(self))


@dataclass(frozen=True)
class PartitionInfo(InNotebook):
    """
    A partition of a station.

    Attributes:
        number: From 1; 0 for the one stream of a station without partitions.
        messages: How many it holds.
        bytes: How much they take in the store, headers included.
        first_sequence: Number of the oldest message that it holds; above *last_sequence* when it holds none.
        last_sequence: Number of the newest message that it ever held; 0 when there was none.
        first_time: When the oldest was stored, UTC; None when it holds none.
        last_time: When the newest was stored, UTC; None when it holds none.
    """

    number: int
    messages: int
    bytes: int
    first_sequence: int
    last_sequence: int
    first_time: Optional[datetime]
    last_time: Optional[datetime]


@dataclass(frozen=True)
class GroupPartitionInfo(InNotebook):
    """
    How far a consumer group is in one partition.

    Attributes:
        number: Of the partition.
        delivered: Highest sequence that a member was given; 0 when none was.
        acknowledged: All sequences up to this one are acknowledged.
        lag: How many messages no member was given yet.
        unacknowledged: How many were given to members and are not acknowledged.
        redelivered: How many of those were delivered more than once.
        waiting: Open requests of members for messages.
        last_active: When a message was delivered last, UTC; None when none was.
    """

    number: int
    delivered: int
    acknowledged: int
    lag: int
    unacknowledged: int
    redelivered: int
    waiting: int
    last_active: Optional[datetime]


@dataclass(frozen=True)
class GroupInfo(InNotebook):
    """
    A consumer group of a station.

    Attributes:
        name: Lower case.
        partitions: How far it is in each partition.
        max_ack_time_ms: After which time an unacknowledged message is delivered again.
        max_msg_deliveries: After how many deliveries a message becomes a dead letter.
    """

    name: str
    partitions: tuple[GroupPartitionInfo, ...]
    max_ack_time_ms: int
    max_msg_deliveries: int

    _listed = ("name", "lag", "unacknowledged", "redelivered", "waiting", "last_active")

    @property
    def lag(self) -> int:
        """How many messages no member was given yet, in all partitions."""
        return sum(each.lag for each in self.partitions)

    @property
    def unacknowledged(self) -> int:
        """How many messages were given to members and are not acknowledged, in all partitions."""
        return sum(each.unacknowledged for each in self.partitions)

    @property
    def redelivered(self) -> int:
        """How many of the unacknowledged were delivered more than once."""
        return sum(each.redelivered for each in self.partitions)

    @property
    def waiting(self) -> int:
        """Open requests of members for messages; above 0: a member would get a message at once."""
        return sum(each.waiting for each in self.partitions)

    @property
    def last_active(self) -> Optional[datetime]:
        """When a message was delivered last, UTC; None when none was."""
        return max((each.last_active for each in self.partitions if each.last_active), default=None)


@dataclass(frozen=True)
class AttachedSchema(InNotebook):
    """
    The schema that a station's messages must match.

    Attributes:
        name: Of the schema.
        version: Number of its active version, from 1.
    """

    name: str
    version: int


@dataclass(frozen=True)
class StationInfo(InNotebook):
    """
    A station as it is at one moment, from client.stations() or Station.info().

    Attributes:
        name: Lower case.
        partitions: By number; one that has lost its stream is missing.
        retention: What limits each partition.
        retention_value: Seconds, messages or bytes; 0 for no limit, and for ``ACK_BASED``.
        storage: On disk or in memory.
        replicas: Copies of each partition in a cluster.
        idempotency_window_ms: How long the broker remembers message ids.
        created: When its first partition was created, UTC.
        schema: The attached schema; None without one, and when it is among *unknown*.
        groups: The consumer groups by name; None when they were not asked for, and when they are among *unknown*.
        unknown: What this broker does not tell, and why: names of attributes above with a sentence. A Memphis broker
            does not tell ``schema``; ``groups`` is here when the user is not allowed to list them.
    """

    name: str
    partitions: tuple[PartitionInfo, ...]
    retention: Retention
    retention_value: int
    storage: Storage
    replicas: int
    idempotency_window_ms: int
    created: Optional[datetime]
    schema: Optional[AttachedSchema] = None
    groups: Optional[tuple[GroupInfo, ...]] = None
    unknown: Mapping[str, str] = field(default_factory=dict)

    _listed = ("name", "partitions_number", "messages", "bytes", "last_time", "retention_text", "schema_text")

    @property
    def partitions_number(self) -> int:
        """How many partitions it has."""
        return len(self.partitions)

    @property
    def messages(self) -> int:
        """How many messages it holds."""
        return sum(each.messages for each in self.partitions)

    @property
    def bytes(self) -> int:
        """How much they take in the store, headers included."""
        return sum(each.bytes for each in self.partitions)

    @property
    def first_time(self) -> Optional[datetime]:
        """When its oldest message was stored, UTC; None when it holds none."""
        return min((each.first_time for each in self.partitions if each.first_time), default=None)

    @property
    def last_time(self) -> Optional[datetime]:
        """When its newest message was stored, UTC; None when it holds none."""
        return max((each.last_time for each in self.partitions if each.last_time), default=None)

    @property
    def retention_text(self) -> str:
        """The retention in words: ``3600 seconds``, ``until acknowledged``."""
        if self.retention is Retention.ACK_BASED:
            return "until acknowledged"
        unit = {Retention.MESSAGES: "messages", Retention.BYTES: "bytes"}.get(self.retention, "seconds")
        return f"{self.retention_value} {unit}" if self.retention_value else "unlimited"

    @property
    def schema_text(self) -> str:
        """The schema in words: ``order (version 2)``; "" without one, "?" when it is not known."""
        if "schema" in self.unknown:
            return "?"
        return f"{self.schema.name} (version {self.schema.version})" if self.schema else ""

    def _repr_html_(self) -> str:
        names = [*self._listed, "storage", "replicas", "idempotency_window_ms", "created"]
        parts = [table(f"Station {self.name}", ((name, value_of(self, name)) for name in names))]
        parts.append(Listing(self.partitions)._repr_html_())
        if self.groups is not None:
            parts.append(Listing(self.groups)._repr_html_())
        return "".join(parts)


class PeekedDict(TypedDict):
    """A peeked message as a plain dict; see PeekedMessages.to_dicts()."""

    station: str
    partition: int
    sequence: int
    time: datetime
    headers: dict[str, str]
    data: object


@dataclass(frozen=True, repr=False)
class PeekedMessage(InNotebook):
    """
    A message that somebody looked at; the station has it still, and no group has got it.

    Attributes:
        station: Name of the station, lower case.
        partition: From 1; 0 on a station without partitions.
        sequence: Number in the partition, from 1.
        time: When the station stored it; UTC, to the microsecond.
        producer: Name of the producer; "" when the message does not say.
        size: Payload and headers in bytes, as sent.
        headers: Those that the producing program has set; empty also when they cannot be read.
        data: The payload.
    """

    station: str
    partition: int
    sequence: int
    time: datetime
    producer: str
    size: int
    headers: dict[str, str] = field(default_factory=dict)
    data: bytes = b""

    _listed = ("partition", "sequence", "time", "producer", "headers", "data")

    def json(self) -> Any:
        """
        The payload as a JSON value, whatever the station's schema.

        Raises:
            SchemaError: It is not JSON: RFC 8259, so without NaN.
        """
        return json_of(self.data)

    def __repr__(self) -> str:
        return f"<PeekedMessage {self.station}[{self.partition}] seq={self.sequence} {self.size} bytes>"


class PeekedMessages(Listing[PeekedMessage]):
    """What Station.peek() returns: a list of messages, oldest first, that can be converted to plain dicts."""

    __slots__ = ()

    def to_dicts(self) -> list[PeekedDict]:
        """
        One dict for each message, for a table: ``pandas.DataFrame(peeked.to_dicts())``.

        Returns:
            Keys ``station``, ``partition``, ``sequence``, ``time``, ``headers`` and ``data``: the payload as a JSON
            value; if it is not JSON, as text; if it is not UTF-8, as bytes.
        """
        return [
            {
                "station": message.station,
                "partition": message.partition,
                "sequence": message.sequence,
                "time": message.time,
                "headers": message.headers,
                "data": json_or_text(message.data),
            }
            for message in self
        ]


@dataclass(frozen=True)
class SchemaSummary(InNotebook):
    """
    A schema, without its source.

    Attributes:
        name: Lower case.
        type: Its kind, as in create_schema().
        versions: How many versions it has; they count from 1.
        active_version: Number of the one that messages must match.
        stations: Names of the stations that it is attached to.
    """

    name: str
    type: str
    versions: int
    active_version: int
    stations: tuple[str, ...]


@dataclass(frozen=True)
class MemberInfo(InNotebook):
    """
    A producer or consumer that is registered.

    Attributes:
        name: Lower case.
        station: Name of the station, lower case.
        group: The consumer's group; "" for a producer.
        since: When it was registered, UTC, to the millisecond.
    """

    name: str
    station: str
    group: str
    since: datetime


@dataclass(frozen=True)
class ConnectionInfo(InNotebook):
    """
    A client with a producer or consumer.

    Attributes:
        id: Its ``connection_id``.
        username: Who it logged in as.
        address: ``host:port`` that it connects from; "" when it is not connected.
        is_connected: Whether it is connected now. The broker keeps a consumer's registration after its client was lost.
        sdk: The client's language, as it says itself.
        producers: Its producers, by station and name.
        consumers: Its consumers, by station and name.
    """

    id: str
    username: str
    address: str
    is_connected: bool
    sdk: str
    producers: tuple[MemberInfo, ...] = ()
    consumers: tuple[MemberInfo, ...] = ()

    _listed = ("id", "username", "address", "is_connected", "sdk", "producer_names", "consumer_names")

    @property
    def producer_names(self) -> str:
        """Its producers in words: ``web of orders``."""
        return ", ".join(f"{each.name} of {each.station}" for each in self.producers)

    @property
    def consumer_names(self) -> str:
        """Its consumers in words: ``mailer (mail) of orders``, the group in parentheses."""
        return ", ".join(f"{each.name} ({each.group}) of {each.station}" for each in self.consumers)
