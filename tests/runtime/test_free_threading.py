"""
CPython without the GIL: importing the package does not bring it back, and threads may share a client.

Runs where the tests themselves run without the GIL (3.13t, 3.14t); elsewhere it is reported as missing.
"""

from __future__ import annotations

import collections
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import memphis_sync

if getattr(sys, "_is_gil_enabled", lambda: True)():
    pytest.skip("missing: this is not a free-threaded Python, so nothing is known of one", allow_module_level=True)

PRODUCERS, CONSUMERS, EACH = 4, 4, 1000


def test_importing_it_leaves_the_gil_off() -> None:
    assert memphis_sync._core.IMPL == "cython"
    assert not sys._is_gil_enabled()


def test_threads_share_a_client_a_producer_and_a_consumer(broker: Any, station_name: str) -> None:
    got: collections.Counter[bytes] = collections.Counter()
    counting, is_done = threading.Lock(), threading.Event()

    with memphis_sync.connect(broker.url) as client:
        client.station(station_name, partitions_number=3)
        producer = client.producer(station_name, "p")
        consumer = client.consumer(station_name, "c", max_ack_time_ms=120_000)

        def produce(thread: int) -> None:
            deliveries = []
            for number in range(EACH):
                data = b"%d-%d" % (thread, number)
                if number % 50 == 0:
                    producer.produce(data)
                elif number % 7 == 0:
                    deliveries.append(client.produce(station_name, "kept", data, nonblocking=True))
                else:
                    deliveries.append(producer.produce(data, nonblocking=True))
            assert all(delivery.result(60) for delivery in deliveries)

        def consume() -> None:
            while not is_done.is_set():
                for message in consumer.fetch(100, timeout_s=0.5):
                    with counting:
                        got[bytes(message.data)] += 1
                    message.ack()
                if len(got) == PRODUCERS * EACH:
                    is_done.set()

        with ThreadPoolExecutor(PRODUCERS + CONSUMERS) as pool:
            work = [pool.submit(produce, number) for number in range(PRODUCERS)]
            work += [pool.submit(consume) for _ in range(CONSUMERS)]
        assert [future.exception() for future in work] == [None] * len(work)
        stats = client.stats()
    assert (len(got), sum(got.values())) == (PRODUCERS * EACH, PRODUCERS * EACH)
    assert (stats.accepted, stats.delivered, stats.failed) == (PRODUCERS * EACH, PRODUCERS * EACH, 0)
    assert not sys._is_gil_enabled()


def test_threads_that_misuse_a_parser_get_errors_and_no_crash() -> None:
    parser = memphis_sync._core.Parser()
    frames = b"MSG a 1 5\r\nhello\r\nPING\r\n" * 50

    def feed(number: int) -> None:
        for at in range(0, 20 * len(frames), 7):
            try:
                parser.feed((frames * 2)[at % len(frames) :][:7])
            except memphis_sync.MemphisError:
                parser.reset()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(feed, range(8))) == [None] * 8
