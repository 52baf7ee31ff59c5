"""
The requests of the control plane, each with its subject, fields and reply; those about dead letters are in
dead_letters.py.

Plain replies are empty on success and an error text otherwise. Producer and consumer creations are answered with JSON
that has every key, also on error; a consumer's errors come as plain text, for memphis.py fails on a JSON error there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional

from memphis_sync._protocol.body import Body, Codec, PlainReply, Reply, Request, dump, key

REQUEST_VERSION = 4  # what the official clients of Memphis 1.x send
SDK_LANG = "python"


@dataclass(frozen=True)
class SchemaUpdate(Body):
    """A station's schema as the broker sends it; ``name`` is empty when there is none."""

    STRUCT = "SchemaUpdate"

    name: str = key("string", key="schema_name")
    version: int = key("int", key="version_number", inside="active_version")
    descriptor: str = key("string", inside="active_version")
    content: str = key("string", key="schema_content", inside="active_version")
    message_struct_name: str = key("string", inside="active_version")
    type: str = key("string")


def schema_change(update: Optional[SchemaUpdate]) -> bytes:
    """The body of ``$memphis_schema_updates_<station>``: a schema in place of any other, or None for no schema."""
    kind = 2 if update is None else 1
    return dump({"UpdateType": kind, "init": (update or SchemaUpdate()).to_json()})


def _partitions(numbers: Any) -> Optional[list[int]]:
    if numbers is None:
        return None
    if not isinstance(numbers, list) or not all(type(number) is int and number > 0 for number in numbers):
        raise ValueError("the partition list is not one of positive integers")
    return numbers


def _functions(functions: Any) -> dict[int, int]:
    try:
        return {int(partition): int(number) for partition, number in (functions or {}).items()}
    except (AttributeError, TypeError, ValueError) as exc:
        raise ValueError("the first functions are not a map of integers") from exc


SCHEMA_UPDATE = Codec(lambda value: SchemaUpdate.from_json(value or {}), SchemaUpdate.to_json)
PARTITIONS = Codec(_partitions, lambda numbers: numbers)
FUNCTIONS = Codec(_functions, lambda functions: {str(partition): number for partition, number in functions.items()})


@dataclass(frozen=True)
class ProducerReply(Reply):
    """
    What a producer creation is answered with.

    Attributes:
        partitions: The station's partition numbers; None when the station has none, or on error.
        functions: The first function of each partition that has one.
    """

    NOTHING = "the broker answered a producer creation with nothing"

    schema_update: SchemaUpdate = key(SCHEMA_UPDATE, SchemaUpdate)
    partitions: Optional[list[int]] = key(PARTITIONS, key="partitions_list", inside="partitions_update")
    schemaverse_to_dls: bool = key("bool")
    send_notification: bool = key("bool")
    station_version: int = key("int")
    functions: Mapping[int, int] = key(FUNCTIONS, dict, key="station_partitions_first_functions")
    error: str = key("string")

    def to_json(self) -> dict[str, Any]:
        """The reply; an error has no functions, not even none."""
        return {**super().to_json(), **({"station_partitions_first_functions": None} if self.error else {})}


@dataclass(frozen=True)
class ConsumerReply(Reply):
    """What a consumer creation is answered with; an error is its bare text. Attributes as those of ProducerReply."""

    schema_update: SchemaUpdate = key(SCHEMA_UPDATE, SchemaUpdate)
    partitions: Optional[list[int]] = key(PARTITIONS, key="partitions_list", inside="partitions_update")
    error: str = key("string")

    def encode(self) -> bytes:
        """The reply's body."""
        return self.error.encode("utf-8", "replace") if self.error else super().encode()


@dataclass(frozen=True)
class SchemaCreateReply(Reply):
    """What a schema creation is answered with."""

    error: str = key("string")


@dataclass(frozen=True)
class SchemaActivateReply(Reply):
    """What the activation of a schema version is answered with: the version that is active now, 0 on error."""

    NOTHING = "the broker answered a schema activation with nothing"

    version: int = key("int", key="version_number")
    error: str = key("string")


@dataclass(frozen=True)
class StationCreate(Request[PlainReply]):
    """Makes a station."""

    SUBJECT = "$memphis_station_creations"
    STRUCT = "createStationRequest"

    name: str = key("string")
    retention_type: str = key("string", "message_age_sec")
    retention_value: int = key("int", 3600)
    storage_type: str = key("string", "file")
    replicas: int = key("int", 1)
    idempotency_window_ms: int = key("int64", 120_000, key="idempotency_window_in_ms")
    schema_name: str = key("string")
    dls_poison: bool = key("bool", True, key="poison", inside="dls_configuration")
    dls_schemaverse: bool = key("bool", True, key="Schemaverse", inside="dls_configuration")
    username: str = key("string")
    tiered_storage_enabled: bool = key("bool", False)
    partitions_number: int = key("int", 1)
    dls_station: str = key("string")


@dataclass(frozen=True)
class StationDestroy(Request[PlainReply]):
    """Destroys a station."""

    SUBJECT = "$memphis_station_destructions"
    STRUCT = "destroyStationRequest"

    station_name: str = key("string")
    username: str = key("string")


@dataclass(frozen=True)
class ProducerCreate(Request[ProducerReply]):
    """Registers a producer; a missing station is made."""

    SUBJECT = "$memphis_producer_creations"
    STRUCT = "createProducerRequestV0"

    name: str = key("string")
    station_name: str = key("string")
    connection_id: str = key("string")
    producer_type: str = key("string", "application")
    req_version: int = key("int", REQUEST_VERSION, since=1)
    username: str = key("string")
    app_id: str = key("string", since=2)
    sdk_lang: str = key("string", SDK_LANG, since=3)


@dataclass(frozen=True)
class _Destroy(Request[PlainReply]):
    name: str = key("string")
    station_name: str = key("string")
    username: str = key("string")
    connection_id: str = key("string", since=1)
    req_version: int = key("int", 1, since=1)


@dataclass(frozen=True)
class ProducerDestroy(_Destroy):
    """Takes a producer's registration back."""

    SUBJECT = "$memphis_producer_destructions"
    STRUCT = "destroyProducerRequestV0"


@dataclass(frozen=True)
class ConsumerCreate(Request[ConsumerReply]):
    """Registers a consumer, and makes its group; a missing station is made."""

    SUBJECT = "$memphis_consumer_creations"
    STRUCT = "createConsumerRequestV0"

    name: str = key("string")
    station_name: str = key("string")
    connection_id: str = key("string")
    consumer_type: str = key("string", "application")
    consumers_group: str = key("string")
    max_ack_time_ms: int = key("int", 30_000)
    max_msg_deliveries: int = key("int", 2)
    start_consume_from_sequence: int = key("uint64", 1, since=1)
    last_messages: int = key("int64", -1, since=1)
    req_version: int = key("int", REQUEST_VERSION, since=1)
    username: str = key("string")
    app_id: str = key("string", since=2)
    sdk_lang: str = key("string", SDK_LANG, since=3)


@dataclass(frozen=True)
class ConsumerDestroy(_Destroy):
    """Takes a consumer's registration back."""

    SUBJECT = "$memphis_consumer_destructions"
    STRUCT = "destroyConsumerRequestV0"


@dataclass(frozen=True)
class SchemaCreate(Request[SchemaCreateReply]):
    """Makes a schema, or a new version of one."""

    SUBJECT = "$memphis_schema_creations"
    STRUCT = "CreateSchemaReq"

    name: str = key("string")
    type: str = key("string")
    created_by_username: str = key("string")
    schema_content: str = key("string")
    message_struct_name: str = key("string")


@dataclass(frozen=True)
class SchemaAttach(Request[PlainReply]):
    """Ties a station to a schema."""

    SUBJECT = "$memphis_schema_attachments"
    STRUCT = "attachSchemaRequest"

    name: str = key("string")
    station_name: str = key("string")
    username: str = key("string")


@dataclass(frozen=True)
class SchemaActivate(Request[SchemaActivateReply]):
    """Makes a version of a schema the active one; 0 stands for the newest."""

    SUBJECT = "$memphis_sync_schema_activations"
    STRUCT = "activateSchemaRequest"
    INSTEAD = (
        "this broker activates schema versions through its REST interface only (PUT /api/schemas/rollBackVersion); "
        "attach the schema again afterwards, so that connected clients are notified"
    )

    name: str = key("string")
    version_number: int = key("int")
    username: str = key("string")


@dataclass(frozen=True)
class SchemaDetach(Request[PlainReply]):
    """Ties a station to no schema."""

    SUBJECT = "$memphis_schema_detachments"
    STRUCT = "detachSchemaRequest"

    station_name: str = key("string")
    username: str = key("string")


@dataclass(frozen=True)
class Notification(Request[PlainReply]):
    """What an SDK says of a message that failed its schema. Official Go clients write the keys with capitals."""

    SUBJECT = "$memphis_notifications"
    STRUCT = "NotificationMsg"

    title: str = key("string")
    msg: str = key("string")
    type: str = key("string")
    code: str = key("string")

    @classmethod
    def of_schema_failure(cls, station: str, producer: str, error: str, payload: bytes) -> Notification:
        """Makes one; the message appears in it as text."""
        text = f"Station: {station}\nProducer: {producer}\nError: {error}"
        shown = payload.decode("utf-8", "replace")
        return cls("Schema validation has failed", text, "schema_validation_fail_alert", shown)

    @classmethod
    def queue_group(cls) -> str:
        """Memphis' own, named unlike the others."""
        return "memphis_notifications_group"
