"""
Names of stations, producers, consumers and groups, and what they become in JetStream.

A name as a user writes it (external, lower case, dots allowed) becomes internal by turning each ``.`` into ``#``:
JetStream allows no dots in stream and consumer names. A station's partition is the stream ``<internal>$<partition>``;
``#`` and ``$`` are illegal in names, so the mapping can be undone.
"""

from __future__ import annotations

import re
from typing import Literal, Optional

from memphis_sync.errors import ConfigurationError, LocalProtocolError

Kind = Literal["Station", "Producer", "Consumer", "Schema"]

MAX_NAME_BYTES = 128
UNPARTITIONED = 0  # the partition number that stands for the one stream of a station without partitions
_ALLOWED = re.compile(r"[a-z0-9_.-]*\Z")


class NameRuleError(ConfigurationError):
    """A name that the broker's rules forbid; the text is the broker's own."""


def lower_name(kind: Kind, name: str) -> str:
    """
    Checks a name and puts it into lower case.

    Args:
        kind: What the name is for; it appears in the error text. A consumer group counts as ``Consumer``.
        name: The name as the user wrote it, in any case.

    Returns:
        The external form: lower case, dots kept.

    Raises:
        NameRuleError: The name is empty, longer than 128 bytes, has characters other than letters, digits, ``_ - .``,
            or starts or ends with one of those three; checked in this order, the text is the broker's.
    """
    lowered = name.lower()
    if not lowered:
        raise NameRuleError(f"{kind} name can not be empty")
    if len(lowered.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES:
        raise NameRuleError(f"{kind} should be under {MAX_NAME_BYTES} characters")
    if not _ALLOWED.match(lowered):
        raise NameRuleError(f"Only alphanumeric and the '_', '-', '.' characters are allowed in {kind}")
    if lowered[0] in "._-" or lowered[-1] in "._-":
        raise NameRuleError(f"{kind} name can not start or end with non alphanumeric character")
    return lowered


def internal_name(name: str) -> str:
    """The form that streams, durables and subjects use: lower case, ``#`` for each dot."""
    return name.lower().replace(".", "#")


def external_name(internal: str) -> str:
    """The form that users see: the inverse of internal_name()."""
    return internal.replace("#", ".")


def stream_name(internal_station: str, partition: int) -> str:
    """
    The JetStream stream of one partition.

    Args:
        internal_station: The station's internal name.
        partition: From 1; 0 for a station without partitions.
    """
    return internal_station if partition == UNPARTITIONED else f"{internal_station}${partition}"


def split_stream(stream: str) -> tuple[str, int]:
    """
    Undoes stream_name().

    Returns:
        The internal station name and the partition; 0 when the station has none.

    Raises:
        LocalProtocolError: What follows the ``$`` is not a partition number.
    """
    station, dollar, number = stream.rpartition("$")
    if not dollar:
        return stream, UNPARTITIONED
    if not station or not number.isascii() or not number.isdigit() or int(number) < 1:
        raise LocalProtocolError(f"{stream!r} is not the stream of a station's partition: expected <station>$<number>")
    return station, int(number)


def publish_subject(internal_station: str, partition: int, function_id: Optional[int] = None) -> str:
    """
    The subject that messages of a partition are published on.

    Args:
        internal_station: The station's internal name.
        partition: From 1; 0 for a station without partitions.
        function_id: The first function of the partition, when it has one: messages then go through it.
    """
    stream = stream_name(internal_station, partition)
    return f"{stream}.final" if function_id is None else f"{stream}.functions.{function_id}"


def durable_name(group: str) -> str:
    """The durable consumer of a group, the same on each partition: the internal form of the group's name."""
    return internal_name(group)
