"""The produce contract, point by point: what each call returns, raises and counts."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import threading
import time
from typing import TYPE_CHECKING

import pytest

import memphis_sync
from memphis_sync.delivery import Deliveries, Delivery
from memphis_sync.errors import (
    AckTimeoutError,
    BufferFullError,
    ClosedError,
    ConfigurationError,
    DeadlineError,
    HeaderError,
    MultiStationError,
    PayloadTooLargeError,
    RejectedError,
    StationGoneError,
)

if TYPE_CHECKING:
    from memphis_sync import Memphis
    from memphis_sync.broker import BrokerProcess
    from memphis_sync.types import PubAck, Stats


def is_consistent(stats: Stats) -> bool:
    """The identity of the counters."""
    settled = stats.delivered + stats.failed + stats.abandoned
    return stats.accepted == settled + stats.queued + stats.in_flight


# ---- blocking ------------------------------------------------------------------------------------


def test_a_blocking_produce_returns_the_brokers_word(memphis: Memphis, station_name: str) -> None:
    memphis.station(station_name, partitions_number=2)
    producer = memphis.producer(station_name, "p")
    first, second, third = (producer.produce(b"m") for _ in range(3))
    assert (first.station, first.partition, first.sequence, first.duplicate) == (station_name, 1, 1, False)
    assert (second.partition, second.sequence) == (2, 1)
    assert (third.partition, third.sequence, third.stream) == (1, 2, f"{station_name}$1")


def test_a_message_id_is_stored_once(memphis: Memphis, station_name: str) -> None:
    producer = memphis.producer(station_name, "p")
    first = producer.produce(b"m", msg_id="order-7")
    again = producer.produce(b"m", msg_id="order-7")
    assert (first.duplicate, again.duplicate) == (False, True)
    assert again.sequence == first.sequence


def test_each_payload_type_arrives_as_its_bytes(memphis: Memphis, station_name: str, holds) -> None:
    payloads = [
        b"bytes",
        bytearray(b"array"),
        memoryview(b"view"),
        memoryview(b"s-t-r-i")[::2],
        "tëxt",
        {"k": [1]},
        [1, "x"],
        b"",
    ]
    before = [
        json.dumps(p) if isinstance(p, (dict, list)) else bytes(p, "utf-8") if isinstance(p, str) else bytes(p)
        for p in payloads
    ]
    producer = memphis.producer(station_name, "p")
    for payload in payloads:
        producer.produce(payload)
    expected = [b"bytes", b"array", b"view", b"stri", "tëxt".encode(), b'{"k": [1]}', b'[1, "x"]', b""]
    assert [data for _, data in holds(station_name)] == expected
    after = [
        json.dumps(p) if isinstance(p, (dict, list)) else bytes(p, "utf-8") if isinstance(p, str) else bytes(p)
        for p in payloads
    ]
    assert before == after


def test_a_mutable_payload_is_copied_before_the_call_returns(memphis: Memphis, station_name: str, holds) -> None:
    producer = memphis.producer(station_name, "p")
    payload = bytearray(b"before")
    producer.produce(payload, nonblocking=True)
    payload[:] = b"after!"
    producer.flush()
    assert holds(station_name) == [(1, b"before")]


def test_a_station_that_was_destroyed_fails_the_produce(
    broker: BrokerProcess, memphis: Memphis, station_name: str
) -> None:
    station = memphis.station(station_name)
    producer = memphis.producer(station_name, "p")
    producer.produce(b"m")
    with memphis_sync.connect(broker.url) as other:
        other.station(station_name).destroy()
    with pytest.raises(StationGoneError, match=f"{station_name}.*is not stored") as caught:
        producer.produce(b"m")
    assert caught.value.outcome == "rejected"
    assert station.name == station_name


def test_a_refusal_carries_the_brokers_code_and_text(memphis: Memphis, station_name: str) -> None:
    memphis.station(station_name)
    producer = memphis.producer(station_name, "p")
    producer.produce(b"m")
    # JetStream refuses a publish whose expectation is wrong; users cannot set such a header, so it goes in below.
    route = producer._sender.routes[0][1]
    ticket = route.send(b"m", b"Nats-Expected-Last-Sequence: 99\r\n", b"", 5_000_000_000, Delivery)
    with pytest.raises(RejectedError, match="wrong last sequence: 1") as caught:
        ticket.result(5)
    assert (caught.value.code, caught.value.err_code, caught.value.outcome) == (400, 10071, "rejected")


# ---- non-blocking --------------------------------------------------------------------------------


def test_a_delivery_has_the_shape_of_a_future(memphis: Memphis, station_name: str) -> None:
    producer = memphis.producer(station_name, "p")
    delivery = producer.produce(b"m", nonblocking=True)
    assert isinstance(delivery, Delivery)
    ack = delivery.result(5)
    assert ack.sequence == 1
    assert delivery.done()
    assert not delivery.running()
    assert not delivery.cancel()
    assert not delivery.cancelled()
    assert delivery.exception() is None
    assert (delivery.station, delivery.partition) == (station_name, 1)
    assert repr(delivery) == f"<Delivery {station_name} delivered>"


def test_each_callback_runs_once_on_the_callbacks_thread(memphis: Memphis, station_name: str, until) -> None:
    producer = memphis.producer(station_name, "p")
    seen: list[tuple[int, str]] = []
    for _ in range(500):
        producer.produce(
            b"m",
            nonblocking=True,
            on_delivery=lambda d: seen.append((d.result().sequence, threading.current_thread().name)),
        )
    assert producer.flush(10) == 0
    until(lambda: len(seen) >= 500)
    assert [sequence for sequence, _ in seen] == list(range(1, 501))
    assert {name.rpartition("-")[0] for _, name in seen} == {"memphis-callbacks"}


def test_a_callback_on_a_settled_delivery_runs_at_once(memphis: Memphis, station_name: str) -> None:
    delivery = memphis.producer(station_name, "p").produce(b"m", nonblocking=True)
    delivery.result(5)
    seen: list[Delivery] = []
    delivery.add_done_callback(seen.append)
    assert seen == [delivery]


def test_a_callback_that_raises_is_logged_and_the_next_one_runs(
    memphis: Memphis, station_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    producer = memphis.producer(station_name, "p")
    done = threading.Event()

    def fail(_delivery: Delivery) -> None:
        raise ValueError("mine")

    with caplog.at_level(logging.ERROR, "memphis_sync.produce"):
        producer.produce(b"m", nonblocking=True, on_delivery=fail)
        producer.produce(b"m", nonblocking=True, on_delivery=lambda _d: done.set())
        assert done.wait(5)
    assert any("callback" in record.getMessage() for record in caplog.records)


def test_a_callback_may_produce_and_flush(memphis: Memphis, station_name: str) -> None:
    producer = memphis.producer(station_name, "p")
    results: list[object] = []
    done = threading.Event()

    def answer(_delivery: Delivery) -> None:
        results.append(producer.produce(b"blocking, from a callback").sequence)
        results.append(producer.flush(5))
        done.set()

    producer.produce(b"m", nonblocking=True, on_delivery=answer)
    assert done.wait(10)
    assert results == [2, 0]


def test_a_delivery_can_be_awaited_without_blocking_the_loop(memphis: Memphis, station_name: str) -> None:
    producer = memphis.producer(station_name, "p")

    async def main() -> list[int]:
        return [(await producer.produce(b"m", nonblocking=True)).sequence for _ in range(20)]

    assert asyncio.run(main()) == list(range(1, 21))


def test_the_deliveries_of_several_stations_can_be_awaited_like_one(memphis: Memphis, station_name: str) -> None:
    names = [station_name, f"{station_name}-2"]
    producer = memphis.producer(names, "p")

    async def main() -> dict[str, PubAck]:
        return await producer.produce(b"m", nonblocking=True)

    assert {name: ack.sequence for name, ack in asyncio.run(main()).items()} == dict.fromkeys(names, 1)


@pytest.mark.parametrize("is_known", [True, False], ids=["registered", "held"])
def test_a_message_that_fits_the_outbox_only_once_says_that_it_is_for_several_stations(
    broker: BrokerProcess, station_name: str, is_known: bool
) -> None:
    names = [station_name, f"{station_name}-2"]
    with memphis_sync.connect(broker.url, outbox_max_bytes=65536) as memphis:
        if is_known:
            memphis.produce(names, "p", b"m")
        with pytest.raises(PayloadTooLargeError, match="its frames for 2 stations together are larger than the whole"):
            memphis.produce(names, "p", b"x" * 40_000, nonblocking=True)
        with pytest.raises(PayloadTooLargeError, match="its frame is larger than the whole"):
            memphis.produce(station_name, "p", b"x" * 70_000, nonblocking=True)


def test_a_failure_that_nobody_looks_at_is_logged_with_its_count(
    broker: BrokerProcess, station_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, "memphis_sync.produce"), memphis_sync.connect(broker.url) as memphis:
        station = memphis.station(station_name)
        producer = memphis.producer(station_name, "p")
        producer.produce(b"m", nonblocking=True).result(5)  # what is stored is not counted
        station.destroy()
        # destroy() forgets the producer; what follows is a station that somebody else destroyed.
        producer._sender.is_closed = False
        for _ in range(30):
            producer.produce(b"m", nonblocking=True)
        looked = producer.produce(b"m", nonblocking=True)
        assert isinstance(looked.exception(5), StationGoneError)
        assert producer.flush(5) == 0
        deadline = time.monotonic() + 5
        while _unseen(caplog) < 30 and time.monotonic() < deadline:
            gc.collect()  # where no count of references says when the last one is gone
            time.sleep(0.05)
    assert _unseen(caplog) == 30
    assert len(caplog.records) <= 3


def _unseen(caplog: pytest.LogCaptureFixture) -> int:
    return sum(int(record.args[1]) for record in caplog.records if "failed and nobody has asked" in record.msg)


def test_flush_waits_for_its_own_producer_only(memphis: Memphis, station_name: str) -> None:
    one, two = memphis.producer(station_name, "one"), memphis.producer(station_name, "two")
    for _ in range(1000):
        one.produce(b"1", nonblocking=True)
        two.produce(b"2", nonblocking=True)
    assert one.flush(10) == 0
    assert len(one) == 0
    assert memphis.flush(10) == 0
    assert is_consistent(memphis.stats())


def test_the_counters_add_up_at_every_instant(memphis: Memphis, station_name: str) -> None:
    producer = memphis.producer(station_name, "p")
    stop = threading.Event()
    bad: list[Stats] = []
    samples = 0

    def sample() -> None:
        nonlocal samples
        while not stop.is_set():
            stats = memphis.stats()
            samples += 1
            if not is_consistent(stats):
                bad.append(stats)

    sampler = threading.Thread(target=sample)
    sampler.start()
    for _ in range(50_000):
        producer.produce(b"m", nonblocking=True)
    producer.flush(30)
    stop.set()
    sampler.join()
    assert samples > 10
    assert bad == []
    assert memphis.stats().delivered >= 50_000


def test_one_threads_messages_keep_their_order_whatever_the_mode(memphis: Memphis, station_name: str, holds) -> None:
    producer = memphis.producer(station_name, "p")
    for i in range(2000):
        producer.produce(b"%d" % i, nonblocking=i % 100 != 99)
    producer.flush(10)
    assert [int(data) for _, data in holds(station_name)] == list(range(2000))


def test_a_blocking_produce_does_not_stand_behind_another_threads_backlog(through_proxy, station_name: str) -> None:
    memphis, proxy = through_proxy(max_in_flight=64)
    bulk, other = memphis.producer(station_name, "bulk"), memphis.producer(f"{station_name}-2", "other")
    other.produce(b"warm")
    proxy.stall()
    deliveries = [bulk.produce(b"x" * 1000, nonblocking=True) for _ in range(20_000)]
    backlog: list[int] = []

    def wait_for_one() -> None:
        other.produce(b"urgent", ack_wait_sec=20)
        backlog.append(sum(not delivery.done() for delivery in deliveries))

    waiter = threading.Thread(target=wait_for_one)
    waiter.start()
    time.sleep(0.2)
    proxy.go_on()
    waiter.join()
    assert bulk.flush(20) == 0
    assert backlog[0] > 10_000  # most of what was accepted before it was still to come


# ---- several stations ----------------------------------------------------------------------------


def test_several_stations_each_confirm(memphis: Memphis, station_name: str, holds) -> None:
    names = [f"{station_name}-a", f"{station_name}-b", f"{station_name}-c"]
    producer = memphis.producer(names, "p")
    acks = producer.produce(b"everywhere")
    assert {name: ack.sequence for name, ack in acks.items()} == dict.fromkeys(names, 1)
    deliveries = producer.produce(b"again", nonblocking=True)
    assert isinstance(deliveries, Deliveries)
    assert {name: ack.sequence for name, ack in deliveries.result(5).items()} == dict.fromkeys(names, 2)
    assert deliveries.done()
    for name in names:
        assert [data for _, data in holds(name)] == [b"everywhere", b"again"]


def test_one_stations_failure_is_reported_with_the_others_success(
    broker: BrokerProcess, station_name: str, until
) -> None:
    good, bad = f"{station_name}-good", f"{station_name}-bad"
    with memphis_sync.connect(broker.url) as memphis, memphis_sync.connect(broker.url) as other:
        producer = memphis.producer([good, bad], "p")
        other.station(bad).destroy()
        with pytest.raises(MultiStationError, match=f"1 of 2 stations.*{bad}") as caught:
            producer.produce(b"m")
        assert caught.value.results[good].sequence == 1
        assert isinstance(caught.value.results[bad], StationGoneError)
        seen: list[Deliveries] = []
        deliveries = producer.produce(b"m", nonblocking=True)
        deliveries.add_done_callback(seen.append)
        assert isinstance(deliveries.exception(5), MultiStationError)
        until(lambda: seen)
        assert seen == [deliveries]


# ---- bounds and bad input ------------------------------------------------------------------------


def test_a_full_outbox_says_so_and_loses_nothing(through_proxy, station_name: str, holds) -> None:
    memphis, proxy = through_proxy(outbox_max_messages=100)
    producer = memphis.producer(station_name, "p")
    proxy.stall()
    deliveries = [producer.produce(b"%d" % i, nonblocking=True) for i in range(100)]
    with pytest.raises(BufferFullError, match="outbox_max_messages=100") as caught:
        producer.produce(b"100", nonblocking=True)
    assert isinstance(caught.value, BufferError)
    assert (len(producer), memphis.stats().buffer_full) == (100, 1)
    proxy.go_on()
    assert [delivery.result(10).sequence for delivery in deliveries] == list(range(1, 101))
    assert [data for _, data in holds(station_name)] == [b"%d" % i for i in range(100)]


def test_a_blocking_produce_waits_for_room(through_proxy, station_name: str) -> None:
    memphis, proxy = through_proxy(outbox_max_messages=50)
    producer = memphis.producer(station_name, "p")
    proxy.stall()
    for _ in range(50):
        producer.produce(b"m", nonblocking=True)
    threading.Timer(0.3, proxy.go_on).start()
    assert producer.produce(b"last", ack_wait_sec=10).sequence == 51


def test_a_deadline_ends_the_message_in_time(through_proxy, station_name: str) -> None:
    memphis, proxy = through_proxy()
    producer = memphis.producer(station_name, "p")
    producer.produce(b"m")
    proxy.stall()
    started = time.monotonic()
    with pytest.raises(AckTimeoutError, match=r"may be stored; produce it again with msg_id=") as caught:
        producer.produce(b"m", ack_wait_sec=0.5)
    assert caught.value.outcome == "unknown"
    assert 0.5 <= time.monotonic() - started < 5
    proxy.go_on()


def test_a_result_that_is_not_there_yet_is_no_failure(through_proxy, station_name: str) -> None:
    memphis, proxy = through_proxy()
    producer = memphis.producer(station_name, "p")
    proxy.stall()
    delivery = producer.produce(b"m", nonblocking=True)
    with pytest.raises(DeadlineError, match=r"not confirmed within 0\.1 s"):
        delivery.result(0.1)
    proxy.go_on()
    assert delivery.result(10).sequence == 1


@pytest.mark.parametrize("number", [0, -1, -2])
def test_no_partition_number_means_in_turn(memphis: Memphis, station_name: str, number: int) -> None:
    memphis.station(station_name, partitions_number=2)
    producer = memphis.producer(station_name, "p")
    acks = [producer.produce(b"m", producer_partition_number=number) for _ in range(4)]
    assert sorted(ack.partition for ack in acks) == [1, 1, 2, 2]
    same = [producer.produce(b"m", producer_partition_number=number, producer_partition_key="k") for _ in range(3)]
    assert len({ack.partition for ack in same}) == 1
    messages = memphis.consumer(station_name, "c").read_all(consumer_partition_number=number)
    assert len(list(messages)) == 7


@pytest.mark.parametrize("number", [0, 1, 2, 99, -3])
def test_a_station_of_one_partition_takes_any_number_and_key(memphis: Memphis, station_name: str, number: int) -> None:
    memphis.station(station_name)
    producer, consumer = memphis.producer(station_name, "p"), memphis.consumer(station_name, "c")
    assert producer.produce(b"m", producer_partition_number=number).partition == 1
    assert producer.produce(b"m", producer_partition_number=number, producer_partition_key="k").partition == 1
    assert consumer.fetch(1, consumer_partition_number=number, timeout_s=10)
    assert consumer.fetch(1, "k", number, timeout_s=10)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"producer_partition_number": 3}, r"out of range: 3 .*1 to 2"),
        ({"producer_partition_number": True}, r"producer_partition_number is of type bool"),
        ({"producer_partition_number": 1, "producer_partition_key": "k"}, r"both partition number and partition key"),
        ({"producer_partition_key": 7}, r"producer_partition_key is of type int"),
        ({"ack_wait_sec": 0}, r"ack_wait_sec is 0; .*above 0"),
        ({"ack_wait_sec": "x"}, r"ack_wait_sec"),
        ({"msg_id": 5}, r"msg_id is of type int"),
        ({"msg_id": "a\r\nb"}, r"msg_id is .*CR, LF or NUL"),
        ({"concurrent_task_limit": 0, "nonblocking": True}, r"concurrent_task_limit is 0; .*at least 1"),
        ({"on_delivery": print}, r"on_delivery .*nonblocking=True"),
    ],
)
@pytest.mark.parametrize("stations", [1, 2])
def test_bad_options_are_refused_before_anything_is_taken(
    memphis: Memphis, station_name: str, options: dict[str, object], text: str, stations: int
) -> None:
    names = [f"{station_name}-{number}" for number in range(stations)]
    for name in names:
        memphis.station(name, partitions_number=2)
    producer = memphis.producer(names, "p")
    accepted = memphis.stats().accepted
    with pytest.raises(ConfigurationError, match=text):
        producer.produce(b"m", **options)
    assert memphis.stats().accepted == accepted


@pytest.mark.parametrize("message", [None, 5, 1.5, object(), {1, 2}, {"k": object()}, "\ud800"])
def test_bad_payloads_are_refused_before_anything_is_taken(
    memphis: Memphis, station_name: str, message: object
) -> None:
    producer = memphis.producer(station_name, "p")
    accepted = memphis.stats().accepted
    for nonblocking in (False, True):
        with pytest.raises(ConfigurationError, match="message is "):
            producer.produce(message, nonblocking=nonblocking)
    assert memphis.stats().accepted == accepted


@pytest.mark.parametrize(
    "headers", [{"$memphis_x": "v"}, {"k": "a\nb"}, {"k\r": "v"}, {"k": "\0"}, {"": "v"}, {"k": 5}, "k: v"]
)
def test_bad_headers_are_refused_before_anything_is_taken(memphis: Memphis, station_name: str, headers: object) -> None:
    producer = memphis.producer(station_name, "p")
    accepted = memphis.stats().accepted
    with pytest.raises(HeaderError):
        producer.produce(b"m", headers=headers)
    assert memphis.stats().accepted == accepted


def test_a_message_may_be_as_large_as_the_server_takes_and_no_larger(memphis: Memphis, station_name: str) -> None:
    producer = memphis.producer(station_name, "p")
    limit = memphis._session.data_link().max_payload
    assert limit == 8 * 1024 * 1024
    with pytest.raises(PayloadTooLargeError, match=f"max_payload={limit}"):
        producer.produce(b"x" * limit)
    room = limit - 512
    assert producer.produce(b"x" * room).sequence == 1


def test_a_destroyed_producer_and_a_closed_client_take_nothing(broker: BrokerProcess, station_name: str) -> None:
    memphis = memphis_sync.connect(broker.url)
    producer, other = memphis.producer(station_name, "p"), memphis.producer(station_name, "q")
    producer.produce(b"m", nonblocking=True)
    producer.destroy()
    producer.destroy()
    with pytest.raises(ClosedError, match="destroyed"):
        producer.produce(b"m")
    memphis.close()
    for nonblocking in (False, True):
        with pytest.raises(ClosedError):
            other.produce(b"m", nonblocking=nonblocking)
    assert memphis.stats().delivered == 1


@pytest.mark.parametrize("stations", [1, 2])
def test_the_task_limit_of_memphis_py_holds_the_caller_back(through_proxy, station_name: str, stations: int) -> None:
    memphis, proxy = through_proxy()
    producer = memphis.producer([f"{station_name}-{number}" for number in range(stations)], "p")
    proxy.stall()
    for _ in range(10 // stations):
        producer.produce(b"m", nonblocking=True, concurrent_task_limit=10)
    assert len(producer) == 10
    threading.Timer(0.3, proxy.go_on).start()
    producer.produce(b"m", nonblocking=True, concurrent_task_limit=10)
    assert len(producer) <= 5 + stations
    assert producer.flush(10) == 0
    assert memphis.stats().delivered == 10 + stations


def test_the_old_name_of_nonblocking_still_works(memphis: Memphis, station_name: str) -> None:
    producer = memphis.producer(station_name, "p")
    with pytest.warns(DeprecationWarning, match="nonblocking"):
        delivery = producer.produce(b"m", async_produce=True)
    assert delivery.result(5).sequence == 1
