"""What an object offers at a prompt is what is documented of it, and no part of the C core."""

from __future__ import annotations

import inspect
import re

import public_api
import pytest

import memphis_sync
from memphis_sync import Delivery, Message, PeekedMessage


@pytest.fixture
def objects(memphis, station_name):
    """One of each public class that a program meets, by the class."""
    station = memphis.station(station_name)
    producer, consumer = memphis.producer(station_name, "p"), memphis.consumer(station_name, "c")
    delivery = producer.produce(b"{}", nonblocking=True)
    delivery.result(30)
    found = consumer.fetch(timeout_s=30)
    receipt = consumer.receipt(found[0])
    found[0].dead_letter("bad")
    letter = next(iter(station.dls))
    station.dls.resend()
    [resent] = consumer.fetch(timeout_s=30)
    info = station.info()
    peeked = station.peek()
    things = [
        *(memphis, station, producer, consumer, delivery, found, found[0], letter, resent, info, peeked, peeked[0]),
        *(consumer.restore(receipt), station.dls, memphis.stats(), memphis.flush(), producer.produce_many([b"1"])),
        *(memphis.connections(), memphis.connections()[0], info.groups[0], info.groups[0].partitions[0]),
        *(info.partitions[0], memphis_sync.Headers(), producer.produce(b"2"), memphis_sync.RetryPolicy()),
        memphis_sync.handler("orders", "billing")(lambda message: None).memphis_handler,
    ]
    return {type(thing): thing for thing in things}


def told(kind):
    """The names that are written down of a class, and of its bases; attributes in its docstring."""
    names = set()
    for base in kind.__mro__:
        attributes = inspect.cleandoc(base.__doc__ or "").partition("\nAttributes:\n")[2]
        for line in re.findall(r"^    (\w[\w, ]*):", attributes, re.MULTILINE):
            names |= set(line.split(", "))
        if base.__module__.startswith("memphis_sync") and not base.__module__.startswith("memphis_sync._core"):
            names |= {name for name, _ in public_api.members(base)}
        elif not base.__module__.startswith("memphis_sync"):
            names |= set(dir(base))
    return names


def test_dir_shows_what_is_documented_and_nothing_else(objects):
    assert len(objects) >= 22
    for kind, thing in objects.items():
        assert {name for name in dir(thing) if not name.startswith("_")} <= told(kind), kind


def test_internals_are_hidden_and_what_is_public_is_not(objects):
    message, delivery = set(dir(objects[Message])), set(dir(objects[Delivery]))
    assert not message & {"owner", "answer", "respond", "renew", "reply", "subject", "payload", "age_ns"}
    assert message >= {"ack", "nack", "data", "headers", "json", "sequence", "header_block", "is_answered"}
    assert not delivery & {"slot", "look", "route", "observe", "outcome", "failure", "wait"}
    assert delivery >= {"result", "done", "add_done_callback", "station", "message_id"}
    assert set(dir(objects[PeekedMessage])) >= {"json", "data", "partition"}


def test_each_method_that_is_offered_says_what_it_does(objects):
    for kind, thing in objects.items():
        if not kind.__module__.startswith("memphis_sync"):
            continue
        for name in dir(thing):
            member = inspect.getattr_static(kind, name, None)
            if not name.startswith("_") and inspect.isfunction(member):
                assert inspect.getdoc(member), f"{kind.__name__}.{name}"
