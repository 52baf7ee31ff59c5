"""The books of a fault test: what was accepted, what was reported, what is stored, and whether they agree."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Callable, Optional

import memphis_sync
from memphis_sync import BufferFullError, MemphisError

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from memphis_sync import Memphis, Producer
    from memphis_sync.broker import BrokerProcess

# What a client counts for ever: none of them may go back.
GROWING = ("accepted", "delivered", "failed", "abandoned", "buffer_full", "reconnects")
# Partition, sequence and payload of a stored message.
Stored = list[tuple[int, int, bytes]]


class Watch:
    """
    Samples a client's counters from a thread of its own, as long as the block runs.

    At each instant what was accepted is delivered, failed, abandoned, queued or in flight, and no total goes back.
    """

    def __init__(self, client: Memphis) -> None:
        self._client = client
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="test-watch", daemon=True)
        self.samples = 0
        self.broken: list[object] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self._ending.set()
        self._thread.join(10)
        if kind is None:
            assert self.samples > 0
            assert self.broken == []

    def _run(self) -> None:
        before = self._client.stats()
        while not self._ending.wait(0.002):
            now = self._client.stats()
            ended = now.delivered + now.failed + now.abandoned
            if now.accepted != ended + now.queued + now.in_flight:
                self.broken.append(now)
            if any(getattr(now, name) < getattr(before, name) for name in GROWING):
                self.broken.append((before, now))
            before = now
            self.samples += 1


class Ledger:
    """
    Produces numbered messages with several threads, and remembers all that it was told about each of them.

    Args:
        producer: Whose messages these are; two ledgers of one station need different names.
        name: First word of each payload.
        threads: So many at once, each with its own numbers from 0.
        messages: So many by each thread.
        blocking_each: Every so many-th message is produced blocking; 0 for none.
        pause_s: Between two messages of a thread.
        ack_wait_s: Deadline of each message, in seconds.
        until: Threads that have produced their messages go on with further ones until this is set.
        each: Called with the number of messages that a thread has produced, after each of them.
    """

    def __init__(
        self,
        producer: Producer,
        *,
        name: str = "m",
        threads: int = 1,
        messages: int = 1000,
        blocking_each: int = 0,
        pause_s: float = 0.0,
        ack_wait_s: float = 60,
        until: Optional[threading.Event] = None,
        each: Optional[Callable[[int], None]] = None,
    ) -> None:
        self._producer = producer
        self._name = name
        self._messages = messages
        self._blocking_each = blocking_each
        self._pause_s = pause_s
        self._ack_wait_s = ack_wait_s
        self._until = until
        self._each = each
        self.accepted: dict[bytes, Any] = {}  # payload to Delivery, PubAck or the error that a blocking call raised
        self.refused = 0
        self._failures: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._guarded, args=(number,), name=f"test-produce-{number}", daemon=True)
            for number in range(threads)
        ]

    def start(self) -> Ledger:
        for thread in self._threads:
            thread.start()
        return self

    def join(self, timeout_s: float = 60) -> Ledger:
        """Waits until everything was produced and everything accepted has an outcome."""
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0))
            assert not thread.is_alive(), "producing did not end in time"
        if self._failures:
            raise self._failures[0]
        left = self._producer.flush(max(deadline - time.monotonic(), 0.1))
        assert left == 0, f"{left} messages have no outcome"
        return self

    def run(self, timeout_s: float = 60) -> Ledger:
        return self.start().join(timeout_s)

    @property
    def is_producing(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def _guarded(self, thread: int) -> None:
        try:
            self._run(thread)
        except BaseException as exc:
            self._failures.append(exc)

    def _run(self, thread: int) -> None:
        for number in itertools.count():
            if number >= self._messages and (self._until is None or self._until.is_set()):
                return
            payload = b"%s %d %d" % (self._name.encode(), thread, number)
            if self._blocking_each and number % self._blocking_each == 0:
                try:
                    self.accepted[payload] = self._producer.produce(payload, ack_wait_sec=self._ack_wait_s)
                except memphis_sync.ProduceError as exc:
                    self.accepted[payload] = exc
            else:
                self.accepted[payload] = self._take(payload)
            if self._each is not None:
                self._each(number + 1)
            if self._pause_s:
                time.sleep(self._pause_s)

    def take_one(self) -> None:
        """Produces one more message, without blocking, on the calling thread; for a ledger without threads."""
        payload = b"%s 0 %d" % (self._name.encode(), len(self.accepted))
        self.accepted[payload] = self._take(payload)

    def _take(self, payload: bytes) -> Any:
        while True:
            try:
                return self._producer.produce(payload, nonblocking=True, ack_wait_sec=self._ack_wait_s)
            except BufferFullError:
                self.refused += 1
                time.sleep(0.002)

    # ---- comparing -------------------------------------------------------------------------------------------------

    def outcomes(self) -> dict[bytes, Any]:
        """Payload to PubAck or ProduceError; each accepted message has exactly one."""
        ended: dict[bytes, Any] = {}
        for payload, told in self.accepted.items():
            if isinstance(told, (memphis_sync.PubAck, MemphisError)):
                ended[payload] = told
            else:
                assert told.done(), f"nothing was reported about {payload!r}"
                ended[payload] = told.exception(0) or told.result(0)
        return ended

    def counts(self) -> Counter[str]:
        """How many were delivered, unknown, not_sent, rejected."""
        return Counter(
            "delivered" if isinstance(told, memphis_sync.PubAck) else told.outcome for told in self.outcomes().values()
        )

    def check(self, stored: Stored, *, duplicates: bool = False, in_order: bool = True) -> Counter[str]:
        """
        Compares the station with what was accepted and reported.

        Args:
            stored: As read_station() gives it, messages of other ledgers left out by their name.
            duplicates: Whether a message may be there twice; its first places must be in order even so.
            in_order: Whether each thread's messages must be; a frame that was damaged on its way falls behind.

        Returns:
            As counts().
        """
        places: dict[bytes, list[tuple[int, int]]] = {}
        for partition, sequence, payload in stored:
            if payload.startswith(self._name.encode() + b" "):
                places.setdefault(payload, []).append((partition, sequence))
        assert set(places) <= set(self.accepted), "the station holds what nobody produced"
        for payload, told in self.outcomes().items():
            found = places.get(payload, [])
            assert duplicates or len(found) <= 1, f"{payload!r} is stored {len(found)} times: {found}"
            if isinstance(told, memphis_sync.PubAck):
                assert found, f"{payload!r} was confirmed as {told} and is not there"
                assert (told.partition, told.sequence) in found, (
                    f"{payload!r} was confirmed as {told}, but lies at {found}"
                )
            elif told.outcome != "unknown":
                assert not found, f"{payload!r} was reported as {told.outcome} and is stored"
        if in_order:
            self._check_order(stored)
        return self.counts()

    def _check_order(self, stored: Stored) -> None:
        last: dict[tuple[int, bytes], int] = {}
        seen: set[bytes] = set()
        for partition, _, payload in stored:
            name, thread, number = payload.split(b" ")
            if name != self._name.encode() or payload in seen:
                continue
            seen.add(payload)
            place = (partition, thread)
            assert int(number) > last.get(place, -1), f"{payload!r} of thread {thread!r} comes late in {partition}"
            last[place] = int(number)


def read_station(broker: BrokerProcess, station: str, **options: object) -> Stored:
    """Everything that a station stores, partition by partition in its order, read past any proxy."""
    stored: Stored = []
    with memphis_sync.connect(broker.url, name="reader", timeout_ms=20_000, **options) as client:
        consumer = client.consumer(station, f"reader-{time.monotonic_ns()}")
        while batch := consumer.fetch(5000, timeout_s=1.0):  # a busy broker is not an empty station
            for message in batch:
                stored.append((message.partition, message.sequence, message.data))
                message.ack()
    return sorted(stored, key=lambda place: place[:2])
