"""Fetches one after the other hand out a partition's messages in its order, whatever crossed with a withdrawal."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memphis_sync import Memphis


def test_short_fetches_beside_a_producer_keep_the_order(memphis: Memphis, station_name: str) -> None:
    """No message is given to a fetch that has ended: each comes once, in its order, as delivered for the first time."""
    messages = 20_000
    producer = memphis.producer(station_name, "p")
    consumer = memphis.consumer(station_name, "c")

    def produce() -> None:
        for number in range(messages):
            producer.produce(b"%d" % number, nonblocking=True)
            if number % 20 == 0:
                time.sleep(0.0005)

    got: list[int] = []
    times: set[int] = set()
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(produce)
        deadline = time.monotonic() + 30
        while len(got) < messages and time.monotonic() < deadline:
            for message in consumer.fetch(500, timeout_s=0.1):
                got.append(int(message.data))
                times.add(message.metadata.delivered)
                message.ack()
        done.result(30)
    assert got == list(range(messages))
    assert times == {1}


def test_what_one_partition_left_over_does_not_hide_another(memphis: Memphis, station_name: str) -> None:
    memphis.station(station_name, partitions_number=3)
    producer = memphis.producer(station_name, "p")
    consumer = memphis.consumer(station_name, "c")
    with ThreadPoolExecutor(1) as pool:
        for _ in range(15):
            waiting = pool.submit(consumer.fetch, 1, timeout_s=5)
            time.sleep(0.01)
            for partition in (1, 2, 3):
                producer.produce(b"m", nonblocking=True, producer_partition_number=partition)
            (first,) = waiting.result(10)
            assert producer.flush(10) == 0
            first.ack()
            for partition in sorted({1, 2, 3} - {first.partition}, reverse=True):
                found = consumer.fetch(1, consumer_partition_number=partition, timeout_s=2)
                assert [message.partition for message in found] == [partition]
                found[0].ack()
