"""Fetching ahead: the next batch is here before it is asked for, and no message suffers from having waited."""

from __future__ import annotations

import threading
import time
from collections import Counter

import pytest
from control_client import ControlClient


@pytest.fixture
def raw(broker):
    with ControlClient(broker, connection_id="ahead") as client:
        yield client


def fill(memphis, station, count, partitions=1):
    memphis.station(station, partitions_number=partitions)
    assert memphis.producer(station, "p").produce_many(b"%d" % number for number in range(count)).delivered == count


def numbers(messages):
    return [int(message.data) for message in messages]


def pending(raw, stream, group="c"):
    """How many messages the group's members hold."""
    return raw.durable(stream, group)["num_ack_pending"]


def test_the_next_batch_is_fetched_before_it_is_asked_for(memphis, station_name, raw, until):
    fill(memphis, station_name, 100)
    consumer = memphis.consumer(station_name, "c")
    assert numbers(consumer.fetch(10, timeout_s=5, prefetch=True)) == list(range(10))
    until(lambda: pending(raw, f"{station_name}$1") == 20)
    seen = []
    while len(seen) < 10:
        seen += numbers(consumer.fetch(10 - len(seen), timeout_s=5))
    assert seen == list(range(10, 20))
    time.sleep(0.1)
    assert pending(raw, f"{station_name}$1") == 20, "without prefetch nothing more is asked for"


def test_what_was_fetched_ahead_is_handed_out_in_order_and_once(memphis, station_name):
    fill(memphis, station_name, 5000)
    consumer = memphis.consumer(station_name, "c")
    seen = []
    while batch := consumer.fetch(1 + len(seen) % 300, timeout_s=1, prefetch=len(seen) % 3 != 0):
        for message in batch:
            message.ack()
        seen += batch
    assert numbers(seen) == list(range(5000))
    assert {message.delivered for message in seen} == {1}


def test_one_partition_ahead_and_then_all(memphis, station_name):
    fill(memphis, station_name, 300, partitions=3)
    consumer = memphis.consumer(station_name, "c")
    seen = list(consumer.fetch(10, consumer_partition_number=2, timeout_s=5, prefetch=True))
    assert {message.partition for message in seen} == {2}
    while batch := consumer.fetch(50, timeout_s=1, prefetch=True):
        seen += batch
    assert sorted(numbers(seen)) == list(range(300))


def test_what_one_partition_has_ahead_does_not_hide_another(memphis, station_name, raw, until):
    memphis.station(station_name, partitions_number=2)
    producer = memphis.producer(station_name, "p")
    for _ in range(20):
        producer.produce(b"1", producer_partition_number=1)
    producer.produce(b"2", producer_partition_number=2)
    consumer = memphis.consumer(station_name, "c")
    assert len(consumer.fetch(10, consumer_partition_number=1, timeout_s=5, prefetch=True)) == 10
    until(lambda: pending(raw, f"{station_name}$1") == 20)
    for expected in ([2], []):
        found = consumer.fetch(10, consumer_partition_number=2, timeout_s=0.5)
        assert [message.partition for message in found] == expected
    assert [message.sequence for message in consumer.fetch(10, timeout_s=5)] == list(range(11, 21))


@pytest.mark.timing
def test_a_message_that_waited_for_long_gets_its_ack_time_anew(memphis, station_name, raw):
    fill(memphis, station_name, 4)
    consumer = memphis.consumer(station_name, "c", max_ack_time_ms=3000, max_msg_deliveries=5)
    for message in consumer.fetch(2, timeout_s=5, prefetch=True):
        message.ack()
    time.sleep(1.8)  # less than four fifths of the ack time, with air
    second = consumer.fetch(2, timeout_s=5)
    assert numbers(second) == [2, 3]
    time.sleep(1.8)  # 3.6 s after they came, and 1.8 s after they were handed out
    assert raw.durable(f"{station_name}$1", "c")["num_redelivered"] == 0
    assert pending(raw, f"{station_name}$1") == 2


@pytest.mark.timing
def test_a_message_that_waited_for_too_long_is_not_handed_out(memphis, station_name):
    fill(memphis, station_name, 4)
    consumer = memphis.consumer(station_name, "c", max_ack_time_ms=2000, max_msg_deliveries=5)
    for message in consumer.fetch(2, timeout_s=5, prefetch=True):
        message.ack()
    time.sleep(1.8)
    seen = []
    while len(seen) < 2 and (batch := consumer.fetch(2, timeout_s=5)):
        seen += batch
    assert [(int(message.data), message.delivered) for message in seen] == [(2, 2), (3, 2)]


def test_what_was_fetched_ahead_goes_back_when_nobody_wants_it(memphis, station_name):
    fill(memphis, station_name, 100)
    with memphis.consumer(station_name, "a", "group") as consumer:
        seen = list(consumer.fetch(20, timeout_s=5, prefetch=True))
    other = memphis.consumer(station_name, "b", "group")
    while batch := other.fetch(100, timeout_s=0.5):
        seen += batch
    assert sorted(numbers(seen)) == list(range(100)), "at once, not after the ack time of 30 s"


def test_an_iteration_reads_ahead_only_while_it_is_quick(memphis, station_name, raw, until):
    fill(memphis, station_name, 100)
    stream = f"{station_name}$1"
    consumer = memphis.consumer(station_name, "c", batch_size=10)
    held = []
    for number, message in enumerate(consumer):
        if number in (0, 70):
            held.append(pending(raw, stream))
        if number == 40:
            until(lambda: pending(raw, stream) > 10)
        if number == 70:
            break
        if number > 50:
            time.sleep(0.05)
        if number > 40:
            message.ack(wait=True)
        else:
            message.ack()
    at_first, slow = held
    assert at_first == 1, "nobody knows yet how long a message takes"
    assert slow <= 3, "no more than it handles in a tenth of a second, and the one at hand"


@pytest.mark.timing
def test_a_slow_loop_keeps_its_messages_alive(memphis, station_name):
    """A batch of 8 takes 3.2 s in all, with an ack time of 2 s: each message has its time when it is its turn."""
    fill(memphis, station_name, 8)
    consumer = memphis.consumer(station_name, "c", batch_size=8, max_ack_time_ms=2000, max_msg_deliveries=3)
    seen = Counter()
    for message in consumer:
        seen[message.delivered] += 1
        time.sleep(0.4)
        message.ack(wait=True)
        if sum(seen.values()) == 8:
            break
    assert seen == {1: 8}


def test_consume_reads_ahead_while_there_is_more(memphis, station_name, raw, until):
    fill(memphis, station_name, 100)
    consumer = memphis.consumer(station_name, "c", batch_size=10)
    go_on, entered, seen = threading.Event(), threading.Event(), []

    def callback(messages, error, _):
        assert error is None
        seen.extend(messages)
        if len(seen) >= 30 and not entered.is_set():
            entered.set()
            go_on.wait(20)

    consumer.consume(callback)
    assert entered.wait(20)
    until(lambda: pending(raw, f"{station_name}$1") == len(seen) + 10)
    go_on.set()
    until(lambda: len(seen) == 100)
    consumer.stop()
    assert numbers(seen) == list(range(100))


def test_a_pause_gives_back_what_was_asked_ahead(memphis, station_name, raw, until):
    """When there are no more messages a pause begins, and in it another member may read."""
    fill(memphis, station_name, 25)
    seen = []
    with memphis.consumer(station_name, "a", "group", batch_size=10, pull_interval_ms=60_000) as consumer:
        consumer.consume(lambda messages, *_: seen.extend(messages))
        until(lambda: len(seen) == 25)
        other, read = memphis.consumer(station_name, "b", "group"), []

        def is_read_by_the_other():
            memphis.produce(station_name, "p", b"%d" % (len(seen) + len(read)))
            read.extend(other.fetch(timeout_s=1))
            return read

        until(is_read_by_the_other)  # after a full batch the first one looks once more before it pauses
    assert sorted(numbers(seen) + numbers(read)) == list(range(len(seen) + 1))
    assert len(seen) <= 25 + 10
