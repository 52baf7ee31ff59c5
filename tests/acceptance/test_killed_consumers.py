"""
Consumers that are killed with SIGKILL at random and started again: each group handles every message at least once, and
a message whose ack the broker has confirmed is never delivered again.

Each process notes what it handles in a file of its own, a batch before its acks and each confirmed ack after it: what
was written to a file outlives the process.
"""

from __future__ import annotations

import itertools
import random
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import memphis_sync

PARTITIONS = 3
GROUPS = ("blue", "green")
PROCESSES = 4
ACK_TIME_MS = 3000
RECORD = struct.Struct(
    "<dIB"
)  # when, by the clock that all processes share; number of the message; HANDLED or CONFIRMED
HANDLED, CONFIRMED = 0, 1

CONSUMER = f"""
import os, struct, sys, time
import memphis_sync

url, station, group, name, path, batch, every, prefetch = sys.argv[1:]
batch, every, prefetch = int(batch), int(every), prefetch == "True"
record = struct.Struct("{RECORD.format}")
out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
with memphis_sync.connect(url, name=name) as client:
    consumer = client.consumer(station, name, group, max_ack_time_ms={ACK_TIME_MS}, max_msg_deliveries=10)
    while True:
        messages = consumer.fetch(batch, timeout_s=1, prefetch=prefetch)
        received = time.monotonic()
        numbers = [int(message.data) for message in messages]
        os.write(out, b"".join(record.pack(received, number, {HANDLED}) for number in numbers))
        for number, message in zip(numbers, messages):
            # Not when so much of its time is over that the broker may be delivering it again meanwhile.
            if number % every == 0 and time.monotonic() - received < {ACK_TIME_MS / 4000}:
                message.ack(wait=True)
                os.write(out, record.pack(time.monotonic(), number, {CONFIRMED}))
            else:
                message.ack()
"""


class Ledger:
    """What one group has handled and confirmed, read from its processes' files."""

    def __init__(self, messages: int) -> None:
        self.files: list[Path] = []
        self._read: dict[Path, int] = {}
        self._seen = bytearray(messages)
        self.handled = 0
        self.missing = messages
        self.last: dict[int, float] = {}  # of the messages that are confirmed: when they were received last
        self.confirmed: dict[int, float] = {}

    def update(self) -> None:
        """Takes in what was written since the last time."""
        for path in self.files:
            start = self._read.get(path, 0)
            with path.open("ab+") as file:
                file.seek(start)
                data = file.read()
            data = data[: len(data) // RECORD.size * RECORD.size]  # a killed process may leave half a record
            self._read[path] = start + len(data)
            for when, number, kind in RECORD.iter_unpack(data):
                if kind == CONFIRMED:
                    self.confirmed[number] = min(when, self.confirmed.get(number, when))
                    continue
                self.handled += 1
                self.missing -= not self._seen[number]
                self._seen[number] = 1
                self.last[number] = max(when, self.last.get(number, when))

    def delivered_after_confirmation(self) -> list[int]:
        return [number for number, when in self.confirmed.items() if self.last[number] > when]


class Crowd:
    """The consumer processes: two in each group, one of which fetches ahead."""

    def __init__(
        self, url: str, station: str, folder: Path, ledgers: dict[str, Ledger], batch: int, every: int
    ) -> None:
        self._common = (url, station)
        self._options = (str(batch), str(every))
        self._folder = folder
        self._ledgers = ledgers
        self._numbers = itertools.count(1)
        self._places: list[tuple[subprocess.Popen[bytes], Path]] = []
        self.kills = 0

    def start(self) -> None:
        for place in range(PROCESSES):
            self._places.append(self._spawn(place))

    def _spawn(self, place: int) -> tuple[subprocess.Popen[bytes], Path]:
        group, number = GROUPS[place % len(GROUPS)], next(self._numbers)
        records, errors = self._folder / f"{number}.records", self._folder / f"{number}.errors"
        self._ledgers[group].files.append(records)
        names = (*self._common, group, f"consumer-{place}", str(records), *self._options, str(place >= len(GROUPS)))
        with errors.open("wb") as stderr:
            return subprocess.Popen([sys.executable, "-c", CONSUMER, *names], stderr=stderr), errors

    def kill(self, place: int) -> None:
        """Kills one and starts another in its place."""
        process, errors = self._places[place]
        assert process.poll() is None, f"a consumer ended by itself:\n{errors.read_text()}"
        process.kill()
        process.wait(10)
        self.kills += 1
        self._places[place] = self._spawn(place)

    def end(self) -> None:
        for process, _ in self._places:
            process.kill()
            process.wait(10)


def leftovers(client: Any, station: str, group: str) -> list[int]:
    """What the group still gets."""
    found = []
    consumer = client.consumer(station, "last", group, max_ack_time_ms=ACK_TIME_MS, max_msg_deliveries=10)
    while batch := consumer.fetch(1000, timeout_s=0.3):
        found += [int(message.data) for message in batch]
    return found


def run(broker: Any, folder: Path, station: str, *, messages: int, kills: int, batch: int, every: int) -> None:
    chance = random.Random(7)
    ledgers = {group: Ledger(messages) for group in GROUPS}
    with memphis_sync.connect(broker.url) as client:
        client.station(station, partitions_number=PARTITIONS, storage_type=memphis_sync.Storage.MEMORY)
        for group in GROUPS:  # before there is anything to read: no member finds its group half made
            client.consumer(station, "first", group, max_ack_time_ms=ACK_TIME_MS, max_msg_deliveries=10)
        filled = client.producer(station, "p").produce_many(b"%d" % number for number in range(messages))
        assert filled.delivered == messages
        crowd = Crowd(broker.url, station, folder, ledgers, batch, every)
        crowd.start()
        try:
            next_kill = 0
            while any(ledger.missing for ledger in ledgers.values()):
                for ledger in ledgers.values():
                    ledger.update()
                if crowd.kills < kills and sum(ledger.handled for ledger in ledgers.values()) > next_kill:
                    time.sleep(chance.uniform(0, 0.02))
                    crowd.kill(chance.randrange(PROCESSES))
                    next_kill += 2 * messages // kills
                time.sleep(0.01)
        finally:
            crowd.end()
        assert crowd.kills == kills
        time.sleep(ACK_TIME_MS / 1000 + 0.2)  # until the ack time of all that the processes held is over
        found = {group: leftovers(client, station, group) for group in GROUPS}
    for group, ledger in ledgers.items():
        ledger.update()
        again = ledger.handled - messages
        print(f"{group}: {messages:,} handled, {again:,} of them again, {len(ledger.confirmed):,} acks confirmed")
        assert ledger.missing == 0
        assert again < messages, "what was acknowledged does not come again, as a rule"
        assert len(ledger.confirmed) > messages // every // 2
        assert ledger.delivered_after_confirmation() == []
        assert [number for number in found[group] if number in ledger.confirmed] == []


def test_thirty_thousand_messages_and_ten_kills(broker: Any, tmp_path: Path, station_name: str) -> None:
    run(broker, tmp_path, station_name, messages=30_000, kills=10, batch=50, every=10)


@pytest.mark.large
@pytest.mark.timeout(900)
def test_a_million_messages_and_a_hundred_kills(broker: Any, tmp_path: Path, station_name: str) -> None:
    run(broker, tmp_path, station_name, messages=1_000_000, kills=100, batch=500, every=50)
