"""Produce while the network misbehaves: nothing lost, nothing twice, nothing unreported, each thread's order kept."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

import pytest
from fault_ledger import Ledger, Watch, read_station

if TYPE_CHECKING:
    from collections.abc import Callable

    from fix_proxy import Proxy

    from memphis_sync.broker import BrokerProcess


def test_a_server_that_is_away_for_a_second_and_a_half(broker: BrokerProcess, through, station_name: str) -> None:
    """The case that memphis.py loses 3,261 of 5,000 messages in without a word."""
    client, proxy = through(broker, both_links=True)
    producer = client.producer(station_name, "p")
    away = []

    def leave(number: int) -> None:
        if number == 1000:
            proxy.down()
            away.append(time.monotonic())

    with Watch(client):
        ledger = Ledger(producer, messages=5000, pause_s=0.0001, each=leave).start()
        while not away or time.monotonic() < away[0] + 1.5:
            time.sleep(0.01)
        proxy.up()
        ledger.join()
    assert ledger.check(read_station(broker, station_name)) == {"delivered": 5000}
    assert client.stats().reconnects == 1


@pytest.mark.parametrize("idempotent", [True, False], ids=["ids", "no-ids"])
def test_random_cuts(broker: BrokerProcess, through, station_name: str, until, idempotent: bool) -> None:
    """Without message ids a cut may store a message twice; it never loses one."""
    client, proxy = through(broker, both_links=idempotent)
    client.station(station_name, partitions_number=3)
    producer = client.producer(station_name, "p", idempotent=idempotent)
    chance = random.Random(20261123)
    with Watch(client):
        ledger = Ledger(producer, threads=3, messages=4000, blocking_each=97, pause_s=0.0002).start()
        for _ in range(8):
            time.sleep(chance.uniform(0.02, 0.15))
            before = client.stats().reconnects
            if proxy.cut():
                until(lambda before=before: client.stats().reconnects > before)
        ledger.join()
    assert ledger.check(read_station(broker, station_name), duplicates=not idempotent) == {"delivered": 12_000}
    assert client.stats().reconnects >= 5


def test_a_small_window_and_outbox_between_cuts(broker: BrokerProcess, through, station_name: str) -> None:
    """BufferFullError leaves nothing behind, and ring and window wrap while connections come and go."""
    client, proxy = through(broker, outbox_max_bytes=65536, outbox_max_messages=20, max_in_flight=7)
    producer = client.producer(station_name, "p")
    with Watch(client):
        ledger = Ledger(producer, threads=2, messages=3000, blocking_each=50).start()
        while ledger.is_producing:
            time.sleep(0.05)
            proxy.cut()
        ledger.join()
    assert ledger.check(read_station(broker, station_name)) == {"delivered": 6000}
    assert ledger.refused > 0
    assert client.stats().buffer_full >= ledger.refused


def test_stalls(broker: BrokerProcess, through, station_name: str) -> None:
    client, proxy = through(broker)
    producer = client.producer(station_name, "p")
    with Watch(client):
        ledger = Ledger(producer, threads=2, messages=4000, blocking_each=500, pause_s=0.0001).start()
        for _ in range(4):
            time.sleep(0.05)
            proxy.stall()
            time.sleep(0.2)
            proxy.go_on()
        ledger.join()
    assert ledger.check(read_station(broker, station_name)) == {"delivered": 8000}


def test_a_stall_that_ends_with_a_cut(broker: BrokerProcess, through, station_name: str) -> None:
    """The buffers of both sides are full of frames that nobody knows the fate of."""
    client, proxy = through(broker, max_in_flight=100_000)
    producer = client.producer(station_name, "p")
    with Watch(client):
        proxy.stall()
        ledger = Ledger(producer, messages=20_000).start()
        while ledger.is_producing:
            time.sleep(0.02)
        time.sleep(0.1)
        proxy.cut()
        proxy.go_on()
        ledger.join()
    assert ledger.check(read_station(broker, station_name)) == {"delivered": 20_000}


def test_a_half_closed_connection_is_left(broker: BrokerProcess, through, station_name: str, until) -> None:
    client, proxy = through(broker)
    producer = client.producer(station_name, "p")
    with Watch(client):
        ledger = Ledger(producer, messages=6000, pause_s=0.0001).start()
        for count in (1, 2, 3):
            time.sleep(0.05)
            proxy.half_close()
            until(lambda count=count: client.stats().reconnects >= count)
        ledger.join()
    assert ledger.check(read_station(broker, station_name)) == {"delivered": 6000}


def test_a_slow_link(broker: BrokerProcess, through, station_name: str) -> None:
    client, proxy = through(broker)
    producer = client.producer(station_name, "p")
    producer.produce(b"m 9 0")
    proxy.chunk, proxy.pause_s = 2000, 0.002
    with Watch(client):
        ledger = Ledger(producer, threads=2, messages=1000, blocking_each=100).run()
    assert ledger.check([row for row in read_station(broker, station_name) if row[2] != b"m 9 0"]) == {
        "delivered": 2000
    }


def test_a_stream_that_comes_byte_by_byte(broker: BrokerProcess, through, station_name: str) -> None:
    client, proxy = through(broker)
    proxy.chunk = 1
    producer = client.producer(station_name, "p")
    with Watch(client):
        ledger = Ledger(producer, threads=2, messages=150, blocking_each=10).run()
    assert ledger.check(read_station(broker, station_name)) == {"delivered": 300}


@pytest.mark.parametrize("to_server", [True, False], ids=["to-server", "to-client"])
def test_a_cut_at_any_byte_of_a_frame(
    broker: BrokerProcess, through, station_name: str, until, to_server: bool
) -> None:
    """Offsets walk over two whole frames or acks, one connection each: no place in the stream is special."""
    client, proxy = through(broker, reconnect_interval_ms=1)
    producer = client.producer(station_name, "p")
    producer.produce(b"m 9 0")
    ledger = Ledger(producer, threads=0)
    with Watch(client):
        for offset in range(0, 420 if to_server else 160, 7):
            before = client.stats().reconnects
            proxy.cut_after(offset, to_server=to_server)
            while client.stats().reconnects == before:
                ledger.take_one()
                ledger.take_one()
                time.sleep(0.002)
            until(client._session.data_link().is_up)
        ledger.join()
    counts = ledger.check([row for row in read_station(broker, station_name) if row[2] != b"m 9 0"])
    assert counts == {"delivered": len(ledger.accepted)}


def test_two_clients_of_the_same_names(
    broker: BrokerProcess, through, station_name: str, proxy_to: Callable[[str, int], Proxy]
) -> None:
    """A second client with the same client, producer and station name: ids and replies of the two never meet."""
    first, proxy = through(broker, name="twin")
    second, _ = through(broker, name="twin", proxy=proxy)
    first.station(station_name, partitions_number=2)
    ledgers = [
        Ledger(client.producer(station_name, "p"), name=name, threads=2, messages=2000, pause_s=0.0001)
        for name, client in (("one", first), ("two", second))
    ]
    with Watch(first), Watch(second):
        for ledger in ledgers:
            ledger.start()
        for _ in range(4):
            time.sleep(0.06)
            proxy.cut()
        for ledger in ledgers:
            ledger.join()
    stored = read_station(broker, station_name)
    for ledger in ledgers:
        assert ledger.check(stored) == {"delivered": 4000}
    assert len(stored) == 8000
