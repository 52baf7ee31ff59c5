"""Which partition a message goes to: by key, or by number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional, Union

from memphis_sync._core import murmur3_x86_32
from memphis_sync.errors import ConfigurationError

PARTITION_SEED = 31  # fixed by memphis.py and memphis.go; another seed would scatter the keys of existing stations


def partition_for_key(key: Union[str, bytes], partitions: Sequence[int]) -> int:
    """
    The partition that a key belongs to.

    Args:
        key: Any text (hashed as UTF-8) or bytes, also empty.
        partitions: The station's partition numbers in ascending order; at least one.

    Returns:
        ``partitions[murmur3_x86_32(key, 31) mod len(partitions)]``, the hash unsigned.

    Raises:
        ConfigurationError: The key holds a lone surrogate and has no UTF-8 form.

    Source: protocol reference 9.2: memphis.py and memphis.go; memphis.js is off by one and not followed.
    """
    if isinstance(key, str):
        try:
            key = key.encode("utf-8")
        except UnicodeEncodeError as exc:
            raise ConfigurationError(f"the partition key cannot be written as UTF-8: {exc.reason}") from exc
    return partitions[murmur3_x86_32(key, PARTITION_SEED) % len(partitions)]


def check_partition(number: int, partitions: Sequence[int], station: str) -> Optional[int]:
    """
    The partition that a number names, by the rules of the official SDKs.

    Args:
        number: One of *partitions*, which may have gaps; 0 and less: none is named.
        partitions: The station's partition numbers; empty on a station without partitions.
        station: For the error text.

    Returns:
        *number*; None when it names none, or when there is no choice: a station of one partition, or without
        partitions, takes any number.

    Raises:
        ConfigurationError: The station has no such partition; the text gives number and bounds.

    Source: protocol reference 9.3.
    """
    if number <= 0 or len(partitions) <= 1:
        return None
    last = max(partitions)
    if number > last:
        raise ConfigurationError(
            f"Partition number is out of range: {number} (station {station} has partitions 1 to {last})"
        )
    if number not in partitions:
        raise ConfigurationError(f"Partition {number} does not exist in station {station}")
    return number
