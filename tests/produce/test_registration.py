"""The first messages of a producer are accepted while it is being registered, and end like all others."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
import time
from typing import TYPE_CHECKING, Any, Callable

import pytest

import memphis_sync
from memphis_sync import AckTimeoutError, BufferFullError, ConfigurationError, ProduceError, SchemaError, ServerError
from memphis_sync.delivery import Deliveries

if TYPE_CHECKING:
    from fix_proxy import Proxy

    from memphis_sync import Memphis

Through = Callable[..., "tuple[Memphis, Proxy]"]
SOON_S = 2.0  # "at once" on a busy machine; what is forgotten takes the request's twenty seconds


@pytest.fixture(params=[False, True], ids=["first-of-all", "link-open"])
def hung(request: pytest.FixtureRequest, through_proxy: Through, station_name: str) -> tuple[Memphis, Proxy]:
    """A client whose broker says nothing more, with the data link opened before, or not."""
    memphis, proxy = through_proxy(timeout_ms=20_000)
    if request.param:
        memphis.produce(f"{station_name}-other", "p", b"x")
    proxy.stall()
    return memphis, proxy


def identity_holds(memphis: Memphis) -> bool:
    s = memphis.stats()
    return s.accepted == s.delivered + s.failed + s.abandoned + s.queued + s.in_flight


@pytest.mark.timing
def test_a_nonblocking_first_call_returns_at_once_and_its_message_is_stored(hung, station_name: str, holds) -> None:
    memphis, proxy = hung
    before = memphis.stats().accepted
    started = time.monotonic()
    deliveries = [memphis.produce(station_name, "p", b"%d" % n, nonblocking=True, ack_wait_sec=60) for n in range(50)]
    assert time.monotonic() - started < SOON_S
    assert not any(delivery.done() for delivery in deliveries)
    stats = memphis.stats()
    assert (stats.accepted - before, stats.queued, identity_holds(memphis)) == (50, 50, True)
    assert stats.queued_bytes > 0
    assert (repr(deliveries[0]), deliveries[0].partition) == (f"<Delivery {station_name} pending>", 0)
    assert memphis.flush(0.1) == 50
    proxy.go_on()
    assert memphis.flush(30) == 0
    acks = [delivery.result(0) for delivery in deliveries]
    assert [(ack.station, ack.partition, ack.sequence) for ack in acks] == [(station_name, 1, n + 1) for n in range(50)]
    assert deliveries[0].partition == 1
    assert holds(station_name) == [(1, b"%d" % n) for n in range(50)]
    assert identity_holds(memphis)


@pytest.mark.timing
def test_a_blocking_first_call_ends_with_its_ack_wait(hung, station_name: str) -> None:
    memphis, _ = hung
    started = time.monotonic()
    with pytest.raises(AckTimeoutError, match=r"never sent, for its producer was not registered by then") as caught:
        memphis.produce(station_name, "p", b"x", ack_wait_sec=0.5)
    assert 0.5 <= time.monotonic() - started < 0.5 + SOON_S
    assert caught.value.outcome == "not_sent"
    assert identity_holds(memphis)


@pytest.mark.timing
def test_held_messages_end_at_their_own_deadlines(hung, station_name: str, until, holds) -> None:
    memphis, proxy = hung
    started = time.monotonic()
    short = memphis.produce(station_name, "p", b"short", nonblocking=True, ack_wait_sec=0.4)
    long = memphis.produce(station_name, "p", b"long", nonblocking=True, ack_wait_sec=60)
    error = short.exception(10)
    assert isinstance(error, AckTimeoutError)
    assert (error.outcome, error.message_id) == ("not_sent", None)
    assert 0.4 <= time.monotonic() - started < 0.4 + SOON_S
    assert not long.done()
    proxy.go_on()
    assert long.result(30).sequence == 1
    assert holds(station_name) == [(1, b"long")]


def test_each_threads_order_holds_across_the_registration(hung, station_name: str, holds) -> None:
    """Held, handed over and direct messages, blocking behind non-blocking, from before the registration to after it."""
    memphis, proxy = hung
    going = threading.Event()

    def produce(thread: int) -> None:
        number = 0
        while number < 400 or (not going.is_set() and number < 4000):
            options = {"nonblocking": True} if number % 100 else {}
            memphis.produce(station_name, "p", b"%d %d" % (thread, number), ack_wait_sec=60, **options)
            number += 1
        counts[thread] = number

    counts: dict[int, int] = {}
    threads = [threading.Thread(target=produce, args=(number,)) for number in range(4)]
    for number in range(4):
        memphis.produce(station_name, "p", b"%d -1" % number, nonblocking=True, ack_wait_sec=60)
    for thread in threads:
        thread.start()
    proxy.go_on()
    time.sleep(0.2)
    going.set()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert memphis.flush(30) == 0
    stored: dict[int, list[int]] = {}
    for _, data in holds(station_name):
        thread, number = map(int, data.split())
        stored.setdefault(thread, []).append(number)
    assert stored == {thread: list(range(-1, counts[thread])) for thread in range(4)}


def test_a_registration_that_fails_ends_the_delivery_with_its_reason(
    memphis: Memphis, station_name: str, monkeypatch, until
) -> None:
    monkeypatch.setitem(memphis._requests._own, "username", "nobody")
    delivery = memphis.produce(station_name, "p", b"x", nonblocking=True, ack_wait_sec=30)
    error = delivery.exception(20)
    assert isinstance(error, ProduceError)
    assert (error.outcome, "nobody" in str(error)) == ("not_sent", True)
    assert isinstance(error.__cause__, ServerError)
    with pytest.raises(ServerError, match="nobody"):  # what producer() raises
        memphis.produce(station_name, "p", b"x")
    with pytest.raises(ServerError, match="nobody"):
        memphis.produce([station_name, f"{station_name}-b"], "p", b"x")
    several = memphis.produce([station_name, f"{station_name}-b"], "p", b"x", nonblocking=True)
    assert set(several.exception(20).results) == {station_name, f"{station_name}-b"}
    monkeypatch.undo()
    until(lambda: not memphis._producers)
    assert memphis.produce(station_name, "p", b"y").sequence == 1, "the next call registers anew"
    assert identity_holds(memphis)


def test_what_only_the_producer_can_check_fails_the_message_alone(memphis: Memphis, station_name: str, holds) -> None:
    memphis.station(station_name, partitions_number=2)
    memphis.create_schema(f"{station_name}-s", "json", schema_content='{"type":"object","required":["a"]}')
    memphis.enforce_schema(f"{station_name}-s", station_name)
    wrong = memphis.produce(station_name, "p", {"b": 1}, nonblocking=True)
    nowhere = memphis.produce(station_name, "p", {"a": 0}, nonblocking=True, producer_partition_number=9)
    right = memphis.produce(station_name, "p", {"a": 1}, nonblocking=True, producer_partition_number=2)
    error = wrong.exception(20)
    assert isinstance(error, SchemaError)
    assert error.outcome == "not_sent"
    assert "Partition number is out of range: 9" in str(nowhere.exception(20))
    assert right.result(20).partition == 2
    assert [data for _, data in holds(station_name)] == [b'{"a": 1}']
    memphis.produce(station_name, "other", {"a": 2})
    for bad, kind in (({"b": 2}, SchemaError), ({"a": 2}, None)):
        if kind is not None:
            with pytest.raises(kind):
                memphis.produce(station_name, f"new{len(bad)}", bad)
    with pytest.raises(ConfigurationError, match="Partition number is out of range: 9"):
        memphis.produce(station_name, "newer", {"a": 2}, producer_partition_number=9)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"message": 7}, "message is of type int"),
        ({"message": "\ud800"}, "cannot be written as UTF-8"),
        ({"msg_id": "a\r\nb"}, "msg_id is"),
        ({"ack_wait_sec": 0}, "ack_wait_sec is 0"),
        ({"on_delivery": 7}, "on_delivery"),
        ({"headers": {"a": "b\n"}}, "header"),
        ({"headers": 7}, "headers are of type int"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_registered(
    memphis: Memphis, station_name: str, options: dict[str, Any], text: str
) -> None:
    message = options.pop("message", b"x")
    with pytest.raises((ConfigurationError, memphis_sync.HeaderError), match=text):
        memphis.produce(station_name, "p", message, nonblocking=True, **options)
    assert memphis.stats().accepted == 0


def test_a_payload_that_changes_while_it_is_held_is_stored_as_it_was(hung, station_name: str, holds) -> None:
    memphis, proxy = hung
    payloads: list[Any] = [bytearray(b"before"), {"k": ["before"]}, ["before"]]
    for payload in payloads:
        memphis.produce(station_name, "p", payload, nonblocking=True, ack_wait_sec=60)
    payloads[0][:] = b"after!"
    payloads[1]["k"][0] = "after"
    payloads[2].clear()
    proxy.go_on()
    assert memphis.flush(30) == 0
    assert [data for _, data in holds(station_name)] == [b"before", b'{"k": ["before"]}', b'["before"]']


@pytest.mark.parametrize(
    "odd",
    [
        lambda: memoryview(b"ab"),
        lambda: (item for item in "ab"),
        lambda: iter(["a", "b"]),
        {"a": 1, "b": 2}.keys,
        threading.Lock,
    ],
    ids=["memoryview", "generator", "iterator", "dict view", "lock"],
)
def test_what_has_no_copy_goes_the_same_way_in_the_first_message_as_in_later_ones(
    broker, station_name: str, holds, odd: Callable[[], Any]
) -> None:
    def written(value: Any) -> Any:
        return list(value) if hasattr(value, "__iter__") else "locked"

    with memphis_sync.connect(broker.url, json_default=written) as memphis:
        for _ in range(2):  # the second one finds the producer registered
            memphis.produce(station_name, "p", {"k": [odd(), ("x",)]})
    first, second = (data for _, data in holds(station_name))
    assert first == second
    assert first in (b'{"k": [[97, 98], ["x"]]}', b'{"k": [["a", "b"], ["x"]]}', b'{"k": ["locked", ["x"]]}')


@pytest.mark.parametrize("odd", [memoryview(b"ab"), (item for item in "ab"), threading.Lock()], ids=type)
def test_what_json_has_no_form_for_is_refused_alike_by_the_first_call_and_later_ones(
    memphis: Memphis, station_name: str, odd: Any
) -> None:
    itself: dict[str, Any] = {"k": odd}
    itself["again"] = itself
    reasons = []
    for message in ({"k": [odd]}, itself):
        for producer in ("new", "new", "newer"):
            with pytest.raises(ConfigurationError, match=r"has no form in JSON|holds itself") as caught:
                memphis.produce(station_name, producer, message)
            reasons.append(str(caught.value))
    assert len(set(reasons)) == 2


def test_held_messages_are_bounded_like_all_others(through_proxy: Through, station_name: str, holds) -> None:
    memphis, proxy = through_proxy(outbox_max_messages=10, outbox_max_bytes=65536, timeout_ms=20_000)
    proxy.stall()
    for number in range(10):
        memphis.produce(station_name, "p", b"%d" % number, nonblocking=True, ack_wait_sec=60)
    with pytest.raises(BufferFullError, match="outbox_max_messages=10"):
        memphis.produce(station_name, "p", b"x", nonblocking=True)
    with pytest.raises(BufferFullError, match="outbox_max_messages=10"):
        memphis.produce(station_name, "q", b"x", nonblocking=True)
    started = time.monotonic()
    with pytest.raises(BufferFullError):
        memphis.produce(station_name, "p", b"x", ack_wait_sec=0.3)
    with pytest.raises(BufferFullError):
        memphis.produce(station_name, "r", b"x", nonblocking=True, block_on_full_s=0.3)
    assert 0.6 <= time.monotonic() - started < 0.6 + 2 * SOON_S
    assert (memphis.stats().queued, memphis.stats().buffer_full >= 4) == (10, True)
    proxy.go_on()
    assert memphis.flush(30) == 0
    with pytest.raises(memphis_sync.PayloadTooLargeError, match="outbox_max_bytes=65536"):
        memphis.produce(station_name, "s", b"x" * 70_000, nonblocking=True)
    assert [data for _, data in holds(station_name)] == [b"%d" % number for number in range(10)]
    assert identity_holds(memphis)


def test_bytes_bound_held_messages_too(hung, station_name: str) -> None:
    memphis, proxy = hung
    for _ in range(60):
        memphis.produce(station_name, "p", bytes(1_000_000), nonblocking=True, ack_wait_sec=60)
    with pytest.raises(BufferFullError, match="outbox_max_bytes"):
        memphis.produce(station_name, "p", bytes(8_000_000), nonblocking=True, ack_wait_sec=60)
    proxy.go_on()
    assert memphis.flush(60) == 0


def test_a_delivery_is_a_future_while_its_message_is_held(hung, station_name: str, until) -> None:
    memphis, proxy = hung
    seen: list[Any] = []
    first, second, third = (
        memphis.produce(station_name, "p", b"%d" % n, nonblocking=True, ack_wait_sec=60, on_delivery=seen.append)
        for n in range(3)
    )
    second.add_done_callback(lambda delivery: seen.append(delivery.result(0).sequence))
    assert memphis_sync.wait([first, second], 0.05).done == set()
    threads = [threading.Thread(target=lambda: seen.append(third.result(30))) for _ in range(2)]
    for thread in threads:
        thread.start()
    timer = threading.Timer(0.2, proxy.go_on)
    timer.start()

    async def both() -> list[int]:
        return [(await first).sequence, (await second).sequence]

    assert asyncio.run(both()) == [1, 2]
    assert {delivery.result(0).sequence for delivery in memphis_sync.as_completed([third, first], 30)} == {1, 3}
    for thread in threads:
        thread.join(30)
    until(lambda: len(seen) == 6)
    assert {first, second, third} <= {entry for entry in seen if isinstance(entry, memphis_sync.Delivery)}
    late: list[Any] = []
    third.add_done_callback(late.append)
    assert late == [third]


def test_several_stations_are_held_together(hung, station_name: str, holds) -> None:
    memphis, proxy = hung
    stations = [station_name, f"{station_name}-b"]
    deliveries = memphis.produce(stations, "p", b"x", nonblocking=True, ack_wait_sec=60)
    assert isinstance(deliveries, Deliveries)
    assert (sorted(deliveries), memphis.stats().queued) == (sorted(stations), 2)
    proxy.go_on()
    assert {station: ack.sequence for station, ack in deliveries.result(30).items()} == dict.fromkeys(stations, 1)
    assert [holds(station) for station in stations] == [[(1, b"x")]] * 2


def test_an_outage_at_the_first_call_is_waited_out(through_proxy: Through, station_name: str) -> None:
    memphis, proxy = through_proxy()
    proxy.down()
    delivery = memphis.produce(station_name, "p", b"x", nonblocking=True, ack_wait_sec=60)
    time.sleep(0.5)
    assert not delivery.done()
    proxy.up()
    assert delivery.result(60).sequence == 1


def test_closing_waits_for_what_is_held_and_gives_up_in_time(hung, station_name: str, holds) -> None:
    memphis, proxy = hung
    kept = memphis.produce(station_name, "p", b"kept", nonblocking=True, ack_wait_sec=60)
    threading.Timer(0.3, proxy.go_on).start()
    memphis.close(timeout_s=30)
    assert kept.result(0).sequence == 1
    assert holds(station_name) == [(1, b"kept")]


def test_closing_a_client_of_a_hung_broker_counts_what_was_held(hung, station_name: str) -> None:
    memphis, _ = hung
    delivery = memphis.produce(station_name, "p", b"x", nonblocking=True, ack_wait_sec=60)
    started = time.monotonic()
    with pytest.warns(memphis_sync.UndeliveredWarning, match="1 messages"):
        memphis.close(timeout_s=0.3)
    assert time.monotonic() - started < 0.3 + 2 * SOON_S
    assert delivery.exception(0).outcome == "not_sent"
    assert memphis.stats().abandoned == 1
    with pytest.raises(memphis_sync.ClosedError):
        memphis.produce(station_name, "p", b"x", nonblocking=True)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the platform has no interval timers")
def test_a_signal_handler_may_produce_while_its_thread_is_in_the_first_call(hung, station_name: str, holds) -> None:
    memphis, proxy = hung
    taken: list[memphis_sync.Delivery] = []

    def handler(*_: object) -> None:
        taken.append(memphis.produce(station_name, "p", b"signal", nonblocking=True, ack_wait_sec=60))
        if len(taken) == 20:
            proxy.go_on()

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.02)
        memphis.produce(station_name, "p", b"main", ack_wait_sec=60)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert memphis.flush(30) == 0
    assert sorted({data for _, data in holds(station_name)}) == [b"main", b"signal"]
    assert len(holds(station_name)) == len(taken) + 1


def test_a_forgotten_delivery_is_sent_and_its_failure_is_logged(hung, station_name: str, caplog, until) -> None:
    memphis, proxy = hung
    memphis.produce(station_name, "p", b"kept", nonblocking=True, ack_wait_sec=60)
    memphis.produce(station_name, "p", b"lost", nonblocking=True, ack_wait_sec=0.1)
    gc.collect()
    until(lambda: memphis.stats().failed == 1)
    proxy.go_on()
    assert memphis.flush(30) == 0
    until(lambda: any("nobody has asked" in record.getMessage() for record in caplog.records))


def test_a_message_for_more_stations_than_the_outbox_takes_names_the_bound(
    through_proxy: Through, station_name
) -> None:
    memphis, _ = through_proxy(outbox_max_messages=1)
    stations = [station_name, f"{station_name}-b"]
    with memphis.producer(stations, "p") as producer:
        for options in ({}, {"nonblocking": True}):
            with pytest.raises(
                ConfigurationError, match=r"for 2 stations is 2 messages.*outbox_max_messages=1"
            ) as caught:
                producer.produce(b"x", ack_wait_sec=0.2, **options)
            assert "outbox_max_bytes" not in str(caught.value)
    with pytest.raises(ConfigurationError, match="outbox_max_messages=1"):
        memphis.produce(stations, "q", b"x", nonblocking=True)
