"""One message id is stored once, whoever sends it; and what an error advises is right when it is followed."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Callable

import pytest

import memphis_sync
from memphis_sync import Item
from memphis_sync._protocol.partitions import partition_for_key

if TYPE_CHECKING:
    from memphis_sync import Memphis
    from memphis_sync.broker import BrokerProcess

IDS = ["order-17", "", "ключ", "x" * 300, "7"]


@pytest.mark.parametrize("msg_id", [given for given in IDS if given])
@pytest.mark.parametrize("partitions", [1, 2, 3, 8])
def test_the_partition_follows_from_the_id(memphis: Memphis, station_name: str, holds, msg_id, partitions) -> None:
    memphis.station(station_name, partitions_number=partitions)
    with memphis.producer(station_name, "p") as first, memphis.producer(station_name, "q") as second:
        acks = [producer.produce(b"m", msg_id=msg_id) for producer in (first, second, first)]
        acks.append(first.produce(b"m", msg_id=msg_id, nonblocking=True).result(10))
        result = second.produce_many([Item(b"m", msg_id=msg_id), Item(b"m", msg_id=msg_id)])
    expected = partition_for_key(msg_id, range(1, partitions + 1))
    assert [(ack.partition, ack.duplicate) for ack in acks] == [(expected, number > 0) for number in range(4)]
    assert (result.delivered, result.duplicates) == (2, 2)
    assert holds(station_name) == [(expected, b"m")]


def test_the_id_also_decides_for_several_stations_and_for_the_command(
    broker: BrokerProcess, memphis: Memphis, station_name: str, holds
) -> None:
    stations = [station_name, f"{station_name}-b"]
    for station, partitions in zip(stations, (3, 5)):
        memphis.station(station, partitions_number=partitions)
    for _ in range(3):
        memphis.produce(stations, "p", b"m", msg_id="order-17")
    command = [sys.executable, "-m", "memphis_sync.cli", "--url", broker.url, "-q", "pub", "--id", "order-17"]
    for _ in range(2):
        subprocess.run([*command, station_name, "m"], check=True, timeout=60)
    assert [len(holds(station)) for station in stations] == [1, 1]


def test_automatic_ids_and_plain_messages_still_take_turns(memphis: Memphis, station_name: str) -> None:
    memphis.station(station_name, partitions_number=3)
    with memphis.producer(station_name, "p") as producer:
        assert [producer.produce(b"m").partition for _ in range(6)] == [1, 2, 3, 1, 2, 3]
        assert producer.produce(b"m", msg_id="a", producer_partition_number=2).partition == 2
        by_key = producer.produce(b"m", msg_id="a", producer_partition_key="user-1")
        assert by_key.partition == partition_for_key("user-1", (1, 2, 3))


def follow(error: memphis_sync.MemphisError) -> dict[str, Any]:
    """The keyword arguments that an error's text says to use."""
    text = str(error)
    told = re.search(r"produce it again(?: to station '([^']+)' alone,)? with (.+?)(?: and no key)?, to store", text)
    assert told is not None, text
    options = dict(re.findall(r"(msg_id|producer_partition_number)=('[^']+'|\d+)", told[2]))
    return {name: value.strip("'") if name == "msg_id" else int(value) for name, value in options.items()}


@pytest.mark.parametrize("partitions", [1, 3])
@pytest.mark.parametrize(
    "options",
    [{}, {"msg_id": "mine"}, {"producer_partition_key": "user-1"}, {"producer_partition_number": 1}],
    ids=["automatic", "own-id", "key", "number"],
)
def test_the_advice_of_an_unknown_outcome_stores_the_message_once(
    through_proxy, station_name: str, holds, until: Callable[..., None], partitions, options
) -> None:
    memphis, proxy = through_proxy()
    memphis.station(station_name, partitions_number=partitions)
    with memphis.producer(station_name, "p") as producer:
        for number in range(4):  # further than a whole round
            producer.produce(b"before %d" % number)
            proxy.drop_answers = True
            with pytest.raises(memphis_sync.AckTimeoutError) as caught:
                producer.produce(b"m%d" % number, ack_wait_sec=0.3, **{**options, **_numbered(options, number)})
            assert caught.value.outcome == "unknown"
            until(lambda number=number: b"m%d" % number in [data for _, data in holds(station_name)])
            proxy.drop_answers = False
            proxy.cut()
            again = follow(caught.value)
            assert again["msg_id"] == caught.value.message_id
            assert producer.produce(b"m%d" % number, **again).duplicate
    kept = [data for _, data in holds(station_name)]
    assert sorted(kept) == sorted([b"before %d" % n for n in range(4)] + [b"m%d" % n for n in range(4)])


def _numbered(options: dict[str, Any], number: int) -> dict[str, Any]:
    return {"msg_id": f"{options['msg_id']}-{number}"} if "msg_id" in options else {}


def test_the_advice_for_one_of_several_stations_leaves_the_others_alone(
    through_proxy, station_name: str, holds
) -> None:
    memphis, proxy = through_proxy()
    stations = [station_name, f"{station_name}-b"]
    for station in stations:
        memphis.station(station, partitions_number=3)
    with memphis.producer(stations, "p") as producer:
        producer.produce(b"before")
        proxy.stall()
        deliveries = producer.produce(b"m", nonblocking=True, ack_wait_sec=0.3)
        errors = {station: delivery.exception(10) for station, delivery in deliveries.items()}
        whole = deliveries.exception(10)
        proxy.go_on()
        for station, error in errors.items():
            assert f"to station {station!r} alone" in str(error)
            assert str(error) in str(whole)
            memphis.produce(station, "q", b"m", **follow(error))
    assert [sorted(data for _, data in holds(station)) for station in stations] == [[b"before", b"m"]] * 2


def test_a_message_without_an_id_is_not_said_to_be_safe_to_repeat(through_proxy, station_name: str) -> None:
    memphis, proxy = through_proxy()
    with memphis.producer(station_name, "p", idempotent=False) as producer:
        producer.produce(b"m")
        proxy.stall()
        with pytest.raises(memphis_sync.AckTimeoutError, match="may store it twice"):
            producer.produce(b"m", ack_wait_sec=0.3)
        proxy.go_on()


def test_what_produce_many_did_not_confirm_says_how_to_repeat_it(through_proxy, station_name: str, holds) -> None:
    memphis, proxy = through_proxy()
    memphis.station(station_name, partitions_number=3)
    with memphis.producer(station_name, "p") as producer:
        producer.produce(b"before")
        proxy.stall()
        with pytest.raises(memphis_sync.DeadlineError) as caught:
            producer.produce_many([b"%d" % number for number in range(7)], timeout_s=0.3)
        proxy.go_on()
        for failure in caught.value.result.failed:
            producer.produce(b"%d" % failure.index, **follow(failure.error))
    assert sorted(data for _, data in holds(station_name)) == [b"%d" % n for n in range(7)] + [b"before"]
