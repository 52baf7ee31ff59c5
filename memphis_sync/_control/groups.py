"""JetStream's information about a station's partitions and about a consumer group."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from memphis_sync._control.api import last_sequence
from memphis_sync._control.connection import ControlLink
from memphis_sync.errors import MemphisError

_AT_ONCE = 100  # questions on their way at the same time


class GroupProgress(NamedTuple):
    """
    How far a consumer group is in one partition.

    Attributes:
        delivered: Highest sequence that a member was given.
        acked: All sequences up to this one are acknowledged.
        pending: How many messages no member was given yet.
        unanswered: How many were given to members and not acknowledged.
    """

    delivered: int
    acked: int
    pending: int
    unanswered: int


async def last_sequences(control: ControlLink, streams: Sequence[str], timeout_s: float) -> dict[str, int]:
    """
    The last sequence of each stream; 0 when it never held a message.

    Raises:
        StationNotFoundError: A stream is gone.
        MemphisError: Else as ControlLink.js_api().
    """
    found = await _ask_each(control, [f"STREAM.INFO.{stream}" for stream in streams], timeout_s)
    return {stream: last_sequence(info) for stream, info in zip(streams, found)}


async def id_windows(control: ControlLink, streams: Sequence[str], timeout_s: float) -> dict[str, float]:
    """How long each stream remembers message ids, in seconds; without those that are gone or do not answer."""
    deadline = time.monotonic() + timeout_s
    found: dict[str, float] = {}
    for stream in streams:
        with contextlib.suppress(MemphisError):
            info = await control.js_api(f"STREAM.INFO.{stream}", None, max(0.001, deadline - time.monotonic()))
            found[stream] = info["config"].get("duplicate_window", 0) / 1e9
    return found


async def group_progress(
    control: ControlLink, durables: Sequence[tuple[str, str]], timeout_s: float
) -> dict[str, GroupProgress]:
    """
    How far a group is, by stream; *durables* are pairs of a stream and the group's durable on it.

    Raises:
        StationNotFoundError: A stream or durable is gone.
        MemphisError: Else as ControlLink.js_api().
    """
    calls = [f"CONSUMER.INFO.{stream}.{durable}" for stream, durable in durables]
    found = await _ask_each(control, calls, timeout_s)
    return {
        stream: GroupProgress(
            int(info.get("delivered", {}).get("stream_seq", 0)),
            int(info.get("ack_floor", {}).get("stream_seq", 0)),
            int(info.get("num_pending", 0)),
            int(info.get("num_ack_pending", 0)),
        )
        for (stream, _), info in zip(durables, found)
    }


async def _ask_each(control: ControlLink, calls: Sequence[str], timeout_s: float) -> list[dict[str, Any]]:
    """JetStream's answers to several calls, some at once."""
    deadline = time.monotonic() + timeout_s
    found: list[dict[str, Any]] = []
    for at in range(0, len(calls), _AT_ONCE):
        left_s = max(0.001, deadline - time.monotonic())
        found += await asyncio.gather(*(control.js_api(call, None, left_s) for call in calls[at : at + _AT_ONCE]))
    return found
