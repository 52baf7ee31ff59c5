"""
Messages that a consumer has received and not returned yet.

It uses up its ack time while it waits for a fetch. The ack time of a message that has waited for long begins anew when
it is handed out (+WPI); one whose time is nearly over is not handed out at all, for the broker delivers it again.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Callable, NamedTuple, TypeVar

from memphis_sync._base.logs import Log
from memphis_sync._base.threads import handing_over
from memphis_sync._core import RawMessage
from memphis_sync.errors import ConnectionLostError

if TYPE_CHECKING:
    from memphis_sync._data.connection import DataLink
    from memphis_sync._data.pull_subscription import GroupPartition

logger = Log("memphis_sync.link")
_M = TypeVar("_M", bound=RawMessage)

RENEW_AT, DROP_AT = 0.1, 0.8  # shares of the ack time


class Fetch(NamedTuple):
    """What one fetch() is after."""

    chosen: list[GroupPartition]
    batch: int
    deadline: float
    ahead: bool
    outage_s: float
    is_over: Callable[[], bool]

    def is_late(self) -> bool:
        """Whether its time is over, or somebody has ended it."""
        return time.monotonic() >= self.deadline or self.is_over()


class Surplus(list[_M]):
    """
    Args:
        link: The data link.
        owner: Of the messages, for log lines.
        partitions: How many the group has.
        ack_time_s: How long the broker waits for an answer to a message.
    """

    def __init__(self, link: DataLink, owner: object, partitions: int, ack_time_s: float) -> None:
        super().__init__()
        self._link = link
        self._owner = owner
        self._partitions = partitions
        self._ack_time_ns = ack_time_s * 1e9

    def count_for(self, fetch: Fetch) -> int:
        """How many messages the fetch may have."""
        if len(fetch.chosen) == self._partitions:
            return len(self)
        return sum(_is_of(message, fetch.chosen) for message in self)

    def take(self, fetch: Fetch) -> list[_M]:
        """Hands out what the fetch may have, up to its batch."""
        if len(fetch.chosen) == self._partitions:
            taken = self[: fetch.batch]
            del self[: fetch.batch]
        else:
            left: list[_M] = []
            taken = []
            for message in self:
                fits = len(taken) < fetch.batch and _is_of(message, fetch.chosen)
                (taken if fits else left).append(message)
            self[:] = left
        return self.fresh(taken)

    def fresh(self, messages: list[_M]) -> list[_M]:
        """Those of *messages* that the broker still waits for, each with most of its ack time before it."""
        if not messages or messages[0].age_ns < self._ack_time_ns * RENEW_AT:
            return messages  # the first is the oldest, up to what crossed with a withdrawal
        kept = []
        for message in messages:
            age = message.age_ns / self._ack_time_ns
            if age >= DROP_AT:
                continue
            if age >= RENEW_AT:
                with contextlib.suppress(ConnectionLostError):
                    message.renew()
            kept.append(message)
        if len(kept) < len(messages):
            with handing_over(self._link.callbacks.post):
                logger.debug("%r: %d messages were kept for too long", self._owner, len(messages) - len(kept))
        return kept


def _is_of(message: RawMessage, bindings: list[GroupPartition]) -> bool:
    stream = message.subject.rpartition(".")[0]
    return any(binding.stream == stream for binding in bindings)
