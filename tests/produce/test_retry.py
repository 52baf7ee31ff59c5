"""A message that nobody listens to waits for its station, and the station is looked for."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

import memphis_sync
from memphis_sync import ConfigurationError, RetryPolicy, StationGoneError

if TYPE_CHECKING:
    from memphis_sync import Memphis
    from memphis_sync.broker import BrokerProcess


def _resent(memphis: Memphis) -> int:
    return memphis._session.data_link().core.stats()["resent"]


def _destroyed(broker: BrokerProcess, station_name: str) -> None:
    with memphis_sync.connect(broker.url) as other:
        other.station(station_name).destroy()


def test_a_message_outlives_a_station_that_is_created_again(broker, station_name: str, holds) -> None:
    policy = RetryPolicy(attempts=50, pause_ms=100)
    with memphis_sync.connect(broker.url, no_responders_retry=policy) as memphis:
        producer = memphis.producer(station_name, "p")
        producer.produce(b"before")
        _destroyed(broker, station_name)
        deliveries = [producer.produce(b"%d" % i, nonblocking=True) for i in range(100)]
        time.sleep(0.25)
        assert memphis.stats().delivered == 1
        memphis.station(station_name)
        assert producer.flush(10) == 0
        assert [delivery.exception() for delivery in deliveries] == [None] * 100
        assert _resent(memphis) >= 2
    assert [int(data) for _, data in holds(station_name)] == list(range(100))  # in the order of producing


@pytest.mark.timing
def test_the_policy_bounds_the_attempts_and_the_identity_holds_throughout(broker, station_name: str) -> None:
    policy = RetryPolicy(attempts=3, pause_ms=100)
    with memphis_sync.connect(broker.url, no_responders_retry=policy) as memphis:
        producer = memphis.producer(station_name, "p")
        producer.produce(b"before")
        _destroyed(broker, station_name)
        wrong, ended = [], threading.Event()

        def sample() -> None:
            while not ended.is_set():
                s = memphis.stats()
                if s.accepted != s.delivered + s.failed + s.abandoned + s.queued + s.in_flight or s.queued_bytes < 0:
                    wrong.append(s)

        sampler = threading.Thread(target=sample)
        sampler.start()
        started = time.monotonic()
        deliveries = [producer.produce(b"m", nonblocking=True) for _ in range(200)]
        errors = [delivery.exception(10) for delivery in deliveries]
        took = time.monotonic() - started
        ended.set()
        sampler.join()
        assert not wrong
        assert {type(error) for error in errors} == {StationGoneError}
        assert "is not stored" in str(errors[0])
        assert 0.3 <= took < 3
        assert _resent(memphis) == 3  # the oldest for all
        stats = memphis.stats()
        assert (stats.failed, stats.queued, stats.queued_bytes, stats.in_flight) == (200, 0, 0, 0)


@pytest.mark.parametrize(
    ("options", "least_s", "resent"),
    [({}, 0.5, 2), ({"no_responders_retry": None}, 0.0, 0)],
    ids=["default", "off"],
)
def test_a_blocking_produce_follows_the_same_policy(broker, station_name: str, options, least_s, resent) -> None:
    with memphis_sync.connect(broker.url, **options) as memphis:
        producer = memphis.producer(station_name, "p")
        producer.produce(b"before")
        _destroyed(broker, station_name)
        started = time.monotonic()
        with pytest.raises(StationGoneError):
            producer.produce(b"m")
        assert time.monotonic() - started >= least_s
        assert _resent(memphis) == resent


def test_the_deadline_ends_the_attempts(broker, station_name: str) -> None:
    policy = RetryPolicy(attempts=100, pause_ms=1000)
    with memphis_sync.connect(broker.url, no_responders_retry=policy) as memphis:
        producer = memphis.producer(station_name, "p")
        producer.produce(b"before")
        _destroyed(broker, station_name)
        started = time.monotonic()
        with pytest.raises(StationGoneError):
            producer.produce(b"m", ack_wait_sec=3.5)
        assert 3 < time.monotonic() - started < 20
        assert 2 <= _resent(memphis) <= 4


def test_what_is_produced_meanwhile_to_another_station_does_not_wait(broker, station_name: str) -> None:
    policy = RetryPolicy(attempts=100, pause_ms=60_000)
    with memphis_sync.connect(broker.url, no_responders_retry=policy) as memphis:
        gone, here = memphis.producer(station_name, "p"), memphis.producer(f"{station_name}-b", "p")
        gone.produce(b"before")
        _destroyed(broker, station_name)
        paused = gone.produce(b"m", nonblocking=True, ack_wait_sec=3600)
        deliveries = [here.produce(b"m", nonblocking=True) for _ in range(1000)]
        assert here.flush(10) == 0
        assert all(delivery.exception() is None for delivery in deliveries)
        assert not paused.done()
        assert memphis.stats().queued == 1
        with pytest.warns(memphis_sync.UndeliveredWarning, match="1 messages"):
            memphis.close(timeout_s=0.1)
        assert paused.exception(0).outcome == "unknown"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2, "no_responders_retry is 2; it must be a RetryPolicy or None"),
        (RetryPolicy(attempts=0), r"no_responders_retry\.attempts is 0; .* from 1 to 100"),
        (RetryPolicy(attempts=101), r"no_responders_retry\.attempts is 101; .* from 1 to 100"),
        (RetryPolicy(pause_ms=0), r"no_responders_retry\.pause_ms is 0; .* from 1 to 60000"),
        (RetryPolicy(pause_ms=0.5), r"no_responders_retry\.pause_ms is 0.5; .* from 1 to 60000"),
    ],
)
def test_the_policy_is_checked_before_anything_is_opened(value, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        memphis_sync.connect("127.0.0.1", "u", password="p", port=1, no_responders_retry=value)
