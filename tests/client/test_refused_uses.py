"""What Python would take, and what would go wrong later: copies, a forgotten await deleted too few, patched threads."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle

import pytest

import memphis_sync
from memphis_sync import PubAck


@pytest.fixture
def things(memphis, station_name):
    """Everything that belongs to one client, by name."""
    producer = memphis.producer(station_name, "p")
    several = memphis.producer([station_name, station_name + "-2"], "p")
    delivery = producer.produce(b"1", nonblocking=True)
    deliveries = several.produce(b"1", nonblocking=True)
    delivery.result(10)
    deliveries.result(10)
    consumer = memphis.consumer(station_name, "c")
    messages = consumer.fetch(timeout_s=10)
    return {
        "client": memphis,
        "producer": producer,
        "consumer": consumer,
        "station": memphis.station(station_name),
        "dead letters": memphis.dls(station_name),
        "message": messages[0],
        "delivery": delivery,
        "deliveries": deliveries,
    }


WAYS = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "deepcopy in a list": lambda thing: copy.deepcopy([thing]),
    **{f"pickle {number}": lambda thing, number=number: pickle.dumps(thing, number) for number in range(6)},
    "pickle in a dict": lambda thing: pickle.dumps({"it": thing}),
}


@pytest.mark.parametrize("way", list(WAYS))
def test_what_belongs_to_a_client_is_neither_copied_nor_pickled(memphis, things, way):
    for name, thing in things.items():
        with pytest.raises(TypeError, match=r"can be neither copied nor pickled: .{20}"):
            WAYS[way](thing)
        assert name
    gc.collect()
    assert memphis.is_connected()
    assert things["producer"].produce(b"2").sequence > 0
    assert copy.copy([things["message"]])[0] is things["message"]  # a list of them is a list


def test_the_values_that_a_client_returns_are_copied_and_pickled(memphis, station_name):
    producer = memphis.producer([station_name, station_name + "-2"], "p")
    for value in (memphis.stats(), producer.produce(b"1"), memphis.flush(), *producer.produce(b"2").values()):
        assert pickle.loads(pickle.dumps(value)) == copy.deepcopy(value) == copy.copy(value) == value


def awaited(value):
    async def main():
        await value

    asyncio.run(main())


def test_an_await_that_was_not_deleted_says_that_the_message_is_stored(memphis, station_name):
    producer = memphis.producer(station_name, "p")
    with pytest.raises(TypeError, match=r"has already waited, and the message is stored .*sequence=1.*delete"):
        awaited(producer.produce(b"1"))
    several = memphis.producer([station_name, station_name + "-2"], "p")
    with pytest.raises(TypeError, match=f"the message is stored in {station_name}, {station_name}-2; delete 'await'"):
        awaited(several.produce(b"2"))
    assert isinstance(asyncio.run(_result(producer.produce(b"3", nonblocking=True))), PubAck)


async def _result(delivery):
    return await delivery


def test_an_await_that_was_not_deleted_says_that_the_call_has_happened(broker, memphis, station_name):
    consumer = memphis.consumer(station_name, "c")
    with memphis_sync.connect(broker.url) as client:
        results = [
            client,
            memphis.station(station_name),
            memphis.producer(station_name, "p"),
            consumer,
            consumer.fetch(),
            memphis.dls(station_name),
        ]
        for result in results:
            with pytest.raises(TypeError, match="the call that returned it has already happened; delete 'await'"):
                awaited(result)
