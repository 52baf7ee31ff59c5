"""Servers of a cluster end while a program produces and consumes: nothing fails, is lost or doubled."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Callable

import pytest

import memphis_sync
from memphis_sync import AckTimeoutError, BufferFullError, StationGoneError

if TYPE_CHECKING:
    from fix_cluster import Cluster, Node
    from typing_extensions import Self

PARTITIONS = 3
# Enough to go on for some seconds around the end of a server; as many as the environment says.
MESSAGES = int(os.environ.get("CLUSTER_MESSAGES", "6000"))


class Producing:
    """A thread that produces numbers to all partitions in turn, not faster than a cluster stores them."""

    def __init__(self, producer: Any, count: int) -> None:
        self.deliveries: list[Any] = []
        self._producer, self._count = producer, count
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()

    def _run(self) -> None:
        for number in range(self._count):
            partition = number % PARTITIONS + 1
            while True:
                try:
                    delivery = self._producer.produce(
                        b"%d" % number, nonblocking=True, producer_partition_number=partition, ack_wait_sec=120
                    )
                    break
                except BufferFullError:
                    self.deliveries[-1].exception()
            self.deliveries.append(delivery)
            if number % 100 == 0:
                memphis_sync.wait(self.deliveries[-1000:-900], timeout_s=0.05)  # a pace, not a condition


def read_back(consumer: Any, count: int) -> list[list[int]]:
    """What the station holds, a list a partition in its order."""
    found: list[list[int]] = [[] for _ in range(PARTITIONS)]
    while sum(map(len, found)) < count:
        batch = consumer.fetch(500, timeout_s=60)
        assert batch, f"{sum(map(len, found))} of {count} messages came"
        for message in batch:
            found[message.partition - 1].append(int(message.data))
            message.ack()
    return found


def check_complete(found: list[list[int]], count: int, *, in_order: bool = True) -> None:
    counts = Counter(number for numbers in found for number in numbers)
    assert {number: times for number, times in counts.items() if times > 1} == {}
    assert set(counts) == set(range(count))
    for numbers in found:
        assert not in_order or numbers == sorted(numbers)


def leader_elsewhere(cluster: Cluster, memphis: Any) -> Node:
    """The leader of a partition on another server than the client's own."""
    own = cluster.node_of(memphis)
    leaders = [cluster.leader_of(memphis, f"orders${number + 1}") for number in range(PARTITIONS)]
    return next((node for node in leaders if node is not own), own)


@pytest.mark.slow
@pytest.mark.parametrize("with_signal", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "ended"])
@pytest.mark.parametrize(
    "victim", [leader_elsewhere, lambda cluster, memphis: cluster.node_of(memphis)], ids=["leader", "own"]
)
def test_no_message_fails_when_a_server_ends(
    cluster: Cluster, until, victim: Callable[..., Node], with_signal: int
) -> None:
    with memphis_sync.connect(cluster.url) as memphis:
        memphis.station("orders", partitions_number=PARTITIONS, replicas=3)
        consumer = memphis.consumer("orders", "reader")
        producer = memphis.producer("orders", "p")
        with Producing(producer, MESSAGES) as producing:
            until(lambda: memphis.stats().delivered > MESSAGES // 6)
            victim(cluster, memphis).end(with_signal)
        errors = [delivery.exception(120) for delivery in producing.deliveries]
        assert [error for error in errors if error is not None] == []
        # A leader that ends in order says nothing about what it does not store any more, while the next one stores.
        check_complete(read_back(consumer, MESSAGES), MESSAGES, in_order=with_signal == signal.SIGKILL)


@pytest.mark.slow
def test_blocking_producers_outlive_a_leader_that_took_their_messages_along(cluster: Cluster, until) -> None:
    with memphis_sync.connect(cluster.url) as memphis:
        memphis.station("orders", partitions_number=PARTITIONS, replicas=3)
        producer = memphis.producer("orders", "p")
        stored, errors, ended = [], [], threading.Event()

        def produce() -> None:
            while not ended.is_set():
                try:
                    stored.append(producer.produce(b"m", ack_wait_sec=120))
                except memphis_sync.MemphisError as exc:
                    errors.append(exc)

        threads = [threading.Thread(target=produce) for _ in range(4)]
        for thread in threads:
            thread.start()
        until(lambda: len(stored) > 100)
        leader_elsewhere(cluster, memphis).end()
        # Nobody produces anything else now: each thread waits for a message of its own until it is stored.
        after = len(stored) + 1000
        until(lambda: len(stored) > after or errors, limit_s=120)
        ended.set()
        for thread in threads:
            thread.join()
        assert errors == []
        assert len({(ack.partition, ack.sequence) for ack in stored}) == len(stored)


def test_what_a_group_with_replicas_was_given_is_not_lost_on_its_way(cluster: Cluster, caplog) -> None:
    with memphis_sync.connect(cluster.url) as memphis:
        memphis.station("orders", partitions_number=PARTITIONS, replicas=3)
        memphis.producer("orders", "p").produce_many(
            memphis_sync.Item(b"%d" % number, partition=number % PARTITIONS + 1) for number in range(3000)
        )
        consumer = memphis.consumer("orders", "reader", max_ack_time_ms=60_000)
        found: list[list[int]] = [[] for _ in range(PARTITIONS)]
        sizes = iter([1, 2, 37, 500] * 1000)
        while sum(map(len, found)) < 3000:
            for message in consumer.fetch(next(sizes), timeout_s=30):
                assert message.delivered == 1
                found[message.partition - 1].append(int(message.data))
                message.ack()
        check_complete(found, 3000)
        assert "had not asked for" not in caplog.text


def test_a_station_that_was_destroyed_is_told_from_one_without_a_leader(cluster: Cluster) -> None:
    with memphis_sync.connect(cluster.url) as memphis:
        memphis.station("orders", partitions_number=PARTITIONS, replicas=3)
        producer = memphis.producer("orders", "p")
        producer.produce(b"before")
        with memphis_sync.connect(cluster.url) as other:
            other.station("orders").destroy()
        with pytest.raises(StationGoneError, match="is not stored"):
            producer.produce(b"m", ack_wait_sec=120)


@pytest.mark.slow
def test_without_a_majority_messages_wait_for_it_or_for_their_deadlines(cluster: Cluster) -> None:
    with memphis_sync.connect(cluster.url) as memphis:
        memphis.station("orders", partitions_number=PARTITIONS, replicas=3)
        producer = memphis.producer("orders", "p")
        own = cluster.node_of(memphis)
        led_elsewhere = next(n for n in range(1, 4) if cluster.leader_of(memphis, f"orders${n}") is not own)
        others = [node for node in cluster.nodes if node is not own]
        for node in others:
            node.end()
        waiting = [
            producer.produce(
                b"%d" % number, nonblocking=True, producer_partition_number=led_elsewhere, ack_wait_sec=300
            )
            for number in range(100)
        ]
        with pytest.raises(AckTimeoutError):  # and no StationGoneError: nobody can tell that
            producer.produce(b"short", producer_partition_number=led_elsewhere, ack_wait_sec=3)
        for node in others:
            node.start()
        assert [delivery.exception(120) for delivery in waiting] == [None] * 100
        sequences = [delivery.result(0).sequence for delivery in waiting]
        assert sequences == sorted(sequences)


@pytest.mark.slow
def test_a_control_plane_waits_for_servers_that_come_later(cluster: Cluster, until) -> None:
    cluster.broker.stop()
    for node in cluster.nodes[1:]:
        node.end()
    broker = cluster.new_broker()
    with ThreadPoolExecutor(1) as pool:
        started = pool.submit(broker.start)
        try:
            until(lambda: "does not answer yet" in broker.output(), limit_s=60)
            assert not started.done()
            for node in cluster.nodes[1:]:
                node.start()
            started.result(120)
            with memphis_sync.connect(cluster.url) as memphis:
                assert memphis.produce("orders", "p", b"m").sequence == 1
        finally:
            broker.stop()
