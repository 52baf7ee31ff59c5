"""
Requests of the control plane, one class each: ``encode()`` is what a client sends, ``decode()`` how the broker reads.

Requests of official clients differ in version: fields that an older one lacks are read as "not given". Reading follows
Go's JSON rules (see go_json.py); an error names the structure of the oldest version that has the field, as brokers do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar

from memphis_sync._protocol import go_json
from memphis_sync._protocol.go_json import GoJsonError
from memphis_sync._protocol.replies import (
    ConsumerReply,
    ProducerReply,
    SchemaActivateReply,
    SchemaCreateReply,
    SchemaUpdate,
    parse_plain_reply,
)

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "REQUEST_VERSION",
    "SDK_LANG",
    "ConsumerCreate",
    "ConsumerDestroy",
    "ConsumerReply",
    "GoJsonError",
    "Notification",
    "ProducerCreate",
    "ProducerDestroy",
    "ProducerReply",
    "SchemaActivate",
    "SchemaActivateReply",
    "SchemaAttach",
    "SchemaCreate",
    "SchemaCreateReply",
    "SchemaDetach",
    "SchemaUpdate",
    "StationCreate",
    "StationDestroy",
    "parse_plain_reply",
]

REQUEST_VERSION = 4  # what the official clients of Memphis 1.x send
SDK_LANG = "python"


def _key(go_type: str, default: Any = None, *, key: str = "", inside: str = "", struct: str = "") -> Any:
    """A field: Go type, a client's default, JSON key if named otherwise, the object it is nested in, its structure."""
    zero = {"string": "", "bool": False}.get(go_type, 0)
    meta = {"go": go_type, "key": key, "inside": inside, "struct": struct}
    return field(default=zero if default is None else default, metadata=meta)


@dataclass(frozen=True)
class _Request:
    """What all requests share: both directions, driven by the fields' metadata."""

    STRUCT: ClassVar[str] = ""

    def encode(self) -> bytes:
        """The request's body: one JSON object, UTF-8, keys in the order of the official clients."""
        body: dict[str, Any] = {}
        for item in fields(self):
            target = body.setdefault(item.metadata["inside"], {}) if item.metadata["inside"] else body
            target[item.metadata["key"] or item.name] = getattr(self, item.name)
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """
        Reads a request's body.

        Raises:
            GoJsonError: It is no JSON object, or a field has the wrong type.
        """
        members = go_json.parse_object(body, cls.STRUCT)
        values: dict[str, Any] = {}
        for item in fields(cls):
            meta = item.metadata
            key, struct = meta["key"] or item.name, meta["struct"] or cls.STRUCT
            source: Mapping[str, Any] = members
            if meta["inside"]:
                source = go_json.take_object(members, meta["inside"], struct, f"server.{meta['inside']}")
                struct = f"{struct}.{meta['inside']}"
            values[item.name] = go_json.take(source, key, meta["go"], struct)
        return cls(**values)


@dataclass(frozen=True)
class StationCreate(_Request):
    """``$memphis_station_creations``; plain reply."""

    STRUCT: ClassVar[str] = "createStationRequest"

    name: str = _key("string")
    retention_type: str = _key("string", "message_age_sec")
    retention_value: int = _key("int", 3600)
    storage_type: str = _key("string", "file")
    replicas: int = _key("int", 1)
    idempotency_window_ms: int = _key("int64", 120_000, key="idempotency_window_in_ms")
    schema_name: str = _key("string")
    dls_poison: bool = _key("bool", True, key="poison", inside="dls_configuration")
    dls_schemaverse: bool = _key("bool", True, key="Schemaverse", inside="dls_configuration")
    username: str = _key("string")
    tiered_storage_enabled: bool = _key("bool", False)
    partitions_number: int = _key("int", 1)
    dls_station: str = _key("string")


@dataclass(frozen=True)
class StationDestroy(_Request):
    """``$memphis_station_destructions``; plain reply."""

    STRUCT: ClassVar[str] = "destroyStationRequest"

    station_name: str = _key("string")
    username: str = _key("string")


@dataclass(frozen=True)
class ProducerCreate(_Request):
    """``$memphis_producer_creations``; answered by a ProducerReply."""

    STRUCT: ClassVar[str] = "createProducerRequestV0"

    name: str = _key("string")
    station_name: str = _key("string")
    connection_id: str = _key("string")
    producer_type: str = _key("string", "application")
    req_version: int = _key("int", REQUEST_VERSION, struct="createProducerRequestV1")
    username: str = _key("string")
    app_id: str = _key("string", struct="createProducerRequestV2")
    sdk_lang: str = _key("string", SDK_LANG, struct="createProducerRequestV3")


@dataclass(frozen=True)
class ProducerDestroy(_Request):
    """``$memphis_producer_destructions``; plain reply."""

    STRUCT: ClassVar[str] = "destroyProducerRequestV0"

    name: str = _key("string")
    station_name: str = _key("string")
    username: str = _key("string")
    connection_id: str = _key("string", struct="destroyProducerRequestV1")
    req_version: int = _key("int", 1, struct="destroyProducerRequestV1")


@dataclass(frozen=True)
class ConsumerCreate(_Request):
    """``$memphis_consumer_creations``; answered by a ConsumerReply, or by an error text."""

    STRUCT: ClassVar[str] = "createConsumerRequestV0"

    name: str = _key("string")
    station_name: str = _key("string")
    connection_id: str = _key("string")
    consumer_type: str = _key("string", "application")
    consumers_group: str = _key("string")
    max_ack_time_ms: int = _key("int", 30_000)
    max_msg_deliveries: int = _key("int", 2)
    start_consume_from_sequence: int = _key("uint64", 1, struct="createConsumerRequestV1")
    last_messages: int = _key("int64", -1, struct="createConsumerRequestV1")
    req_version: int = _key("int", REQUEST_VERSION, struct="createConsumerRequestV1")
    username: str = _key("string")
    app_id: str = _key("string", struct="createConsumerRequestV2")
    sdk_lang: str = _key("string", SDK_LANG, struct="createConsumerRequestV3")


@dataclass(frozen=True)
class ConsumerDestroy(_Request):
    """``$memphis_consumer_destructions``; plain reply."""

    STRUCT: ClassVar[str] = "destroyConsumerRequestV0"

    name: str = _key("string")
    station_name: str = _key("string")
    username: str = _key("string")
    connection_id: str = _key("string", struct="destroyConsumerRequestV1")
    req_version: int = _key("int", 1, struct="destroyConsumerRequestV1")


@dataclass(frozen=True)
class SchemaCreate(_Request):
    """``$memphis_schema_creations``; answered by a JSON object with ``error``."""

    STRUCT: ClassVar[str] = "CreateSchemaReq"

    name: str = _key("string")
    type: str = _key("string")
    created_by_username: str = _key("string")
    schema_content: str = _key("string")
    message_struct_name: str = _key("string")


@dataclass(frozen=True)
class SchemaAttach(_Request):
    """``$memphis_schema_attachments``; plain reply."""

    STRUCT: ClassVar[str] = "attachSchemaRequest"

    name: str = _key("string")
    station_name: str = _key("string")
    username: str = _key("string")


@dataclass(frozen=True)
class SchemaActivate(_Request):
    """``$memphis_sync_schema_activations``; answered by a SchemaActivateReply. Version 0 stands for the newest."""

    STRUCT: ClassVar[str] = "activateSchemaRequest"

    name: str = _key("string")
    version_number: int = _key("int")
    username: str = _key("string")


@dataclass(frozen=True)
class SchemaDetach(_Request):
    """``$memphis_schema_detachments``; plain reply."""

    STRUCT: ClassVar[str] = "detachSchemaRequest"

    station_name: str = _key("string")
    username: str = _key("string")


@dataclass(frozen=True)
class Notification(_Request):
    """``$memphis_notifications``; no reply. Official Go clients write the keys with capitals."""

    STRUCT: ClassVar[str] = "NotificationMsg"

    title: str = _key("string")
    msg: str = _key("string")
    type: str = _key("string")
    code: str = _key("string")
