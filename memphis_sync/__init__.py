"""
memphis_sync: the synchronous client for the Memphis message broker.

    with memphis_sync.connect("memphis://user:password@host") as memphis:
        memphis.produce("orders", "web", b"hello")

Importing it starts nothing: no thread, no connection, no hook.
"""

from __future__ import annotations

import logging as _logging

from memphis_sync._base.logs import UnconfiguredHandler as _UnconfiguredHandler, hand_over_foreign as _hand_over_foreign
from memphis_sync._consuming.resent import ResentMessage
from memphis_sync._options.plan import ConnectPlan, check_connect
from memphis_sync._producing.encoding import EncodedMessage, encode_message
from memphis_sync._producing.produce_types import Producing
from memphis_sync.bulk import BulkDeadlineError, BulkError, BulkItemError, BulkResult, BulkSchemaError, Failure, Item
from memphis_sync.client import Memphis, connect
from memphis_sync.consumer import Consumer
from memphis_sync.dead_letters import DeadLetter, DeadLetters
from memphis_sync.delivery import Deliveries, Delivery, as_completed, wait
from memphis_sync.errors import (
    AckTimeoutError,
    AuthenticationError,
    BufferFullError,
    ClosedError,
    ConfigurationError,
    ConnectError,
    ConnectionLostError,
    DeadlineError,
    ForkedError,
    HeaderError,
    LocalProtocolError,
    MemphisConnectError,
    MemphisError,
    MemphisHeaderError,
    MemphisSchemaError,
    MultiStationError,
    OwnThreadError,
    PayloadTooLargeError,
    ProduceError,
    ProtocolError,
    RejectedError,
    RemoteProtocolError,
    SchemaError,
    ServerError,
    StationGoneError,
    StationNotFoundError,
    TransportError,
    UnacknowledgedError,
    UndeliveredWarning,
    UsageError,
)
from memphis_sync.handlers import Handler, handler, load_handler, run_handler
from memphis_sync.headers import Headers, Outgoing
from memphis_sync.info import (
    AttachedSchema,
    ConnectionInfo,
    GroupInfo,
    GroupPartitionInfo,
    Listing,
    MemberInfo,
    PartitionInfo,
    PeekedMessage,
    PeekedMessages,
    SchemaSummary,
    StationInfo,
)
from memphis_sync.log_handler import LogHandler
from memphis_sync.message import Message
from memphis_sync.messages import Messages
from memphis_sync.observer import Observer
from memphis_sync.producer import Producer
from memphis_sync.station import Station
from memphis_sync.types import (
    VERSION,
    FlushResult,
    LinkEvent,
    Payload,
    PubAck,
    Retention,
    RetryPolicy,
    SchemaInfo,
    Stats,
    Storage,
)

__version__ = VERSION

_logging.getLogger("memphis_sync").addHandler(_UnconfiguredHandler())
for _name in ("asyncio", "nats.aio.client"):
    _logging.getLogger(_name).addFilter(_hand_over_foreign)

__all__ = [
    "AckTimeoutError",
    "AttachedSchema",
    "AuthenticationError",
    "BufferFullError",
    "BulkDeadlineError",
    "BulkError",
    "BulkItemError",
    "BulkResult",
    "BulkSchemaError",
    "ClosedError",
    "ConfigurationError",
    "ConnectError",
    "ConnectPlan",
    "ConnectionInfo",
    "ConnectionLostError",
    "Consumer",
    "DeadLetter",
    "DeadLetters",
    "DeadlineError",
    "Deliveries",
    "Delivery",
    "EncodedMessage",
    "Failure",
    "FlushResult",
    "ForkedError",
    "GroupInfo",
    "GroupPartitionInfo",
    "Handler",
    "HeaderError",
    "Headers",
    "Item",
    "LinkEvent",
    "Listing",
    "LocalProtocolError",
    "LogHandler",
    "MemberInfo",
    "Memphis",
    "MemphisConnectError",
    "MemphisError",
    "MemphisHeaderError",
    "MemphisSchemaError",
    "Message",
    "Messages",
    "MultiStationError",
    "Observer",
    "Outgoing",
    "OwnThreadError",
    "PartitionInfo",
    "Payload",
    "PayloadTooLargeError",
    "PeekedMessage",
    "PeekedMessages",
    "ProduceError",
    "Producer",
    "Producing",
    "ProtocolError",
    "PubAck",
    "RejectedError",
    "RemoteProtocolError",
    "ResentMessage",
    "Retention",
    "RetryPolicy",
    "SchemaError",
    "SchemaInfo",
    "SchemaSummary",
    "ServerError",
    "Station",
    "StationGoneError",
    "StationInfo",
    "StationNotFoundError",
    "Stats",
    "Storage",
    "TransportError",
    "UnacknowledgedError",
    "UndeliveredWarning",
    "UsageError",
    "__version__",
    "as_completed",
    "check_connect",
    "connect",
    "encode_message",
    "handler",
    "load_handler",
    "run_handler",
    "wait",
]
