"""produce_many(): everything an iterable yields, in bounded memory."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

import memphis_sync
from memphis_sync.bulk import BulkDeadlineError, BulkError, Item
from memphis_sync.errors import ConfigurationError, StationGoneError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memphis_sync import Memphis
    from memphis_sync.broker import BrokerProcess


def test_all_rows_are_stored_in_order(memphis: Memphis, station_name: str, holds) -> None:
    result = memphis.producer(station_name, "p").produce_many(b"%d" % i for i in range(10_000))
    assert (result.delivered, result.duplicates, result.failed) == (10_000, 0, ())
    assert result.seconds > 0
    assert [int(data) for _, data in holds(station_name)] == list(range(10_000))


def test_items_carry_key_partition_headers_and_id(memphis: Memphis, station_name: str) -> None:
    memphis.station(station_name, partitions_number=3)
    items = [
        Item(b"k", key="user-1"),
        Item(b"n", partition=2, headers={"a": "b"}),
        Item(b"i", partition=1, msg_id="x"),
        Item(b"i", partition=1, msg_id="x"),
    ]
    result = memphis.producer(station_name, "p").produce_many(items)
    assert (result.delivered, result.duplicates) == (4, 1)
    consumer = memphis.consumer(station_name, "c")
    found = {}
    while len(found) < 3:
        found.update({m.data: (m.partition, m.headers) for m in consumer.fetch(10)})
    assert found[b"k"][0] == 3
    assert found[b"n"] == (2, {"a": "b"})
    assert found[b"i"][0] == 1


def test_messages_with_and_without_options_keep_their_order_and_their_places(
    memphis: Memphis, station_name: str, holds
) -> None:
    kinds = (lambda i: b"%d" % i, str, lambda i: Item(b"%d" % i), lambda i: bytearray(b"%d" % i), lambda i: i)
    count = 1000
    producer = memphis.producer(station_name, "p")
    rows = (kinds[(i // 7) % 4](i) for i in range(count))
    assert producer.produce_many(rows).delivered == count
    assert [int(data) for _, data in holds(station_name)] == list(range(count))
    with pytest.raises(ConfigurationError, match="message is of type int"):
        producer.produce_many(kinds[4 if i == 300 else 0](i) for i in range(count))
    assert len(holds(station_name)) == count + 300, "what came before it is stored"


def test_a_failure_is_named_by_its_place(broker: BrokerProcess, station_name: str) -> None:
    with memphis_sync.connect(broker.url, no_responders_retry=None) as memphis:
        memphis.station(station_name, partitions_number=2)
        producer = memphis.producer(station_name, "p")
        memphis.station(station_name).destroy()
        rows = [Item(b"m", partition=1) if i % 100 == 5 else b"m" for i in range(600)]
        result = producer.produce_many(rows, on_error="collect")
        assert [failure.index for failure in result.failed] == list(range(600))
        assert result.delivered == 0


def test_two_stations_and_their_places(memphis: Memphis, station_name: str) -> None:
    producer = memphis.producer([station_name, f"{station_name}-b"], "p")
    result = producer.produce_many(b"%d" % i for i in range(600))
    assert (result.delivered, result.failed) == (1200, ())


def test_it_waits_for_room_instead_of_raising(broker: BrokerProcess, station_name: str) -> None:
    with memphis_sync.connect(broker.url, outbox_max_messages=100, outbox_max_bytes=65536) as memphis:
        result = memphis.producer(station_name, "p").produce_many(b"x" * 100 for _ in range(20_000))
        assert result.delivered == 20_000


def test_a_failure_stops_it_and_says_what_became_of_the_rest(broker: BrokerProcess, station_name: str) -> None:
    at_once = memphis_sync.connect(broker.url, no_responders_retry=None)
    with at_once as memphis, memphis_sync.connect(broker.url) as other:
        producer = memphis.producer(station_name, "p")
        producer.produce(b"m")
        other.station(station_name).destroy()
        with pytest.raises(BulkError, match="message 0 failed") as caught:
            producer.produce_many(b"m" for _ in range(1_000_000))
        result = caught.value.result
        assert result is not None
        assert result.delivered == 0
        assert 0 < len(result.failed) < 1_000_000
        assert isinstance(result.failed[0].error, StationGoneError)
        collected = producer.produce_many((b"m" for _ in range(1000)), on_error="collect")
        assert [failure.index for failure in collected.failed] == list(range(1000))


def test_a_deadline_counts_what_is_unconfirmed(through_proxy, station_name: str) -> None:
    memphis, proxy = through_proxy()
    producer = memphis.producer(station_name, "p")
    proxy.stall()
    with pytest.raises(BulkDeadlineError) as caught:
        producer.produce_many([b"m"] * 10, timeout_s=0.3)
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.result is not None
    assert len(caught.value.result.failed) == 10
    proxy.go_on()


def test_an_iterable_that_raises_loses_nothing_it_gave(memphis: Memphis, station_name: str, holds) -> None:
    def rows() -> Iterator[bytes]:
        yield from (b"%d" % i for i in range(300))
        raise RuntimeError("the file ended badly")

    with pytest.raises(RuntimeError, match="ended badly"):
        memphis.producer(station_name, "p").produce_many(rows())
    assert len(holds(station_name)) == 300


def test_bad_arguments_are_named(memphis: Memphis, station_name: str) -> None:
    producer = memphis.producer(station_name, "p")
    with pytest.raises(ConfigurationError, match="on_error is 'ignore'"):
        producer.produce_many([], on_error="ignore")
    with pytest.raises(ConfigurationError, match="timeout_s is 0"):
        producer.produce_many([], timeout_s=0)
    with pytest.raises(ConfigurationError, match="message is of type int"):
        producer.produce_many([b"m", 5])


def test_several_threads_share_a_producer(memphis: Memphis, station_name: str, holds) -> None:
    memphis.station(station_name, partitions_number=2)
    producer = memphis.producer(station_name, "p")
    threads = [
        threading.Thread(target=lambda t=t: producer.produce_many(b"%d:%d" % (t, i) for i in range(2000)))
        for t in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stored = holds(station_name)
    assert len(stored) == 8000
    for t in range(4):
        for partition in (1, 2):
            mine = [int(d.split(b":")[1]) for p, d in stored if p == partition and d.startswith(b"%d:" % t)]
            assert mine == sorted(mine)


class Frame:
    """Has the two methods of a pandas DataFrame by which one is told."""

    def __iter__(self):
        return iter(["column"])

    def itertuples(self):
        return iter([("row",)])

    def to_dict(self, orient: str) -> list[dict[str, int]]:
        return [{"column": 1}] if orient == "records" else []


@pytest.mark.parametrize(
    ("given", "instead"),
    [
        ("hello", r"type str.*produce\(text\).*splitlines"),
        (b"hello", r"type bytes.*produce\(data\)"),
        (bytearray(b"hello"), r"type bytearray.*produce\(data\)"),
        (memoryview(b"hello"), r"type memoryview.*produce\(data\)"),
        ({"a": 1}, r"type dict.*produce\(message\).*mapping\.values\(\)"),
        (Item(b"x"), r"type Item.*produce_many\(\[item\]\)"),
        (Frame(), r'type Frame.*to_dict\("records"\)'),
        (7, r"type int.*produce_many\(\[message, \.\.\.\]\)"),
        (None, r"type NoneType"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_yields_no_messages_is_refused_with_what_to_write(memphis: Memphis, station_name, given, instead) -> None:
    producer = memphis.producer(station_name, "p")
    for on_error in ("raise", "collect"):
        with pytest.raises(ConfigurationError, match=instead):
            producer.produce_many(given, on_error=on_error)
    assert memphis.stats().accepted == 0


class Raising(dict):
    """A message whose own method fails when it is written as JSON."""

    def items(self):
        raise ValueError("its own")

    def __iter__(self):
        raise ValueError("its own")


BAD = {
    "too-large": (lambda: b"x" * 9_000_000, "max_payload"),
    "type": (lambda: 7, "message is of type int"),
    "item-type": (lambda: Item(object()), "message is of type object"),
    "text": (lambda: "\ud800", "cannot be written as UTF-8"),
    "header": (lambda: Item(b"x", headers={"$memphis_x": "y"}), "reserved"),
    "header-type": (lambda: Item(b"x", headers=7), "headers are of type int"),
    "id": (lambda: Item(b"x", msg_id="a\nb"), "msg_id is"),
    "partition": (lambda: Item(b"x", partition=9), "out of range: 9"),
    "key-and-partition": (lambda: Item(b"x", partition=1, key="k"), "both partition number and partition key"),
    "key": (lambda: Item(b"x", key=7), "producer_partition_key is of type int"),
    "own-error": (lambda: Raising(a=1), "its own"),
}


@pytest.mark.parametrize("bad", BAD)
def test_one_bad_item_is_collected_or_raised_with_its_index(memphis: Memphis, station_name: str, holds, bad) -> None:
    make, text = BAD[bad]
    memphis.station(station_name, partitions_number=2)  # one partition takes any number
    producer = memphis.producer(station_name, "p")
    result = producer.produce_many([b"a", b"b", make(), b"c"], on_error="collect")
    assert (result.delivered, [failure.index for failure in result.failed]) == (3, [2])
    (failure,) = result.failed
    assert (text in str(failure.error), failure.error.outcome, failure.station) == (True, "not_sent", station_name)
    with pytest.raises(memphis_sync.BulkItemError, match="message 2 failed, and 0 more; 2 are stored") as caught:
        producer.produce_many([b"d", b"e", make(), b"f"])
    assert text in str(caught.value)
    assert isinstance(caught.value, (ConfigurationError, memphis_sync.BulkError))
    assert (caught.value.outcome, caught.value.result.delivered) == ("not_sent", 2)
    assert sorted(data for _, data in holds(station_name)) == [b"a", b"b", b"c", b"d", b"e"]


@pytest.mark.parametrize("on_error", ["raise", "collect"])
def test_an_error_of_the_iterable_has_the_result(memphis: Memphis, station_name: str, holds, on_error) -> None:
    def rows():
        yield b"a"
        yield Item(b"b", headers={"k": "v"})
        raise LookupError("the file is broken")

    with pytest.raises(LookupError, match="the file is broken") as caught:
        memphis.producer(station_name, "p").produce_many(rows(), on_error=on_error)
    assert caught.value.result.delivered == 2
    assert [data for _, data in holds(station_name)] == [b"a", b"b"]


@pytest.mark.parametrize("timeout_s", [None, 60])
def test_an_iterator_that_json_default_reads_is_read_once_though_the_outbox_is_full(
    broker, station_name: str, holds, timeout_s
) -> None:
    with memphis_sync.connect(broker.url, json_default=list, outbox_max_messages=10) as memphis:
        producer = memphis.producer(station_name, "p")
        result = producer.produce_many(({"k": iter((n, n))} for n in range(2000)), timeout_s=timeout_s)
        assert result.delivered == 2000
        assert memphis.stats().buffer_full > 0
    assert [data for _, data in holds(station_name)] == [b'{"k": [%d, %d]}' % (n, n) for n in range(2000)]
