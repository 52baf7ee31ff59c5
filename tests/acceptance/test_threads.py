"""Many threads, one client: nothing lost, nothing twice, and each thread's order in each partition."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

THREADS = 16
MESSAGES = 200_000
PARTITIONS = 3


def test_sixteen_threads_mixed_two_hundred_thousand(memphis: Any, station_name: str) -> None:
    from memphis_sync import BufferFullError

    memphis.station(station_name, partitions_number=PARTITIONS)
    producer = memphis.producer(station_name, "threads")
    share, together = MESSAGES // THREADS, Barrier(THREADS)

    def work(thread: int) -> int:
        """One blocking produce in 25; keys, numbers and turns in between. Returns how many the broker confirmed."""
        together.wait(30)
        confirmed = 0
        for number in range(share):
            payload = b"%d %d" % (thread, number)
            way = number % 25
            if way == 0:
                confirmed += producer.produce(payload).sequence > 0
                continue
            options = {1: {"producer_partition_key": f"key-{thread}"}, 2: {"producer_partition_number": 1 + thread % 3}}
            while True:
                try:
                    producer.produce(payload, nonblocking=True, **options.get(way, {}))
                    break
                except BufferFullError:
                    producer.flush(1)
        return confirmed

    with ThreadPoolExecutor(THREADS) as pool:
        blocking = sum(pool.map(work, range(THREADS)))
    assert blocking == THREADS * -(-share // 25)
    assert producer.flush(60) == 0
    stats = memphis.stats()
    assert stats.delivered == stats.accepted == MESSAGES
    assert (stats.failed, stats.abandoned, stats.queued, stats.in_flight) == (0, 0, 0, 0)

    consumer = memphis.consumer(station_name, "reader", batch_size=5000, batch_max_time_to_wait_ms=5000)
    seen: set[bytes] = set()
    last: dict[tuple[str, bytes], int] = {}
    got = 0
    while got < MESSAGES and (batch := consumer.fetch(5000)):
        for message in batch:
            thread, _, number = message.data.partition(b" ")
            place = (message.metadata.stream, thread)
            assert int(number) > last.get(place, -1), f"thread {thread!r} is out of order in {place[0]}"
            last[place] = int(number)
            seen.add(message.data)
            message.ack()
        got += len(batch)
    assert got == len(seen) == MESSAGES
    assert len({stream for stream, _ in last}) == PARTITIONS


def test_twenty_producers_at_once_on_a_station_that_is_not_there(broker: Any, station_name: str) -> None:
    import memphis_sync

    together = Barrier(20)

    def work(number: int) -> Any:
        with memphis_sync.connect(broker.url, name=f"at-once-{number}") as client:
            together.wait(30)
            return client.producer(station_name, f"producer-{number}").produce(b"from %d" % number)

    with ThreadPoolExecutor(20) as pool:
        acks = list(pool.map(work, range(20)))
    assert {ack.station for ack in acks} == {station_name}
    assert len({(ack.partition, ack.sequence) for ack in acks}) == 20


def test_two_hundred_stations_made_by_eight_threads(memphis: Any, station_name: str) -> None:
    together = Barrier(8)

    def work(thread: int) -> list[str]:
        together.wait(30)
        return [
            memphis.station(f"{station_name}-{number}", partitions_number=1).name for number in range(thread, 200, 8)
        ]

    with ThreadPoolExecutor(8) as pool:
        names = [name for made in pool.map(work, range(8)) for name in made]
    assert len(set(names)) == 200
    for name in names:
        assert memphis.produce(name, "one-each", b"x").sequence == 1, name
