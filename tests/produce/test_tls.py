"""Producing under TLS: what holds on a plain link holds here, through cuts, stalls and odd pieces."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

import pytest

import memphis_sync
from memphis_sync.errors import AckTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fix_proxy import Proxy
    from fix_tls import Authority

    from memphis_sync import Memphis
    from memphis_sync.broker import BrokerProcess


@pytest.fixture
def through_proxy(
    tls_broker: BrokerProcess, authority: Authority, proxy_to: Callable[[str, int], Proxy]
) -> Iterator[Callable[..., tuple[Memphis, Proxy]]]:
    """As the fixture of this name beside this module, with TLS from end to end."""
    clients: list[Memphis] = []

    def make(**options: object) -> tuple[Memphis, Proxy]:
        proxy = proxy_to(tls_broker.host, tls_broker.port)
        options = {"reconnect_interval_ms": 20, "ca_file": authority.file, "password": tls_broker.password, **options}
        clients.append(memphis_sync.connect(proxy.host, tls_broker.username, port=proxy.port, **options))
        return clients[-1], proxy

    yield make
    for client in clients:
        client.close(timeout_s=1.0)


@pytest.fixture
def holds(tls_broker: BrokerProcess, authority: Authority) -> Iterator[Callable[[str], list[bytes]]]:
    """``holds(station)``: the payloads that its one partition stores, in order."""
    groups = iter(range(100))
    with memphis_sync.connect(tls_broker.url, name="reader", ca_file=authority.file) as client:

        def read(station: str) -> list[bytes]:
            consumer = client.consumer(station, f"reader-{next(groups)}")
            found: list[bytes] = []
            while batch := consumer.fetch(1000, timeout_s=0.3):
                for message in batch:
                    found.append(message.data)
                    message.ack()
            return found

        yield read


def test_cuts_lose_nothing_and_store_nothing_twice(through_proxy, station_name, holds, until) -> None:
    memphis, proxy = through_proxy()
    producer = memphis.producer(station_name, "p")
    deliveries = []
    for i in range(20_000):
        deliveries.append(producer.produce(b"%d" % i, nonblocking=True))
        if i % 4000 == 2000:
            proxy.cut()
        if i % 4000 == 3999:
            until(lambda cuts=i // 4000 + 1: memphis.stats().reconnects >= cuts)
    assert producer.flush(30) == 0
    assert [delivery.exception() for delivery in deliveries if delivery.exception()] == []
    assert holds(station_name) == [b"%d" % i for i in range(20_000)]
    stats = memphis.stats()
    assert stats.reconnects >= 5
    assert (stats.delivered, stats.failed, stats.queued, stats.in_flight) == (20_000, 0, 0, 0)


def test_large_messages_among_small_ones(through_proxy, station_name, holds) -> None:
    memphis, _ = through_proxy()
    producer = memphis.producer(station_name, "p")
    payloads = [bytes([i]) * size for i, size in enumerate((7_000_000, 1, 0, 300_000, 16_384, 16_385, 7_000_000))]
    sequences = [producer.produce(payload).sequence for payload in payloads[:4]]
    assert sequences == [1, 2, 3, 4]
    for payload in payloads[4:]:
        producer.produce(payload, nonblocking=True)
    assert producer.flush(20) == 0
    assert holds(station_name) == payloads


@pytest.mark.parametrize("chunk", [1, 7])
def test_records_that_come_in_pieces(through_proxy, station_name, holds, chunk) -> None:
    memphis, proxy = through_proxy(timeout_ms=10_000)
    proxy.chunk = chunk
    producer = memphis.producer(station_name, "p")
    sent = [b"%d" % i for i in range(300)]
    for payload in sent:
        producer.produce(payload, nonblocking=True)
    assert producer.flush(20) == 0
    assert holds(station_name) == sent


@pytest.mark.timing
def test_readers_and_writers_do_not_starve_each_other(through_proxy, station_name) -> None:
    """Bulk produce, blocking produce and consume at once, on one link."""
    memphis, _ = through_proxy()
    memphis.station(station_name)
    bulk, urgent = memphis.producer(station_name, "bulk"), memphis.producer(station_name, "urgent")
    consumer = memphis.consumer(station_name, "g")
    over = threading.Event()
    took: list[float] = []
    seen = 0

    def produce() -> None:
        while not over.is_set():
            started = time.perf_counter()
            urgent.produce(b"u" * 1000)
            took.append(time.perf_counter() - started)

    thread = threading.Thread(target=produce)
    thread.start()
    for _ in range(30):
        for _ in range(1000):
            bulk.produce(b"b" * 500, nonblocking=True)
        for message in consumer.fetch(1000, timeout_s=5):
            message.ack()
            seen += 1
    over.set()
    thread.join(10)
    assert bulk.flush(20) == 0
    assert seen > 1000
    assert len(took) > 10
    assert sorted(took)[len(took) // 2] < 1.0


def test_deadlines_end_messages_while_the_socket_is_full(through_proxy, station_name) -> None:
    memphis, proxy = through_proxy()
    producer = memphis.producer(station_name, "p")
    producer.produce(b"before")
    proxy.stall()
    started = time.monotonic()
    large = [producer.produce(b"x" * 4_000_000, nonblocking=True, ack_wait_sec=1) for _ in range(4)]
    for delivery in large:
        assert isinstance(delivery.exception(5), AckTimeoutError)
    assert 0.9 < time.monotonic() - started < 4
    proxy.go_on()
    assert producer.produce(b"after", ack_wait_sec=15).sequence > 1


@pytest.mark.parametrize("size", [10, 4_000_000], ids=["idle", "full"])
def test_a_stalled_connection_is_noticed_and_made_again(through_proxy, station_name, until, size) -> None:
    """Nothing comes and nothing ends: with room in the socket, and with a sender that waits for room."""
    memphis, proxy = through_proxy(ping_interval_s=0.3)
    producer = memphis.producer(station_name, "p")
    producer.produce(b"before")
    proxy.stall()
    deliveries = [producer.produce(b"x" * size, nonblocking=True) for _ in range(4)]
    started = time.monotonic()
    until(lambda: not memphis._session.data_link().is_up())
    assert 0.2 < time.monotonic() - started < 10
    proxy.cut()
    proxy.go_on()
    assert [delivery.result(15).sequence for delivery in deliveries] == [2, 3, 4, 5]


def test_close_ends_a_link_whose_peer_reads_nothing(through_proxy, station_name) -> None:
    memphis, proxy = through_proxy()
    producer = memphis.producer(station_name, "p")
    proxy.stall()
    for _ in range(5):
        producer.produce(b"x" * 4_000_000, nonblocking=True)
    started = time.monotonic()
    with pytest.warns(memphis_sync.UndeliveredWarning, match="5"):
        memphis.close(timeout_s=0.2)
    assert time.monotonic() - started < 10
    assert memphis.stats().abandoned == 5


def test_damaged_records_end_the_connection_and_no_message(
    through_proxy, station_name, holds, until, caplog: pytest.LogCaptureFixture
) -> None:
    memphis, proxy = through_proxy()
    producer = memphis.producer(station_name, "p")
    producer.produce(b"1")
    with caplog.at_level(logging.WARNING, "memphis_sync.link"):
        data_connection = proxy.pairs[-1].near
        data_connection.sendall(b"\x17\x03\x03\x00\x20" + b"\x00" * 32)  # a record that no key of ours opens
        until(lambda: caplog.records)
        producer.produce(b"2", ack_wait_sec=15)
    assert "what came was no valid TLS" in caplog.records[0].getMessage()
    assert holds(station_name) == [b"1", b"2"]
    assert memphis.stats().reconnects == 1


def test_a_server_that_ends_in_order_is_left_and_found_again(
    fresh_broker, authority: Authority, station_name, tmp_path
) -> None:
    made = authority.issue("127.0.0.1")
    broker = fresh_broker(tls_cert=made.cert, tls_key=made.key, data_dir=tmp_path / "data")
    with memphis_sync.connect(broker.url, ca_file=authority.file, reconnect_interval_ms=50) as memphis:
        producer = memphis.producer(station_name, "p")
        producer.produce(b"1")
        broker.kill()
        delivery = producer.produce(b"2", nonblocking=True)
        broker.start()
        assert delivery.result(15).sequence == 2
