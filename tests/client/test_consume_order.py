"""Fetches one after the other hand out a partition's messages in its order, whatever crossed with a withdrawal."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor, TimeoutError as NotDoneError
from typing import TYPE_CHECKING, Callable

import pytest

import memphis_sync

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fix_proxy import Pair, Proxy

    from memphis_sync import Memphis
    from memphis_sync.broker import BrokerProcess


class Passage:
    """A proxy that keeps what the client writes, and holds what the broker says while ``is_open`` is not set."""

    def __init__(self, proxy: Proxy) -> None:
        self.is_open = threading.Event()
        self.is_open.set()
        self.written = b""
        self.url = f"memphis://root:memphis@{proxy.host}:{proxy.port}"
        proxy.alter = self._pass

    def _pass(self, _: Pair, to_server: bool, data: bytes) -> bytes:
        if to_server:
            self.written += data
        else:
            assert self.is_open.wait(30)
        return data


@pytest.fixture
def passage(broker: BrokerProcess, proxy_to: Callable[[str, int], Proxy]) -> Iterator[Passage]:
    passage = Passage(proxy_to(broker.host, broker.port))
    yield passage
    passage.is_open.set()


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


@pytest.mark.parametrize("partitions", [1, 3])
@pytest.mark.parametrize("wait_s", [0.001, 0.05, 0.3])
def test_the_broker_ends_what_a_fetch_has_waited_for_in_vain(
    passage: Passage, station_name: str, partitions: int, wait_s: float
) -> None:
    """A message that comes at that moment finds its subscription: it is not delivered in vain, and out of its order."""
    with memphis_sync.connect(passage.url) as client:
        client.station(station_name, partitions_number=partitions)
        consumer = client.consumer(station_name, "c")
        for _ in range(3):
            assert consumer.fetch(10, timeout_s=wait_s) == []
        assert b"MSG.NEXT" in passage.written
        assert b"UNSUB" not in passage.written


@pytest.mark.parametrize("has_waited", [True, False])
def test_a_fetch_takes_all_that_came_since_the_one_before_it_ended(
    memphis: Memphis, passage: Passage, station_name: str, has_waited: bool
) -> None:
    """It waits for the end of what that one had asked for, and asks for its whole batch then."""
    producer = memphis.producer(station_name, "p")
    with memphis_sync.connect(passage.url) as client, ThreadPoolExecutor(1) as pool:
        consumer = client.consumer(station_name, "c")
        if has_waited:
            waiting = pool.submit(consumer.fetch, 10, timeout_s=1)
            with pytest.raises(NotDoneError):
                waiting.result(0.3)  # it has been told that nothing is there, and waits for the first message
            passage.is_open.clear()
            assert waiting.result(20) == []
        else:
            passage.is_open.clear()
            assert consumer.fetch(10, timeout_s=0.1) == []
        waiting = pool.submit(consumer.fetch, 10, timeout_s=20)
        with pytest.raises(NotDoneError):
            waiting.result(0.5)
        for number in range(3):
            producer.produce(b"%d" % number)
        passage.is_open.set()
        found = waiting.result(20)
        assert [(message.data, message.metadata.delivered) for message in found] == [(b"0", 1), (b"1", 1), (b"2", 1)]


def test_a_fetch_of_more_than_one_request_lets_the_last_one_end(passage: Passage, station_name: str) -> None:
    """The broker is asked again every two seconds."""
    with memphis_sync.connect(passage.url) as client:
        consumer = client.consumer(station_name, "c")  # one that nobody holds would withdraw what it has asked for
        assert consumer.fetch(10, timeout_s=2.1) == []
        assert b"UNSUB" not in passage.written


def test_what_comes_with_the_end_of_a_fetch_is_the_first_of_the_next(
    memphis: Memphis, passage: Passage, station_name: str
) -> None:
    producer = memphis.producer(station_name, "p")
    with memphis_sync.connect(passage.url) as client, ThreadPoolExecutor(1) as pool:
        consumer = client.consumer(station_name, "c")
        waiting = pool.submit(consumer.fetch, 10, timeout_s=1)
        with pytest.raises(NotDoneError):
            waiting.result(0.3)
        passage.is_open.clear()
        for number in range(3):
            producer.produce(b"%d" % number)  # the first goes to the request that is open, and is held on its way
        assert waiting.result(20) == []
        passage.is_open.set()
        found = []
        while len(found) < 3:
            found += consumer.fetch(10, timeout_s=20)
        assert [(message.data, message.metadata.delivered) for message in found] == [(b"0", 1), (b"1", 1), (b"2", 1)]
