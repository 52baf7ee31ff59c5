"""The demo's work: produce from several threads, consume in several groups, compare."""

from __future__ import annotations

import contextlib
import dataclasses
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Optional, Protocol

from memphis_sync.errors import BufferFullError, MemphisError

from ._app import leave_at_once
from ._demo_lines import BLOCKING_EVERY, Script

if TYPE_CHECKING:
    from memphis_sync import Item, Memphis, Message, Producer

THREADS = 4
PARTITIONS = 3
GROUPS = ("audit", "billing")
HEADER = "demo-line"  # "<thread>.<number>" on each message: which line it is
_BATCH = 1000
_QUIET_S = 10.0  # nothing comes for so long while lines are missing: they are lost
_AFTER_MS = 300  # how long a reader that has everything waits for what should not be there


class Watch(Protocol):
    """Whoever wants to know how far it is."""

    def advance(self, name: str, count: int) -> None:
        """So many more."""


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
    What came out.

    Attributes:
        rows: One for each way to produce and each group that read.
        partitions: Messages in each partition of the first and of the second station.
        differences: One sentence for each thing that is not as it went in.
    """

    rows: list[Row] = dataclasses.field(default_factory=list)
    partitions: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    lost: int = 0
    duplicated: int = 0
    out_of_order: int = 0
    changed: int = 0
    differences: list[str] = dataclasses.field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return dataclasses.asdict(self)


def run_demo(client: Memphis, script: Script, watch: Watch) -> Report:
    """
    Makes two stations, fills them, reads both groups, compares, and removes the stations.

    Raises:
        MemphisError: A message was refused, or the broker went away: then there is nothing to compare.
    """
    from memphis_sync import Storage

    mark = uuid.uuid4().hex[:8]
    report = Report()
    first, second = f"demo-{mark}", f"demo-{mark}-second"
    with ThreadPoolExecutor(THREADS, "demo") as pool:
        try:
            client.station(first, partitions_number=PARTITIONS, storage_type=Storage.MEMORY)
            client.station(second, storage_type=Storage.MEMORY)
            _produce_and_read(client, script, (first, second), pool, report, watch)
        except BaseException:  # Ctrl-C, mostly
            for name in (first, second):
                with contextlib.suppress(MemphisError):  # what was raised matters more
                    if client.is_connected():
                        client.destroy_station(name, 0)
            leave_at_once(client)  # ends the calls of all threads, which the pool waits for
            raise
    client.destroy_station(first)
    client.destroy_station(second)
    return report


def _produce_and_read(
    client: Memphis, script: Script, stations: tuple[str, str], pool: ThreadPoolExecutor, report: Report, watch: Watch
) -> None:
    first, second = stations
    sender = _Sender(client, script, stations, watch)
    started = time.perf_counter()
    results = list(pool.map(sender.run, range(THREADS)))
    seconds = time.perf_counter() - started
    report.rows += _produce_rows(results)
    report.rows.append(Row(f"produced by {THREADS} threads", script.count, script.size, seconds))
    everything: list[Sequence[int]] = [range(len(part)) for part in script.parts]
    both: list[Sequence[int]] = [script.for_second_station(thread) for thread in range(THREADS)]
    readers = [_Reader(client, script, ("first", first), group, everything, watch) for group in GROUPS]
    if any(both):
        readers.append(_Reader(client, script, ("second", second), GROUPS[0], both, None))
    for reader in pool.map(_Reader.run, readers):
        reader.add_to(report)


class _Sender:
    """Produces one thread's lines; the same producers serve all threads."""

    def __init__(self, client: Memphis, script: Script, stations: tuple[str, str], watch: Watch) -> None:
        self._script = script
        self._watch = watch
        self._one = client.producer(stations[0], "demo")
        self._both = client.producer(list(stations), "demo")

    def run(self, thread: int) -> dict[str, Row]:
        """All stretches of a thread, one way after the other; returns what each way moved and how long it took."""
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
            self._watch.advance("produced", len(numbers))
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
        """Non-blocking, with a blocking one in between now and then; keys and turns change as well."""
        part, deliveries = self._script.parts[thread], []
        for number in numbers:
            data, key = part[number]
            options: dict[str, Any] = {
                "headers": _headers(thread, number),
                "producer_partition_key": key if number % 2 else None,
            }
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
    """A non-blocking produce that waits a little, itself, when the buffer is full."""
    while True:
        try:
            return producer.produce(data, nonblocking=True, **options)
        except BufferFullError:
            producer.flush(0.2)


def _settle(deliveries: Iterable[Any]) -> None:
    for delivery in deliveries:
        delivery.result()


def _produce_rows(results: list[dict[str, Row]]) -> list[Row]:
    """One row for each way: the threads' messages, in the time that the slowest thread spent on it."""
    rows = []
    for way in dict.fromkeys(way for moved in results for way in moved):
        parts = [moved[way] for moved in results if way in moved]
        messages, size = sum(part.messages for part in parts), sum(part.size for part in parts)
        rows.append(Row(f"  {way}", messages, size, max(part.seconds for part in parts)))
    return rows


class _Reader:
    """One consumer group: reads until it has every line once, and notes what is not as it went in."""

    def __init__(
        self,
        client: Memphis,
        script: Script,
        station: tuple[str, str],
        group: str,
        expected: Sequence[Sequence[int]],
        watch: Optional[Watch],
    ) -> None:
        self._client = client
        self._script = script
        self._label, self._station = station
        self._group = group
        self._expected = expected
        self._watch = watch
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
        """Reads to the end; returns itself, for the pool."""
        consumer = self._client.consumer(
            self._station, f"demo-{self._group}", consumer_group=self._group, batch_size=_BATCH,
            batch_max_time_to_wait_ms=_AFTER_MS, max_ack_time_ms=600_000,
        )  # fmt: skip
        start = heard = time.perf_counter()
        while self._left > 0 and heard - start - self.seconds < _QUIET_S:
            messages = consumer.fetch(_BATCH)
            heard = time.perf_counter()
            if messages:
                self._take(messages)
                self.seconds = heard - start
        self._take(consumer.fetch(_BATCH))
        consumer.destroy()
        self._find_lost()
        return self

    def _take(self, messages: list[Message]) -> None:
        for message in messages:
            self._check(message)
            message.ack()
        if self._watch is not None:
            self._watch.advance(f"read by {self._group}", len(messages))

    def _check(self, message: Message) -> None:
        meta, data = message.metadata, message.data
        assert meta is not None, "nobody sends messages of the demo again"
        partition, sequence = meta.stream, meta.sequence
        self.counts[partition] += 1
        self.size += len(data)
        if sequence <= self._sequences.get(partition, 0):
            self._differs("out of order", f"sequence {sequence} of partition {partition} came late, or twice")
        self._sequences[partition] = sequence
        thread, _, digits = (message.get_headers() or {})[HEADER].partition(".")
        part, number = int(thread), int(digits)
        line = self._script.parts[part][number]
        if data != line.data:
            self._differs("changed", f"line {number} of thread {part} came back with other bytes")
        if self._seen[part][number]:
            self._differs("duplicated", f"line {number} of thread {part} is stored twice")
            return
        self._seen[part][number] = 1
        self._left -= 1
        if number < self._last.get((partition, part), -1):
            self._differs(
                "out of order", f"line {number} of thread {part} is behind a later one in partition {partition}"
            )
        self._last[partition, part] = number
        if self._by_key[part][number] and self._key_at.setdefault(line.key, partition) != partition:
            self._differs("out of order", f"key {line.key!r} is in partitions {partition} and {self._key_at[line.key]}")

    def _find_lost(self) -> None:
        for part, numbers in enumerate(self._expected):
            for number in numbers:
                if not self._seen[part][number]:
                    self._differs("lost", f"line {number} of thread {part} did not come back")

    def _differs(self, kind: str, sentence: str) -> None:
        self.kinds[kind] += 1
        self.differences.append(f"{kind}: {self._station}, group {self._group}: {sentence}")

    def add_to(self, report: Report) -> None:
        """Puts the findings into the report."""
        label = f"{self._label} station read by {self._group}"
        report.rows.append(Row(label, sum(self.counts.values()), self.size, self.seconds))
        report.partitions[self._label] = [self.counts[number] for number in sorted(self.counts)]
        report.lost += self.kinds["lost"]
        report.duplicated += self.kinds["duplicated"]
        report.out_of_order += self.kinds["out of order"]
        report.changed += self.kinds["changed"]
        report.differences += self.differences
