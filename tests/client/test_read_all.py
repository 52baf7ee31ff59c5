"""Reading to the end: all that the station holds, and then the end, whatever the network and other members do."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Callable

import pytest
from control_client import ControlClient

import memphis_sync
from memphis_sync import ConfigurationError, ConnectionLostError, DeadlineError, Retention, StationNotFoundError

if TYPE_CHECKING:
    from fix_proxy import Proxy

    from memphis_sync import Memphis
    from memphis_sync.broker import BrokerProcess

ROWS = 3000


def fill(memphis: Memphis, station: str, count: int = ROWS, partitions: int = 3, **settings: object) -> None:
    memphis.station(station, partitions_number=partitions, **settings)
    assert memphis.producer(station, "p").produce_many(b"%d" % number for number in range(count)).delivered == count


def numbers(messages: object) -> list[int]:
    return sorted(int(message.data) for message in messages)


@pytest.mark.parametrize("partitions", [1, 3, 16])
@pytest.mark.parametrize("is_acked", [True, False], ids=["acked", "not acked"])
def test_it_reads_all_and_ends(memphis: Memphis, station_name: str, partitions: int, is_acked: bool) -> None:
    fill(memphis, station_name, ROWS, partitions)
    seen = []
    started = time.monotonic()
    for message in memphis.consumer(station_name, "c").read_all():
        seen.append(message)
        if is_acked:
            message.ack()
    assert numbers(seen) == list(range(ROWS))
    assert time.monotonic() - started < 20, "long before an ack time is over"


def test_an_empty_station_ends_at_once(memphis: Memphis, station_name: str) -> None:
    memphis.station(station_name)
    started = time.monotonic()
    assert list(memphis.consumer(station_name, "c").read_all()) == []
    assert time.monotonic() - started < 10


def test_a_group_that_has_read_all_ends_at_once(memphis: Memphis, station_name: str) -> None:
    fill(memphis, station_name, 100)
    consumer = memphis.consumer(station_name, "c")
    for message in consumer.read_all():
        message.ack()
    started = time.monotonic()
    assert list(consumer.read_all()) == []
    assert time.monotonic() - started < 10


def test_one_partition(memphis: Memphis, station_name: str) -> None:
    fill(memphis, station_name)
    consumer = memphis.consumer(station_name, "c")
    second = list(consumer.read_all(consumer_partition_number=2))
    assert {message.partition for message in second} == {2}
    assert len(second) > ROWS // 4


@pytest.mark.parametrize("stall_s", [0.4, 2.0])
def test_a_stall_is_no_end(
    broker: BrokerProcess, memphis: Memphis, proxy_to: Callable[..., Proxy], station_name: str, stall_s: float
) -> None:
    """An empty fetch looks the same as the end; the broker knows the difference."""
    fill(memphis, station_name)
    proxy = proxy_to(broker.host, broker.port)
    with memphis_sync.connect(proxy.host, broker.username, password=broker.password, port=proxy.port) as client:
        consumer = client.consumer(station_name, "c")
        seen = []
        for message in consumer.read_all(batch_size=50):
            seen.append(message)
            message.ack()
            if len(seen) in (20, 1000):
                proxy.stall()
                threading.Timer(stall_s, proxy.go_on).start()
    assert numbers(seen) == list(range(ROWS))


def test_an_outage_is_no_end(
    broker: BrokerProcess, memphis: Memphis, proxy_to: Callable[..., Proxy], station_name: str
) -> None:
    fill(memphis, station_name)
    proxy = proxy_to(broker.host, broker.port)
    address = {"password": broker.password, "port": proxy.port, "reconnect_interval_ms": 20}
    with memphis_sync.connect(proxy.host, broker.username, **address) as client:
        consumer = client.consumer(station_name, "c", max_ack_time_ms=1000, max_msg_deliveries=10)
        seen: Counter[int] = Counter()
        for message in consumer.read_all(batch_size=50):
            seen[int(message.data)] += 1
            with contextlib.suppress(ConnectionLostError):  # then it comes again
                message.ack()
            if sum(seen.values()) in (20, 1000):
                proxy.cut()
    assert sorted(seen) == list(range(ROWS))


def test_a_broker_that_brings_nothing_is_an_error(
    broker: BrokerProcess, memphis: Memphis, proxy_to: Callable[..., Proxy], station_name: str
) -> None:
    fill(memphis, station_name, 100)
    proxy = proxy_to(broker.host, broker.port)
    with memphis_sync.connect(proxy.host, broker.username, password=broker.password, port=proxy.port) as client:
        proxy.spare()  # the control link hears that there is more
        reading = client.consumer(station_name, "c").read_all(timeout_s=1.5)
        next(reading).ack()
        proxy.stall()
        with pytest.raises(DeadlineError, match="not read to the end"):
            list(reading)
        proxy.go_on()


def test_what_a_dead_member_had_in_hand_is_waited_for(
    memphis: Memphis, broker: BrokerProcess, station_name: str
) -> None:
    fill(memphis, station_name, 100)
    with memphis_sync.connect(broker.url) as other:
        held = other.consumer(station_name, "a", "g", max_ack_time_ms=2000).fetch(20, timeout_s=10)
        assert held
        seen = []
        for message in memphis.consumer(station_name, "b", "g", max_ack_time_ms=2000).read_all():
            seen.append(message)
            message.ack()
    assert numbers(seen) == list(range(100))


def test_what_another_member_handles_is_not_waited_for_any_longer_than_its_ack_time(
    memphis: Memphis, station_name: str
) -> None:
    fill(memphis, station_name, 100)
    held = memphis.consumer(station_name, "a", "g", max_ack_time_ms=2000).fetch(20, timeout_s=10)
    is_over = threading.Event()

    def work() -> None:
        while not is_over.wait(0.2):
            for message in held:
                message.in_progress()

    worker = threading.Thread(target=work, name="test-worker")
    worker.start()
    started = time.monotonic()
    seen = list(memphis.consumer(station_name, "b", "g", max_ack_time_ms=2000).read_all())
    took_s = time.monotonic() - started
    is_over.set()
    worker.join(10)
    assert len(seen) + len(held) >= 100
    assert took_s < 20


def test_members_of_a_group_end_together(memphis: Memphis, station_name: str) -> None:
    fill(memphis, station_name)
    seen: Counter[int] = Counter()

    def read(name: str) -> None:
        for message in memphis.consumer(station_name, name, "g").read_all(batch_size=20):
            seen[int(message.data)] += 1
            message.ack()

    threads = [threading.Thread(target=read, args=(f"m{number}",), name=f"test-{number}") for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert sorted(seen) == list(range(ROWS))
    assert set(seen.values()) == {1}


@pytest.mark.parametrize("is_acked", [True, False], ids=["acked", "not acked"])
def test_it_ends_though_more_arrives_all_the_time(memphis: Memphis, station_name: str, is_acked: bool) -> None:
    fill(memphis, station_name, 500)
    is_over = threading.Event()
    producer = memphis.producer(station_name, "live")

    def produce() -> None:
        while not is_over.wait(0.001):
            producer.produce(b"-1", nonblocking=True)

    thread = threading.Thread(target=produce, name="test-producer")
    thread.start()
    seen: Counter[int] = Counter()
    try:
        for message in memphis.consumer(station_name, "c").read_all():
            seen[int(message.data)] += 1
            if is_acked:
                message.ack()
    finally:
        is_over.set()
        thread.join(10)
    seen.pop(-1, None)
    assert sorted(seen) == list(range(500))


def test_messages_that_go_meanwhile_are_not_waited_for(
    memphis: Memphis, broker: BrokerProcess, station_name: str
) -> None:
    """Their time ran out, or somebody purged the station."""
    fill(memphis, station_name, 200, retention_type=Retention.MAX_MESSAGE_AGE_SECONDS, retention_value=3600)
    consumer = memphis.consumer(station_name, "c")
    reading = consumer.read_all(batch_size=1)
    next(reading).ack()
    with ControlClient(broker, connection_id="purge") as raw:
        for partition in (1, 2, 3):
            raw.jetstream(f"STREAM.PURGE.{station_name}${partition}")
    assert len(list(reading)) <= 1


def test_dead_letters_do_not_hold_it_up(memphis: Memphis, station_name: str, until: Callable[..., object]) -> None:
    fill(memphis, station_name, 20, 1)
    consumer = memphis.consumer(station_name, "c", max_ack_time_ms=500, max_msg_deliveries=1)
    assert consumer.fetch(5, timeout_s=10)
    until(lambda: list(memphis.dls(station_name)))
    started = time.monotonic()
    assert len(list(consumer.read_all())) == 15
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("partitions", [1, 3])
@pytest.mark.parametrize("deliveries", [1, 2])
def test_what_was_given_back_is_read_though_it_has_no_delivery_left(
    memphis: Memphis, station_name: str, partitions: int, deliveries: int
) -> None:
    """Our broker sends it again by itself; until then no partition has it."""
    fill(memphis, station_name, 200, partitions)
    consumer = memphis.consumer(station_name, "c", max_ack_time_ms=30_000, max_msg_deliveries=deliveries)
    seen = []
    for _ in range(deliveries):
        for message in consumer.read_all():
            seen.append(int(message.data))
            message.ack()
            if len(seen) % 40 == 0:
                break
    for message in consumer.read_all():
        seen.append(int(message.data))
        message.ack()
    assert sorted(seen) == list(range(200))
    assert list(memphis.dls(station_name)) == []


def test_a_destroyed_station_is_an_error(memphis: Memphis, station_name: str) -> None:
    fill(memphis, station_name, 100)
    reading = memphis.consumer(station_name, "c").read_all()
    next(reading)
    memphis.station(station_name).destroy()
    with pytest.raises(StationNotFoundError):
        list(reading)


def test_stop_ends_it_before_the_end(memphis: Memphis, station_name: str) -> None:
    fill(memphis, station_name)
    consumer = memphis.consumer(station_name, "c")
    seen = []
    for message in consumer.read_all():
        seen.append(message)
        if len(seen) == 100:
            consumer.stop()
    assert len(seen) == 100


def test_bad_arguments_are_refused_at_the_call(memphis: Memphis, station_name: str) -> None:
    memphis.station(station_name, partitions_number=2)
    consumer = memphis.consumer(station_name, "c")
    for given in ({"batch_size": 0}, {"timeout_s": 0}, {"timeout_s": -1}, {"consumer_partition_number": 99}):
        with pytest.raises(ConfigurationError):
            consumer.read_all(**given)


def test_fetch_messages_until_the_end(memphis: Memphis, station_name: str) -> None:
    fill(memphis, station_name)
    batch = memphis.fetch_messages(station_name, "c", until_end=True)
    assert numbers(batch) == list(range(ROWS))
    assert len(batch.to_dicts()) == ROWS
    for message in batch:
        message.ack()
    assert memphis.fetch_messages(station_name, "c", until_end=True) == []


def test_a_stopped_broker_between_two_messages(fresh_broker: Callable[..., BrokerProcess], station_name: str) -> None:
    broker = fresh_broker()
    with memphis_sync.connect(broker.url) as client:
        fill(client, station_name)
        seen = []
        for message in client.consumer(station_name, "c").read_all(batch_size=100):
            seen.append(message)
            message.ack()
            if len(seen) == 50:
                os.kill(broker.nats_pid, signal.SIGSTOP)
                threading.Timer(1.0, os.kill, (broker.nats_pid, signal.SIGCONT)).start()
        assert numbers(seen) == list(range(ROWS))


def test_a_part_of_it_leaves_the_rest_to_the_next(memphis: Memphis, station_name: str) -> None:
    fill(memphis, station_name, 200)
    consumer = memphis.consumer(station_name, "c")
    seen = []
    for message in itertools.islice(consumer.read_all(), 50):
        seen.append(message)
        message.ack()
    for message in consumer.read_all():
        seen.append(message)
        message.ack()
    assert numbers(seen) == list(range(200))


@pytest.mark.parametrize("deliveries", [1, 2])
def test_a_loop_that_is_left_often_sees_each_message_once(
    memphis: Memphis, station_name: str, deliveries: int, recwarn: pytest.WarningsRecorder
) -> None:
    fill(memphis, station_name, 300)
    consumer = memphis.consumer(station_name, "c", max_ack_time_ms=5000, max_msg_deliveries=deliveries)
    seen: list[int] = []
    while len(seen) < 300:
        for message in itertools.islice(consumer, min(13, 300 - len(seen))):
            seen.append(int(message.data))
            message.ack()
    assert sorted(seen) == list(range(300))
    assert list(memphis.dls(station_name)) == []
    assert [str(warning.message) for warning in recwarn] == []


def test_a_message_that_comes_again_alone_leaves_nothing_unawaited(
    memphis: Memphis, station_name: str, recwarn: pytest.WarningsRecorder
) -> None:
    fill(memphis, station_name, 200, 1)
    consumer = memphis.consumer(station_name, "c", max_msg_deliveries=5)
    seen: Counter[int] = Counter()
    for message in consumer:
        seen[int(message.data)] += 1
        if int(message.data) == 199 and message.delivered < 4:
            message.nack()
            continue
        message.ack()
        if int(message.data) == 199:
            break
    assert seen == {**dict.fromkeys(range(199), 1), 199: 4}
    assert [str(warning.message) for warning in recwarn] == []
