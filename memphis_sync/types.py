"""
The plain values that the parts of the client pass to each other and to the user.

Results for the user are immutable and picklable, but for PubAcks, which is a dict. StationLive and the functions of a
StationView change with the broker's updates. A password or a token is in no repr.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Callable, Literal, NamedTuple, NoReturn, Optional, Protocol, Union

from memphis_sync._base.in_notebook import InNotebook

if TYPE_CHECKING:
    from typing_extensions import Self  # 3.11 has them in typing

    from memphis_sync._schema.live import StationCodec

VERSION = "0.2.0"  # of the package; pyproject.toml and all else read it here

Buffer = Union[bytes, bytearray, memoryview]


class ProtobufMessage(Protocol):
    """A message of protobuf's, by its shape: the library need not be there."""

    def SerializeToString(self) -> bytes:  # noqa: N802  protobuf's own name
        """The message as bytes."""


class GraphQLDocument(Protocol):
    """A document of graphql-core's, by its shape."""

    @property
    def definitions(self) -> object:
        """Its operations."""

    @property
    def loc(self) -> object:
        """Where it stands in its source."""


#: What produce() takes; on a station with a schema what the schema's kind takes, which is less.
Payload = Union[Buffer, str, dict[Any, Any], list[Any], ProtobufMessage, GraphQLDocument]
JsonDefault = Callable[[object], object]
OnError = Literal["retry", "dead_letter", "stop"]  # what an error of a handler means for its message; see Consumer.run


class Retention(Enum):
    """What limits a station's messages; the value is the word on the wire."""

    MAX_MESSAGE_AGE_SECONDS = "message_age_sec"
    MESSAGES = "messages"
    BYTES = "bytes"
    ACK_BASED = "ack_based"


class Storage(Enum):
    """Where a station's messages are stored; the value is the word on the wire."""

    DISK = "file"
    MEMORY = "memory"


class PubAck(NamedTuple):
    """
    The broker's confirmation that a message is stored.

    It is a tuple, because each blocking produce makes one, and a frozen dataclass takes five times as long.

    Attributes:
        station: Name of the station as the caller wrote it, in lower case.
        partition: Number of the partition; 0 on a station without partitions.
        sequence: Sequence number in the partition, from 1.
        duplicate: True when the broker already had a message with this id; `sequence` is then that of the first.
        stream: Name of the partition's JetStream stream.
    """

    station: str
    partition: int
    sequence: int
    duplicate: bool
    stream: str

    def __await__(self) -> NoReturn:
        raise TypeError(
            f"a PubAck cannot be awaited: produce() has already waited, and the message is stored ({self}); delete "
            "'await', or pass nonblocking=True"
        )


class PubAcks(dict[str, PubAck]):
    """The confirmations of several stations by name: what a blocking produce to several stations returns."""

    def __await__(self) -> NoReturn:
        raise TypeError(
            f"the result cannot be awaited: produce() has already waited, and the message is stored in "
            f"{', '.join(self)}; delete 'await', or pass nonblocking=True"
        )


@dataclass(frozen=True)
class Stats(InNotebook):
    """
    Counters of a client since it was opened.

    At any instant ``accepted == delivered + failed + abandoned + queued + in_flight``, and
    ``received == acked + given_back + dead_lettered + unanswered``.

    Attributes:
        accepted: Messages accepted by produce.
        queued: Accepted, not yet written to the connection.
        queued_bytes: Bytes that the queued messages take in the outbox.
        in_flight: Written, not yet confirmed.
        delivered: Confirmed by the broker.
        failed: Refused by the broker, or not confirmed in time.
        abandoned: Given up when the client was closed.
        buffer_full: How often a message found the queue full, whether it then waited or not; not part of `accepted`.
        reconnects: How often the data connection was made again.
        callback_errors: How many of the program's callbacks, for deliveries and link events, have raised.
        recovered: Of accepted: messages of an earlier process that were found in the file of ``connect(outbox=...)``.
        recovered_uncertain: Of recovered: those that may be stored twice, because they may have been sent before and
            the broker does not know their message ids any more, or they have none.
        recovered_failed: Of recovered: those that have failed; nobody has a Delivery of theirs.
        received: Deliveries that came from partitions for the client's consumers; a message that comes again counts
            again. Dead letters that were sent again are none.
        acked: Of received: answered with ack(). An acknowledgement may be lost with the connection, which means another
            delivery.
        given_back: Of received: answered with nack() or delay(), or given back because the program has not seen them.
        dead_lettered: Of received: answered with dead_letter().
        unanswered: Of received: in the program's hands, waiting for its next fetch, or never answered; the broker
            delivers these again once their ack time is over.
    """

    accepted: int = 0
    queued: int = 0
    queued_bytes: int = 0
    in_flight: int = 0
    delivered: int = 0
    failed: int = 0
    abandoned: int = 0
    buffer_full: int = 0
    reconnects: int = 0
    callback_errors: int = 0
    recovered: int = 0
    recovered_uncertain: int = 0
    recovered_failed: int = 0
    received: int = 0
    acked: int = 0
    given_back: int = 0
    dead_lettered: int = 0
    unanswered: int = 0


class FlushResult(int):
    """
    What flush() returns: how many messages are still unconfirmed, as an int, and how many have failed.

    0 alone says that nothing is left to wait for, not that everything is stored: ``if result or result.failed``.

    Attributes:
        failed: How many messages have failed since the previous flush() of the same producer or client, or since that
            was created: those that were refused, not confirmed in time, or abandoned, whether or not somebody asked
            about them.
    """

    failed: int

    def __new__(cls, outstanding: int = 0, failed: int = 0) -> Self:
        """Creates one from its two numbers."""
        self = super().__new__(cls, outstanding)
        self.failed = failed
        return self

    def __repr__(self) -> str:
        return f"FlushResult({int(self)}, failed={self.failed})"

    def __str__(self) -> str:
        return repr(self) if self.failed else str(int(self))


@dataclass(frozen=True)
class LinkEvent:
    """
    What happened to one of a client's two connections. ``on_disconnect``, ``on_reconnect`` and ``on_error`` of
    connect() are called with it.

    Attributes:
        client: The client's name.
        link: ``data`` carries messages and their confirmations, ``control`` everything else.
        address: ``host:port`` of the broker that was lost or reached again, or that sent the error.
        reason: Why the connection was lost or given up, or the error.
        attempts: Attempts since it was lost; 0 when it was lost just now.
        seconds: How long it has been down.
        waiting: How many messages of the client wait for the broker.
    """

    client: str
    link: Literal["data", "control"]
    address: str
    reason: str
    attempts: int
    seconds: float
    waiting: int


@dataclass(frozen=True)
class RetryPolicy:
    """
    What happens to a message that gets the answer "no responders": its station was destroyed, or a cluster elects the
    leader of its partition. The messages of that partition wait, in their order, while those of others go on; the
    oldest is sent again after each pause, and once it is stored the others follow. Meanwhile the broker is asked
    whether the station exists. If it does, they wait for their deadlines; else they fail after some attempts, in case
    that it is about to be created again.

    Attributes:
        attempts: How often a message of a station that was destroyed is sent again, 1 to 100, before it fails with
            StationGoneError. Its deadline may come first.
        pause_ms: Pause before each attempt, 1 to 60000 milliseconds.

    Source: the defaults are those of nats.go's publish calls.
    """

    attempts: int = 2
    pause_ms: int = 250


@dataclass(frozen=True)
class ServerAddress:
    """A broker's host name or IP address (an IPv6 address without brackets) and port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Credentials:
    """
    How a client logs in. Exactly one of password and token is set.

    Attributes:
        username: As the caller gave it.
        password: Clear text; not in the repr.
        token: Connection token of a broker in token mode; not in the repr.
        account_id: The account of a cloud broker; open-source brokers have only 1.
    """

    username: str
    password: Optional[str] = field(default=None, repr=False)
    token: Optional[str] = field(default=None, repr=False)
    account_id: int = 1

    @property
    def login(self) -> str:
        """``<username>$<account_id>``, the user name of CONNECT in password mode."""
        return f"{self.username}${self.account_id}"

    @property
    def identity(self) -> str:
        """The user name in lower case, as requests need it: the broker refuses any other case."""
        return self.username.lower()


@dataclass(frozen=True)
class SchemaInfo:
    """
    The schema that is attached to a station, as the broker describes it.

    Attributes:
        name: Name of the schema.
        type: ``protobuf``, ``json``, ``graphql`` or ``avro``.
        version: Number of the active version.
        content: The schema's source text.
        descriptor: The compiled protobuf descriptor set in base64; "" for other types.
        message_struct_name: Name of the protobuf message; "" for other types.
    """

    name: str
    type: str
    version: int = 0
    content: str = ""
    descriptor: str = ""
    message_struct_name: str = ""


class StationLive:
    """
    What the broker may change about a station while producers use it.

    The event loop thread replaces whole attributes, so readers need no lock.

    Attributes:
        codec: The attached schema; None without one.
        schemaverse_to_dls: Whether messages that fail it are reported to the broker.
    """

    __slots__ = ("codec", "schemaverse_to_dls")

    def __init__(self, codec: Optional[StationCodec] = None, schemaverse_to_dls: bool = False) -> None:
        self.codec = codec
        self.schemaverse_to_dls = schemaverse_to_dls

    @property
    def schema(self) -> Optional[SchemaInfo]:
        """The attached schema as the broker describes it; None without one."""
        codec = self.codec
        return None if codec is None else codec.info


@dataclass(frozen=True)
class StationView:
    """
    What a producer or consumer knows about a station.

    Attributes:
        name: As the caller wrote it, in lower case.
        internal: The same with ``#`` for each ``.``: the name in streams and subjects.
        partitions: Numbers in the broker's order; empty on a station without partitions.
        functions: Function id of each partition that has one. It is updated in place, so look it up for each message.
        live: Schema and dead-letter switch, kept up to date.
    """

    name: str
    internal: str
    partitions: tuple[int, ...]
    functions: Mapping[int, int] = field(default_factory=dict)
    live: StationLive = field(default_factory=StationLive, compare=False)
