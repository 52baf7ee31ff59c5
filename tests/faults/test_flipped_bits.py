"""
Bits flip on the way, in both directions: nothing lost, nothing twice, nothing rejected that is stored, no thread dead.

What flips is the top bit of bytes, and none of what makes a message, its subject, headers and payload: nobody could
find that out. So a digit or letter becomes neither, and no flip can make another true answer of an answer.
"""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING

import pytest
from fault_ledger import Ledger, Watch, read_station

from memphis_sync import MemphisError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fix_proxy import Pair

    from memphis_sync.broker import BrokerProcess

BLOCKS = (b"MSG", b"HMSG", b"PUB", b"HPUB")


class Stream:
    """One direction of a connection: where its control lines are."""

    def __init__(self) -> None:
        self.line = b""
        self.left = 0  # bytes of the block behind the line
        self.is_answer = False  # that block is an answer, to a message or to a pull

    @staticmethod
    def _fixed(line: bytes) -> int:
        """How far a line has to come through as it is: a message under another subject is another message."""
        if not b"HPUB ".startswith(line[:5]):
            return 0
        return line.find(b" ", 5) + 1 if line.count(b" ") > 1 else len(line)

    def parts(self, data: bytes) -> Iterator[tuple[int, int]]:
        """The parts of what comes next that are control lines or answers: from, to."""
        at = 0
        while at < len(data):
            if self.left > 0:
                end = min(at + self.left, len(data))
                self.left -= end - at
                if self.is_answer:
                    yield at, end
            else:
                end = data.find(b"\n", at) + 1 or len(data)
                begin = at + max(self._fixed(self.line + data[at:end]) - len(self.line), 0)
                if begin < end:
                    yield begin, end
                self.line += data[at:end]
                if self.line.endswith(b"\n"):
                    words, self.line = self.line.split(), b""
                    if words and words[0] in BLOCKS:
                        self.left = int(words[-1]) + 2
                        self.is_answer = words[0] in BLOCKS[:2] and words[1].startswith(b"_INBOX.")
            at = end


class Flips:
    """Flips a bit in about one of *each* control lines and answers."""

    def __init__(self, each: int) -> None:
        seed = random.randrange(2**32)
        print(f"seed {seed}")
        self._chance = random.Random(seed)
        self._each = each
        self._streams: dict[tuple[Pair, bool], Stream] = {}
        self._lock = threading.Lock()
        self.is_on = True
        self.count = 0

    def __call__(self, pair: Pair, to_server: bool, data: bytes) -> bytes:
        altered = bytearray(data)
        with self._lock:
            stream = self._streams.setdefault((pair, to_server), Stream())
            for begin, end in stream.parts(data):
                if self.is_on and self._chance.randrange(self._each) == 0:
                    altered[self._chance.randrange(begin, end)] ^= 0x80
                    self.count += 1
        return bytes(altered)


@pytest.mark.slow
def test_bits_flip_while_producing(broker: BrokerProcess, through, station_name: str) -> None:
    client, proxy = through(broker, no_responders_retry=None)
    client.station(station_name, partitions_number=3)
    producer = client.producer(station_name, "p")
    proxy.alter = flips = Flips(300)
    with Watch(client):
        ledger = Ledger(producer, threads=3, messages=3000, blocking_each=97, pause_s=0.0002, ack_wait_s=10).start()
        while ledger.is_producing:
            time.sleep(0.02)
        flips.is_on = False
        ledger.join(90)
    counts = ledger.check(read_station(broker, station_name), in_order=False)
    print(f"{flips.count} bits, {counts}, {client.stats()}")
    assert sum(counts.values()) == 9000
    assert counts["delivered"] > 8000, "one damaged line costs one message"
    assert flips.count > 20
    assert client.stats().reconnects > 5
    assert producer.produce(b"m 9 0").sequence > 0


@pytest.mark.slow
def test_bits_flip_while_consuming(broker: BrokerProcess, memphis, through, station_name: str, until) -> None:
    contents = {b"%d" % number for number in range(3000)}
    memphis.station(station_name, partitions_number=3)
    assert memphis.producer(station_name, "p").produce_many(sorted(contents)).failed == ()
    client, proxy = through(broker)
    consumer = client.consumer(station_name, "c", max_ack_time_ms=2000, max_msg_deliveries=10)
    proxy.alter = flips = Flips(100)
    found: set[bytes] = set()

    def read() -> bool:
        try:
            batch = consumer.fetch(50, timeout_s=1)
            for message in batch:
                found.add(message.data)
                message.ack()
        except MemphisError as exc:
            print(f"{type(exc).__name__}: {exc}")
        return found >= contents

    until(read, 100)
    assert found == contents, "nothing was altered on its way"
    flips.is_on = False
    print(f"{flips.count} bits, {client.stats()}")
    assert flips.count > 20
    # What was not acknowledged in truth comes again, until all is.
    group = memphis.consumer(station_name, "c", max_ack_time_ms=2000, max_msg_deliveries=10)
    quiet_since = time.monotonic()
    while time.monotonic() - quiet_since < 3:
        for message in [*consumer.fetch(500, timeout_s=0.5), *group.fetch(500, timeout_s=0.5)]:
            assert message.data in contents
            message.ack(wait=True)
            quiet_since = time.monotonic()
    assert consumer.fetch(1, timeout_s=0.1) == []
