"""Signal handlers and destructors that use the client in the middle of whatever their thread is doing."""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import threading
import time

import pytest

import memphis_sync
from memphis_sync import OwnThreadError, UsageError
from memphis_sync._base.threads import Change, Latch, Section
from memphis_sync._session.single_flight import SingleFlight


@pytest.fixture
def on_signal():
    """``on_signal(handle)`` has handle() called by SIGALRM; errors of it are in the list that is returned."""
    errors: list[BaseException] = []
    before = signal.getsignal(signal.SIGALRM)

    def install(handle):
        def call(*_):
            try:
                handle()
            except BaseException as exc:
                errors.append(exc)

        signal.signal(signal.SIGALRM, call)
        return errors

    yield install
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def interrupt():
    os.kill(os.getpid(), signal.SIGALRM)


def test_a_making_that_is_interrupted_is_refused_to_its_interrupter(on_signal):
    cache = SingleFlight("the registration of a producer")
    errors = on_signal(lambda: cache.get("key", object))

    def make():
        interrupt()
        return "made"

    assert cache.get("key", make) == "made"
    assert [type(error) for error in errors] == [UsageError]
    assert "interrupted the registration of a producer on the same thread" in str(errors[0])


def test_a_section_is_refused_to_its_holder_and_kept_from_others():
    section = Section("it")
    with section.begin():
        assert section.is_mine
        with pytest.raises(UsageError, match="interrupted it"):
            section.begin()
        seen = []
        thread = threading.Thread(target=lambda: seen.append((section.is_mine, section.begin().acquire(timeout=0.05))))
        thread.start()
        thread.join(20)
        assert seen == [(False, False)]
    with section.begin():
        assert section.is_mine
    assert not section.is_mine


# Before 3.11 an exception may come between the end of a with block and its release, whatever the lock.
WITH_IS_WHOLE = pytest.mark.skipif(sys.version_info < (3, 11), reason="Python itself may leave a with statement's lock")


@pytest.mark.parametrize("use", [pytest.param("section", marks=WITH_IS_WHOLE), "change"])
def test_an_exception_of_a_signal_handler_leaves_nothing_locked(use):
    section, change, is_armed = Section("it"), Change(), False

    def interrupted(*_):
        if is_armed:
            raise KeyboardInterrupt

    def hold():
        while True:
            with section.begin():
                pass

    def wait():
        while True:
            change.notify()
            change.wait_for(lambda: False, time.monotonic() + 0.00002)

    before = signal.signal(signal.SIGALRM, interrupted)
    try:
        for _ in range(3000):
            try:
                is_armed = True
                signal.setitimer(signal.ITIMER_REAL, random.uniform(0.00002, 0.0002))
                hold() if use == "section" else wait()
            except KeyboardInterrupt:
                is_armed = False
            assert not section.is_mine
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    seen = []
    thread = threading.Thread(target=lambda: seen.append(section.begin().acquire(timeout=20)))
    thread.start()
    thread.join(30)
    assert seen == [True]
    thread = threading.Thread(
        target=lambda: seen.append(change.wait_for(lambda: len(seen) == 2, time.monotonic() + 20))
    )
    thread.start()
    seen.append("true now")
    change.notify()
    thread.join(30)
    assert seen == [True, "true now", True]


def test_an_exception_of_a_signal_handler_leaves_no_coroutine_behind(memphis, recwarn):
    """Wherever it comes in; here before each line of ours that a call runs on its caller's thread."""

    def is_ended_at(line):
        left = line

        def trace(frame, event, _):
            nonlocal left
            if event == "line" and "memphis_sync" in frame.f_code.co_filename:
                left -= 1
                if left == 0:
                    raise KeyboardInterrupt
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            memphis.ping(60)
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(before)
        return False

    line = 1
    while is_ended_at(line):
        line += 1
    assert line > 10
    assert memphis.ping(60) < 60
    gc.collect()
    assert [str(warning.message) for warning in recwarn] == []


def test_a_latch_ends_every_wait_and_may_be_set_again():
    latch = Latch()
    assert not latch.wait(0.01)
    ended = []
    threads = [threading.Thread(target=lambda: ended.append(latch.wait(60))) for _ in range(5)]
    for thread in threads:
        thread.start()
    latch.set()
    latch.set()
    for thread in threads:
        thread.join(20)
    assert ended == [True] * 5
    assert latch.wait(0)


def test_a_second_close_on_the_same_thread_leaves_the_first_one_to_end(broker, station_name, on_signal, monkeypatch):
    before = set(threading.enumerate())
    client = memphis_sync.connect(broker.url)
    client.produce(station_name, "p", b"1")
    errors = on_signal(client.close)
    end = client._session._close_steps

    def interrupted(deadline):
        interrupt()
        end(deadline)

    monkeypatch.setattr(client._session, "_close_steps", interrupted)
    client.close()
    assert errors == []
    assert client.stats().delivered == 1
    assert not [thread.name for thread in set(threading.enumerate()) - before if thread.name.startswith("memphis-")]


def test_opening_the_data_link_that_is_interrupted_is_refused_to_its_interrupter(
    memphis, station_name, on_signal, monkeypatch
):
    memphis.station(station_name)
    errors = on_signal(memphis._session.data_link)
    from memphis_sync._data import DataLink

    connect = DataLink.open

    def interrupted(*args, **options):
        interrupt()
        return connect(*args, **options)

    monkeypatch.setattr(DataLink, "open", interrupted)
    memphis.producer(station_name, "p").produce(b"1")
    assert [type(error) for error in errors] == [UsageError]


def test_stop_in_a_signal_handler_ends_a_consumer_at_any_moment(memphis, station_name, on_signal, until):
    memphis.station(station_name)
    consumer = memphis.consumer(station_name, "c")
    errors = on_signal(consumer.stop)
    for step in range(40):
        consumer.consume(lambda *_: None)
        signal.setitimer(signal.ITIMER_REAL, 0.0002 * (step % 10 + 1))
        until(lambda: not consumer._consuming.is_running)
        assert consumer.stop_consume(20)
    assert errors == []


def test_a_fetch_in_a_signal_handler_that_interrupted_a_fetch_is_refused(memphis, station_name, on_signal):
    memphis.station(station_name)
    consumer = memphis.consumer(station_name, "c")
    errors = on_signal(lambda: consumer.fetch(timeout_s=0.1))
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    assert consumer.fetch(timeout_s=1) == []
    assert [type(error) for error in errors] == [UsageError]
    assert "interrupted a fetch of this consumer" in str(errors[0])


SCRIPT = """
import faulthandler, os, signal, threading
import memphis_sync
faulthandler.dump_traceback_later(50, exit=True)
client = memphis_sync.connect(os.environ["TEST_URL"])
station = os.environ["TEST_STATION"]
client.producer(station, "warm")
fates = {}
def handle(*_):
    try:
        client.produce(station, name, b"from the handler", nonblocking=True)
        fate = "accepted"
    except memphis_sync.UsageError:
        fate = "refused"
    fates[fate] = fates.get(fate, 0) + 1
signal.signal(signal.SIGALRM, handle)
for step in range(40):
    name = f"logs-{step}"
    signal.setitimer(signal.ITIMER_REAL, 0.0001 * (step + 1))
    client.produce(station, name, b"first")
    signal.setitimer(signal.ITIMER_REAL, 0)
client.close()
stats = client.stats()
assert stats.delivered == stats.accepted == 40 + fates.get("accepted", 0), (stats, fates)
print("ended")
"""


def test_a_handler_that_produces_during_the_first_registration_hangs_nothing(run_python, broker, station_name):
    done = run_python("-c", SCRIPT, env={"TEST_URL": broker.url, "TEST_STATION": station_name}, timeout_s=60)
    assert done.stdout == b"ended\n", done.stderr


def test_a_destructor_on_a_thread_of_the_clients_own_may_not_wait(memphis, station_name, until):
    producer = memphis.producer(station_name, "p")
    consumer = memphis.consumer(station_name, "c")
    delivery = producer.produce(b"1", nonblocking=True)
    delivery.result(10)
    message = consumer.fetch(timeout_s=10)[0]
    met = {}
    calls = {
        "produce": lambda: producer.produce(b"x"),
        "client.produce": lambda: memphis.produce(station_name, "another", b"x"),
        "flush": memphis.flush,
        "producer.flush": producer.flush,
        "produce_many": lambda: producer.produce_many([b"x"]),
        "fetch": consumer.fetch,
        "ack": lambda: message.ack(wait=True),
        "stop": consumer.stop,
        "ping": memphis.ping,
        "station": lambda: memphis.station(station_name),
        "connect": lambda: memphis_sync.connect("memphis://root:memphis@127.0.0.1:1"),
        "close": memphis.close,
        "wait": lambda: memphis_sync.wait([delivery]),
    }

    class Dies:
        def __del__(self):
            for name, call in calls.items():
                try:
                    call()
                except BaseException as exc:
                    met[name] = type(exc)

    def kill(thing):
        thing.pop()
        gc.collect()

    memphis._session.loop.post(kill, [Dies()])
    until(lambda: len(met) == len(calls))
    assert met == dict.fromkeys(calls, OwnThreadError)
