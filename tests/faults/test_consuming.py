"""Reading while the data link is cut: every message comes, and one whose ack reached the broker does not come again."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

import memphis_sync
from memphis_sync.errors import ConnectionLostError, DeadlineError

if TYPE_CHECKING:
    from fix_proxy import Proxy

    from memphis_sync import Consumer, Memphis
    from memphis_sync.broker import BrokerProcess
    from memphis_sync.message import Message

MESSAGES = 3000
ACK_TIME_MS = 1000
EXPECTED = {b"%d" % number for number in range(MESSAGES)}


def fill(broker: BrokerProcess, station: str) -> None:
    with memphis_sync.connect(broker.url) as client:
        client.station(station, partitions_number=2)
        result = client.producer(station, "p").produce_many(b"%d" % number for number in range(MESSAGES))
        assert result.delivered == MESSAGES


class Reader:
    """Notes what was read, and which acks are known to have reached the broker."""

    def __init__(self, client: Memphis) -> None:
        self._client = client
        self.read: Counter[bytes] = Counter()
        self.confirmed: set[bytes] = set()
        self.again: list[bytes] = []  # came although its ack had arrived

    def take(self, batch: list[Message]) -> None:
        before = self._client.stats().reconnects
        acked = []
        for message in batch:
            self.read[message.data] += 1
            if message.data in self.confirmed:
                self.again.append(message.data)
            try:
                message.ack()
                acked.append(message.data)
            except ConnectionLostError:
                continue
        try:
            core = self._client._session.data_link().core
            arrived = core.wait_pong(core.ping(), time.monotonic() + 1)
        except ConnectionLostError:
            return
        # A server reads in order, so the pong of the connection that the acks went over says that it has them.
        if arrived and self._client.stats().reconnects == before:
            self.confirmed.update(acked)

    def check(self, consumer: Consumer) -> None:
        """Everything was read; what comes again now, after everybody's ack time, is what nobody acknowledged."""
        until = time.monotonic() + 2 * ACK_TIME_MS / 1000
        while time.monotonic() < until:
            self.take(consumer.fetch(100, timeout_s=0.2))
        assert set(self.read) == EXPECTED
        assert self.again == []
        assert len(self.confirmed) > MESSAGES // 2
        assert self._client.stats().reconnects > 3


@contextlib.contextmanager
def cuts_at_random(proxy: Proxy) -> Iterator[None]:
    """Ten of them; then peace, for each costs the messages on their way their ack time."""
    chance = random.Random(4)

    def run() -> None:
        made = 0
        while made < 10:
            time.sleep(chance.uniform(0.002, 0.04))
            made += proxy.cut()

    thread = threading.Thread(target=run, name="test-cuts", daemon=True)
    thread.start()
    yield
    thread.join(20)
    assert not thread.is_alive()


def test_fetch_across_cuts(broker: BrokerProcess, through, station_name: str) -> None:
    fill(broker, station_name)
    client, proxy = through(broker)
    consumer = client.consumer(station_name, "c", max_ack_time_ms=ACK_TIME_MS, max_msg_deliveries=10)
    reader = Reader(client)
    deadline = time.monotonic() + 30
    with cuts_at_random(proxy):
        while set(reader.read) != EXPECTED and time.monotonic() < deadline:
            try:
                batch = consumer.fetch(10, timeout_s=0.5)
            except (ConnectionLostError, DeadlineError):
                continue
            reader.take(batch)
    reader.check(consumer)


def test_iterating_across_cuts(broker: BrokerProcess, through, station_name: str) -> None:
    fill(broker, station_name)
    client, proxy = through(broker)
    consumer = client.consumer(station_name, "c", max_ack_time_ms=ACK_TIME_MS, max_msg_deliveries=10, batch_size=50)
    reader = Reader(client)
    deadline = time.monotonic() + 30
    with cuts_at_random(proxy):
        for message in consumer:
            reader.take([message])
            if set(reader.read) == EXPECTED or time.monotonic() > deadline:
                break
    reader.check(consumer)


def test_a_stall_and_half_a_close_are_waited_out(broker: BrokerProcess, through, station_name: str) -> None:
    fill(broker, station_name)
    client, proxy = through(broker)
    consumer = client.consumer(station_name, "c", max_ack_time_ms=ACK_TIME_MS, max_msg_deliveries=10)
    seen: set[bytes] = set()
    deadline = time.monotonic() + 40
    rounds = 0
    while seen != EXPECTED and time.monotonic() < deadline:
        rounds += 1
        if rounds == 10:
            proxy.half_close()
        if rounds == 20:
            proxy.stall()
            threading.Timer(0.4, proxy.go_on).start()
        try:
            batch = consumer.fetch(50, timeout_s=1.0)
            for message in batch:
                seen.add(message.data)
                message.ack()
        except (ConnectionLostError, DeadlineError):
            continue
    assert seen == EXPECTED
    assert client.stats().reconnects == 1


def test_a_stream_that_comes_byte_by_byte_is_read(broker: BrokerProcess, through, station_name: str) -> None:
    with memphis_sync.connect(broker.url) as writer:
        writer.producer(station_name, "p").produce_many(b"%d" % number for number in range(100))
    client, proxy = through(broker)
    proxy.chunk = 1
    consumer = client.consumer(station_name, "c")
    got: list[bytes] = []
    while len(got) < 100 and (batch := consumer.fetch(30, timeout_s=5)):
        for message in batch:
            got.append(message.data)
            message.ack()
    assert got == [b"%d" % number for number in range(100)]


def test_twins_in_one_group_share_the_messages(broker: BrokerProcess, through, station_name: str) -> None:
    """Two clients with the same names in one group, both cut: each message is acknowledged by one of them."""
    fill(broker, station_name)
    first, proxy = through(broker, name="twin")
    second, _ = through(broker, name="twin", proxy=proxy)
    consumers = [
        client.consumer(station_name, "c", max_ack_time_ms=ACK_TIME_MS, max_msg_deliveries=10)
        for client in (first, second)
    ]
    seen: Counter[bytes] = Counter()
    deadline = time.monotonic() + 40
    rounds = 0
    while len(seen) < MESSAGES and time.monotonic() < deadline:
        rounds += 1
        if rounds in (10, 20):
            proxy.cut()
        for consumer in consumers:
            try:
                for message in consumer.fetch(50, timeout_s=0.3):
                    seen[message.data] += 1
                    message.ack()
            except (ConnectionLostError, DeadlineError):
                continue
    assert set(seen) == EXPECTED
    assert sum(seen.values()) - MESSAGES <= 4 * 50, "no more came twice than the cuts caught on their way"
