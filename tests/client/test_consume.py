"""consume() and iteration: they survive callbacks and outages, and end when told to."""

from __future__ import annotations

import itertools
import logging
import pickle
import threading
import time

import pytest

import memphis_sync
from memphis_sync import ConfigurationError, MemphisError, StationNotFoundError, UsageError


@pytest.fixture
def filled(memphis, station_name):
    """A station of two partitions with the messages 0 to 99; its name."""
    memphis.station(station_name, partitions_number=2)
    producer = memphis.producer(station_name, "p")
    for number in range(100):
        producer.produce(b"%d" % number, nonblocking=True)
    assert producer.flush(10) == 0
    return station_name


def numbers(messages):
    return sorted(int(message.data) for message in messages)


def test_a_callback_gets_batches_and_the_context(memphis, filled, until):
    calls = []

    def callback(messages, error, context):
        calls.append((len(messages), error, context, threading.current_thread().name))
        for message in messages:
            message.ack()
        seen.extend(messages)

    seen = []
    with memphis.consumer(filled, "c", batch_size=30, pull_interval_ms=10) as consumer:
        consumer.set_context({"k": 1})
        consumer.consume(callback)
        until(lambda: len(seen) == 100)
    assert numbers(seen) == list(range(100))
    assert all(1 <= size <= 30 and error is None and context == {"k": 1} for size, error, context, _ in calls)
    assert all(name.startswith("memphis-consume-") for *_, name in calls)
    assert memphis.consumer(filled, "c").fetch(timeout_s=0.3) == []


def test_a_full_batch_is_followed_at_once(memphis, filled, until):
    """100 messages, 10 at a time, with the default pause of a second between pulls that are not full."""
    seen = []
    with memphis.consumer(filled, "c") as consumer:
        start = time.monotonic()
        consumer.consume(lambda messages, *_: seen.extend(messages))
        until(lambda: len(seen) == 100)
        assert time.monotonic() - start < 8


def test_an_exception_in_the_callback_is_reported_and_survived(memphis, filled, until, caplog):
    seen, errors = [], []

    def callback(messages, error, _):
        if error is not None:
            errors.append(error)
            return
        seen.extend(messages)
        if len(seen) <= 20:
            raise ZeroDivisionError("canary")

    with memphis.consumer(filled, "c", batch_size=10, pull_interval_ms=0) as consumer:
        consumer.consume(callback)
        until(lambda: len(seen) == 100)
    assert len(errors) >= 2
    assert all(isinstance(e, MemphisError) and isinstance(e.__cause__, ZeroDivisionError) for e in errors)
    assert [r for r in caplog.records if r.name == "memphis_sync.consume" and r.exc_info]


def test_an_error_is_handed_to_the_callback_once(memphis, filled, until):
    errors = []
    with memphis.consumer(filled, "c") as consumer:
        consumer.consume(lambda messages, error, _: errors.append(error) if error else None)
        memphis.station(filled).destroy()
        until(lambda: errors)
        time.sleep(1.2)
    assert len(errors) == 1
    assert isinstance(errors[0], StationNotFoundError)


def test_one_consume_at_a_time_and_again_after_stop(memphis, filled):
    consumer = memphis.consumer(filled, "c")
    consumer.consume(lambda *_: None)
    with pytest.raises(UsageError, match="consuming already"):
        consumer.consume(lambda *_: None)
    assert consumer.stop_consume()
    consumer.consume(lambda *_: None)
    assert consumer.stop_consume()
    assert consumer.stop_consume(), "idempotent"


def test_stop_close_and_destroy_inside_the_callback(broker, filled, until):
    for end in (
        lambda client, consumer: consumer.stop_consume(),
        lambda client, consumer: consumer.destroy(),
        lambda client, consumer: client.close(),
    ):
        done = threading.Event()
        with memphis_sync.connect(broker.url) as client:
            consumer = client.consumer(filled, "inside")

            def callback(messages, error, _, end=end, client=client, consumer=consumer, done=done):
                end(client, consumer)
                done.set()

            consumer.consume(callback)
            assert done.wait(10)


@pytest.mark.parametrize("callback", [None, 7, "f"])
def test_callbacks_that_cannot_be_called(memphis, filled, callback):
    with pytest.raises(ConfigurationError, match="callback is"):
        memphis.consumer(filled, "c").consume(callback)


def test_a_coroutine_function_is_refused(memphis, filled):
    async def callback(messages, error, context):
        """As for memphis.py."""

    with pytest.raises(ConfigurationError, match="plain function"):
        memphis.consumer(filled, "c").consume(callback)


def test_iteration_ends_at_stop(memphis, filled):
    consumer = memphis.consumer(filled, "c", batch_size=7)
    seen = []
    for message in consumer:
        message.ack()
        seen.append(message)
        if len(seen) == 100:
            consumer.stop_consume()
    assert numbers(seen) == list(range(100))


@pytest.mark.parametrize("how", ["destroy", "close"])
def test_iteration_ends_with_the_consumer_and_the_client(broker, filled, how):
    client = memphis_sync.connect(broker.url)
    consumer = client.consumer(filled, f"c-{how}")
    seen = []

    def read():
        seen.extend(consumer)

    reader = threading.Thread(target=read)
    reader.start()
    deadline = time.monotonic() + 10
    while len(seen) < 100 and time.monotonic() < deadline:
        time.sleep(0.01)
    (consumer.destroy if how == "destroy" else client.close)()
    reader.join(5)
    assert not reader.is_alive()
    client.close()
    assert numbers(seen) == list(range(100))


def test_what_an_iteration_did_not_hand_out_comes_next(memphis, filled):
    consumer = memphis.consumer(filled, "c", batch_size=10)
    first = [message.data for message in itertools.islice(consumer, 3)]
    rest = []
    while batch := consumer.fetch(100, timeout_s=0.5):
        rest += [message.data for message in batch]
    assert len(first) == 3
    assert sorted(map(int, first + rest)) == list(range(100)), "nothing is lost or delivered twice"


def test_what_an_iteration_kept_too_long_is_not_handed_out(memphis, filled):
    """The broker has sent it again by then, perhaps to somebody else."""
    consumer = memphis.consumer(filled, "c", batch_size=10, max_ack_time_ms=1000, max_msg_deliveries=5)
    seen = []
    for message in consumer:
        message.ack()
        seen.append(message)
        if len(seen) == 60:
            assert consumer._reader.buffer or consumer._reader.pulls.holds
            time.sleep(1.3)
        if len(seen) == 100:
            break
    assert len({(message.partition, message.sequence) for message in seen}) == 100
    assert all(message.delivered == 1 for message in seen[:60])


def test_what_nobody_took_goes_to_another_member(memphis, filled):
    with memphis.consumer(filled, "a", "group", batch_size=50) as consumer:
        next(iter(consumer)).ack()
    other, seen = memphis.consumer(filled, "b", "group"), []
    while batch := other.fetch(100, timeout_s=0.5):
        seen += batch
    assert len(seen) == 99, "at once, not after the ack time of 30 s"


def test_iteration_and_consume_wait_out_an_outage(broker, proxy_to, station_name, until, caplog):
    caplog.set_level(logging.CRITICAL, logger="memphis_sync")
    proxy = proxy_to("127.0.0.1", broker.port)
    url = broker.url.replace(str(broker.port), str(proxy.port)) + "?reconnect_interval_ms=50"
    with memphis_sync.connect(broker.url) as writer, memphis_sync.connect(url) as client:
        writer.station(station_name)
        iterated, consumed, errors = [], [], []

        def callback(messages, error, _):
            consumed.extend(messages)
            if error is not None:
                errors.append(error)

        with (
            client.consumer(station_name, "a", pull_interval_ms=0) as first,
            client.consumer(station_name, "b") as second,
        ):
            first.consume(callback)
            reader = threading.Thread(target=lambda: iterated.extend(second))
            reader.start()
            writer.produce(station_name, "p", b"1")
            until(lambda: len(consumed) == len(iterated) == 1)
            proxy.down()
            time.sleep(1.2)
            writer.produce(station_name, "p", b"2")
            proxy.up()
            until(lambda: len(consumed) == len(iterated) == 2)
            second.stop_consume()
            reader.join(5)
        assert len(errors) == 1
        assert errors[0].retryable


def test_a_batch_is_acknowledged_together(memphis, filled):
    consumer = memphis.consumer(filled, "c", max_ack_time_ms=60_000)
    batch = consumer.fetch(100, timeout_s=10)
    batch[0].nack()
    batch[1].ack()
    batch.ack()
    assert all(message.is_answered for message in batch)
    assert [message.answer for message in batch[:3]] == ["nack", "ack", "ack"]
    batch.ack()  # nothing is left to be answered
    left = list(consumer.read_all())
    assert len(left) == 101 - len(batch)
    assert batch[0].data in {message.data for message in left}


def test_each_message_of_a_batch_that_is_not_acknowledged_is_told(broker, filled):
    with memphis_sync.connect(broker.url) as client:
        batch = client.consumer(filled, "c").fetch(10, timeout_s=10)
    with pytest.raises(memphis_sync.UnacknowledgedError) as caught:
        batch.ack()
    assert list(caught.value.errors) == list(range(len(batch)))
    assert all(isinstance(error, memphis_sync.ClosedError) for error in caught.value.errors.values())
    assert f"{len(batch)} of {len(batch)} messages were not acknowledged" in str(caught.value)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert list(copy.errors) == list(caught.value.errors)
