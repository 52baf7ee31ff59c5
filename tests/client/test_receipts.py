"""A message that was fetched is answered by its receipt: here, by another client, and by a wrong one not at all."""

from __future__ import annotations

import base64
from typing import Any, Callable

import pytest

import memphis_sync
from memphis_sync import ConfigurationError, UsageError


@pytest.fixture
def filled(memphis: Any, station_name: str) -> Any:
    """A station of two partitions with four messages."""
    station = memphis.station(station_name, partitions_number=2)
    memphis.producer(station_name, "p").produce_many([b"0", b"1", b"2", b"3"])
    return station


def fetch_all(consumer: Any, until: Callable[..., Any], count: int) -> list[Any]:
    found: list[Any] = []
    until(lambda: found.extend(consumer.fetch(count, timeout_s=1)) or len(found) >= count)
    return found


@pytest.mark.parametrize("is_other", [False, True], ids=["the same consumer", "another client"])
def test_an_answer_by_receipt_is_one_for_the_group(
    broker: Any, memphis: Any, filled: Any, until: Any, *, is_other: bool
) -> None:
    consumer = memphis.consumer(filled.name, "one", "g", max_ack_time_ms=60_000)
    messages = fetch_all(consumer, until, 4)
    receipts = {message.data: consumer.receipt(message) for message in messages}
    with memphis_sync.connect(broker.url) as other:
        answering = other.consumer(filled.name, "two", "g", max_ack_time_ms=60_000) if is_other else consumer
        restored = answering.restore(receipts[b"0"])
        original = next(message for message in messages if message.data == b"0")
        assert (restored.partition, restored.sequence, restored.timesent) == (
            original.partition,
            original.sequence,
            original.timesent,
        )
        restored.ack()
        answering.restore(receipts[b"0"]).ack()  # once more changes nothing
        answering.restore(receipts[b"1"]).ack(wait=True)
        answering.restore(receipts[b"2"]).dead_letter("too heavy")
        answering.restore(receipts[b"3"]).nack()
        assert [message.data for message in fetch_all(answering, until, 1)] == [b"3"]
        with pytest.raises(UsageError, match="already answered with ack"):
            restored.nack()
    assert [letter.data for letter in filled.dls] == [b"2"]


def test_a_delay_by_receipt_and_more_time_are_as_of_the_message(memphis: Any, filled: Any, until: Any) -> None:
    consumer = memphis.consumer(filled.name, "one", "g", max_ack_time_ms=60_000)
    for message in fetch_all(consumer, until, 4):
        restored = consumer.restore(consumer.receipt(message))
        restored.in_progress()
        restored.delay(0.01)
    assert sorted(message.data for message in fetch_all(consumer, until, 4)) == [b"0", b"1", b"2", b"3"]


def test_a_dead_letter_that_was_resent_is_acknowledged_by_its_receipt(memphis: Any, filled: Any, until: Any) -> None:
    consumer = memphis.consumer(filled.name, "one", "g", max_ack_time_ms=60_000)
    for message in fetch_all(consumer, until, 4):
        message.dead_letter("why not")
    (first, *_) = filled.dls
    filled.dls.resend([first.id])
    (again,) = fetch_all(consumer, until, 1)
    consumer.restore(consumer.receipt(again)).ack()
    until(lambda: first.id not in {letter.id for letter in filled.dls})


def test_what_a_restored_message_lacks_is_an_error_that_says_so(memphis: Any, filled: Any, until: Any) -> None:
    consumer = memphis.consumer(filled.name, "one", "g", max_ack_time_ms=60_000)
    restored = consumer.restore(consumer.receipt(fetch_all(consumer, until, 4)[0]))
    assert repr(restored).startswith(f"<RestoredMessage {filled.name}$")
    for what in (lambda: restored.data, lambda: restored.headers, lambda: restored.subject):
        with pytest.raises(UsageError, match="restored from a receipt"):
            what()


def test_a_receipt_of_another_group_station_or_hand_is_refused(memphis: Any, filled: Any, until: Any) -> None:
    consumer = memphis.consumer(filled.name, "one", "g", max_ack_time_ms=60_000)
    message = fetch_all(consumer, until, 4)[0]
    receipt = consumer.receipt(message)
    other_group = memphis.consumer(filled.name, "two", "h")
    memphis.station(f"{filled.name}-other")
    other_station = memphis.consumer(f"{filled.name}-other", "one", "g")
    for other in (other_group, other_station):
        with pytest.raises(UsageError, match="not of a message of"):
            other.restore(receipt)
        with pytest.raises(UsageError, match="was not fetched by"):
            other.receipt(message)
    for wrong in (
        "",
        "hello",
        "{}",
        "{",
        "[1]",
        '{"$memphis_pm_id":"x","$memphis_pm_cg_name":"g"}',
        '{"$memphis_pm_id":"1","$memphis_pm_cg_name":"h"}',
        receipt + "\r\nPUB x 0",
        receipt.replace("$JS", "$js"),
        receipt.replace(f".{message.sequence}.", ".x.", 1),
        base64.b64encode(receipt.encode()).decode(),
        receipt + "9" * 5000,
    ):
        with pytest.raises(UsageError):
            consumer.restore(wrong)
    with pytest.raises(ConfigurationError, match="receipt is"):
        consumer.restore(7)
    consumer.restore(receipt).ack()
