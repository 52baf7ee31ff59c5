"""
dead_letter() while the broker is away, stopped or killed: its word is that the broker keeps the letter, so what it
acknowledged is there, once; and what it did not is still the group's own.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Callable

import pytest

import memphis_sync
from memphis_sync import DeadlineError, MemphisError, Retention

if TYPE_CHECKING:
    from pathlib import Path

    from typing_extensions import Self

    from memphis_sync import Memphis, Message
    from memphis_sync.broker import BrokerProcess

Fresh = Callable[..., "BrokerProcess"]
RETENTIONS = [Retention.MAX_MESSAGE_AGE_SECONDS, Retention.ACK_BASED]
ACK_TIME_MS = 1000


@pytest.fixture
def control_plane(tmp_path: Path, until: Any) -> Iterator[BrokerProcess]:
    """A control plane in front of a nats-server that outlives it: connections stay up, and nobody answers requests."""
    from memphis_sync.broker import BrokerOptions, BrokerProcess
    from memphis_sync.broker.server.nats_server import NatsServer

    server = NatsServer(BrokerOptions(port=0), tmp_path / "nats")
    server.prepare()
    server.spawn()
    until(server.is_up)
    process = BrokerProcess(BrokerOptions(nats=f"nats://root:memphis@127.0.0.1:{server.port}"), timeout_s=30)
    try:
        yield process.start()
    finally:
        process.stop()
        server.stop()


def terminate(broker: BrokerProcess) -> None:
    """Both in order; the data stays."""
    assert broker._child is not None
    broker._child.terminate()
    broker._child.wait(30)


def prepared(memphis: Memphis, station: str, retention: Retention, messages: int) -> memphis_sync.Consumer:
    memphis.station(station, retention_type=retention, retention_value=3600, partitions_number=2)
    consumer = memphis.consumer(station, "c", "g", max_ack_time_ms=ACK_TIME_MS, max_msg_deliveries=10)
    filled = memphis.producer(station, "p").produce_many(b"%d" % number for number in range(messages))
    assert filled.delivered == messages
    return consumer


def one(consumer: memphis_sync.Consumer) -> Message:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for message in consumer.fetch(1, timeout_s=1):
            return message
    pytest.fail("the message did not come")


@pytest.mark.slow
@pytest.mark.parametrize("retention", RETENTIONS)
def test_it_waits_for_a_control_plane_that_comes_back(control_plane: BrokerProcess, retention: Retention) -> None:
    with memphis_sync.connect(control_plane.url) as memphis:
        consumer = prepared(memphis, "st", retention, 1)
        message = one(consumer)
        control_plane.kill()
        back = threading.Timer(0.5, control_plane.start)
        back.start()
        message.dead_letter("no use", timeout_s=60)
        back.join()
        assert [(letter.data, letter.reason) for letter in memphis.dls("st")] == [(b"0", "no use")]
        assert consumer.fetch(1, timeout_s=3 * ACK_TIME_MS / 1000) == []
        assert len(memphis.dls("st").list()) == 1


@pytest.mark.timing
@pytest.mark.parametrize("retention", RETENTIONS)
@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_when_nobody_answers_the_message_stays_with_its_group(
    control_plane: BrokerProcess, retention: Retention, how: str
) -> None:
    with memphis_sync.connect(control_plane.url) as memphis:
        consumer = prepared(memphis, "st", retention, 1)
        message = one(consumer)
        if how == "killed":
            control_plane.kill()
        else:
            os.kill(control_plane.pid, signal.SIGSTOP)
        started = time.monotonic()
        with pytest.raises(DeadlineError, match="did not confirm within 1 s that it has stored it"):
            message.dead_letter("no use", timeout_s=1)
        assert time.monotonic() - started < 3
        assert not message.is_answered
        again = one(consumer)
        assert (again.data, again.delivered) == (b"0", 2)
        if how == "killed":
            control_plane.start()
            assert memphis.dls("st").list() == []
        else:
            os.kill(control_plane.pid, signal.SIGCONT)
        again.dead_letter("no use", timeout_s=60)
        assert [letter.data for letter in memphis.dls("st")] == [b"0"], "a report that came twice is one dead letter"


@pytest.mark.timing
def test_it_waits_no_longer_than_it_was_told_when_the_broker_hangs(fresh_broker: Fresh) -> None:
    broker = fresh_broker()
    with memphis_sync.connect(broker.url) as memphis:
        message = one(prepared(memphis, "st", RETENTIONS[0], 1))
        os.kill(broker.pid, signal.SIGSTOP)
        os.kill(broker.nats_pid, signal.SIGSTOP)
        try:
            started = time.monotonic()
            with pytest.raises(MemphisError):
                message.dead_letter("no use", timeout_s=0.5)
            assert time.monotonic() - started < 1.5
        finally:
            os.kill(broker.nats_pid, signal.SIGCONT)
            os.kill(broker.pid, signal.SIGCONT)
        assert not message.is_answered


def test_a_group_that_is_not_known_is_no_success(memphis: Memphis, station_name: str) -> None:
    """Nothing is kept for a group that nobody consumes as, so the message must not be ended."""
    consumer = prepared(memphis, station_name, RETENTIONS[0], 1)
    message = one(consumer)
    other = memphis.consumer(station_name, "c", "other")
    other._source.consumer_group = consumer._source.consumer_group = "nobody"
    with pytest.raises(memphis_sync.ServerError, match="nobody consumes as group nobody"):
        message.dead_letter("no use")
    assert not message.is_answered


def test_what_a_consumer_acknowledges_is_stored_while_the_broker_is_away(control_plane: BrokerProcess) -> None:
    """The ack of a dead letter that was sent again: taken by the queue, or raised, and never just sent."""
    with memphis_sync.connect(control_plane.url) as memphis:
        consumer = prepared(memphis, "st", RETENTIONS[0], 1)
        one(consumer).dead_letter("no use")
        assert memphis.dls("st").resend() == 1
        letter = one(consumer)
        assert letter.is_dead_letter
        control_plane.kill()
        letter.ack()
        control_plane.start()
        deadline = time.monotonic() + 30
        while memphis.dls("st").list():
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.mark.slow
def test_schema_failures_are_kept_when_the_broker_is_restarted_meanwhile(
    fresh_broker: Fresh, tmp_path: Path, until: Any
) -> None:
    broker = fresh_broker(data_dir=tmp_path / "data")
    with memphis_sync.connect(broker.url, reconnect_interval_ms=20, timeout_ms=20_000) as memphis:
        memphis.station("st")
        memphis.create_schema("numbers", "json", schema_content='{"type": "object", "required": ["n"]}')
        memphis.enforce_schema("numbers", "st")
        producer = memphis.producer("st", "p")
        with pytest.raises(memphis_sync.SchemaError):
            producer.produce({"m": 0})
        until(lambda: len(memphis.dls("st").list()) == 1)
        broker.kill()
        for number in range(1, 101):
            with pytest.raises(memphis_sync.SchemaError):
                producer.produce({"m": number})
        broker.start()
        until(lambda: len(memphis.dls("st").list()) == 101)
        letters = sorted(letter.data for letter in memphis.dls("st"))
        assert letters == sorted(b'{"m": %d}' % number for number in range(101)), "each once"


# ---- storms ---------------------------------------------------------------------------------------------------------


class Storm:
    """Kills and stops one of the broker's processes or both, at random, until it is told to end."""

    def __init__(self, broker: BrokerProcess, seed: int, calm_s: tuple[float, float]) -> None:
        self._broker = broker
        self._random = random.Random(seed)
        self._calm_s = calm_s
        self._ending = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="test-storm", daemon=True)
        self.hits: Counter[str] = Counter()

    @property
    def is_over(self) -> bool:
        """Whether it has ended by itself: the broker did not come back."""
        return not self._thread.is_alive()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(120)
        assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            kinds = itertools.cycle(["both ended", "nats-server killed", "both killed"])
            while not self._ending.wait(self._random.uniform(*self._calm_s)):
                kind = next(kinds)
                self._hit(kind)
                self.hits[kind] += 1
        except BaseException as exc:
            self._error = exc

    def _hit(self, kind: str) -> None:
        broker = self._broker
        if kind == "nats-server killed":  # the supervisor starts another one
            before = broker.nats_pid
            os.kill(before, signal.SIGKILL)
            deadline = time.monotonic() + 60
            while broker.nats_pid in (0, before):
                assert time.monotonic() < deadline, "nats-server was not replaced"
                time.sleep(0.01)
            return
        if kind == "both killed":
            broker.kill()
        else:
            terminate(broker)
        broker.start()


def letters_of(broker: BrokerProcess, station: str) -> Counter[bytes]:
    with memphis_sync.connect(broker.url, timeout_ms=20_000) as client:
        return Counter(bytes(letter.data) for letter in client.dls(station))


def weather(
    broker: BrokerProcess, station: str, retention: Retention, *, messages: int, hits: int, calm_s: tuple[float, float]
) -> None:
    broker._timeout_s = 120.0  # of a start: it has this machine for itself in no run of the suite
    confirmed: set[bytes] = set()
    failed: Counter[str] = Counter()

    def handle(found: list[Any], error: object, _: object) -> None:
        for message in found:
            if message.is_dead_letter:
                continue
            try:
                message.dead_letter("no use")
            except MemphisError as exc:
                failed[type(exc).__name__] += 1
            else:
                confirmed.add(bytes(message.data))

    with memphis_sync.connect(broker.url, reconnect_interval_ms=20, timeout_ms=20_000) as memphis:
        consumer = prepared(memphis, station, retention, messages)
        with Storm(broker, 7, calm_s) as storm:
            consumer.consume(handle, workers=8)
            deadline = time.monotonic() + 0.1 * messages + 240
            while (len(confirmed) < messages or storm.hits.total() < hits) and not storm.is_over:
                assert time.monotonic() < deadline, (len(confirmed), storm.hits, failed)
                time.sleep(0.05)
        consumer.stop(60)
    print(f"{messages:,} dead letters, {dict(storm.hits)}, calls that failed: {dict(failed)}")
    found = letters_of(broker, station)
    assert found == Counter(b"%d" % number for number in range(messages))


@pytest.mark.slow
@pytest.mark.parametrize("retention", RETENTIONS)
def test_dead_letters_under_kills_are_there_once(fresh_broker: Fresh, tmp_path: Path, retention: Retention) -> None:
    broker = fresh_broker(data_dir=tmp_path / "data")
    weather(broker, "st", retention, messages=400, hits=3, calm_s=(0.5, 4.0))


@pytest.mark.large
@pytest.mark.timeout(1500)
def test_twenty_thousand_dead_letters_under_kills_are_there_once(fresh_broker: Fresh, tmp_path: Path) -> None:
    broker = fresh_broker(data_dir=tmp_path / "data")
    weather(broker, "limits", RETENTIONS[0], messages=10_000, hits=20, calm_s=(2.0, 10.0))
    weather(broker, "acked", RETENTIONS[1], messages=10_000, hits=20, calm_s=(2.0, 10.0))
