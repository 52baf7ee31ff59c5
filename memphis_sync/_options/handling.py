"""Handling messages one by one: the parameters of handler(), and the checks of run() and wait()."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from typing import Any, Callable, Optional

from memphis_sync._base.hints import nearest
from memphis_sync._options.arguments import check_deliveries, name_of
from memphis_sync._options.checks import (
    MAX_BATCH_SIZE,
    MAX_TIME_MS,
    as_int,
    check_bool,
    check_callable,
    check_client_name,
    check_int,
    check_seconds,
    int_in,
    show,
)
from memphis_sync._options.rows import KW_ONLY, Arguments, arguments, option
from memphis_sync.errors import ConfigurationError, UsageError
from memphis_sync.types import OnError

ON_ERROR = ("retry", "dead_letter", "stop")
DELAY_MS = 1000
MAX_DELAY_MS = 60_000
_NEVER_CAUGHT = {getattr(signal, name) for name in ("SIGKILL", "SIGSTOP") if hasattr(signal, name)}


def check_on_error(option: str, value: Any) -> OnError:
    """One of ON_ERROR."""
    if not isinstance(value, str) or value not in ON_ERROR:
        near = nearest(value, ON_ERROR) if isinstance(value, str) else ""
        hint = f"; did you mean {near!r}?" if near else ""
        raise ConfigurationError(f"{option} is {show(value)}; it must be one of {', '.join(map(repr, ON_ERROR))}{hint}")
    return value  # type: ignore[return-value]


def check_signals(option: str, value: Any) -> tuple[int, ...]:
    """Signals that a program can handle, each once."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise ConfigurationError(f"{option} is {show(value)}; it must be several signals, as in (signal.SIGTERM,)")
    numbers = list(value)
    for each in numbers:
        number = as_int(each)
        if number is None or number not in signal.valid_signals() or number in _NEVER_CAUGHT:
            raise ConfigurationError(
                f"{option} holds {show(each)}; it must hold signals that a program can handle, as in (signal.SIGTERM,)"
            )
    return tuple(dict.fromkeys(map(int, numbers)))


def check_handler(option: str, value: object) -> Callable[..., object]:
    """A function of one message."""
    return check_callable(option, value, parameters="message")


def delay_ns(delay: Optional[float], delay_ms: Optional[int]) -> int:
    """The delay from one of the two arguments, in nanoseconds."""
    if (delay is None) == (delay_ms is None):
        raise UsageError("pass exactly one of delay (seconds) and delay_ms")
    if delay_ms is not None:
        return check_int("delay_ms", delay_ms, 0, MAX_TIME_MS) * 1_000_000
    return int(check_seconds("delay", delay) * 1_000_000_000)


def check_delays(delay_ms: int, max_delay_ms: int) -> None:
    """Whether the first pause is within the longest."""
    if delay_ms > max_delay_ms:
        raise ConfigurationError(
            f"delay_ms is {delay_ms} and max_delay_ms is {max_delay_ms}; the first pause must not be above the longest"
        )


@arguments
class HandlerArguments(Arguments):
    """
    The parameters of handler().

    Args:
        station_name: The station; converted to lower case.
        group: The consumer group; each message goes to one of its members.
        alias: Which client it is for, where a program has several: Django's and Flask's settings name them.
        consumer_name: Name of the group's members; "" for that of the group. Several may have the same.
        on_error, delay_ms, max_delay_ms: As of Consumer.run().
        batch_size: How many messages are fetched at once, at most, 1 to 5000.
        max_ack_time_ms: How long the function may take for a message before it is delivered again, from 1.
        max_msg_deliveries: How often a message is delivered before it is a dead letter, 1 to 10; -1 means 10.
        create_station: False: a station that does not exist is an error.
    """

    station_name: str = option(name_of("Station"))
    group: str = option(name_of("Consumer"))
    _: KW_ONLY
    alias: str = option(check_client_name, default="default")
    consumer_name: str = option(name_of("Consumer", empty_ok=True), default="")
    on_error: OnError = option(check_on_error, default="retry")
    delay_ms: int = option(int_in(0, MAX_TIME_MS), default=DELAY_MS)
    max_delay_ms: int = option(int_in(0, MAX_TIME_MS), default=MAX_DELAY_MS)
    batch_size: int = option(int_in(1, MAX_BATCH_SIZE), default=10)
    max_ack_time_ms: int = option(int_in(1, 2**31 - 1), default=30000)
    max_msg_deliveries: int = option(check_deliveries, default=2)
    create_station: bool = option(check_bool, default=True)
