"""
produce_many() over HTTP: several requests side by side, a bounded number of them, and what became of each message.

The messages are read on the calling thread and sent on others, several in a request where that loses nothing. Only so
many are read ahead as are under way.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Optional

from memphis_sync._protocol.json_text import JsonWriter
from memphis_sync.bulk import Failure, Item, concluded
from memphis_sync.errors import AckTimeoutError, MemphisError, ProduceError, TransportError, UsageError
from memphis_sync.http.client.calling import Caller
from memphis_sync.http.client.grouping import ARRAY, MOST_BYTES, MOST_MESSAGES, Outcome, Way, send_group, way_of
from memphis_sync.http.client.producing import Outgoing, outgoing
from memphis_sync.http.client.results import GatewayAnswer, HttpBulkResult

ACK_WAIT_S = 15.0  # a message's own limit, as with produce()
GATHER_S = 0.1  # how long a message waits for others that go with it


class _Job(NamedTuple):
    """Messages of one request: their indexes, and their outcomes when they are known."""

    indexes: list[int]
    outcomes: Future[list[Outcome]]


class _Group:
    """Messages that will go in one request."""

    def __init__(self, way: Optional[Way]) -> None:
        self.way = way
        self.indexes: list[int] = []
        self.messages: list[Outgoing] = []
        self.size = 0
        self.began_at = time.monotonic()

    def is_full(self) -> bool:
        """Whether it goes now: also when its first message has waited for a while, since the iterable is slow."""
        is_old = time.monotonic() - self.began_at > GATHER_S
        return self.way is None or is_old or len(self.messages) >= MOST_MESSAGES or self.size >= MOST_BYTES


class Sending:
    """
    One run of produce_many().

    Args:
        caller: The process's.
        station: Its name.
        writer: For dicts and lists.
        timeout_s: For all messages together; None for none.
        concurrency: How many requests may be under way.
        stops_at_failure: Whether the first failure ends the reading.
    """

    def __init__(
        self,
        caller: Caller,
        station: str,
        writer: JsonWriter,
        timeout_s: Optional[float],
        concurrency: int,
        *,
        stops_at_failure: bool,
    ) -> None:
        self._caller, self._station, self._writer = caller, station, writer
        self._timeout_s, self._concurrency, self._stops = timeout_s, concurrency, stops_at_failure
        self._started = time.monotonic()
        self._deadline = None if timeout_s is None else self._started + timeout_s
        self._jobs: deque[_Job] = deque()
        self._failed: list[Failure] = []
        self._bad: set[int] = set()
        self._delivered = self._duplicates = self._accepted = 0
        self._stopped: Optional[Exception] = None  # what keeps all others from being sent, too
        self._is_cut = False
        self._is_late = False  # a message had less time than usual, and it was not enough
        self._group: Optional[_Group] = None

    def run(self, iterable: Iterable[Any]) -> HttpBulkResult:
        """Sends everything, then waits for everything."""
        pool = ThreadPoolExecutor(self._concurrency, "memphis-http")
        try:
            try:
                self._send_all(pool, iterable)
            except Exception as exc:  # noqa: BLE001  raised again once all that was sent is settled
                self._stopped = self._stopped or exc
            while self._jobs:
                self._settle_first()
        finally:
            pool.shutdown(wait=not self._jobs, cancel_futures=True)  # an interrupt does not wait
        result = HttpBulkResult(
            self._delivered,
            self._duplicates,
            tuple(sorted(self._failed, key=lambda failure: failure.index)),
            time.monotonic() - self._started,
            self._accepted,
        )
        late_s = self._timeout_s if self._is_late or self._is_over() else None
        return concluded(result, self._stopped, self._bad, late_s, raises=self._stops, is_cut=self._is_cut)

    def _is_over(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def _send_all(self, pool: ThreadPoolExecutor, iterable: Iterable[Any]) -> None:
        try:
            self._take(pool, iterable)
        finally:
            self._send(pool)  # what was read before an error of the iterable

    def _take(self, pool: ThreadPoolExecutor, iterable: Iterable[Any]) -> None:
        for index, item in enumerate(iterable):
            try:
                message = self._checked(item)
            except UsageError:
                raise
            except Exception as exc:  # noqa: BLE001  of a bad argument, or of the item's own methods
                self._refuse(index, exc)
            else:
                is_object = isinstance(item, dict)
                self._gather(pool, index, message, way_of(self._caller.tokens.gateway, message, is_object=is_object))
            while len(self._jobs) >= 2 * self._concurrency or (self._jobs and self._jobs[0].outcomes.done()):
                self._settle_first()
            if self._is_over() or self._stopped is not None or (self._failed and self._stops):
                self._is_cut = True
                return

    def _gather(self, pool: ThreadPoolExecutor, index: int, message: Outgoing, way: Optional[Way]) -> None:
        """Adds a message to those that wait, and sends them when there are enough, or the new one goes another way."""
        if way is ARRAY and self._failed:
            way = None  # of an array that fails nobody knows which messages are stored: from now on they go alone
        if self._group is not None and self._group.way != way:
            self._send(pool)
        if self._group is None:
            self._group = _Group(way)
        self._group.indexes.append(index)
        self._group.messages.append(message)
        self._group.size += len(message.body)
        if self._group.is_full():
            self._send(pool)

    def _send(self, pool: ThreadPoolExecutor) -> None:
        group, self._group = self._group, None
        if group is not None:
            self._jobs.append(_Job(group.indexes, pool.submit(self._on_thread, group)))

    def _checked(self, item: Any) -> Outgoing:
        if isinstance(item, Item):
            partition, headers = item.partition, item.headers
            return outgoing(self._station, item.payload, self._writer, headers, item.msg_id, item.key, partition)
        return outgoing(self._station, item, self._writer)

    def _on_thread(self, group: _Group) -> list[Outcome]:
        """A request, on a thread of the pool."""
        left_s = ACK_WAIT_S if self._deadline is None else self._deadline - time.monotonic()
        if left_s <= 0 or self._stopped is not None:
            late = AckTimeoutError("there was no time left to send it", outcome="not_sent")
            return [late] * len(group.messages)
        return send_group(self._caller, group.way or ARRAY, group.messages, min(left_s, ACK_WAIT_S))

    def _settle_first(self) -> None:
        job = self._jobs[0]
        try:
            outcomes = job.outcomes.result()
        except (UsageError, TransportError) as exc:
            # Not of this message: none of them can be sent.
            self._stopped = self._stopped or exc
            error = ProduceError(str(exc), outcome="not_sent")
            error.__cause__ = exc
            outcomes = [error] * len(job.indexes)
        except MemphisError as exc:  # the gateway cannot do what its options ask for
            self._jobs.popleft()
            for index in job.indexes:
                self._refuse(index, exc)
            return
        self._jobs.popleft()
        for index, outcome in zip(job.indexes, outcomes):
            if not isinstance(outcome, GatewayAnswer):
                self._failed.append(Failure(index, self._station, outcome))
                self._is_late |= isinstance(outcome, AckTimeoutError) and outcome.timeout_s < ACK_WAIT_S
            elif outcome.is_stored:
                self._delivered += 1
                self._duplicates += outcome.duplicate
            else:
                self._accepted += 1

    def _refuse(self, index: int, exc: Exception) -> None:
        """An item that cannot be sent at all."""
        if isinstance(exc, ProduceError):
            error = exc
        else:
            error = ProduceError(str(exc) if isinstance(exc, MemphisError) else f"{type(exc).__name__}: {exc}")
            error.__cause__ = exc
        self._bad.add(index)
        self._failed.append(Failure(index, self._station, error))
