"""What bench measures: clients that produce, that consume, or that wait for messages of their own."""

from __future__ import annotations

import contextlib
import itertools
import os
import platform
import statistics
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

from memphis_sync._core import IMPL
from memphis_sync.errors import MemphisError, ProduceError
from memphis_sync.types import VERSION

from ._app import Settings, leave_at_once
from ._pool import on_each

if TYPE_CHECKING:
    from memphis_sync import Memphis, Producer, Storage

_BATCH = 500  # messages of a fetch
_QUIET_S = 15.0  # when nothing comes for this long, what is missing is lost
_WAIT_S = 0.5  # of a fetch, after which it is looked whether the others have the rest
_PERCENTILES = (50, 90, 99)


@dataclass(frozen=True)
class Plan:
    """What is measured; see the options of the command."""

    msgs: int
    size: int
    clients: int
    storage: Storage
    is_blocking: bool = False

    def share(self, client: int) -> int:
        """How many messages are a client's, from 0."""
        return self.msgs // self.clients + (client < self.msgs % self.clients)


@dataclass(frozen=True)
class Rate:
    """What one client did, or all of them: messages that were stored or consumed, those that were not, seconds."""

    client: str
    messages: int
    failed: int
    seconds: float
    size: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON and CSV."""
        rate = self.messages / self.seconds if self.seconds else 0.0
        return {
            "client": self.client,
            "messages": self.messages,
            "failed": self.failed,
            "seconds": round(self.seconds, 4),
            "messages_per_s": round(rate),
            "mb_per_s": round(rate * self.size / 1e6, 2),
        }


@dataclass(frozen=True)
class Latency:
    """How long messages took, in microseconds."""

    client: str
    what: str
    messages: int
    us: Sequence[float]

    def as_dict(self) -> dict[str, Any]:
        """For JSON and CSV."""
        cuts = statistics.quantiles(self.us, n=100, method="inclusive") if len(self.us) > 1 else list(self.us) * 99
        figures = {f"p{each}_us": round(cuts[each - 1], 1) for each in _PERCENTILES}
        return {
            "client": self.client,
            "what": self.what,
            "messages": self.messages,
            **figures,
            "max_us": round(max(self.us), 1),
        }


Work = Callable[["Run"], list[Any]]


class Run:
    """Clients and stations of one measurement; both end with it."""

    def __init__(self, settings: Settings, plan: Plan) -> None:
        self._settings = settings
        self.plan = plan
        self.payload = os.urandom(plan.size)
        self.clients: list[Memphis] = []
        self._mark = uuid.uuid4().hex[:12]
        self._stations: list[str] = []
        self.pool = ThreadPoolExecutor(plan.clients, "bench")

    def station(self, number: int = 1) -> str:
        """Creates a station of the measurement's own."""
        name = f"memphis-sync-bench-{self._mark}-{number}"
        self._stations.append(name)
        self.clients[0].station(name, storage_type=self.plan.storage)
        return name

    def measure(self, work: Work) -> list[Any]:
        """Connects, does the work, and destroys the stations, also after Ctrl-C."""
        with self.pool:
            try:
                for number in range(1, self.plan.clients + 1):
                    self.clients.append(self._settings.connect(f"bench-{number}"))
                rows = work(self)
            except BaseException:  # mostly Ctrl-C
                self._destroy(0)
                for client in self.clients:
                    leave_at_once(client)  # ends the calls of all threads, for which the pool waits
                raise
        self._destroy(1)
        for client in self.clients:
            client.close()
        return rows

    def _destroy(self, retries: int) -> None:
        for name in self._stations:
            with contextlib.suppress(MemphisError):  # the figures, or the first error, matter more
                if self.clients[0].is_connected():
                    self.clients[0].destroy_station(name, retries)

    def on_each(self, work: Callable[[int], Any]) -> list[Any]:
        """The work of each client, by number from 0, in a thread each."""
        return on_each(self.pool, work, range(self.plan.clients))


def produce(run: Run) -> list[Rate]:
    """Each client produces its share."""
    station, plan = run.station(), run.plan
    producers = [client.producer(station, "bench") for client in run.clients]

    def work(number: int) -> Rate:
        share, producer = plan.share(number), producers[number]
        started = time.perf_counter()
        if plan.is_blocking:
            stored = _one_by_one(producer, run.payload, share)
        else:
            stored = producer.produce_many(itertools.repeat(run.payload, share), on_error="collect").delivered
        return Rate(str(number + 1), stored, share - stored, time.perf_counter() - started, plan.size)

    return _with_total(run, work)


def _one_by_one(producer: Producer, payload: bytes, count: int) -> int:
    """Produces blocking; gives how many were stored before the first that was not."""
    for stored in range(count):
        try:
            producer.produce(payload)
        except ProduceError:
            return stored
    return count


def consume(run: Run) -> list[Rate]:
    """The station is filled, and then all clients, as one group, consume and acknowledge it."""
    station, plan = run.station(), run.plan
    run.clients[0].producer(station, "bench").produce_many(itertools.repeat(run.payload, plan.msgs))
    consumers = [
        client.consumer(station, f"bench-{number}", "bench", batch_size=_BATCH, max_ack_time_ms=600_000)
        for number, client in enumerate(run.clients)
    ]
    counts = [0] * plan.clients

    def work(number: int) -> Rate:
        consumer, started = consumers[number], time.perf_counter()
        last = started
        while sum(counts) < plan.msgs and time.perf_counter() - last < _QUIET_S:
            messages = consumer.fetch(_BATCH, timeout_s=_WAIT_S)
            for message in messages:
                message.ack()
            if messages:
                counts[number] += len(messages)
                last = time.perf_counter()
        return Rate(str(number + 1), counts[number], 0, max(last - started, 0.0), plan.size)

    rows = _with_total(run, work)
    missing = plan.msgs - rows[-1].messages
    return [*rows[:-1], Rate("all", rows[-1].messages, missing, rows[-1].seconds, plan.size)]


def wait(run: Run) -> list[Latency]:
    """Each client produces a message and fetches it, and then the next one, in a station of its own."""
    plan = run.plan
    stations = [run.station(number) for number in range(1, plan.clients + 1)]
    pairs = [
        (client.producer(station, "bench"), client.consumer(station, "bench"))
        for client, station in zip(run.clients, stations)
    ]
    for _, consumer in pairs:
        consumer.fetch(1, timeout_s=0)  # opens its subscription

    def work(number: int) -> list[Latency]:
        producer, consumer = pairs[number]
        stored, received = [], []
        for _ in range(plan.share(number)):
            before = time.perf_counter()
            if plan.is_blocking:
                producer.produce(run.payload)
                stored.append((time.perf_counter() - before) * 1e6)
            else:
                producer.produce(run.payload, nonblocking=True)
            messages = consumer.fetch(1, timeout_s=_QUIET_S)
            received.append((time.perf_counter() - before) * 1e6)
            if not messages:
                raise MemphisError(f"a message was produced, and did not come back in {_QUIET_S:g} s")
            messages[0].ack()
        name = str(number + 1)
        rows = [Latency(name, "stored", len(stored), stored)] if stored else []
        return [*rows, Latency(name, "received", len(received), received)] if received else rows

    rows: list[Latency] = [row for each in run.on_each(work) for row in each]
    for what in ("stored", "received") if plan.clients > 1 else ():
        all_us = [us for row in rows if row.what == what for us in row.us]
        if all_us:
            rows.append(Latency("all", what, len(all_us), all_us))
    return rows


def _with_total(run: Run, work: Callable[[int], Rate]) -> list[Rate]:
    started = time.perf_counter()
    rows: list[Rate] = run.on_each(work)
    seconds = max([row.seconds for row in rows], default=time.perf_counter() - started)
    messages, failed = sum(row.messages for row in rows), sum(row.failed for row in rows)
    return [*rows, Rate("all", messages, failed, seconds, run.plan.size)]


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "memphis_sync": f"{VERSION} ({IMPL})",
    }


def _cpu() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
