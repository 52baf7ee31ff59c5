"""Messages that nobody confirms: each ends once, at its deadline, and says whether the broker may have it."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest
from fault_ledger import Ledger, Watch, read_station

import memphis_sync
from memphis_sync.errors import AckTimeoutError

if TYPE_CHECKING:
    from memphis_sync import Delivery, Producer
    from memphis_sync.broker import BrokerProcess

MESSAGES = 200
SLACK_S = 2.0  # for a busy machine; how late they are on an idle one is measured by bench/ack_deadline.py


class Late:
    """Produces without blocking and notes, from the delivery callback, how long each message took to end."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self._all_ended = threading.Event()
        self.rows: list[tuple[float, float, Delivery]] = []  # deadline, seconds until the report, the delivery
        self.wanted = 0

    def produce(self, payload: bytes, ack_wait_s: float) -> None:
        start = time.monotonic()

        def ended(delivery: Delivery) -> None:
            self.rows.append((ack_wait_s, time.monotonic() - start, delivery))
            if len(self.rows) == self.wanted:
                self._all_ended.set()

        self._producer.produce(payload, nonblocking=True, ack_wait_sec=ack_wait_s, on_delivery=ended)

    def wait(self, limit_s: float) -> None:
        assert self._all_ended.wait(limit_s), f"{len(self.rows)} of {self.wanted} were reported"

    def check(self, outcome: str) -> None:
        assert len({delivery.slot for _, _, delivery in self.rows}) == self.wanted, "one report a message"
        for ack_wait_s, took_s, delivery in self.rows:
            error = delivery.exception(0)
            assert isinstance(error, AckTimeoutError)
            assert error.outcome == outcome
            assert ack_wait_s <= took_s <= ack_wait_s + SLACK_S, f"{took_s:.3f} s instead of {ack_wait_s:.3f}"


def test_acks_that_never_come(broker: BrokerProcess, through, station_name: str) -> None:
    client, proxy = through(broker)
    producer = client.producer(station_name, "p")
    producer.produce(b"first")
    proxy.drop_answers = True
    late = Late(producer)
    late.wanted = MESSAGES
    with Watch(client):
        for number in range(MESSAGES):
            late.produce(b"%d" % number, 2 + number % 50 * 0.02)
        late.wait(10)
    late.check("unknown")
    stats = client.stats()
    assert (stats.delivered, stats.failed, stats.queued, stats.in_flight) == (1, MESSAGES, 0, 0)
    stored = [payload for _, _, payload in read_station(broker, station_name)]
    assert stored == [b"first", *(b"%d" % number for number in range(MESSAGES))], "the broker had them all"


def test_messages_that_were_never_sent(broker: BrokerProcess, through, station_name: str) -> None:
    client, proxy = through(broker)
    producer = client.producer(station_name, "p")
    producer.produce(b"first")
    proxy.down()
    late = Late(producer)
    late.wanted = MESSAGES
    with Watch(client):
        time.sleep(0.1)  # until the sender has seen it
        for number in range(MESSAGES):
            late.produce(b"%d" % number, 2 + number % 50 * 0.02)
        late.wait(10)
    late.check("not_sent")
    proxy.up()
    assert producer.produce(b"last").sequence == 2
    assert [payload for _, _, payload in read_station(broker, station_name)] == [b"first", b"last"]


@pytest.mark.timing
def test_a_blocking_produce_ends_at_its_deadline(broker: BrokerProcess, through, station_name: str) -> None:
    client, proxy = through(broker)
    producer = client.producer(station_name, "p")
    producer.produce(b"first")
    proxy.drop_answers = True
    for ack_wait_s in (0.3, 2.0):
        start = time.monotonic()
        with pytest.raises(AckTimeoutError) as raised:
            producer.produce(b"m", ack_wait_sec=ack_wait_s)
        took_s = time.monotonic() - start
        assert raised.value.outcome == "unknown"
        assert ack_wait_s <= took_s <= ack_wait_s + SLACK_S


@pytest.mark.timing
def test_a_short_deadline_behind_a_full_socket(broker: BrokerProcess, through, station_name: str) -> None:
    """The sender waits for the socket when a message with a deadline of its own comes."""
    client, proxy = through(broker, max_in_flight=1_000_000)
    producer = client.producer(station_name, "p")
    producer.produce(b"first")
    proxy.stall()
    bulk = [producer.produce(b"x" * 4096, nonblocking=True, ack_wait_sec=60) for _ in range(6000)]
    time.sleep(0.3)
    assert client.stats().queued > 0, "the buffers between took everything"
    try:
        for ack_wait_s in (0.2, 0.3):
            start = time.monotonic()
            with pytest.raises(AckTimeoutError) as raised:
                producer.produce(b"m", ack_wait_sec=ack_wait_s)
            assert time.monotonic() - start <= ack_wait_s + SLACK_S
            assert raised.value.outcome == "not_sent"
    finally:
        proxy.go_on()
    assert producer.flush(30) == 0
    assert all(delivery.exception(0) is None for delivery in bulk)
    assert len(read_station(broker, station_name)) == 6001


def test_unconfirmed_and_confirmed_mixed(broker: BrokerProcess, through, station_name: str) -> None:
    """Answers are lost for a while: what was confirmed is there, what is unknown is there at most once."""
    client, proxy = through(broker)
    producer = client.producer(station_name, "p")
    with Watch(client):
        ledger = Ledger(producer, threads=2, messages=2000, blocking_each=400, pause_s=0.0002, ack_wait_s=1.0).start()
        time.sleep(0.1)
        proxy.drop_answers = True
        time.sleep(0.2)
        proxy.drop_answers = False
        ledger.join()
    counts = ledger.check(read_station(broker, station_name))
    assert counts["unknown"] > 0
    assert counts["delivered"] > 0
    assert counts["delivered"] + counts["unknown"] == 4000


@pytest.mark.timing
@pytest.mark.slow
def test_deadlines_in_a_long_backlog_stall_no_caller(broker: BrokerProcess, through, station_name: str) -> None:
    """They fall due one by one behind half a million messages: looking for them holds nobody up."""
    client, proxy = through(broker, outbox_max_bytes=1 << 28)
    producer = client.producer(station_name, "p")
    producer.produce(b"first")
    proxy.down()
    time.sleep(0.1)
    produce, clock, times = producer.produce, time.perf_counter, []
    backlog = [produce(b"x", nonblocking=True, ack_wait_sec=300) for _ in range(500_000)]
    short = []
    until = clock() + 2.5
    while clock() < until:
        start = clock()
        short.append(produce(b"y", nonblocking=True, ack_wait_sec=0.5))
        times.append(clock() - start)
        time.sleep(0.0005)
    ended = sum(delivery.done() for delivery in short)
    times.sort()
    middle, high = times[len(times) // 2], times[len(times) * 95 // 100]
    print(f"{len(times)} calls: p50 {middle * 1e6:.0f} us, p95 {high * 1e6:.0f} us, worst {times[-1] * 1e6:.0f} us")
    assert ended > len(short) // 2
    assert not any(delivery.done() for delivery in backlog[::1000])
    assert high < 0.001, "callers wait while deadlines are looked for"
    with pytest.warns(memphis_sync.UndeliveredWarning):
        client.close(timeout_s=0.1)
