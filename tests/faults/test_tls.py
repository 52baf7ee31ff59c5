"""Under TLS the link's loops are Python's: the same faults, the same promise."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Callable

import pytest
from fault_ledger import Ledger, Watch, read_station

import memphis_sync
from memphis_sync.errors import AckTimeoutError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fix_proxy import Proxy
    from fix_tls import Authority

    from memphis_sync import Memphis
    from memphis_sync.broker import BrokerProcess


@pytest.fixture
def secured(
    tls_broker: BrokerProcess, authority: Authority, proxy_to: Callable[[str, int], Proxy]
) -> Iterator[tuple[Memphis, Proxy]]:
    """A client under TLS, and the proxy that its data link runs through."""
    proxy = proxy_to(tls_broker.host, tls_broker.port)
    client = memphis_sync.connect(
        proxy.host,
        tls_broker.username,
        password=tls_broker.password,
        port=proxy.port,
        ca_file=authority.file,
        reconnect_interval_ms=20,
    )
    proxy.spare()
    yield client, proxy
    client.close(timeout_s=1.0)


def stored(broker: BrokerProcess, authority: Authority, station: str) -> list[tuple[int, int, bytes]]:
    return read_station(broker, station, ca_file=authority.file)


def test_cuts_and_stalls(secured, tls_broker: BrokerProcess, authority: Authority, station_name: str) -> None:
    client, proxy = secured
    client.station(station_name, partitions_number=2)
    producer = client.producer(station_name, "p")
    with Watch(client):
        ledger = Ledger(producer, threads=2, messages=5000, blocking_each=100, pause_s=0.0001).start()
        for turn in range(8):
            time.sleep(0.08)
            if turn % 4 == 3:
                proxy.stall()
                time.sleep(0.15)
                proxy.go_on()
            else:
                proxy.cut()
        ledger.join()
    assert ledger.check(stored(tls_broker, authority, station_name)) == {"delivered": 10_000}
    assert client.stats().reconnects >= 3


def test_a_stream_in_pieces_of_one_byte(
    secured, tls_broker: BrokerProcess, authority: Authority, station_name: str
) -> None:
    client, proxy = secured
    proxy.chunk = 1
    producer = client.producer(station_name, "p")
    with Watch(client):
        ledger = Ledger(producer, threads=2, messages=100, blocking_each=10).run()
    assert ledger.check(stored(tls_broker, authority, station_name)) == {"delivered": 200}


def test_cuts_within_a_record(secured, tls_broker: BrokerProcess, authority: Authority, station_name: str) -> None:
    client, proxy = secured
    producer = client.producer(station_name, "p")
    ledger = Ledger(producer, threads=0)
    ledger.take_one()
    with Watch(client):
        for offset in range(0, 900, 50):
            before = client.stats().reconnects
            proxy.cut_after(offset, to_server=offset % 100 == 0)
            while client.stats().reconnects == before:
                ledger.take_one()
                time.sleep(0.002)
        ledger.join()
    assert ledger.check(stored(tls_broker, authority, station_name)) == {"delivered": len(ledger.accepted)}
    assert client.stats().reconnects >= 18


@pytest.mark.timing
def test_acks_that_never_come(secured, station_name: str) -> None:
    client, proxy = secured
    producer = client.producer(station_name, "p")
    producer.produce(b"first")
    proxy.drop_answers = True
    start = time.monotonic()
    deliveries = [producer.produce(b"m", nonblocking=True, ack_wait_sec=2) for _ in range(100)]
    for delivery in deliveries:
        error = delivery.exception(5)
        assert isinstance(error, AckTimeoutError)
        assert error.outcome == "unknown"
    assert 2 <= time.monotonic() - start <= 4


@pytest.mark.timing
def test_a_full_socket_and_a_short_deadline(
    secured, tls_broker: BrokerProcess, authority: Authority, station_name: str
) -> None:
    client, proxy = secured
    producer = client.producer(station_name, "p")
    producer.produce(b"first")
    proxy.stall()
    try:
        for _ in range(6000):
            producer.produce(b"x" * 4096, nonblocking=True, ack_wait_sec=60)
        time.sleep(0.3)
        start = time.monotonic()
        with pytest.raises(AckTimeoutError):
            producer.produce(b"m", ack_wait_sec=0.2)
        assert time.monotonic() - start <= 2
    finally:
        proxy.go_on()
    assert producer.flush(30) == 0
