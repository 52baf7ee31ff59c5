"""The parameters of the calls that look at something, as stations(), info() and peek(), and of purge()."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Optional

from memphis_sync._options.arguments import name_of
from memphis_sync._options.checks import check_bool, check_limit_s, int_in, none_or, show
from memphis_sync._options.rows import KW_ONLY, Arguments, arguments, option
from memphis_sync.errors import ConfigurationError

INSPECT_S = 5.0
REPLAY_S = 30.0
MAX_PEEKED = 1000
MAX_PEEKED_BYTES = 2**30
_MAX_SEQUENCE = 2**63 - 1


def _check_time(option: str, value: Any) -> Optional[datetime]:
    if value is None:
        return None
    if not isinstance(value, datetime):
        raise ConfigurationError(f"{option} is {show(value)}; it must be a datetime with a time zone")
    if value.utcoffset() is None:
        raise ConfigurationError(
            f"{option} is {value!r}, which has no time zone; add one: datetime.now(timezone.utc), or .astimezone()"
        )
    return value


@arguments
class StationsArguments(Arguments):
    """
    The parameters of Memphis.stations().

    Args:
        with_groups: Also ask for the consumer groups of each station; costs one request a partition.
        timeout_s: For all of it, in seconds, above 0.
    """

    _: KW_ONLY
    with_groups: bool = option(check_bool, default=False)
    timeout_s: float = option(check_limit_s, default=INSPECT_S)


@arguments
class InspectArguments(Arguments):
    """
    The parameters of calls that ask for one thing.

    Args:
        timeout_s: For all of it, in seconds, above 0.
    """

    _: KW_ONLY
    timeout_s: float = option(check_limit_s, default=INSPECT_S)


@arguments
class ConnectionsArguments(Arguments):
    """
    The parameters of Memphis.connections().

    Args:
        station_name: Only those with a producer or consumer of this station; "" for all.
        timeout_s: For all of it, in seconds, above 0.
    """

    station_name: str = option(name_of("Station", empty_ok=True), default="")
    _: KW_ONLY
    timeout_s: float = option(check_limit_s, default=INSPECT_S)


@arguments
class SchemaVersionArguments(Arguments):
    """
    The parameters of Memphis.schema().

    Args:
        schema_name: Of the schema.
        version: Its number, from 1; None for the active one.
        timeout_s: For all of it, in seconds, above 0.
    """

    schema_name: str = option(name_of("Schema"))
    version: Optional[int] = option(none_or(int_in(1, 2**31 - 1)), default=None)
    _: KW_ONLY
    timeout_s: float = option(check_limit_s, default=INSPECT_S)


@arguments
class PeekArguments(Arguments):
    """
    The parameters of Station.peek().

    Args:
        limit: How many messages at most, 1 to 1000.
        partition: Only this partition; None for all.
        from_sequence: Begin at this sequence number of each partition, or at the next that is there; from 1.
        from_time: Begin at the first message that was stored at this time or later; a datetime with a time zone. Give
            one of the two, or none for the newest messages.
        max_bytes: Stop after the message with which this many bytes of payload and headers are reached, 1 to 2^30.
        timeout_s: For all of it, in seconds, above 0.
    """

    limit: int = option(int_in(1, MAX_PEEKED), default=20)
    _: KW_ONLY
    partition: Optional[int] = option(none_or(int_in(0, 2**31 - 1)), default=None)
    from_sequence: Optional[int] = option(none_or(int_in(1, _MAX_SEQUENCE)), default=None)
    from_time: Optional[datetime] = option(_check_time, default=None)
    max_bytes: int = option(int_in(1, MAX_PEEKED_BYTES), default=16 * 2**20)
    timeout_s: float = option(check_limit_s, default=INSPECT_S)


@arguments
class ReplayArguments(Arguments):
    """
    The parameters of Station.replay().

    Args:
        partition: Only this partition; None for all.
        from_sequence: Begin at this sequence number of each partition, or at the next that is there; from 1.
        from_time: Begin at the first message that was stored at this time or later; a datetime with a time zone. Give
            one of the two, or none for the oldest message.
        timeout_s: How long the next portion may take to come, in seconds, above 0.
    """

    _: KW_ONLY
    partition: Optional[int] = option(none_or(int_in(0, 2**31 - 1)), default=None)
    from_sequence: Optional[int] = option(none_or(int_in(1, _MAX_SEQUENCE)), default=None)
    from_time: Optional[datetime] = option(_check_time, default=None)
    timeout_s: float = option(check_limit_s, default=REPLAY_S)


@arguments
class PurgeArguments(Arguments):
    """
    The parameters of Station.purge().

    Args:
        partition: Only this partition; None for all.
        timeout_s: For all of it, in seconds, above 0.
    """

    _: KW_ONLY
    partition: Optional[int] = option(none_or(int_in(0, 2**31 - 1)), default=None)
    timeout_s: float = option(check_limit_s, default=INSPECT_S)
