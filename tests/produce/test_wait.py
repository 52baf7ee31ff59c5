"""wait() and as_completed(): the shape of concurrent.futures, for what a non-blocking produce returns."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest

import memphis_sync
from memphis_sync import ConfigurationError, DeadlineError, OwnThreadError, StationGoneError, as_completed, wait

if TYPE_CHECKING:
    from memphis_sync import Delivery, Memphis


def _pending(memphis: Memphis, proxy, station_name: str, count: int = 5, **options: object) -> list[Delivery]:
    producer = memphis.producer(station_name, "p")
    producer.produce(b"first")
    proxy.stall()
    return [producer.produce(b"%d" % i, nonblocking=True, **options) for i in range(count)]


def _gone(memphis: Memphis, url: str, name: str, **options: object) -> Delivery:
    producer = memphis.producer(name, "p")
    producer.produce(b"m")
    with memphis_sync.connect(url) as other:
        other.station(name).destroy()
    return producer.produce(b"m", nonblocking=True, **options)


def _interrupt_after(seconds: float) -> threading.Timer:
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    return timer


def test_all_of_them(memphis: Memphis, station_name: str) -> None:
    producer = memphis.producer(station_name, "p")
    deliveries = [producer.produce(b"m", nonblocking=True) for _ in range(1000)]
    done, not_done = result = wait(deliveries)
    assert (done, not_done) == (set(deliveries), set())
    assert (result.done, result.not_done) == (done, not_done)
    assert wait(deliveries, return_when="FIRST_COMPLETED").done == set(deliveries)
    assert set(as_completed(deliveries)) == set(deliveries)
    assert wait([]) == (set(), set())
    assert list(as_completed([])) == []


def test_the_words_are_those_of_concurrent_futures() -> None:
    for word in ("ALL_COMPLETED", "FIRST_COMPLETED", "FIRST_EXCEPTION"):
        assert getattr(concurrent.futures, word) == word
        assert wait([], return_when=word) == (set(), set())


@pytest.mark.parametrize("return_when", ["ALL_COMPLETED", "FIRST_COMPLETED", "FIRST_EXCEPTION"])
def test_at_the_limit_what_is_not_known_is_not_done(through_proxy, station_name: str, return_when: str) -> None:
    memphis, proxy = through_proxy()
    deliveries = _pending(memphis, proxy, station_name)
    started = time.monotonic()
    assert wait(deliveries, 0.5, return_when) == (set(), set(deliveries))
    assert 0.5 <= time.monotonic() - started < 10
    with pytest.raises(DeadlineError, match=r"5 of 5 deliveries were not known within 0\.3 s") as caught:
        list(as_completed(deliveries, timeout_s=0.3))
    assert isinstance(caught.value, TimeoutError)
    assert wait(deliveries, 0, return_when) == (set(), set(deliveries))
    proxy.go_on()
    assert wait(deliveries, 10).not_done == set()


def test_the_first_that_is_known_ends_the_wait(through_proxy, broker, station_name: str) -> None:
    memphis, proxy = through_proxy()
    slow = _pending(memphis, proxy, station_name)
    with memphis_sync.connect(broker.url) as other:  # a client of its own: they may be waited for together
        quick = other.producer(f"{station_name}-b", "p").produce(b"m", nonblocking=True)
        done, not_done = wait([*slow, quick], 10, return_when="FIRST_COMPLETED")
        assert (done, not_done) == ({quick}, set(slow))
        assert next(as_completed([*slow, quick], 10)) is quick
        threading.Timer(0.3, proxy.go_on).start()
        started = time.monotonic()
        done, _ = wait(slow, 10, return_when="FIRST_COMPLETED")
        assert done
        assert 0.2 < time.monotonic() - started < 5
        order = list(as_completed([quick, *slow], 10))
        assert (set(order), len(order)) == ({quick, *slow}, 6)


def test_the_first_failure_ends_the_wait(through_proxy, broker, station_name: str) -> None:
    memphis, proxy = through_proxy()
    slow = _pending(memphis, proxy, station_name)
    with memphis_sync.connect(broker.url) as other:
        good = other.producer(f"{station_name}-b", "p").produce(b"m", nonblocking=True)
        bad = _gone(other, broker.url, f"{station_name}-c")  # fails after its pauses
        started = time.monotonic()
        done, not_done = wait([*slow, good, bad], 10, return_when="FIRST_EXCEPTION")
        assert time.monotonic() - started < 8
        assert (done, not_done) == ({good, bad}, set(slow))
        assert isinstance(bad.exception(0), StationGoneError)
        assert wait([good], return_when="FIRST_EXCEPTION").done == {good}
    proxy.go_on()
    assert wait(slow, 10, return_when="FIRST_EXCEPTION") == (set(slow), set())


def test_several_stations_count_as_one_known_with_the_last(broker, station_name: str) -> None:
    with memphis_sync.connect(broker.url) as memphis:
        names = [station_name, f"{station_name}-b"]
        producer = memphis.producer(names, "p")
        producer.produce(b"m")
        several = [producer.produce(b"m", nonblocking=True) for _ in range(100)]
        single = memphis.producer(station_name, "q").produce(b"m", nonblocking=True)
        assert wait([*several, single, single], 10) == ({*several, single}, set())
        assert set(as_completed([*several, single], 10)) == {*several, single}
        with memphis_sync.connect(broker.url) as other:
            other.station(names[1]).destroy()
        half = producer.produce(b"m", nonblocking=True)
        done, not_done = wait([half], 0.2, return_when="FIRST_COMPLETED")
        assert half[station_name].exception(10) is None
        assert (done, not_done) == (set(), {half})
        assert wait([half], 10, return_when="FIRST_EXCEPTION").done == {half}
        assert half.exception(0) is not None


@pytest.mark.parametrize(
    "call",
    [
        wait,
        lambda deliveries: wait(deliveries, return_when="FIRST_COMPLETED"),
        lambda deliveries: list(as_completed(deliveries)),
    ],
    ids=["all", "first", "as_completed"],
)
def test_ctrl_c_ends_the_wait(through_proxy, station_name: str, call) -> None:
    memphis, proxy = through_proxy()
    deliveries = _pending(memphis, proxy, station_name)
    timer = _interrupt_after(0.3)
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        call(deliveries)
    assert time.monotonic() - started < 10
    timer.join()
    proxy.go_on()
    assert wait(deliveries, 10).not_done == set()


def test_no_own_thread_waits_and_the_callbacks_thread_may(memphis: Memphis, station_name: str, until) -> None:
    producer = memphis.producer(station_name, "p")
    delivery = producer.produce(b"m", nonblocking=True)

    async def call(what) -> None:
        what([delivery])

    for what, text in ((wait, r"wait\(\) was called"), (as_completed, r"as_completed\(\) was called")):
        with pytest.raises(OwnThreadError, match=text):
            memphis._session.call(lambda what=what: call(what), 10, "test")
    found: list[object] = []

    def waits(first: Delivery) -> None:
        second = producer.produce(b"m", nonblocking=True)
        found.append(set(as_completed([first, second], 10)) == {first, second})

    producer.produce(b"m", nonblocking=True, on_delivery=waits)
    until(lambda: found)
    assert found == [True]


def test_the_end_of_the_client_is_an_outcome(through_proxy, station_name: str) -> None:
    memphis, proxy = through_proxy()
    deliveries = _pending(memphis, proxy, station_name)
    rest = as_completed(deliveries, 10)
    with pytest.warns(memphis_sync.UndeliveredWarning, match="5 messages"):
        memphis.close(timeout_s=0.1)
    assert set(rest) == set(deliveries)
    assert wait(deliveries).done == set(deliveries)
    proxy.go_on()


def test_a_hundred_thousand_are_each_yielded_once(memphis: Memphis, station_name: str) -> None:
    producer = memphis.producer(station_name, "p", block_on_full_s=30)
    deliveries = [producer.produce(b"m", nonblocking=True) for _ in range(100_000)]
    order = list(as_completed(deliveries, 60))
    assert len(order) == 100_000
    assert set(order) == set(deliveries)
    started = time.process_time()
    assert wait(deliveries, 60).not_done == set()
    assert time.process_time() - started < 5  # a sanity bound; it takes a twentieth of that


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (([], -1), "timeout_s is -1; it must be a number of seconds from 0"),
        (([1],), "deliveries holds an object of type int"),
        (([], None, "SOME"), "return_when is 'SOME'; it must be 'ALL_COMPLETED', 'FIRST_COMPLETED' or"),
    ],
)
def test_arguments_are_checked(arguments, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        wait(*arguments)
