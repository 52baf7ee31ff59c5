"""What a client that was closed, and a call that was interrupted, leave behind: nothing."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time

import pytest

import memphis_sync

CYCLES = 40
SCRIPT = f"""
import gc, os
import memphis_sync
gc.disable()  # what only the collector frees is not free in a busy program for long
def size():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
def cycle():
    with memphis_sync.connect(os.environ["TEST_URL"]) as client:
        client.produce(os.environ["TEST_STATION"], "p", b"x")
        client.consumer(os.environ["TEST_STATION"], "g").consume(lambda *_: None)
for _ in range(5):
    cycle()
before = size()
for _ in range({CYCLES}):
    cycle()
print((size() - before) // {CYCLES})
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="the size of a process is read from /proc")  # noqa: PTH110
def test_a_closed_client_gives_its_memory_back_without_the_collector(run_python, broker, station_name):
    done = run_python("-c", SCRIPT, env={"TEST_URL": broker.url, "TEST_STATION": station_name}, timeout_s=100)
    assert int(done.stdout) < 10_000_000  # bytes a cycle: 0.2 million are measured, and 124 million without giving back


def test_a_closed_client_still_counts_and_says_what_it_is(broker, station_name):
    client = memphis_sync.connect(broker.url)
    producer = client.producer(station_name, "p")
    delivery = producer.produce(b"1", nonblocking=True)
    consumer = client.consumer(station_name, "c")
    (message,) = consumer.fetch(timeout_s=10)
    client.close()
    assert (client.stats().delivered, client.stats().accepted) == (1, 1)
    assert delivery.result().sequence == 1
    assert message.data == b"1"
    assert (client.flush(), producer.flush(), len(producer)) == (0, 0, 0)
    assert "closed" in repr(client)
    for call in (
        lambda: producer.produce(b"2"),
        lambda: producer.produce(b"2", nonblocking=True),
        lambda: producer.produce_many([b"2"]),
        lambda: client.produce(station_name, "p", b"2"),
        lambda: consumer.fetch(timeout_s=0.1),
        message.ack,
        lambda: message.ack(wait=True),
    ):
        with pytest.raises(memphis_sync.ClosedError):
            call()
    seen = []
    delivery.add_done_callback(seen.append)
    assert seen == [delivery]


def descriptors():
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


# What Python drops, as said below, it tells of in this way.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("use", ["consume", "iteration", "fetch", "stop", "consumer"])
def test_ctrl_c_leaves_no_thread_and_no_descriptor(broker, station_name, use, until):
    def interrupted(*_):
        raise KeyboardInterrupt

    def interrupt_after(seconds, fn, consumer):
        # Again and again: Python drops what a handler raises while it collects garbage or runs a destructor.
        signal.setitimer(signal.ITIMER_REAL, seconds, 0.5)
        try:
            fn(consumer)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def consume(consumer):
        consumer.consume(lambda *_: None, workers=20)
        time.sleep(1)

    def iterate(consumer):
        for _ in consumer:
            pass

    def fetch(consumer):
        while True:
            consumer.fetch(timeout_s=5)

    def stop(consumer):
        consumer.consume(lambda *_: time.sleep(0.05))
        consumer.stop()
        time.sleep(1)

    uses = {
        "consume": consume,
        "iteration": iterate,
        "fetch": fetch,
        "stop": stop,
        "consumer": lambda _: [client.consumer(station_name, f"d{number}") for number in range(1000)],
    }
    before = signal.signal(signal.SIGALRM, interrupted)
    threads, files = threading.active_count(), descriptors()
    client = memphis_sync.connect(broker.url)
    try:
        producer = client.producer(station_name, "p")
        consumer = client.consumer(station_name, "c")
        for step in range(12):
            producer.produce(b"m")
            with pytest.raises(KeyboardInterrupt):
                interrupt_after(0.0005 * 2 ** (step % 8), uses[use], consumer)
            consumer.stop(30)
        assert consumer.stop(30)
        assert client.ping(30) < 30
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        client.close()
    gc.collect()
    # A thread of which an interrupted start told nobody ends by itself.
    until(lambda: threading.active_count() <= threads)
    until(lambda: descriptors() <= files)


AFTER_MAIN = """
import os, threading, time
import memphis_sync
from memphis_sync._base import threads
threads._PARKS = {parks}
client = memphis_sync.connect(os.environ["TEST_URL"])
station = os.environ["TEST_STATION"]
def refuse(*_):
    raise RuntimeError("can't create new thread at interpreter shutdown")
def work():
    threading.main_thread().join()
    if {parks}:  # as CPython 3.12.0 to 3.12.2 do by themselves
        threading._start_new_thread = refuse
    print(client.produce(station, "p", b"1").sequence)
    seen, found = [], []
    client.produce(station, "p", b"2", nonblocking=True, on_delivery=seen.append).result(30)
    client.consumer(station, "c").consume(lambda messages, *_: found.extend(messages))
    deadline = time.monotonic() + 30
    while len(found) < 2 or not seen:
        if time.monotonic() > deadline:
            os._exit(3)
        time.sleep(0.01)
    client.close()
    with memphis_sync.connect(os.environ["TEST_URL"]) as another:
        print(another.produce(station, "p", b"3").sequence)
threading.Thread(target=work).start()
"""


@pytest.mark.parametrize("parks", [False, True], ids=["as it is", "an interpreter that starts none any more"])
def test_a_thread_that_outlives_the_main_one_uses_the_client(run_python, broker, station_name, parks):
    env = {"TEST_URL": broker.url, "TEST_STATION": station_name}
    done = run_python("-c", AFTER_MAIN.format(parks=parks), env=env, timeout_s=100)
    assert done.stdout == b"1\n3\n", done.stderr
    assert done.stderr == b""
