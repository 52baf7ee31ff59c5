"""A lost link is noticed, told, and replaced by the next address: on both links."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Callable

import pytest

import memphis_sync
from memphis_sync import ConfigurationError, LinkEvent

if TYPE_CHECKING:
    from memphis_sync import Memphis

BOTH = {"data", "control"}


class Recorder:
    """The three callables for connect(), and what they were called with."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, LinkEvent, str, float]] = []
        self.options = {f"on_{kind}": self._on(kind) for kind in ("disconnect", "reconnect", "error")}

    def _on(self, kind: str) -> Callable[[LinkEvent], None]:
        def called(event: LinkEvent) -> None:
            self.seen.append((kind, event, threading.current_thread().name, time.monotonic()))

        return called

    def of(self, kind: str) -> dict[str, LinkEvent]:
        """The last event of each link."""
        return {event.link: event for what, event, _, _ in self.seen if what == kind}

    def wait_for(self, kind: str, links: set[str] = BOTH, limit_s: float = 15.0) -> dict[str, LinkEvent]:
        deadline = time.monotonic() + limit_s
        while not links <= set(self.of(kind)):
            assert time.monotonic() < deadline, self.seen
            time.sleep(0.01)
        return self.of(kind)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def test_a_loss_and_the_way_back_are_told_on_the_callbacks_thread(
    through_proxy, station_name: str, recorder: Recorder
) -> None:
    memphis, proxy = through_proxy(name="shop", **recorder.options)
    producer = memphis.producer(station_name, "p")
    producer.produce(b"m")
    address = f"{proxy.host}:{proxy.port}"
    proxy.down()
    lost = recorder.wait_for("disconnect")
    waiting = [producer.produce(b"m", nonblocking=True) for _ in range(5)]
    proxy.up()
    back = recorder.wait_for("reconnect")
    assert {(e.client, e.address, e.attempts, e.seconds) for e in lost.values()} == {("shop", address, 0, 0.0)}
    for event in back.values():
        assert event.address == address
        assert event.attempts >= 1
        assert 0 < event.seconds < 20
        assert event.reason == lost[event.link].reason != ""
    assert back["data"].waiting == 5
    (thread,) = {name for _, _, name, _ in recorder.seen}
    assert thread.startswith("memphis-callbacks-")
    assert len(recorder.seen) == 4
    assert memphis_sync.wait(waiting, 10).not_done == set()
    memphis.close()
    assert len(recorder.seen) == 4  # closing is no loss


@pytest.mark.parametrize("interval_s", [0.3, 0.6])
def test_a_stalled_connection_is_lost_within_two_intervals(
    through_proxy, station_name: str, recorder: Recorder, interval_s: float
) -> None:
    memphis, proxy = through_proxy(ping_interval_s=interval_s, timeout_ms=500, **recorder.options)
    producer = memphis.producer(station_name, "p")
    producer.produce(b"m")
    time.sleep(2.5 * interval_s)
    assert recorder.seen == []  # a quiet connection that answers is fine
    started = time.monotonic()
    proxy.stall()
    lost = recorder.wait_for("disconnect")
    for kind, event, _, at in recorder.seen:
        assert (kind, at - started < 2 * interval_s + 0.3) == ("disconnect", True), event
    assert lost["data"].reason == "Connection timed out"
    assert "PING" in lost["control"].reason
    proxy.cut()
    proxy.go_on()
    recorder.wait_for("reconnect")
    assert producer.produce(b"m").sequence == 2
    assert memphis.ping() > 0


@pytest.mark.timing
def test_a_stalled_connection_is_noticed_behind_a_full_socket_too(
    through_proxy, station_name: str, recorder: Recorder, holds
) -> None:
    memphis, proxy = through_proxy(ping_interval_s=0.5, timeout_ms=500, **recorder.options)
    producer = memphis.producer(station_name, "p")
    producer.produce(b"m")
    proxy.stall()
    started = time.monotonic()
    payload = b"x" * 100_000
    deliveries = [producer.produce(payload, nonblocking=True) for _ in range(400)]  # more than the sockets hold
    recorder.wait_for("disconnect", {"data"}, limit_s=5)
    assert time.monotonic() - started < 1.0 + 2
    proxy.cut()
    proxy.go_on()
    assert memphis_sync.wait(deliveries, 30).not_done == set()
    assert [delivery.exception() for delivery in deliveries] == [None] * 400
    assert len(holds(station_name)) == 401
    recorder.wait_for("reconnect")


def test_the_next_address_comes_before_the_lost_one(broker, proxy_to, station_name: str, recorder: Recorder) -> None:
    first, second = (proxy_to(broker.host, broker.port) for _ in range(2))
    url = f"memphis://root:{broker.password}@{first.host}:{first.port},{second.host}:{second.port}"
    with memphis_sync.connect(url, reconnect_interval_ms=20, **recorder.options) as memphis:
        producer = memphis.producer(station_name, "p")
        producer.produce(b"m")
        assert (first.accepted, second.accepted) == (2, 0)
        first.cut()  # it goes on listening
        back = recorder.wait_for("reconnect")
        assert {event.address for event in back.values()} == {f"{second.host}:{second.port}"}
        assert producer.produce(b"m").sequence == 2
        assert (first.accepted, second.accepted) == (2, 2)
        recorder.seen.clear()
        second.down()
        back = recorder.wait_for("reconnect")
        assert {event.address for event in back.values()} == {f"{first.host}:{first.port}"}
        assert producer.produce(b"m").sequence == 3


def test_a_server_in_lame_duck_mode_is_left_before_it_closes(
    fresh_broker, station_name: str, recorder: Recorder
) -> None:
    leaving, staying = fresh_broker(), fresh_broker()
    with memphis_sync.connect(staying.url) as other:
        other.station(station_name)
    url = f"{leaving.url},{staying.host}:{staying.port}"
    with memphis_sync.connect(url, reconnect_interval_ms=20, **recorder.options) as memphis:
        producer = memphis.producer(station_name, "p")
        assert producer.produce(b"m").sequence == 1
        started = time.monotonic()
        os.kill(leaving.nats_pid, signal.SIGUSR2)  # what `nats-server --signal ldm` sends
        back = recorder.wait_for("reconnect")
        assert time.monotonic() - started < 8  # it closes its first connection after 10 s
        reasons = {event.reason for event in recorder.of("disconnect").values()}
        assert reasons == {"the broker is about to shut down"}
        assert {event.address for event in back.values()} == {f"{staying.host}:{staying.port}"}
        assert producer.produce(b"m").sequence == 1  # of the other broker's own station
        memphis.station(f"{station_name}-b")


def test_giving_up_is_an_error(through_proxy, station_name: str, recorder: Recorder) -> None:
    memphis, proxy = through_proxy(max_reconnect=2, **recorder.options)
    memphis.producer(station_name, "p").produce(b"m")
    proxy.down()
    given_up = recorder.wait_for("error")
    assert max(event.attempts for event in given_up.values()) == 2, "the first to give up ends the other one too"
    assert all(event.reason and event.seconds >= 0 for event in given_up.values())
    assert recorder.of("reconnect") == {}


def test_what_a_callable_raises_is_logged_and_counted(
    through_proxy, station_name: str, until, caplog: pytest.LogCaptureFixture
) -> None:
    def raises(_: object) -> None:
        raise ValueError("mine")

    memphis, proxy = through_proxy(on_disconnect=raises)
    producer = memphis.producer(station_name, "p")
    producer.produce(b"m", nonblocking=True, on_delivery=raises).result(10)
    proxy.cut()

    def raised() -> list[logging.LogRecord]:
        return [record for record in caplog.records if record.getMessage().endswith("a callback raised")]

    until(lambda: len(raised()) >= 3)  # one delivery, two links; each is counted first
    records = raised()
    assert memphis.stats().callback_errors == 3
    assert [(record.levelno, "mine" in str(record.exc_info[1])) for record in records] == [(logging.ERROR, True)] * 3
    done = producer.produce(b"m", nonblocking=True)
    done.result(15)
    done.add_done_callback(raises)  # known already: it runs here, and is treated the same
    assert memphis.stats().callback_errors == 4


def test_a_client_without_a_data_link_tells_too(through_proxy, recorder: Recorder) -> None:
    _, proxy = through_proxy(**recorder.options)
    proxy.cut()
    recorder.wait_for("reconnect", {"control"})
    assert set(recorder.of("disconnect")) == {"control"}


def test_without_callables_no_callbacks_thread_is_started(through_proxy, station_name: str) -> None:
    before = set(threading.enumerate())
    memphis, proxy = through_proxy()
    producer = memphis.producer(station_name, "p")
    producer.produce(b"m")
    logger = logging.getLogger("memphis_sync")
    logger.setLevel(logging.CRITICAL)  # a log line of the outage would be handed out there
    try:
        proxy.cut()
        assert producer.produce(b"m").sequence == 2
    finally:
        logger.setLevel(logging.NOTSET)
    new = {thread.name for thread in set(threading.enumerate()) - before}
    assert not [name for name in new if name.startswith("memphis-callbacks-")]


def test_a_callable_may_use_the_client(through_proxy, station_name: str, until) -> None:
    acks: list[object] = []
    clients: list[Memphis] = []
    memphis, proxy = through_proxy(
        on_reconnect=lambda event: event.link == "data" and acks.append(clients[0].produce(station_name, "p", b"n"))
    )
    clients.append(memphis)
    memphis.produce(station_name, "p", b"m")
    proxy.cut()
    until(lambda: acks)
    assert acks[0].sequence == 2


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"on_disconnect": 1}, "on_disconnect is 1; it must be callable or None"),
        ({"on_reconnect": "f"}, "on_reconnect is 'f'; it must be callable or None"),
        ({"on_error": ()}, "on_error is of type tuple; it must be callable or None"),
        ({"ping_interval_s": 0}, r"ping_interval_s is 0; it must be a number of seconds from 0\.01 to 86400"),
        ({"ping_interval_s": 1e9}, r"ping_interval_s is 1000000000\.0; it must be a number of seconds from 0\.01"),
        ({"ping_interval_s": None}, r"ping_interval_s is None; it must be a number of seconds from 0\.01"),
        ({"ping_interval_s": float("nan")}, r"ping_interval_s is nan; it must be a number of seconds from 0\.01"),
    ],
)
def test_options_are_checked_before_anything_is_opened(options, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        memphis_sync.connect("127.0.0.1", "u", password="p", port=1, **options)


def test_the_interval_may_stand_in_the_url(broker) -> None:
    with memphis_sync.connect(f"{broker.url}/?ping_interval_s=1.5") as memphis:
        assert memphis._session.options.ping_interval_s == 1.5
