"""
A program that is ended in order and started again, as a deployment does it: no message becomes a dead letter that no
handler ever saw, also with one delivery each, and although the broker is killed between two of the restarts.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

import pytest

import memphis_sync

if TYPE_CHECKING:
    from memphis_sync import Memphis
    from memphis_sync.broker import BrokerProcess

ACK_TIME_MS = 3000
PROGRAM = f"""
import signal, sys, time
import memphis_sync

signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
url, station, batch, deliveries = sys.argv[1:]
options = dict(batch_size=int(batch), max_ack_time_ms={ACK_TIME_MS}, max_msg_deliveries=int(deliveries))
with memphis_sync.connect(url, timeout_ms=20_000) as client, client.consumer(station, "w", "g", **options) as consumer:
    for message in consumer:
        with message:
            print(message.data.decode(), flush=True)
            time.sleep(0.005)
"""


def deploy(url: str, station: str, batch: int, deliveries: int, handled: int) -> set[str]:
    """Starts the program, ends it when it has handled so many, and gives what it handled."""
    command = [sys.executable, "-c", PROGRAM, url, station, str(batch), str(deliveries)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        seen = {process.stdout.readline().strip() for _ in range(handled)}
        process.terminate()
        rest = process.stdout.read()  # and not communicate(), which forgets what readline() has read ahead
        errors = process.stderr.read()
    assert process.returncode == 0, errors
    return (seen | set(rest.split())) - {""}


@pytest.mark.parametrize(("batch", "deliveries"), [(10, 2), (500, 1)])
def test_no_message_is_dead_that_nobody_saw(
    fresh_broker: Callable[..., BrokerProcess], tmp_path: Path, until: Any, batch: int, deliveries: int
) -> None:
    broker = fresh_broker(data_dir=tmp_path / "data")
    with memphis_sync.connect(broker.url) as client:
        filled = client.producer("st", "p").produce_many(b"%d" % number for number in range(600))
        assert filled.delivered == 600
    seen: set[str] = set()
    for number in range(4):
        seen |= deploy(broker.url, "st", batch, deliveries, handled=20)
        if number == 1:
            broker.kill()
            broker.start()
    assert len(seen) < 600, "there must be something left to lose"
    with memphis_sync.connect(broker.url) as client:
        consumer = client.consumer("st", "w", "g", max_ack_time_ms=ACK_TIME_MS, max_msg_deliveries=deliveries)
        deadline = time.monotonic() + 60
        while len(seen) < 600:
            assert time.monotonic() < deadline, f"{len(seen)} of 600 handled"
            for message in consumer.fetch(500, timeout_s=0.5):
                seen.add(message.data.decode())
                message.ack()
        dead = {letter.data.decode() for letter in client.dls("st")}
        # One program has at most the message at hand when it is ended, and its own error counts as a delivery.
        assert dead <= seen
        # A server that is killed forgets the acks of its last moments.
        assert len(dead) <= 10


CRASHING = f"""
import sys
import memphis_sync

url, station, deliveries = sys.argv[1:]
client = memphis_sync.connect(url, timeout_ms=20_000)
consumer = client.consumer(station, "w", "g", max_ack_time_ms={ACK_TIME_MS}, max_msg_deliveries=int(deliveries))
for message in consumer.read_all():
    with message:
        print(message.data.decode(), flush=True)
        if message.data in (b"7", b"19"):
            sys.exit(3)
"""


@pytest.mark.parametrize("deliveries", [1, 2, 5])
def test_bad_messages_are_handled_as_often_as_they_may_be_and_the_others_once(
    broker: BrokerProcess, memphis: Memphis, station_name: str, deliveries: int
) -> None:
    """A program that reads to the end, and that a supervisor starts again until it has got there."""
    assert memphis.producer(station_name, "p").produce_many(b"%d" % number for number in range(30)).delivered == 30
    command = [sys.executable, "-c", CRASHING, broker.url, station_name, str(deliveries)]
    handled: Counter[int] = Counter()
    while True:
        run = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
        handled.update(int(line) for line in run.stdout.split())
        assert sum(handled.values()) <= 28 + 2 * deliveries, handled
        if run.returncode == 0:
            break
        assert run.returncode == 3, run.stderr
    assert handled == {number: deliveries if number in (7, 19) else 1 for number in range(30)}
    assert sorted(int(letter.data) for letter in memphis.dls(station_name)) == [7, 19]
