"""consume(workers=N): N batches side by side and no more, one report of an error, and an end that waits for all."""

from __future__ import annotations

import threading
import time

import pytest

from memphis_sync import ConfigurationError, StationNotFoundError


@pytest.fixture
def filled(memphis, station_name):
    """A station of two partitions with the messages 0 to 99; its name."""
    memphis.station(station_name, partitions_number=2)
    memphis.producer(station_name, "p").produce_many(b"%d" % number for number in range(100))
    return station_name


def test_so_many_at_once_and_no_more(memphis, filled, until):
    lock, now, most, seen = threading.Lock(), set(), [0], []
    together = threading.Barrier(3)

    def callback(messages, error, _):
        assert error is None
        with lock:
            now.add(threading.get_ident())
            most[0] = max(most[0], len(now))
            is_first = len(seen) < 3
            seen.extend(messages)
        if is_first:
            together.wait(20)
        time.sleep(0.005)
        for message in messages:
            message.ack()
        with lock:
            now.discard(threading.get_ident())

    with memphis.consumer(filled, "c", batch_size=1, pull_interval_ms=0) as consumer:
        consumer.consume(callback, workers=3)
        until(lambda: len(seen) == 100)
    assert most[0] == 3
    assert sorted(int(message.data) for message in seen) == list(range(100))


def test_one_worker_keeps_the_order_of_a_partition(memphis, filled, until):
    seen = {1: [], 2: []}

    def callback(messages, *_):
        for message in messages:
            seen[message.partition].append(message.sequence)

    with memphis.consumer(filled, "c", batch_size=7, pull_interval_ms=0) as consumer:
        consumer.consume(callback)
        until(lambda: sum(map(len, seen.values())) == 100)
    assert all(sequences == sorted(sequences) for sequences in seen.values())


def test_stop_waits_for_every_worker(memphis, filled):
    inside, done = threading.Semaphore(0), []

    def callback(messages, *_):
        inside.release()
        time.sleep(0.4)
        done.append(len(messages))

    consumer = memphis.consumer(filled, "c", batch_size=5)
    consumer.consume(callback, workers=4)
    for _ in range(4):
        assert inside.acquire(timeout=20)
    assert not consumer.stop_consume(0.01), "they are still at it"
    assert consumer.stop()
    assert len(done) >= 4
    count = len(done)
    time.sleep(0.5)
    assert len(done) == count, "nothing is handed out after that"


def test_stop_in_a_callback_does_not_wait_for_the_others(memphis, filled, until):
    consumer = memphis.consumer(filled, "c", batch_size=1)
    stopped = []

    def callback(messages, *_):
        stopped.append(consumer.stop_consume(20))

    consumer.consume(callback, workers=4)
    start = time.monotonic()
    until(lambda: stopped)
    assert time.monotonic() - start < 15
    assert consumer.stop()


def test_an_error_is_handed_to_one_worker(memphis, filled, until):
    errors = []
    with memphis.consumer(filled, "c") as consumer:
        consumer.consume(lambda messages, error, _: errors.append(error) if error else None, workers=4)
        memphis.station(filled).destroy()
        until(lambda: errors)
        time.sleep(3.5)  # it is looked for again each second, and a look takes two at most
    assert [type(error) for error in errors] == [StationNotFoundError]


def test_the_number_is_checked(memphis, filled):
    consumer = memphis.consumer(filled, "c")
    for workers in (0, -1, 257, "2", 1.5):
        with pytest.raises(ConfigurationError, match="workers is"):
            consumer.consume(lambda *_: None, workers=workers)


@pytest.mark.timing
def test_a_stopped_reader_waits_no_longer(memphis, station_name):
    """Both ways that wait for messages end at once, not at the end of their look for messages."""
    consumer = memphis.consumer(station_name, "c")
    reader = threading.Thread(target=lambda: list(consumer))
    reader.start()
    consumer.consume(lambda *_: None, workers=2)
    time.sleep(0.3)
    start = time.monotonic()
    assert consumer.stop()
    reader.join(20)
    assert time.monotonic() - start < 1.5
