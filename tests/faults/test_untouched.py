"""A program that dies costs the message it died with a delivery, and no other one; an orderly end costs nothing."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Callable

import pytest

import memphis_sync

if TYPE_CHECKING:
    from pathlib import Path

    from fix_process import RunScript

    from memphis_sync import Memphis
    from memphis_sync.broker import BrokerProcess

MESSAGES = 30
BAD = 7
LIMIT_S = 60.0

WORKER = """
import os, signal, sys, time
import memphis_sync

url, station, how, reading, pause_s = sys.argv[1:]

def handle(message):
    if message.data == b"BAD":
        if how == "exit":
            sys.exit(3)
        if how == "exception":
            raise RuntimeError("a bad message")
        if how == "os._exit":
            os._exit(3)
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(float(pause_s))
    print(int(message.data), flush=True)
    message.ack()

def callback(messages, error, context):
    try:
        for message in messages:
            handle(message)
    except BaseException:
        os._exit(3)

with memphis_sync.connect(url) as memphis:
    consumer = memphis.consumer(station, "worker", max_ack_time_ms=1500, batch_size=100, pull_interval_ms=0)
    if reading == "consume":
        consumer.consume(callback)
        time.sleep(60)
    for message in consumer:
        handle(message)
""".replace("BAD", str(BAD))


class Supervisor:
    """Starts the program again whenever it has ended, until the test says that it is enough."""

    def __init__(self, start_python: Callable[..., object], script: Path, *args: object) -> None:
        self._start, self._script, self._args = start_python, script, args
        self._is_over = threading.Event()
        self.handled: Counter[int] = Counter()
        self.starts = 0
        self._thread = threading.Thread(target=self._run, name="test-supervisor", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._is_over.is_set():
            self._child = self._start(self._script, *map(str, self._args))
            self.starts += 1
            for line in iter(self._child.process.stdout.readline, b""):
                self.handled[int(line)] += 1
            self._child.process.wait()

    def stop(self) -> None:
        self._is_over.set()
        self._child.process.kill()
        self._thread.join(30)


@pytest.mark.parametrize(
    ("partitions", "pause_s"),
    [(3, 0), (1, 0.02), *(pytest.param(*each, marks=pytest.mark.large) for each in ((1, 0), (3, 0.02)))],
)
@pytest.mark.parametrize(
    ("how", "reading"),
    [
        ("exception", "iteration"),
        ("exit", "iteration"),
        ("os._exit", "iteration"),
        ("SIGKILL", "iteration"),
        ("os._exit", "consume"),
    ],
)
def test_one_bad_message_among_thirty(
    memphis: Memphis,
    broker: BrokerProcess,
    station_name: str,
    start_python: Callable[..., object],
    tmp_path: Path,
    until: Callable[..., object],
    how: str,
    reading: str,
    pause_s: float,
    partitions: int,
) -> None:
    """Restarted by a supervisor, a program ends with that one in the dead letters and all others handled."""
    station = memphis.station(station_name, partitions_number=partitions)
    memphis.producer(station_name, "p").produce_many(b"%d" % number for number in range(MESSAGES))
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    supervisor = Supervisor(start_python, script, broker.url, station_name, how, reading, pause_s)
    try:
        until(lambda: list(station.dls) and len(supervisor.handled) == MESSAGES - 1, LIMIT_S)
        starts = supervisor.starts
        until(lambda: supervisor.starts >= starts, 2)
    finally:
        supervisor.stop()
    dead = [int(bytes(letter.data)) for letter in station.dls]
    if how in ("SIGKILL", "os._exit"):  # an ack that was not on its way yet dies with the process: those were handled
        assert BAD in dead
        assert set(dead) <= {BAD, *map(int, supervisor.handled)}
    else:
        assert dead == [BAD]
    assert BAD not in supervisor.handled
    assert supervisor.starts >= 3, "it died with each delivery"


HELD = """
import os, signal, sys
import memphis_sync

url, station = sys.argv[1:]
with memphis_sync.connect(url) as memphis:
    consumer = memphis.consumer(station, "worker", max_ack_time_ms=1500, pull_interval_ms=0)
    for message in consumer:
        if message.data == b"BAD":
            os.kill(os.getpid(), signal.SIGKILL)
        print(int(message.data), flush=True)
        message.ack()
"""


def test_what_comes_again_from_all_partitions_at_once_is_in_hand_alone(
    memphis: Memphis,
    broker: BrokerProcess,
    station_name: str,
    start_python: Callable[..., object],
    tmp_path: Path,
    until: Callable[..., object],
) -> None:
    """They were in hand together once; when one of them ends the program, the others have a delivery left."""
    station = memphis.station(station_name, partitions_number=8)
    memphis.producer(station_name, "p").produce_many(b"BAD" if number == 3 else b"%d" % number for number in range(8))
    found: list[object] = []
    with memphis_sync.connect(broker.url) as client:
        first = client.consumer(station_name, "first", "worker", max_ack_time_ms=1500)
        until(lambda: found.extend(first.fetch(8)) or len(found) == 8)
    script = tmp_path / "worker.py"
    script.write_text(HELD)
    supervisor = Supervisor(start_python, script, broker.url, station_name)
    try:
        until(lambda: list(station.dls) and len(supervisor.handled) == 7, LIMIT_S)
    finally:
        supervisor.stop()
    assert [bytes(letter.data) for letter in station.dls] == [b"BAD"]


def leave_the_loop(consumer: object, client: object, take: Callable[[object], object]) -> None:
    for message in consumer:
        if take(message):
            break


def stop_the_loop(consumer: object, client: object, take: Callable[[object], object]) -> None:
    for message in consumer:
        if take(message):
            consumer.stop()


def leave_the_block(consumer: object, client: object, take: Callable[[object], object]) -> None:
    with consumer:
        loop = iter(consumer)
        while not take(next(loop)):
            pass


def close_the_client(consumer: object, client: object, take: Callable[[object], object]) -> None:
    loop = iter(consumer)
    while not take(next(loop)):
        pass
    client.close()


def stop_consuming(consumer: object, client: object, take: Callable[[object], object]) -> None:
    is_enough = threading.Event()

    def callback(messages: object, error: object, _: object) -> None:
        if messages and (is_enough.is_set() or max(map(take, messages))):
            is_enough.set()
            consumer.stop()

    consumer.consume(callback)
    assert is_enough.wait(30)


def close_while_consuming(consumer: object, client: object, take: Callable[[object], object]) -> None:
    is_enough = threading.Event()

    def callback(messages: object, error: object, _: object) -> None:
        if messages and max(map(take, messages)):
            is_enough.set()

    consumer.consume(callback)
    assert is_enough.wait(30)
    client.close()


def fetch_ahead(consumer: object, client: object, take: Callable[[object], object]) -> None:
    while not take(consumer.fetch(1, timeout_s=10, prefetch=True)[0]):
        pass
    consumer.stop()


ENDS = [
    leave_the_loop,
    stop_the_loop,
    leave_the_block,
    close_the_client,
    stop_consuming,
    close_while_consuming,
    fetch_ahead,
]


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
def test_what_nobody_has_seen_goes_back_at_once(
    memphis: Memphis, broker: BrokerProcess, station_name: str, end: Callable[..., None]
) -> None:
    """To another member, long before its ack time is over, and with nothing lost or handled twice."""
    memphis.station(station_name, partitions_number=2)
    memphis.producer(station_name, "p").produce_many(b"%d" % number for number in range(2000))
    settings = {"max_ack_time_ms": 600_000, "batch_size": 200}
    other = memphis.consumer(station_name, "other", "group", **settings)
    seen: Counter[int] = Counter()

    def take(message: object) -> bool:
        seen[int(message.data)] += 1
        message.ack()
        return sum(seen.values()) >= 700

    with memphis_sync.connect(broker.url) as client:
        end(client.consumer(station_name, "first", "group", **settings), client, take)
        deadline = time.monotonic() + 30
        while len(seen) < 2000 and time.monotonic() < deadline:
            for message in other.fetch(200, timeout_s=0.5):
                take(message)
    assert len(seen) == 2000
    assert set(seen.values()) == {1}


def test_what_nobody_has_seen_goes_back_at_the_end_of_the_process(
    memphis: Memphis, broker: BrokerProcess, station_name: str, run_python: RunScript, tmp_path: Path
) -> None:
    """The process ends by sys.exit() in its handler of SIGTERM, in the midst of a loop, and closes nothing."""
    memphis.producer(station_name, "p").produce_many(b"%d" % number for number in range(2000))
    other = memphis.consumer(station_name, "other", "group", max_ack_time_ms=600_000)
    script = tmp_path / "program.py"
    script.write_text(
        "import os, signal, sys, memphis_sync\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n"
        "memphis = memphis_sync.connect(sys.argv[1])\n"
        "consumer = memphis.consumer(sys.argv[2], 'c', 'group', batch_size=200, max_ack_time_ms=600_000)\n"
        "for number, message in enumerate(consumer):\n"
        "    print(int(message.data), flush=True)\n"
        "    message.ack()\n"
        "    if number == 700:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    seen = Counter(map(int, run_python(script, broker.url, station_name).stdout.split()))
    assert len(seen) >= 700
    deadline = time.monotonic() + 30
    while len(seen) < 2000 and time.monotonic() < deadline:
        for message in other.fetch(200, timeout_s=0.5):
            seen[int(message.data)] += 1
            message.ack()
    assert len(seen) == 2000
    assert set(seen.values()) == {1}


def test_a_slow_handler_has_one_message_and_a_quick_one_a_batch(
    memphis: Memphis, station_name: str, until: Callable[..., object]
) -> None:
    memphis.producer(station_name, "p").produce_many(b"%d" % number for number in range(3000))
    sizes: list[int] = []
    is_slow = threading.Event()

    def callback(messages: list[object], error: object, _: object) -> None:
        if is_slow.is_set():
            time.sleep(0.2 * len(messages))
        sizes.append(len(messages))
        for message in messages:
            message.ack()

    with memphis.consumer(station_name, "c", batch_size=50) as consumer:
        consumer.consume(callback)
        until(lambda: sum(sizes) == 3000)
        assert sizes[0] == 1
        assert 50 in sizes, sizes
        is_slow.set()
        sizes.clear()
        memphis.producer(station_name, "p").produce_many(b"%d" % number for number in range(8))
        until(lambda: sum(sizes) == 8)
    assert set(sizes[1:]) <= {1, 2}, sizes
