"""A full outbox: raised at once by default, waited for as long as block_on_full_s says."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest

from memphis_sync import BufferFullError, BulkDeadlineError, ConfigurationError, OwnThreadError, UndeliveredWarning

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fix_proxy import Proxy

    from memphis_sync import Memphis

ROOM = 50


@pytest.fixture
def full(through_proxy, station_name: str) -> Iterator[tuple[Memphis, Proxy]]:
    """A client whose outbox of 50 messages is full, behind a connection that passes nothing."""
    memphis, proxy = through_proxy(outbox_max_messages=ROOM)
    memphis.station(f"{station_name}-b")
    memphis.producer(station_name, "first").produce(b"first")
    return memphis, proxy


def _fill(producer, proxy: Proxy) -> None:
    proxy.stall()
    for i in range(ROOM):
        producer.produce(b"%d" % i, nonblocking=True)


def test_by_default_it_is_raised_at_once(full, station_name: str) -> None:
    memphis, proxy = full
    producer = memphis.producer(station_name, "p")
    _fill(producer, proxy)
    started = time.monotonic()
    with pytest.raises(BufferFullError, match="block_on_full_s"):
        producer.produce(b"m", nonblocking=True)
    assert time.monotonic() - started < 5
    proxy.go_on()


def test_it_waits_as_long_as_it_is_told(full, station_name: str) -> None:
    memphis, proxy = full
    producer = memphis.producer(station_name, "p", block_on_full_s=0.5)
    _fill(producer, proxy)
    started = time.monotonic()
    with pytest.raises(BufferFullError, match=f"outbox_max_messages={ROOM}"):
        producer.produce(b"m", nonblocking=True)
    assert 0.5 <= time.monotonic() - started < 5
    proxy.go_on()
    assert producer.flush(10) == 0
    assert memphis.stats().accepted == ROOM + 1


@pytest.mark.parametrize("stations", [1, 2])
def test_room_ends_the_wait(full, station_name: str, holds, stations: int) -> None:
    memphis, proxy = full
    names = [station_name, f"{station_name}-b"][:stations]
    producer = memphis.producer(names, "p", block_on_full_s=30)
    _fill(memphis.producer(station_name, "filler"), proxy)
    timer = threading.Timer(0.3, proxy.go_on)
    timer.start()
    started = time.monotonic()
    deliveries = [producer.produce(b"m%d" % i, nonblocking=True) for i in range(500)]
    assert 0.2 < time.monotonic() - started < 100
    timer.join()
    assert memphis.flush(10) == 0
    assert all(delivery.exception() is None for delivery in deliveries)
    for name in names:
        assert [data for _, data in holds(name)][-500:] == [b"m%d" % i for i in range(500)]


def test_a_blocking_produce_waits_for_room(full, station_name: str, holds) -> None:
    """Up to its deadline: then nothing was taken."""
    memphis, proxy = full
    producer = memphis.producer(station_name, "p")
    _fill(producer, proxy)
    started = time.monotonic()
    with pytest.raises(BufferFullError, match=f"outbox_max_messages={ROOM}"):
        producer.produce(b"late", ack_wait_sec=0.4)
    assert 0.4 <= time.monotonic() - started < 5
    timer = threading.Timer(0.3, proxy.go_on)
    timer.start()
    assert producer.produce(b"in time").sequence == ROOM + 2
    assert time.monotonic() - started > 0.6
    timer.join()
    assert [data for _, data in holds(station_name)] == [b"first", *(b"%d" % i for i in range(ROOM)), b"in time"]


def test_ctrl_c_ends_the_wait(full, station_name: str) -> None:
    memphis, proxy = full
    producer = memphis.producer(station_name, "p", block_on_full_s=60)
    _fill(producer, proxy)
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        producer.produce(b"m", nonblocking=True)
    assert time.monotonic() - started < 10
    timer.join()
    proxy.go_on()
    assert producer.flush(10) == 0
    assert memphis.stats().accepted == ROOM + 1


def test_a_client_that_is_closed_ends_the_wait(full, station_name: str) -> None:
    memphis, proxy = full
    producer = memphis.producer(station_name, "p", block_on_full_s=60)
    _fill(producer, proxy)
    errors: list[BaseException] = []

    def produce() -> None:
        try:
            producer.produce(b"m", nonblocking=True)
        except BaseException as exc:
            errors.append(exc)

    thread = threading.Thread(target=produce)
    thread.start()
    time.sleep(0.2)
    with pytest.warns(UndeliveredWarning, match=f"{ROOM} messages"):
        memphis.close(timeout_s=0.1)
    thread.join(5)
    assert [type(error).__name__ for error in errors] == ["ClosedError"]
    proxy.go_on()


def test_a_thread_of_the_clients_own_never_waits(full, station_name: str) -> None:
    memphis, proxy = full
    producer = memphis.producer(station_name, "p", block_on_full_s=60)
    _fill(producer, proxy)

    async def produce() -> None:
        producer.produce(b"m", nonblocking=True)

    with pytest.raises(OwnThreadError, match="block_on_full_s"):
        memphis._session.call(produce, 10, "test")
    proxy.go_on()


def test_the_shortcut_on_the_client_takes_it_too(full, station_name: str) -> None:
    memphis, proxy = full
    memphis.produce(station_name, "p", b"m", nonblocking=True, block_on_full_s=0.3).result(10)
    _fill(memphis.producer(station_name, "filler"), proxy)
    started = time.monotonic()
    with pytest.raises(BufferFullError):
        memphis.produce(station_name, "p", b"m", nonblocking=True, block_on_full_s=0.3)
    assert time.monotonic() - started >= 0.3
    proxy.go_on()


def test_produce_many_keeps_its_own_limit(full, station_name: str) -> None:
    memphis, proxy = full
    producer = memphis.producer(station_name, "p", block_on_full_s=60)
    _fill(producer, proxy)
    started = time.monotonic()
    with pytest.raises(BulkDeadlineError):
        producer.produce_many([b"m"] * 10, timeout_s=0.4)
    assert 0.4 <= time.monotonic() - started < 10
    proxy.go_on()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"block_on_full_s": -1}, "block_on_full_s is -1; it must be a number of seconds from 0 to 86400"),
        ({"block_on_full_s": "1"}, "block_on_full_s is a str; it must be a number of seconds from 0 to 86400"),
        ({"ack_timeout_s": 0}, "ack_timeout_s is 0; it must be a number of seconds above 0 to 86400"),
        ({"on_delivery": 7}, "on_delivery is 7; it must be callable or None"),
    ],
)
def test_options_are_checked_before_anything_is_sent(memphis: Memphis, station_name: str, options, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        memphis.producer(station_name, "p", **options)


# ---- the producer's defaults for its messages ----------------------------------------------------------------------


def test_the_producers_deadline_holds_where_produce_is_not_told(through_proxy, station_name: str) -> None:
    memphis, proxy = through_proxy()
    producer = memphis.producer(station_name, "p", ack_timeout_s=0.4)
    producer.produce(b"before")
    proxy.stall()
    short = producer.produce(b"m", nonblocking=True)
    long = producer.produce(b"m", 15, nonblocking=True)  # the very default, said
    started = time.monotonic()
    assert short.exception(10).outcome == "unknown"
    assert 0.2 < time.monotonic() - started < 10
    assert not long.done()
    proxy.go_on()
    assert long.exception(10) is None


def test_the_producers_callback_gets_every_non_blocking_message(memphis: Memphis, station_name: str, until) -> None:
    seen, others = [], []
    producer = memphis.producer(station_name, "p", on_delivery=seen.append)
    producer.produce(b"blocking")
    delivery = producer.produce(b"a", nonblocking=True)
    producer.produce(b"b", nonblocking=True, on_delivery=others.append)
    producer.produce_many([b"c", b"d"])
    until(lambda: (len(seen), len(others)) == (3, 1))
    assert seen[0] is delivery


def test_a_delivery_shows_nothing_secret(memphis: Memphis, station_name: str) -> None:
    producer = memphis.producer(station_name, "p")
    delivery = producer.produce(b"secret-payload", nonblocking=True, headers={"k": "secret-header"}, msg_id="secret-id")
    delivery.result(10)
    assert repr(delivery) == f"<Delivery {station_name} delivered>"
