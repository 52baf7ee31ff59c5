"""What goes on, and what ends, when the program no longer refers to a client or to a consumer."""

from __future__ import annotations

import gc
import logging
import threading
from typing import Any, Callable

import pytest

import memphis_sync

pytestmark = pytest.mark.filterwarnings("ignore:.*was never closed:ResourceWarning")


def threads(kind: str = "") -> int:
    return sum(thread.name.startswith(f"memphis-{kind}") for thread in threading.enumerate())


def plain(client: memphis_sync.Memphis, station: str) -> None:
    client.consumer(station, "c").consume(lambda *_: None)


def with_what_the_client_keeps(client: memphis_sync.Memphis, station: str) -> None:
    client.produce(station, "p", b"x")
    client.fetch_messages(station, "f")
    plain(client, station)


class Application:
    """An object that has the client and is its consumer's callback: a circle."""

    def __init__(self, client: memphis_sync.Memphis, station: str) -> None:
        self.consumer = client.consumer(station, "c")
        self.client = client
        self.consumer.set_context(self)
        self.consumer.consume(self.handle)

    def handle(self, messages: Any, error: Any, context: Any) -> None:
        pass


@pytest.mark.parametrize(
    ("use", "is_circle"),
    [(plain, False), (with_what_the_client_keeps, False), (Application, True)],
    ids=["consume()", "what it keeps", "a circle"],
)
def test_a_forgotten_client_ends_its_consume(
    broker: Any, station_name: str, until: Any, use: Callable[..., object], is_circle: bool, caplog: Any
) -> None:
    before = threads()
    gc.collect()
    gc.disable()  # what is in no circle needs no collector
    try:
        for _ in range(3):
            client = memphis_sync.connect(broker.url, name="forgotten")
            use(client, station_name)
            del client
        if is_circle:
            gc.collect()
        until(lambda: threads() <= before)
    finally:
        gc.enable()
    lines = [record for record in caplog.records if "nothing refers to the client" in record.getMessage()]
    assert [record.levelno for record in lines] == [logging.ERROR] * 3


def test_a_consumer_that_nobody_refers_to_goes_on_while_its_client_is_there(memphis, station_name, until) -> None:
    got: list[bytes] = []
    memphis.consumer(station_name, "c").consume(lambda messages, *_: got.extend(m.data for m in messages))
    gc.collect()
    memphis.produce(station_name, "p", b"x")
    until(lambda: got == [b"x"])


def test_a_consumer_gives_its_place_to_the_next_of_its_name_once_it_is_forgotten(memphis, station_name, until) -> None:
    got: dict[int, list[bytes]] = {}

    def run(number: int) -> memphis_sync.Consumer:
        mine = got[number] = []

        def take(messages: list[memphis_sync.Message], *_: object) -> None:
            mine.extend(message.data for message in messages)
            for message in messages:
                message.ack()

        consumer = memphis.consumer(station_name, "c")
        consumer.consume(take, workers=2)
        return consumer

    for number in range(5):
        consumer = run(number)
    until(lambda: threads("consume") == 2)
    assert not memphis._consumers.receivers - {consumer._consuming._receiver()}
    memphis.producer(station_name, "p").produce_many(b"%d" % number for number in range(200))
    until(lambda: len(got[4]) == 200)

    another = run(5)  # both are referred to, so both are members
    assert threads("consume") == 4
    another.stop()
    consumer.stop()


def test_a_loop_over_messages_keeps_its_consumer_and_its_client(broker, memphis, station_name) -> None:
    memphis.producer(station_name, "p").produce_many(b"%d" % number for number in range(30))
    seen = []
    for message in memphis_sync.connect(broker.url).consumer(station_name, "c"):
        gc.collect()
        message.ack()
        seen.append(message.data)
        if len(seen) == 30:
            break
    del message
    assert len(seen) == 30


@pytest.mark.parametrize("is_interactive", [True, False])
def test_at_a_prompt_the_next_consume_takes_the_place(
    memphis, station_name, until, monkeypatch, is_interactive: bool
) -> None:
    if is_interactive:
        monkeypatch.setattr("sys.ps1", ">>> ", raising=False)
    consumers = [memphis.consumer(station_name, "c") for _ in range(3)]
    for consumer in consumers:
        consumer.consume(lambda *_: None)
    other = memphis.consumer(station_name, "another", consumer_group="c")
    other.consume(lambda *_: None)
    until(lambda: threads("consume") == (2 if is_interactive else 4))
    for consumer in [*consumers, other]:
        consumer.stop()
