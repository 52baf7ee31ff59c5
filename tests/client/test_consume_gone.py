"""
A group or station that was destroyed is noticed within 5 s, by whatever reads: also on a broker that never answers a
pull for it, which the proxy stands in for by swallowing all that the server says on the data link.
"""

from __future__ import annotations

import threading
import time

import pytest
from control_client import ControlClient

import memphis_sync
from memphis_sync import DeadlineError, MemphisError, StationNotFoundError
from memphis_sync._data import group_watch

NOTICED_S = 5.0
SLACK_S = 3.0  # for a machine that does other things as well


@pytest.fixture
def raw(broker):
    with ControlClient(broker, connection_id="gone") as client:
        yield client


@pytest.fixture
def deaf(broker, proxy_to):
    """A client whose data link can be made to hear nothing with ``proxy.drop_answers``; its control link is spared."""
    proxy = proxy_to(broker.host, broker.port)
    client = memphis_sync.connect(
        proxy.host, broker.username, password=broker.password, port=proxy.port, ping_interval_s=60
    )
    proxy.spare()
    client.proxy = proxy
    yield client
    client.close(timeout_s=0.5)


def end(raw, what, station):
    """Deletes the durable or the stream behind everybody's back."""
    if what == "group":
        assert raw.jetstream(f"CONSUMER.DELETE.{station}$1.c")["success"]
    else:
        assert raw.jetstream(f"STREAM.DELETE.{station}$1")["success"]


def start_reading(consumer, how):
    """Reads on a thread, until an error; ``(errors, thread)``."""
    errors, done = [], threading.Event()

    def read():
        try:
            if how == "long fetch":
                consumer.fetch(timeout_s=60)
            elif how == "short fetches":
                while True:
                    consumer.fetch(timeout_s=0.1)
            else:
                for _ in consumer:
                    pass
        except MemphisError as exc:
            errors.append(exc)
        done.set()

    if how == "consume":
        consumer.consume(lambda _, error, __: errors.append(error) if error else None)
        return errors, None
    thread = threading.Thread(target=read)
    thread.start()
    return errors, thread


@pytest.mark.parametrize("what", ["group", "stream"])
@pytest.mark.parametrize("how", ["long fetch", "short fetches", "iteration", "consume"])
def test_while_reading(memphis, station_name, raw, how, what, until):
    consumer = memphis.consumer(station_name, "c", pull_interval_ms=0)
    errors, thread = start_reading(consumer, how)
    time.sleep(0.3)
    start = time.monotonic()
    end(raw, what, station_name)
    until(lambda: errors)
    assert time.monotonic() - start < NOTICED_S
    if thread is None:
        consumer.stop()
    else:
        thread.join(20)
    assert [type(error) for error in errors] == [StationNotFoundError]
    assert f"{station_name}$1" in str(errors[0])


@pytest.mark.parametrize("how", ["long fetch", "short fetches", "iteration", "consume"])
def test_while_reading_from_a_broker_that_answers_no_pull(deaf, station_name, raw, how, until):
    consumer = deaf.consumer(station_name, "c", pull_interval_ms=0)
    assert consumer.fetch(timeout_s=0.1) == []
    deaf.proxy.drop_answers = True
    errors, thread = start_reading(consumer, how)
    time.sleep(0.3)
    start = time.monotonic()
    end(raw, "group", station_name)
    until(lambda: errors)
    took_s = time.monotonic() - start
    consumer.stop()
    if thread is not None:
        thread.join(20)
    assert [type(error) for error in errors[:1]] == [StationNotFoundError]
    assert "consumer not found" in str(errors[0])
    assert took_s < NOTICED_S + SLACK_S


def test_a_broker_that_has_the_group_and_answers_no_pull_hangs(deaf, station_name, monkeypatch):
    """That is no reason to call the group gone: the error says what is known, and another try may go well."""
    monkeypatch.setattr(group_watch, "SILENCE_S", 2.0)
    consumer = deaf.consumer(station_name, "c")
    deaf.proxy.drop_answers = True
    with pytest.raises(DeadlineError, match=r"has not answered a pull for \d") as caught:
        consumer.fetch(timeout_s=60)
    assert caught.value.retryable


def test_one_partition_of_several(memphis, station_name, raw, until):
    memphis.station(station_name, partitions_number=3)
    consumer = memphis.consumer(station_name, "c")
    errors, thread = start_reading(consumer, "iteration")
    time.sleep(0.3)
    assert raw.jetstream(f"CONSUMER.DELETE.{station_name}$2.c")["success"]
    until(lambda: errors)
    thread.join(20)
    assert f"{station_name}$2" in str(errors[0])


def test_a_group_that_is_made_again_is_read_again(memphis, station_name, raw, until):
    """consume() goes on looking: after an accident a restart of the other members is all that is needed."""
    consumer = memphis.consumer(station_name, "c")
    errors, seen = [], []
    consumer.consume(lambda messages, error, _: errors.append(error) if error else seen.extend(messages))
    time.sleep(0.2)
    end(raw, "group", station_name)
    until(lambda: errors)
    again = memphis.consumer(station_name, "c", max_ack_time_ms=20_000)  # other settings: the durable is made anew
    memphis.produce(station_name, "p", b"1")
    until(lambda: seen)
    again.stop()
    consumer.stop()
    assert len(errors) == 1
