"""Fetching a number of messages that are known to be stored: one fetch() may bring fewer, as it promises."""

from __future__ import annotations

from typing import Any


def fetch_exactly(consumer: Any, count: int) -> list[Any]:
    """So many messages, by as many fetches as that takes, each of which waits for a minute."""
    found: list[Any] = []
    while len(found) < count:
        batch = consumer.fetch(count - len(found), timeout_s=60)
        assert batch, f"{len(found)} of {count} messages came"
        found += batch
    return found
