"""The demo's work: produce from several threads, consume in several groups, compare."""

from __future__ import annotations

import contextlib
import dataclasses
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Callable, Optional

from memphis_sync.errors import BufferFullError, MemphisError

from ._app import leave_at_once
from ._demo_lines import BLOCKING_EVERY, Script
from ._pool import on_each

if TYPE_CHECKING:
    from memphis_sync import Item, Memphis, Message, Producer

THREADS = 4
PARTITIONS = 3
GROUPS = ("audit", "billing")
KINDS = ("lost", "duplicated", "out of order", "changed")  # of differences
HEADER = "demo-line"  # "<thread>.<number>" on each message: which line it is
_BATCH = 1000
_QUIET_S = 10.0  # when nothing arrives for this long, missing lines are lost
_AFTER_MS = 300  # how long a reader that has everything waits for messages that should not be there

Advance = Callable[[str, int], object]  # shows progress: the name of a bar, and how many more messages


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    messages: int
    size: int
    seconds: float


@dataclasses.dataclass
class Report:
    """
    What was measured and found.

    Attributes:
        rows: One for each way to produce and each group that read.
        partitions: Messages in each partition of the first and of the second station.
        counts: Differences of each kind.
        differences: One sentence for each difference between what was sent and what was read.
    """

    rows: list[Row] = dataclasses.field(default_factory=list)
    partitions: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    counts: Counter[str] = dataclasses.field(default_factory=Counter)
    differences: list[str] = dataclasses.field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        counts = {kind.replace(" ", "_"): self.counts[kind] for kind in KINDS}
        rows = [dataclasses.asdict(row) for row in self.rows]
        return {"rows": rows, "partitions": self.partitions, **counts, "differences": self.differences}


def run_demo(client: Memphis, script: Script, advance: Advance) -> Report:
    """
    Creates two stations, produces to them, reads both groups, compares, and destroys the stations.

    Raises:
        MemphisError: A message was refused, or the broker could not be reached, so there is nothing to compare.
    """
    from memphis_sync import Storage

    mark = uuid.uuid4().hex[:8]
    first, second = f"demo-{mark}", f"demo-{mark}-second"
    with ThreadPoolExecutor(THREADS, "demo") as pool:
        try:
            client.station(first, partitions_number=PARTITIONS, storage_type=Storage.MEMORY)
            client.station(second, storage_type=Storage.MEMORY)
            report = _produce_and_read(client, script, (first, second), pool, advance)
        except BaseException:  # mostly Ctrl-C
            for name in (first, second):
                with contextlib.suppress(MemphisError):  # the first error matters more
                    if client.is_connected():
                        client.destroy_station(name, 0)
            leave_at_once(client)  # ends the calls of all threads, for which the pool waits
            raise
    client.destroy_station(first)
    client.destroy_station(second)
    return report


def _produce_and_read(
    client: Memphis, script: Script, stations: tuple[str, str], pool: ThreadPoolExecutor, advance: Advance
) -> Report:
    first, second = stations
    sender = _Sender(client, script, stations, advance)
    started = time.perf_counter()
    results = on_each(pool, sender.run, range(THREADS))
    seconds = time.perf_counter() - started
    total = Row(f"produced by {THREADS} threads", script.count, script.size, seconds)
    report = Report([*_produce_rows(results), total])
    everything: list[Sequence[int]] = [range(len(part)) for part in script.parts]
    both: list[Sequence[int]] = [script.for_second_station(thread) for thread in range(THREADS)]
    readers = [_Reader(client, script, ("first", first), group, everything, advance) for group in GROUPS]
    if any(both):
        readers.append(_Reader(client, script, ("second", second), GROUPS[0], both, None))
    for reader in on_each(pool, _Reader.run, readers):
        reader.add_to(report)
    return report


class _Sender:
    """Produces the lines of all threads, with the same producers."""

    def __init__(self, client: Memphis, script: Script, stations: tuple[str, str], advance: Advance) -> None:
        self._script = script
        self._advance = advance
        self._one = client.producer(stations[0], "demo")
        self._both = client.producer(list(stations), "demo")

    def run(self, thread: int) -> dict[str, Row]:
        """Produces all stretches of a thread; returns how much each way sent, and how long it took."""
        moved: dict[str, Row] = {}
        ways = {
            "many by key": lambda numbers: self._many(thread, numbers, by_key=True),
            "many in turn": lambda numbers: self._many(thread, numbers, by_key=False),
            "mixed": lambda numbers: self._mixed(thread, numbers),
            "two stations": lambda numbers: self._two(thread, numbers),
        }
        for way, numbers in self._script.stretches(thread):
            start = time.perf_counter()
            ways[way](numbers)
            seconds = time.perf_counter() - start
            size = sum(len(self._script.parts[thread][number].data) for number in numbers)
            old = moved.get(way, Row(way, 0, 0, 0.0))
            moved[way] = Row(way, old.messages + len(numbers), old.size + size, old.seconds + seconds)
            self._advance("produced", len(numbers))
        return moved

    def _items(self, thread: int, numbers: range, *, by_key: bool) -> Iterator[Item]:
        from memphis_sync import Item

        part = self._script.parts[thread]
        for number in numbers:
            data, key = part[number]
            yield Item(data, key=key if by_key else None, headers=_headers(thread, number))

    def _many(self, thread: int, numbers: range, *, by_key: bool) -> None:
        self._one.produce_many(self._items(thread, numbers, by_key=by_key))

    def _mixed(self, thread: int, numbers: range) -> None:
        """Mostly non-blocking, with some blocking calls in between; with a key and in turn alternately."""
        part, deliveries = self._script.parts[thread], []
        for number in numbers:
            data, key = part[number]
            key_or_turn = key if number % 2 else None
            options: dict[str, Any] = {"headers": _headers(thread, number), "producer_partition_key": key_or_turn}
            if number % BLOCKING_EVERY == 0:
                self._one.produce(data, **options)
            else:
                deliveries.append(_unblocked(self._one, data, options))
        _settle(deliveries)

    def _two(self, thread: int, numbers: range) -> None:
        part = self._script.parts[thread]
        _settle(
            [_unblocked(self._both, part[number].data, {"headers": _headers(thread, number)}) for number in numbers]
        )


def _headers(thread: int, number: int) -> dict[str, str]:
    return {HEADER: f"{thread}.{number}"}


def _unblocked(producer: Producer[Any, Any], data: bytes, options: dict[str, Any]) -> Any:
    """Produces without blocking; waits for space when the queue is full."""
    while True:
        try:
            return producer.produce(data, nonblocking=True, **options)
        except BufferFullError:
            producer.flush(0.2)


def _settle(deliveries: Iterable[Any]) -> None:
    for delivery in deliveries:
        delivery.result()


def _produce_rows(results: list[dict[str, Row]]) -> list[Row]:
    """One row for each way: the messages of all threads, in the time that the slowest thread spent on them."""
    rows = []
    for way in dict.fromkeys(way for moved in results for way in moved):
        parts = [moved[way] for moved in results if way in moved]
        messages, size = sum(part.messages for part in parts), sum(part.size for part in parts)
        rows.append(Row(f"  {way}", messages, size, max(part.seconds for part in parts)))
    return rows


class _Reader:
    """One consumer group: reads until it has every line, and records each difference from what was sent."""

    def __init__(
        self,
        client: Memphis,
        script: Script,
        station: tuple[str, str],
        group: str,
        expected: Sequence[Sequence[int]],
        advance: Optional[Advance],
    ) -> None:
        self._client = client
        self._script = script
        self._label, self._station = station
        self._group = group
        self._expected = expected
        self._advance = advance
        self._left = sum(len(numbers) for numbers in expected)
        self._seen = [bytearray(len(part)) for part in script.parts]
        self._last: dict[tuple[str, int], int] = {}  # partition and thread -> number of the line read last
        self._sequences: dict[str, int] = {}  # partition -> sequence read last
        self._key_at: dict[str, str] = {}  # key -> partition, for the lines that went by key
        self._by_key = [bytearray(len(part)) for part in script.parts]
        for thread in range(len(script.parts)):
            for way, numbers in script.stretches(thread):
                if way == "many by key":
                    self._by_key[thread][numbers.start : numbers.stop] = b"\1" * len(numbers)
        self.counts: Counter[str] = Counter()
        self.size = 0
        self.seconds = 0.0
        self.kinds: Counter[str] = Counter()
        self.differences: list[str] = []

    def run(self) -> _Reader:
        """Reads to the end; returns the reader."""
        consumer = self._client.consumer(
            self._station, f"demo-{self._group}", consumer_group=self._group, batch_size=_BATCH,
            batch_max_time_to_wait_ms=_AFTER_MS, max_ack_time_ms=600_000,
        )  # fmt: skip
        start = now = time.perf_counter()
        while self._left > 0 and now - start - self.seconds < _QUIET_S:
            messages = consumer.fetch(_BATCH)
            now = time.perf_counter()
            if messages:
                self._check_all(messages)
                self.seconds = now - start
        self._check_all(consumer.fetch(_BATCH))
        consumer.destroy()
        self._find_lost()
        return self

    def _check_all(self, messages: list[Message]) -> None:
        for message in messages:
            self._check(message)
            message.ack()
        if self._advance is not None:
            self._advance(f"read by {self._group}", len(messages))

    def _check(self, message: Message) -> None:
        meta, data = message.metadata, message.data
        assert meta is not None, "messages of the demo are never dead letters"
        partition, sequence = meta.stream, meta.sequence
        self.counts[partition] += 1
        self.size += len(data)
        if sequence <= self._sequences.get(partition, 0):
            self._differs("out of order", f"sequence {sequence} of partition {partition} was read late, or twice")
        self._sequences[partition] = sequence
        thread, _, digits = (message.get_headers() or {})[HEADER].partition(".")
        part, number = int(thread), int(digits)
        line = self._script.parts[part][number]
        if data != line.data:
            self._differs("changed", f"line {number} of thread {part} was read with other bytes")
        if self._seen[part][number]:
            self._differs("duplicated", f"line {number} of thread {part} is stored twice")
            return
        self._seen[part][number] = 1
        self._left -= 1
        if number < self._last.get((partition, part), -1):
            later = f"line {number} of thread {part} is after a later one in partition {partition}"
            self._differs("out of order", later)
        self._last[partition, part] = number
        if self._by_key[part][number] and self._key_at.setdefault(line.key, partition) != partition:
            self._differs("out of order", f"key {line.key!r} is in partitions {partition} and {self._key_at[line.key]}")

    def _find_lost(self) -> None:
        for part, numbers in enumerate(self._expected):
            for number in numbers:
                if not self._seen[part][number]:
                    self._differs("lost", f"line {number} of thread {part} was not read")

    def _differs(self, kind: str, sentence: str) -> None:
        self.kinds[kind] += 1
        self.differences.append(f"{kind}: {self._station}, group {self._group}: {sentence}")

    def add_to(self, report: Report) -> None:
        """Adds what was found to the report."""
        label = f"{self._label} station read by {self._group}"
        report.rows.append(Row(label, sum(self.counts.values()), self.size, self.seconds))
        report.partitions[self._label] = [self.counts[number] for number in sorted(self.counts)]
        report.counts += self.kinds
        report.differences += self.differences
