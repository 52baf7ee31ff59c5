"""Arguments of station(), producer() and consumer(): checked by the broker's rules, turned into requests. No IO."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any, Optional

from memphis_sync._options import checks as opt
from memphis_sync._protocol.control import ConsumerCreate, StationCreate
from memphis_sync._protocol.names import Kind, NameRuleError, lower_name
from memphis_sync._protocol.partitions import check_partition
from memphis_sync.errors import ConfigurationError
from memphis_sync.types import Retention, Storage

MAX_RETRIES = 1000
MAX_PARTITIONS = 10000
MAX_DELIVERIES = 10  # the broker turns anything above into this
_MAX_INT32 = 2**31 - 1  # the broker keeps most numbers in 32-bit columns


def check_name(option: str, kind: Kind, name: object) -> str:
    """
    A name in lower case, checked by the broker's own rules.

    Args:
        option: The argument that it was given as, for the error text.
        kind: What the name is for.
        name: In any case.

    Raises:
        ConfigurationError: The text has option, value and the broker's rule.
    """
    text = opt.check_str(option, name)
    try:
        return lower_name(kind, text)
    except NameRuleError as exc:
        raise ConfigurationError(f"{option} is {opt.show(text)}: {exc}") from exc


def check_station_names(value: object) -> list[str]:
    """One or several station names, lower case, each once, in the caller's order."""
    if isinstance(value, str):
        return [check_name("station_name", "Station", value)]
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        raise ConfigurationError(
            f"station_name is {opt.show(value)}; station_name should be either string or list of strings"
        )
    if not value:
        raise ConfigurationError("station_name is an empty list; it needs at least one station")
    return list(dict.fromkeys(check_name("station_name", "Station", item) for item in value))


def check_retries(value: object) -> int:
    """How often a request without an answer is repeated."""
    return opt.check_int("timeout_retries", value, 0, MAX_RETRIES)


def with_suffix(option: str, kind: Kind, name: str) -> str:
    """*name*, ``_`` and 8 random hexadecimal digits; the whole must still be a name."""
    return check_name(option, kind, f"{name}_{uuid.uuid4().hex[:8]}")


def station_request(**given: Any) -> StationCreate:
    """The request of Memphis.station(), from its arguments by name."""
    kind = opt.check_enum("retention_type", given["retention_type"], Retention)
    least = 0 if kind is Retention.ACK_BASED else 1
    value = opt.check_int("retention_value", given["retention_value"], least, _MAX_INT32)
    window = opt.check_int("idempotency_window_ms", given["idempotency_window_ms"], 100, opt.MAX_TIME_MS)
    if kind is Retention.MAX_MESSAGE_AGE_SECONDS:
        window = min(window, value * 1000)
    schema, dls = given["schema_name"], given["dls_station"]
    return StationCreate(
        name=check_name("name", "Station", given["name"]),
        retention_type=kind.value,
        retention_value=value,
        storage_type=opt.check_enum("storage_type", given["storage_type"], Storage).value,
        replicas=opt.check_int("replicas", given["replicas"], 1, 5),
        idempotency_window_ms=window,
        schema_name=check_name("schema_name", "Schema", schema) if schema != "" else "",
        dls_poison=opt.check_bool("send_poison_msg_to_dls", given["send_poison_msg_to_dls"]),
        dls_schemaverse=opt.check_bool("send_schema_failed_msg_to_dls", given["send_schema_failed_msg_to_dls"]),
        tiered_storage_enabled=opt.check_bool("tiered_storage_enabled", given["tiered_storage_enabled"]),
        partitions_number=opt.check_int("partitions_number", given["partitions_number"], 0, MAX_PARTITIONS) or 1,
        dls_station=check_name("dls_station", "Station", dls) if dls != "" else "",
    )


def consumer_request(**given: Any) -> ConsumerCreate:
    """The request of Memphis.consumer(), from those of its arguments that the broker gets."""
    name = check_name("consumer_name", "Consumer", given["consumer_name"])
    if opt.check_bool("generate_random_suffix", given["generate_random_suffix"]):
        name = with_suffix("consumer_name", "Consumer", name)
    group = given["consumer_group"]
    start = opt.check_int("start_consume_from_sequence", given["start_consume_from_sequence"], 1, 2**63 - 1)
    last = opt.check_int("last_messages", given["last_messages"], -1, 2**63 - 1)
    if start > 1 and last > -1:
        raise ConfigurationError(
            "Consumer creation options can't contain both start_consume_from_sequence "
            f"({start}) and last_messages ({last})"
        )
    deliveries = given["max_msg_deliveries"]
    if deliveries != -1:
        deliveries = opt.check_int("max_msg_deliveries", deliveries, 1, MAX_DELIVERIES)
    return ConsumerCreate(
        name=name,
        station_name=check_name("station_name", "Station", given["station_name"]),
        consumers_group=check_name("consumer_group", "Consumer", group) if group != "" else name,
        max_ack_time_ms=opt.check_int("max_ack_time_ms", given["max_ack_time_ms"], 1, _MAX_INT32),
        max_msg_deliveries=deliveries,
        start_consume_from_sequence=start,
        last_messages=last,
    )


def check_place(side: str, key: object, number: object, partitions: Sequence[int], station: str) -> Optional[int]:
    """
    The partition that *number* names; None when there is none, or no choice.

    Args:
        side: "producer" or "consumer", for the error text.
        key: The partition key that is given beside it: a str or bytes, or None.
        number: A partition from 1; 0 and less for none.
        partitions: Those of the station.
        station: Its name.

    Raises:
        ConfigurationError: One of the two is of another type, both are given, or there is no such partition.
    """
    chosen = opt.as_int(number)
    if chosen is None:
        raise ConfigurationError(
            f"{side}_partition_number is of type {type(number).__name__}; it must be an int: a partition from 1, or -1 "
            "for none"
        )
    if key is not None and not isinstance(key, (str, bytes)):
        raise ConfigurationError(f"{side}_partition_key is of type {type(key).__name__}; it must be a str or None")
    partition = check_partition(chosen, partitions, station)
    if partition is not None and key is not None:
        raise ConfigurationError(
            f"Can not use both partition number and partition key: {side}_partition_number is {number!r} and "
            f"{side}_partition_key is given"
        )
    return partition
