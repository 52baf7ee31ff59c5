"""The parameters of station(), consumer() and fetch_messages(), checked by the broker's rules, and their requests."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any, Callable, Optional

from memphis_sync._options.checks import (
    MAX_BATCH_SIZE,
    MAX_TIME_MS,
    as_int,
    check_bool,
    check_int,
    check_str,
    int_in,
    one_of,
    show,
)
from memphis_sync._options.rows import KW_ONLY, Arguments, arguments, option
from memphis_sync._protocol.names import Kind, NameRuleError, lower_name
from memphis_sync._protocol.partitions import check_partition
from memphis_sync._protocol.requests import ConsumerCreate, StationCreate
from memphis_sync.errors import ConfigurationError
from memphis_sync.types import Retention, Storage

MAX_RETRIES = 1000
MAX_PARTITIONS = 10000
MAX_DELIVERIES = 10  # the broker turns anything above into this
LEAST_WAIT_MS = 100  # as memphis.py
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
    text = check_str(option, name)
    try:
        return lower_name(kind, text)
    except NameRuleError as exc:
        raise ConfigurationError(f"{option} is {show(text)}: {exc}") from exc


def name_of(kind: Kind, *, empty_ok: bool = False) -> Callable[[str, Any], str]:
    """check_name() with its kind; *empty_ok*: "" stands for none."""
    return lambda option, name: "" if empty_ok and name == "" else check_name(option, kind, name)


def check_station_names(option: str, value: object) -> list[str]:
    """One or several station names, lower case, each once, in the caller's order."""
    if isinstance(value, str):
        return [check_name(option, "Station", value)]
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        raise ConfigurationError(f"{option} is {show(value)}; {option} should be either string or list of strings")
    if not value:
        raise ConfigurationError(f"{option} is an empty list; it needs at least one station")
    return list(dict.fromkeys(check_name(option, "Station", item) for item in value))


check_retries = int_in(0, MAX_RETRIES)  # how often a request without an answer is repeated


def with_suffix(option: str, kind: Kind, name: str) -> str:
    """*name*, ``_`` and 8 random hexadecimal digits; the whole must still be a name."""
    return check_name(option, kind, f"{name}_{uuid.uuid4().hex[:8]}")


def check_place(side: str, key: object, number: object, partitions: Sequence[int], station: str) -> Optional[int]:
    """
    The partition that *number* selects; None when it selects none, or the station has only one.

    Args:
        side: "producer" or "consumer", for the error text.
        key: The partition key, a str or bytes, or None.
        number: A partition from 1; 0 and less for none.
        partitions: Those of the station.
        station: Its name.

    Raises:
        ConfigurationError: One of the two is of another type, both are given, or the partition does not exist.
    """
    chosen = as_int(number)
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


@arguments
class StationArguments(Arguments):
    """
    The parameters of Memphis.station().

    Args:
        name: Up to 128 letters, digits, ``_ - .``; converted to lower case.
        retention_type: What limits each partition: age, number of messages, bytes, or acknowledgement by all groups.
        retention_value: Seconds, messages or bytes, from 1; ignored for ``ACK_BASED``.
        storage_type: On disk or in memory.
        replicas: Copies in a cluster: 1, 3 or 5 (the broker rounds others).
        idempotency_window_ms: How long the broker remembers message ids, 100 to 86400000 ms. A shorter age retention
            lowers it, because brokers refuse the combination.
        schema_name: Must exist already; "" for none.
        send_poison_msg_to_dls: Store messages that were delivered too often as dead letters.
        send_schema_failed_msg_to_dls: Store messages that did not match the schema as dead letters.
        tiered_storage_enabled: Move messages to the broker's second storage tier, if it has one.
        partitions_number: 1 to 10000; 0 means 1, as in memphis.py.
        dls_station: A station that gets a copy of each dead letter; "" for none.
        timeout_retries: How often a request without a reply is repeated, 0 to 1000; each waits up to 20 s.
        create_station: Create it if it does not exist; False makes that an error.
    """

    name: str = option(name_of("Station"))
    retention_type: Retention = option(one_of(Retention), default=Retention.MAX_MESSAGE_AGE_SECONDS)
    retention_value: int = option(int_in(0, _MAX_INT32), default=3600)
    storage_type: Storage = option(one_of(Storage), default=Storage.DISK)
    replicas: int = option(int_in(1, 5), default=1)
    idempotency_window_ms: int = option(int_in(100, MAX_TIME_MS), default=120000)
    schema_name: str = option(name_of("Schema", empty_ok=True), default="")
    send_poison_msg_to_dls: bool = option(check_bool, default=True)
    send_schema_failed_msg_to_dls: bool = option(check_bool, default=True)
    tiered_storage_enabled: bool = option(check_bool, default=False)
    partitions_number: int = option(int_in(0, MAX_PARTITIONS), default=1)
    dls_station: str = option(name_of("Station", empty_ok=True), default="")
    timeout_retries: int = option(check_retries, default=5)
    _: KW_ONLY
    create_station: bool = option(check_bool, default=True)


def station_request(given: StationArguments) -> StationCreate:
    """The request of Memphis.station(), from its arguments."""
    kind, value = given.retention_type, given.retention_value
    if kind is not Retention.ACK_BASED:
        check_int("retention_value", value, 1, _MAX_INT32)
    is_by_age = kind is Retention.MAX_MESSAGE_AGE_SECONDS
    return StationCreate(
        name=given.name,
        retention_type=kind.value,
        retention_value=value,
        storage_type=given.storage_type.value,
        replicas=given.replicas,
        idempotency_window_ms=min(given.idempotency_window_ms, value * 1000 if is_by_age else MAX_TIME_MS),
        schema_name=given.schema_name,
        dls_poison=given.send_poison_msg_to_dls,
        dls_schemaverse=given.send_schema_failed_msg_to_dls,
        tiered_storage_enabled=given.tiered_storage_enabled,
        partitions_number=given.partitions_number or 1,
        dls_station=given.dls_station,
    )


def check_deliveries(option: str, value: object) -> int:
    """How often a message may be delivered; -1 stands for the most."""
    return -1 if value == -1 else check_int(option, value, 1, MAX_DELIVERIES)


def _check_wait(option: str, value: object) -> int:
    return max(LEAST_WAIT_MS, check_int(option, value, 0, MAX_TIME_MS))


@arguments
class ConsumerArguments(Arguments):
    """
    The parameters of Memphis.consumer().

    Args:
        station_name: The station; converted to lower case.
        consumer_name: Up to 128 letters, digits, ``_ - .``; converted to lower case.
        consumer_group: The members of a group share its messages; by default the consumer's name.
        pull_interval_ms: How long consume() pauses after a fetch of less than a full batch, from 0.
        batch_size: How many messages consume() and iteration fetch at once, at most, 1 to 5000.
        batch_max_time_to_wait_ms: How long fetch() waits for a first message; at least 100.
        max_ack_time_ms: How long a message may be unacknowledged before it is delivered again, from 1.
        max_msg_deliveries: How often a message is delivered before it is a dead letter, 1 to 10; -1 means 10.
        generate_random_suffix: Adds ``_`` and 8 hexadecimal digits to the name.
        start_consume_from_sequence: First message of each partition for a new group, from 1.
        last_messages: Start a new group with this many newest messages of each partition; -1 for all, 0 for none.
        timeout_retries: As for producer().
        create_station: False: a station that does not exist is an error, so that a misspelt name creates none.
    """

    station_name: str = option(name_of("Station"))
    consumer_name: str = option(name_of("Consumer"))
    consumer_group: str = option(name_of("Consumer", empty_ok=True), default="")
    pull_interval_ms: int = option(int_in(0, MAX_TIME_MS), default=1000)
    batch_size: int = option(int_in(1, MAX_BATCH_SIZE), default=10)
    batch_max_time_to_wait_ms: int = option(_check_wait, default=100)
    max_ack_time_ms: int = option(int_in(1, _MAX_INT32), default=30000)
    max_msg_deliveries: int = option(check_deliveries, default=2)
    generate_random_suffix: bool = option(check_bool, default=False)
    start_consume_from_sequence: int = option(int_in(1, 2**63 - 1), default=1)
    last_messages: int = option(int_in(-1, 2**63 - 1), default=-1)
    timeout_retries: int = option(check_retries, default=5)
    _: KW_ONLY
    create_station: bool = option(check_bool, default=True)


def consumer_request(given: ConsumerArguments) -> ConsumerCreate:
    """The request of Memphis.consumer(), from those of its arguments that the broker gets."""
    name, start, last = given.consumer_name, given.start_consume_from_sequence, given.last_messages
    if given.generate_random_suffix:
        name = with_suffix("consumer_name", "Consumer", name)
    if start > 1 and last > -1:
        raise ConfigurationError(
            "Consumer creation options can't contain both start_consume_from_sequence "
            f"({start}) and last_messages ({last})"
        )
    return ConsumerCreate(
        name=name,
        station_name=given.station_name,
        consumers_group=given.consumer_group or name,
        max_ack_time_ms=given.max_ack_time_ms,
        max_msg_deliveries=given.max_msg_deliveries,
        start_consume_from_sequence=start,
        last_messages=last,
    )


@arguments
class FetchArguments(Arguments):
    """
    The parameters of Memphis.fetch_messages(). They are checked as those of consumer() and of Consumer.fetch().

    Args:
        until_end: Fetch all that the station holds for the group, as Consumer.read_all() does, instead of one batch.
            ``batch_size`` and ``prefetch`` are then ignored, and ``timeout_s`` is that of read_all(). All messages are
            in memory while their ack time runs; read_all() yields one after the other.
    """

    station_name: str
    consumer_name: str
    consumer_group: str = ""
    batch_size: int = 10
    batch_max_time_to_wait_ms: int = 100
    max_ack_time_ms: int = 30000
    max_msg_deliveries: int = 2
    generate_random_suffix: bool = False
    start_consume_from_sequence: int = 1
    last_messages: int = -1
    consumer_partition_key: Optional[str] = None
    consumer_partition_number: int = -1
    prefetch: bool = False
    _: KW_ONLY
    timeout_s: Optional[float] = option(default=None)
    until_end: bool = option(default=False)
