"""What goes through a ProcessPoolExecutor, as a result or as an error: all that a call returns or raises by value."""

from __future__ import annotations

import inspect
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest

import memphis_sync
from memphis_sync import BulkResult, LinkEvent, MemphisError, PubAck, RetryPolicy, Stats, handler


def same(value):
    """A worker's task: gives back what it was given."""
    return value


def fail(error):
    """The same with an error."""
    raise error


@handler("orders", group="billing")
def on_order(message):
    """A handler."""


@pytest.fixture(scope="module")
def pool():
    """One worker of a new interpreter, as everywhere but on Linux."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


def errors():
    """One of each public error."""
    found = [getattr(memphis_sync, name) for name in memphis_sync.__all__]
    kinds = {kind for kind in found if inspect.isclass(kind) and issubclass(kind, MemphisError)}
    return [kind(f"what happened to {kind.__name__}") for kind in sorted(kinds, key=lambda kind: kind.__name__)]


def test_every_error_of_a_worker_is_the_caller_s(pool):
    assert len(errors()) > 25
    for error in errors():
        error.note = "kept"
        with pytest.raises(type(error)) as caught:
            pool.submit(fail, error).result(60)
        assert type(caught.value) is type(error)
        assert str(caught.value) == str(error)
        assert vars(caught.value).keys() >= vars(error).keys()
        assert caught.value.note == "kept"
        assert caught.value.retryable == error.retryable


def test_errors_of_calls_keep_what_they_say(pool, memphis, station_name):
    with pytest.raises(memphis_sync.StationNotFoundError) as gone:
        memphis.station(station_name, create_station=False)
    with pytest.raises(memphis_sync.ConfigurationError) as bad:
        memphis.consumer(station_name, "c", batch_size=0)
    for error in (gone.value, bad.value):
        with pytest.raises(type(error)) as caught:
            pool.submit(fail, error).result(60)
        assert str(caught.value) == str(error)
        assert getattr(caught.value, "code", None) == getattr(error, "code", None)


def test_what_calls_return_is_the_same_on_the_other_side(pool, memphis, station_name):
    station = memphis.station(station_name)
    producer = memphis.producer(station_name, "p")
    ack = producer.produce({"id": 1}, headers={"kind": "first"})
    consumer = memphis.consumer(station_name, "c")
    [message] = consumer.fetch(1, timeout_s=30)
    things = [
        *(ack, producer.produce_many([b"1", b"2"]), memphis.flush(), memphis.stats(), station.info()),
        *(memphis.connections(station_name), memphis.schemas(), station.peek(), message.metadata, RetryPolicy()),
        LinkEvent("web", "data", "localhost:6666", "reset", 1, 0.5, 0),
        memphis_sync.handlers.load_handler(f"{__name__}.on_order"),
    ]
    assert [type(each) for each in things[:4]] == [PubAck, BulkResult, memphis_sync.FlushResult, Stats]
    for thing in things:
        there = pool.submit(same, thing).result(60)
        assert type(there) is type(thing)
        assert there == thing
    dicts = memphis_sync.Messages([message]).to_dicts()
    assert pool.submit(same, dicts).result(60) == dicts


def test_a_message_stays_and_says_what_to_pass_instead(pool, memphis, station_name):
    memphis.produce(station_name, "p", b"1")
    [message] = memphis.consumer(station_name, "c").fetch(1, timeout_s=30)
    future = pool.submit(same, message)
    with pytest.raises(TypeError, match=r"pass \.data, \.headers"):
        future.result(60)
