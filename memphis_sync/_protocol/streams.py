"""
The JetStream configuration of a station and of a consumer group.

A station with P partitions is P streams, each with one subject filter; limits and the duplicate window hold for each
partition by itself. A consumer group is one durable of the same name on each partition.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

from memphis_sync._protocol.names import durable_name, internal_name, publish_subject, stream_name
from memphis_sync._protocol.requests import ConsumerCreate, StationCreate

MAX_PARTITIONS = 10_000
RETENTION_TYPES = ("message_age_sec", "messages", "bytes", "ack_based")
STORAGE_TYPES = ("file", "memory")
DEFAULT_RETENTION_S = 3600
DEFAULT_WINDOW_MS = 120_000
MIN_WINDOW_MS = 100
MAX_WINDOW_MS = 24 * 60 * 60 * 1000
MAX_DELIVERIES = 10  # a Memphis broker gives up on a message after this many at the latest
DEFAULT_ACK_WAIT_MS = 30_000
_NS_PER_S = 1_000_000_000
_NS_PER_MS = 1_000_000
_MAX_NS = 2**63 - 1  # JetStream keeps durations in 64-bit nanoseconds


class SettingError(ValueError):
    """Station or consumer settings that the broker refuses; the text is the broker's own."""


@dataclass(frozen=True)
class StationSettings:
    """
    A station's settings, complete and within their bounds.

    Attributes:
        name: External form.
        retention_value: Seconds, messages or bytes for each partition, as the type says.
    """

    name: str
    retention_type: str = "message_age_sec"
    retention_value: int = DEFAULT_RETENTION_S
    storage_type: str = "file"
    replicas: int = 1
    idempotency_window_ms: int = DEFAULT_WINDOW_MS
    partitions_number: int = 1
    dls_poison: bool = True
    dls_schemaverse: bool = True
    dls_station: str = ""
    tiered_storage_enabled: bool = False

    @property
    def internal(self) -> str:
        """The name's internal form."""
        return internal_name(self.name)

    @property
    def partitions(self) -> list[int]:
        """The partition numbers, ascending."""
        return list(range(1, self.partitions_number + 1))


def station_settings(request: StationCreate, name: str) -> StationSettings:
    """
    Completes and checks the settings of a station creation, in the broker's order.

    Args:
        request: The request.
        name: Its name, checked and in lower case.

    Raises:
        SettingError: A setting is out of its bounds.
    """
    check_partitions_number(request.partitions_number, name)
    kind, value = _retention(request)
    storage = request.storage_type.lower() or "file"
    if storage not in STORAGE_TYPES:
        raise SettingError("storage type can be one of the following file/memory")
    window = request.idempotency_window_ms
    window = DEFAULT_WINDOW_MS if window <= 0 else max(window, MIN_WINDOW_MS)
    if window > MAX_WINDOW_MS:
        raise SettingError("idempotency window can not exceed 24 hours")
    if kind == "message_age_sec" and value * 1000 < window:
        raise SettingError("idempotency window cannot be greater than the station retention")
    return StationSettings(
        name=name,
        retention_type=kind,
        retention_value=value,
        storage_type=storage,
        replicas=_replicas(request.replicas),
        idempotency_window_ms=window,
        partitions_number=request.partitions_number,
        dls_poison=request.dls_poison,
        dls_schemaverse=request.dls_schemaverse,
        dls_station=request.dls_station.lower(),
        tiered_storage_enabled=request.tiered_storage_enabled,
    )


def check_partitions_number(number: int, name: str) -> None:
    """
    Checks the number of partitions of a station creation.

    Raises:
        SettingError: It is below 1 or above MAX_PARTITIONS.
    """
    if number == 0:
        raise SettingError("you are using an old SDK, make sure to update your SDK")
    if not 1 <= number <= MAX_PARTITIONS:
        raise SettingError(
            f"cannot create station with {number} partitions (max:{MAX_PARTITIONS} min:1): Station -  {name}, "
        )


def _retention(request: StationCreate) -> tuple[str, int]:
    """Type and value; a missing type, and a value of 0 or less where one is needed, mean one hour."""
    kind, value = request.retention_type.lower(), request.retention_value
    if kind and kind not in RETENTION_TYPES:
        raise SettingError("retention type can be one of the following message_age_sec/messages/bytes/ack_based")
    if not kind or (kind != "ack_based" and value <= 0):
        return "message_age_sec", DEFAULT_RETENTION_S
    if kind == "message_age_sec" and value * _NS_PER_S > _MAX_NS:
        raise SettingError(f"retention can not exceed {_MAX_NS // _NS_PER_S} seconds")
    return kind, value


def _replicas(number: int) -> int:
    """The nearest number of copies that a JetStream cluster can vote with: 1, 3 or 5."""
    if number <= 1:
        return 1
    return 3 if number <= 4 else 5


def stream_config(station: StationSettings, partition: int) -> dict[str, Any]:
    """
    The body of ``$JS.API.STREAM.CREATE.<stream>`` for one partition.

    Args:
        station: The station's settings.
        partition: From 1; 0 for a station without partitions.
    """
    stream = stream_name(station.internal, partition)
    kind, value = station.retention_type, station.retention_value
    return {
        "name": stream,
        "subjects": [f"{stream}.>"],
        "retention": "interest" if kind == "ack_based" else "limits",
        "max_consumers": -1,
        "max_msgs": value if kind == "messages" else -1,
        "max_bytes": value if kind == "bytes" else -1,
        "max_msgs_per_subject": -1,
        "max_age": value * _NS_PER_S if kind == "message_age_sec" else 0,
        "discard": "old",
        "storage": station.storage_type,
        "num_replicas": station.replicas,
        "no_ack": False,
        "duplicate_window": station.idempotency_window_ms * _NS_PER_MS,
    }


def check_start(start_sequence: int, last_messages: int) -> None:
    """
    Checks the start options of a consumer creation.

    Raises:
        SettingError: One is out of its bounds, or both were given.
    """
    if start_sequence <= 0:
        raise SettingError("startConsumeFromSequence has to be a positive number")
    if last_messages < -1:
        raise SettingError("min value for LastMessages is -1")
    if start_sequence > 1 and last_messages > -1:
        raise SettingError("consumer creation options can't contain both startConsumeFromSequence and lastMessages")


def consumer_config(
    internal_station: str, partition: int, group: str, request: ConsumerCreate, last_sequence: Optional[int] = None
) -> dict[str, Any]:
    """
    The configuration of a group's durable on one partition.

    Args:
        internal_station: The station's internal name.
        partition: From 1; 0 for a station without partitions.
        group: The group's name, external or internal.
        request: Until when an unacknowledged message is delivered again (30 s when 0 or less), how often (1 to 10;
            anything else means 10), and where each partition begins: at a message from 1, or with so many of its newest
            (-1 for all, 0 for new ones only).
        last_sequence: The partition's last sequence; needed when *last_messages* is above 0.

    Raises:
        SettingError: *last_messages* is above 0 and *last_sequence* is missing.
    """
    ack_ms, deliveries = request.max_ack_time_ms, request.max_msg_deliveries
    config: dict[str, Any] = {
        "durable_name": durable_name(group),
        "deliver_policy": "all",
        "ack_policy": "explicit",
        "ack_wait": (ack_ms if ack_ms > 0 else DEFAULT_ACK_WAIT_MS) * _NS_PER_MS,
        "max_deliver": deliveries if 1 <= deliveries <= MAX_DELIVERIES else MAX_DELIVERIES,
        "filter_subject": publish_subject(internal_station, partition),
        "replay_policy": "instant",
        "max_ack_pending": -1,
    }
    start, newest = request.start_consume_from_sequence, request.last_messages
    if newest > 0 and start <= 1:
        if last_sequence is None:
            raise SettingError("the partition's last sequence is needed to start with its last messages")
        start = max(1, last_sequence - newest + 1)
        config.update(deliver_policy="by_start_sequence", opt_start_seq=start)
    elif start > 1:
        config.update(deliver_policy="by_start_sequence", opt_start_seq=start)
    elif newest == 0:
        config["deliver_policy"] = "new"
    return config
