"""The data link comes back: nothing is lost, nothing is stored twice, the order stays."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import pytest

import memphis_sync
from memphis_sync.errors import ClosedError, ProduceError

if TYPE_CHECKING:
    from memphis_sync.broker import BrokerProcess


def test_cuts_lose_nothing_and_store_nothing_twice(through_proxy, station_name: str, holds, until) -> None:
    memphis, proxy = through_proxy()
    memphis.station(station_name, partitions_number=2)
    producer = memphis.producer(station_name, "p")
    deliveries = []
    for i in range(20_000):
        deliveries.append(producer.produce(b"%d" % i, nonblocking=True))
        if i % 4000 == 2000:
            proxy.cut()
        if i % 4000 == 3999:
            until(lambda cuts=i // 4000 + 1: memphis.stats().reconnects >= cuts)
    assert producer.flush(30) == 0
    assert [type(delivery.exception()) for delivery in deliveries if delivery.exception()] == []
    stored = holds(station_name)
    assert sorted(int(data) for _, data in stored) == list(range(20_000))
    for partition in (1, 2):
        numbers = [int(data) for number, data in stored if number == partition]
        assert numbers == sorted(numbers)
    stats = memphis.stats()
    assert stats.reconnects >= 5
    assert (stats.delivered, stats.failed, stats.queued, stats.in_flight) == (20_000, 0, 0, 0)


def test_messages_wait_while_the_broker_is_away(through_proxy, station_name: str, holds) -> None:
    memphis, proxy = through_proxy()
    producer = memphis.producer(station_name, "p")
    producer.produce(b"before")
    proxy.down()
    deliveries = [producer.produce(b"%d" % i, nonblocking=True) for i in range(5000)]
    time.sleep(0.5)
    assert memphis.stats().delivered == 1
    proxy.up()
    assert producer.flush(20) == 0
    assert all(delivery.exception() is None for delivery in deliveries)
    assert [data for _, data in holds(station_name)] == [b"before", *(b"%d" % i for i in range(5000))]


def test_an_outage_is_two_log_lines(through_proxy, station_name: str, caplog: pytest.LogCaptureFixture, until) -> None:
    memphis, proxy = through_proxy()
    producer = memphis.producer(station_name, "p")
    producer.produce(b"secret-payload")
    with caplog.at_level(logging.INFO, "memphis_sync"):
        proxy.down()
        time.sleep(0.5)
        proxy.up()
        assert producer.produce(b"secret-payload", ack_wait_sec=15).sequence == 2
        until(memphis.is_connected)
        # The first line is of the link that was lost first, the second one of the link that is back last.
        until(lambda: len(caplog.records) >= 2)
    lines = [(r.levelname, r.getMessage()) for r in caplog.records]
    assert [level for level, _ in lines] == ["WARNING", "INFO"]
    assert "lost" in lines[0][1]
    assert "reconnected" in lines[1][1]
    assert "secret" not in str(lines)


def test_without_reconnection_everything_left_ends_and_is_reported(through_proxy, station_name: str) -> None:
    memphis, proxy = through_proxy(reconnect=False)
    producer = memphis.producer(station_name, "p")
    producer.produce(b"m")
    proxy.stall()
    deliveries = [producer.produce(b"m", nonblocking=True) for _ in range(100)]
    proxy.down()
    proxy.go_on()
    for delivery in deliveries:
        error = delivery.exception(10)
        assert isinstance(error, ProduceError)
        assert error.outcome in ("unknown", "not_sent")
    stats = memphis.stats()
    assert stats.accepted == 101
    assert stats.abandoned == 100
    with pytest.raises(ClosedError):
        producer.produce(b"m", nonblocking=True)
    with pytest.warns(memphis_sync.UndeliveredWarning, match="100"):
        memphis.close()


def test_closing_with_a_backlog_says_how_much_is_left(through_proxy, station_name: str) -> None:
    memphis, proxy = through_proxy()
    producer = memphis.producer(station_name, "p")
    proxy.stall()
    deliveries = [producer.produce(b"m", nonblocking=True) for _ in range(7)]
    with pytest.warns(memphis_sync.UndeliveredWarning, match="7"):
        memphis.close(timeout_s=0.2)
    assert all(delivery.exception(0) is not None for delivery in deliveries)
    assert memphis.stats().abandoned == 7
    proxy.go_on()


def test_a_server_that_breaks_the_protocol_ends_the_link_with_its_bytes(
    broker: BrokerProcess, proxy_to, station_name: str, until, caplog: pytest.LogCaptureFixture
) -> None:
    proxy = proxy_to(broker.host, broker.port)
    with caplog.at_level(logging.ERROR, "memphis_sync.link"):
        memphis = memphis_sync.connect(proxy.host, broker.username, password=broker.password, port=proxy.port)
        producer = memphis.producer(station_name, "p")
        producer.produce(b"m")
        data_connection = proxy.pairs[-1].near
        data_connection.sendall(b"GARBAGE \x00\x01 on the line\r\n")
        until(lambda: caplog.records)
        assert producer.produce(b"m").sequence == 2
        memphis.close()
    assert r"GARBAGE \x00\x01 on the line" in caplog.records[0].getMessage()
