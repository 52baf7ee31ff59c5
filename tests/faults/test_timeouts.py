"""Each timeout of the public API is kept, whatever has become of the broker, and with any number of partitions."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Callable

import pytest
from fix_broker import READY_S

import memphis_sync
from memphis_sync import ConnectionLostError, DeadlineError, MemphisError, UndeliveredWarning

if TYPE_CHECKING:
    from fix_proxy import Proxy

    from memphis_sync import Consumer, Memphis, Producer
    from memphis_sync.broker import BrokerProcess

TIMEOUT_S = 0.4
SLACK_S = 1.0  # for a machine that does other things too; on an idle one each call is less than 0.1 s late
NO_ANSWER = (DeadlineError, ConnectionLostError)


@pytest.fixture(scope="module")
def own_broker() -> Iterator[BrokerProcess]:
    """A broker that these tests may stop."""
    from memphis_sync.broker import BrokerOptions, BrokerProcess

    with BrokerProcess(BrokerOptions(port=0, ephemeral=True), timeout_s=READY_S) as process:
        yield process


@contextlib.contextmanager
def stopped(broker: BrokerProcess, _: Proxy) -> Iterator[None]:
    os.kill(broker.nats_pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(broker.nats_pid, signal.SIGCONT)


@contextlib.contextmanager
def swallowed(_: BrokerProcess, proxy: Proxy) -> Iterator[None]:
    proxy.drop_answers = True
    try:
        yield
    finally:
        proxy.cut()  # nobody could go on after a gap in the stream
        proxy.drop_answers = False


@contextlib.contextmanager
def stalled(_: BrokerProcess, proxy: Proxy) -> Iterator[None]:
    proxy.stall()
    try:
        yield
    finally:
        proxy.go_on()


class Calls:
    """The calls with a timeout, on one client; each is to end after TIMEOUT_S."""

    def __init__(self, client: Memphis, station: str, partitions: int) -> None:
        self.client, self.station = client, station
        client.station(station, partitions_number=partitions)
        self.producer: Producer = client.producer(station, "p", ack_timeout_s=60)
        assert self.producer.produce_many([b"1", b"2"]).delivered == 2
        self.consumer: Consumer = client.consumer(station, "c")
        self.message = self.consumer.fetch(1, timeout_s=10)[0]
        self.reading = client.consumer(station, "r").read_all(timeout_s=TIMEOUT_S)
        next(self.reading)

    def fetch(self) -> None:
        for _ in range(3):  # the second one meets what the first has left behind
            self.consumer.fetch(1, timeout_s=TIMEOUT_S / 3)

    def fetch_one_partition(self) -> None:
        self.consumer.fetch(1, timeout_s=TIMEOUT_S, consumer_partition_number=1)

    def fetch_without_waiting(self) -> None:
        for _ in range(4):
            self.consumer.fetch(1, timeout_s=0)

    def fetch_messages(self) -> None:
        with pytest.raises(NO_ANSWER, match="registered"):
            self.client.fetch_messages(self.station, "other", timeout_s=TIMEOUT_S)

    def read_all(self) -> None:
        with pytest.raises(NO_ANSWER, match="not read to the end"):
            list(self.reading)

    def flush(self) -> None:
        self.producer.produce(b"3", nonblocking=True)
        assert self.client.flush(TIMEOUT_S) > 0

    def flush_of_a_producer(self) -> None:
        self.producer.produce(b"3", nonblocking=True)
        assert self.producer.flush(TIMEOUT_S) > 0

    def wait(self) -> None:
        deliveries = [self.producer.produce(b"3", nonblocking=True)]
        assert memphis_sync.wait(deliveries, TIMEOUT_S).not_done == set(deliveries)

    def ping(self) -> None:
        with pytest.raises(NO_ANSWER):
            self.client.ping(TIMEOUT_S)

    def ack(self) -> None:
        with pytest.raises(NO_ANSWER):
            self.message.ack(wait=True, timeout_s=TIMEOUT_S)

    def stop_consuming(self) -> None:
        self.consumer.stop_consume(TIMEOUT_S)

    def close(self) -> None:
        self.producer.produce(b"3", nonblocking=True)
        with pytest.warns(UndeliveredWarning):
            self.client.close(TIMEOUT_S)


KINDS = [name for name in vars(Calls) if not name.startswith("_")]  # close() is the last


@pytest.mark.timing
@pytest.mark.parametrize("partitions", [1, 3, 16])
@pytest.mark.parametrize("fault", [stopped, swallowed, stalled], ids=lambda fault: fault.__name__)
def test_every_timeout_is_kept(
    own_broker: BrokerProcess,
    through: Callable[..., tuple[Memphis, Proxy]],
    station_name: str,
    fault: Callable[[BrokerProcess, Proxy], contextlib.AbstractContextManager[None]],
    partitions: int,
) -> None:
    client, proxy = through(own_broker, both_links=True)
    calls = Calls(client, station_name, partitions)
    took_s = {}
    with fault(own_broker, proxy):
        for kind in KINDS:
            started = time.monotonic()
            with contextlib.suppress(DeadlineError) if kind.startswith("fetch") else contextlib.nullcontext():
                getattr(calls, kind)()
            took_s[kind] = round(time.monotonic() - started, 3)
    print(fault.__name__, partitions, took_s)
    assert max(took_s.values()) < TIMEOUT_S + SLACK_S, took_s


@pytest.mark.timing
@pytest.mark.parametrize("how", ["iteration", "consume"])
@pytest.mark.parametrize("fault", [stopped, swallowed, stalled], ids=lambda fault: fault.__name__)
def test_reading_stops_in_time(
    own_broker: BrokerProcess,
    through: Callable[..., tuple[Memphis, Proxy]],
    station_name: str,
    fault: Callable[[BrokerProcess, Proxy], contextlib.AbstractContextManager[None]],
    how: str,
    until: Callable[..., object],
) -> None:
    client, proxy = through(own_broker, both_links=True)
    calls = Calls(client, station_name, 3)
    seen: list[object] = []

    def iterate() -> None:
        seen.extend(calls.consumer)

    thread = threading.Thread(target=iterate, name="test-reader")
    if how == "iteration":
        thread.start()
    else:
        calls.consumer.consume(lambda messages, _, __: seen.extend(messages))
    until(lambda: seen)
    with fault(own_broker, proxy):
        time.sleep(0.5)  # until it waits for an answer that does not come
        started = time.monotonic()
        is_stopped = calls.consumer.stop(timeout_s=TIMEOUT_S)
        if how == "iteration":
            thread.join(20)
        took_s = time.monotonic() - started
    print(f"{how} {fault.__name__}: {took_s:.3f}")
    assert is_stopped
    assert took_s < TIMEOUT_S + SLACK_S


@pytest.mark.timing
def test_a_broker_that_hangs_is_an_error_in_the_end(
    own_broker: BrokerProcess,
    through: Callable[..., tuple[Memphis, Proxy]],
    station_name: str,
    until: Callable[..., object],
) -> None:
    """A fetch ends in time with what it has, nothing; that nothing was even answered is said by one of the later."""
    client, proxy = through(own_broker, both_links=True)
    calls = Calls(client, station_name, 3)
    with stalled(own_broker, proxy):
        errors: list[MemphisError] = []
        deadline = time.monotonic() + 30
        while not errors and time.monotonic() < deadline:
            started = time.monotonic()
            try:
                assert calls.consumer.fetch(5, timeout_s=TIMEOUT_S) == []
            except DeadlineError as exc:
                errors.append(exc)
            assert time.monotonic() - started < TIMEOUT_S + SLACK_S
    assert "has not answered a pull for" in str(errors[0])
    until(lambda: calls.consumer.fetch(5, timeout_s=1))
