"""What a consumer receives stays within what it asked for: in messages, and in bytes."""

from __future__ import annotations

import json
import logging
import re
import socket
import threading
from pathlib import Path

import pytest

import memphis_sync
from memphis_sync.broker import BrokerOptions, BrokerProcess

MIB = 1 << 20


def resident() -> int:
    """Bytes that this process has in memory."""
    found = re.search(r"VmRSS:\s*(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


class Neighbour:
    """Another user of the broker, who sees the pulls and sends what he likes where they are answered."""

    def __init__(self, broker) -> None:
        self._sock = socket.create_connection((broker.host, broker.port), 10)
        login = {"user": "root$1", "pass": broker.password, "name": "x::root", "headers": True, "verbose": False}
        self._sock.sendall(b"CONNECT %b\r\nSUB $JS.API.CONSUMER.MSG.NEXT.> 1\r\n" % json.dumps(login).encode())
        self._said = b""
        self.sync()

    def _read(self, pattern: bytes) -> bytes:
        while True:
            found = re.search(pattern, self._said)
            if found is not None:
                self._said = self._said[found.end() :]
                return found[found.lastindex or 0]
            piece = self._sock.recv(65536)
            assert piece
            self._said += piece

    def write(self, frame: bytes) -> None:
        """Sends a frame written by hand."""
        self._sock.sendall(frame)
        self.sync()

    def sync(self) -> None:
        """Returns once the broker has seen all that was sent."""
        self._sock.sendall(b"PING\r\n")
        self._read(rb"PONG\r\n")

    def seen(self, station: str) -> bytes:
        """Where the next pull of a station is answered."""
        return self._read(rb"MSG \$JS\.API\.CONSUMER\.MSG\.NEXT\.%b\S* 1 (\S+) \d+\r\n" % station.encode())

    def send(self, subject: bytes, payload: bytes, count: int) -> None:
        frame = b"PUB %b %d\r\n%b\r\n" % (subject, len(payload), payload)
        for _ in range(count):
            self._sock.sendall(frame)
        self.sync()

    def close(self) -> None:
        self._sock.close()


@pytest.fixture
def neighbour(broker):
    found = Neighbour(broker)
    yield found
    found.close()


@pytest.mark.parametrize(("size", "count"), [(100_000, 3000), (10, 200_000)], ids=["large", "small"])
def test_what_nobody_asked_for_takes_no_memory(
    memphis, station_name, neighbour, caplog, until, size: int, count: int
) -> None:
    producer = memphis.producer(station_name, "p")
    consumer = memphis.consumer(station_name, "c")
    producer.produce(b"first")
    assert len(consumer.fetch(10, prefetch=True)) == 1  # and the next ten are asked for
    place = neighbour.seen(station_name)
    before = resident()
    caplog.set_level(logging.WARNING, "memphis_sync.link")
    neighbour.send(place, b"x" * size, count)
    producer.produce(b"mine")  # answered behind all that was sent to this connection
    assert resident() - before < 100 * MIB
    found = []

    def has_mine() -> bool:
        found.extend(message.data for message in consumer.fetch(10, prefetch=True, timeout_s=1))
        return b"mine" in found

    until(has_mine)
    assert found == [b"mine"]
    assert re.search(r"\d+ messages were dropped that it had not asked for", caplog.text)


def test_a_batch_that_is_too_large_comes_in_portions(memphis, station_name) -> None:
    """5000 messages of 8 MiB would fill the memory of any machine."""
    producer = memphis.producer(station_name, "p")
    count, payload = 30, bytes(4 * MIB)
    for number in range(count):
        producer.produce(b"%03d" % number + payload)
    consumer = memphis.consumer(station_name, "c", batch_size=5000)
    numbers, sizes = [], []
    while batch := consumer.fetch(5000, timeout_s=2):
        sizes.append(len(batch))
        for message in batch:
            numbers.append(int(message.data[:3]))
            message.ack()
    assert numbers == list(range(count))
    assert max(sizes) * 4 * MIB <= 64 * MIB
    assert len(sizes) == 3


def test_prefetched_portions_of_large_messages_come_once(memphis, station_name) -> None:
    memphis.station(station_name, partitions_number=3)
    producer = memphis.producer(station_name, "p")
    count, payload = 60, bytes(2 * MIB)
    for number in range(count):
        producer.produce(b"%03d" % number + payload)
    consumer = memphis.consumer(station_name, "c", batch_size=5000)
    numbers = []
    while batch := consumer.fetch(5000, prefetch=True, timeout_s=2):
        for message in batch:
            numbers.append(int(message.data[:3]))
            message.ack()
    assert sorted(numbers) == list(range(count))


def test_a_reader_that_is_behind_keeps_its_connection(broker, station_name, proxy_to) -> None:
    """All that a fetch has asked for waits in the server meanwhile; nats-server gives a client 64 MiB by itself."""
    proxy = proxy_to(broker.host, broker.port)
    goes_on, connections = threading.Event(), set()

    def hold(pair, to_server, data):
        connections.add(pair)
        if b"CONSUMER.MSG.NEXT" in data and to_server:
            threading.Timer(1.0, goes_on.set).start()  # the server has written all that it can by then
        elif not to_server and len(data) > 16_384:
            assert goes_on.wait(30)
        return data

    payload, count = bytes(7 * MIB), 16
    with memphis_sync.connect(broker.url) as client:
        client.station(station_name, partitions_number=16)
        client.producer(station_name, "p").produce_many(b"%03d" % number + payload for number in range(count))
    with memphis_sync.connect(f"memphis://root:memphis@{proxy.host}:{proxy.port}") as client:
        consumer = client.consumer(station_name, "c", batch_size=5000)
        proxy.alter = hold
        numbers = []
        while batch := consumer.fetch(5000, prefetch=True, timeout_s=2):
            for message in batch:
                numbers.append(int(message.data[:3]))
                message.ack()
    assert sorted(numbers) == list(range(count))
    assert len(connections) <= 2


def test_a_message_from_under_a_larger_limit_is_still_delivered(tmp_path) -> None:
    """The server takes less than before, and the consumer's share for a partition is less than the message."""
    data = tmp_path / "data"
    with BrokerProcess(BrokerOptions(port=0, data_dir=data, max_payload=8 * MIB)) as first:
        with memphis_sync.connect(first.url) as client:
            client.station("large", partitions_number=32)
            client.producer("large", "p").produce(bytes(6 * MIB), producer_partition_number=3)
        password = first.password
    options = BrokerOptions(port=0, data_dir=data, max_payload=1 * MIB, root_password=password)
    with BrokerProcess(options) as second, memphis_sync.connect(second.url) as client:
        consumer = client.consumer("large", "c")
        for prefetch in (False, True):
            batch = consumer.fetch(100, prefetch=prefetch, timeout_s=20)
            assert [len(message.data) for message in batch] == [6 * MIB]
            if not prefetch:
                batch[0].nack()


@pytest.mark.parametrize("text", [b"Leadership Change", b"Server Shutdown", b"Message Size Exceeds MaxBytes"])
def test_an_end_of_a_request_that_passes_does_not_end_the_fetch(memphis, station_name, neighbour, text: bytes) -> None:
    producer = memphis.producer(station_name, "p")
    consumer = memphis.consumer(station_name, "c")
    found: list[bytes] = []
    thread = threading.Thread(
        target=lambda: found.extend(message.data for message in consumer.fetch(10, timeout_s=30)), name="test-fetch"
    )
    thread.start()
    neighbour.seen(station_name)  # what is there now
    block = b"NATS/1.0 409 %b\r\n\r\n" % text
    neighbour.write(b"HPUB %b %d %d\r\n%b\r\n" % (neighbour.seen(station_name), len(block), len(block), block))
    neighbour.seen(station_name)  # it has asked again
    producer.produce(b"x")
    thread.join(20)
    assert found == [b"x"]
