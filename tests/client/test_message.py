"""A message: what it says of itself, and the ways to answer it."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone

import pytest

from memphis_sync import (
    ClosedError,
    ConfigurationError,
    Headers,
    Messages,
    SchemaError,
    StationNotFoundError,
    UsageError,
)
from memphis_sync.message import Metadata, parse_ack_subject


@pytest.fixture
def one(memphis, station_name):
    """``one(payload, **produce)`` is a message that was just produced and fetched; ``one.consumer`` fetched it."""
    producer = memphis.producer(station_name, "Maker")
    consumer = memphis.consumer(station_name, "c", max_ack_time_ms=1000, max_msg_deliveries=3)

    def make(payload=b"payload", **given):
        producer.produce(payload, **given)
        (message,) = consumer.fetch(1, timeout_s=5)
        return message

    make.consumer = consumer
    make.station = station_name
    return make


def test_content(one):
    message = one(b"\x00\xffbytes")
    assert message.data == b"\x00\xffbytes"
    assert message.get_data() == bytearray(b"\x00\xffbytes")
    message.get_data().clear()
    assert message.get_data_deserialized() == bytearray(b"\x00\xffbytes")
    assert len(message) == 7
    assert bool(one(b"")), "an empty message is a message"


@pytest.mark.parametrize(
    ("payload", "why"),
    [(b"[", "Expecting value"), (b"NaN", "NaN"), (b"\xff{}", "not UTF-8 text"), (b"", "Expecting value")],
)
def test_json_reads_a_payload_whatever_the_schema(one, payload, why):
    assert one({"a": [1, None]}).json() == {"a": [1, None]}
    with pytest.raises(SchemaError, match="the payload is not JSON") as caught:
        one(payload).json()
    assert why in caught.value.reason


def test_headers(one):
    headers = Headers()
    headers.add("kind", "ü")
    message = one(headers=headers, msg_id="id-1")
    assert message.headers == {"kind": "ü"}
    every = message.get_headers()
    assert every["kind"] == "ü"
    assert every["$memphis_producedBy"] == "maker"
    assert "id-1" in every.values()
    assert headers == {"kind": "ü"}


def test_where_and_when(one):
    before = datetime.now(timezone.utc)
    message = one()
    assert (message.station, message.partition, message.sequence) == (one.station, 1, 1)
    assert message.get_sequence_number() == 1
    assert message.delivered == 1
    assert message.metadata.stream == f"{one.station}$1"
    assert abs((message.timesent - before).total_seconds()) < 30
    assert message.get_timesent() == message.timesent
    assert message.timesent.tzinfo is timezone.utc
    assert repr(message) == f"<Message {one.station}[1] seq=1 7 bytes>"


def test_an_acknowledged_message_does_not_come_again(one):
    one().ack()
    assert one.consumer.fetch(timeout_s=1.5) == []


def test_a_message_without_an_answer_comes_again(one):
    one(b"again")
    (message,) = one.consumer.fetch(timeout_s=3)
    assert (message.data, message.delivered) == (b"again", 2)


def test_nack_brings_it_back_at_once(memphis, station_name):
    """Not when its time for the ack is over."""
    memphis.producer(station_name, "p").produce(b"again")
    consumer = memphis.consumer(station_name, "c", max_ack_time_ms=60_000)
    (message,) = consumer.fetch(timeout_s=10)
    message.nack()
    (message,) = consumer.fetch(timeout_s=10)
    assert message.delivered == 2


def test_delay_brings_it_back_later(one):
    one().delay(0.6)
    start = time.monotonic()
    (message,) = one.consumer.fetch(timeout_s=3)
    assert message.delivered == 2
    assert time.monotonic() - start > 0.4
    with pytest.raises(ConfigurationError, match="delay is -1; it must be a number of seconds from 0 to 86400"):
        message.delay(-1)
    message.ack()


def test_in_progress_holds_it(one):
    message = one()
    for _ in range(4):
        time.sleep(0.4)
        message.in_progress()
    assert one.consumer.fetch(timeout_s=0.2) == []
    message.ack()


def test_dead_letter_reports_before_it_ends(one, control):
    next_report = control.listen("$memphis_sync_dls_report")
    one(b"poison").dead_letter("unreadable")
    assert json.loads(next_report()) == {
        "station_name": one.station,
        "error": "unreadable",
        "partition": 1,
        "cg_name": "c",
        "seq": 1,
    }
    assert one.consumer.fetch(timeout_s=1.5) == []


@pytest.mark.parametrize("first", ["ack", "nack", "delay", "dead_letter"])
def test_a_second_answer_is_refused(one, first):
    arguments = {"delay": (0,), "dead_letter": ("why",)}
    message = one()
    getattr(message, first)(*arguments.get(first, ()))
    for second in ("ack", "nack", "delay", "in_progress", "dead_letter"):
        with pytest.raises(UsageError, match=f"already answered with {first}"):
            getattr(message, second)(*arguments.get(second, ()))


def test_an_answer_after_close_is_refused(broker, station_name):
    import memphis_sync

    with memphis_sync.connect(broker.url) as client:
        client.produce(station_name, "p", b"x")
        (message,) = client.fetch_messages(station_name, "c")
    with pytest.raises(ClosedError):
        message.ack()
    assert message.data == b"x", "what was fetched stays readable"


def test_ack_subjects_of_both_forms():
    plain = "$JS.ACK.orders#eu$2.group.3.17.18.1700000000000000123.4"
    long = "$JS.ACK.domain.hash.orders#eu$2.group.3.17.18.1700000000000000123.4.random"
    assert parse_ack_subject(plain) == parse_ack_subject(long)
    assert parse_ack_subject(plain) == Metadata("orders#eu$2", 3, 17, 1700000000000000123, 4)
    damaged = [plain.replace(".3.", text) for text in (".\ufffd.", ".-3.", "..", ".3")]
    for other in ("", "_INBOX.x.1", "$JS.ACK.a.b", *damaged):
        with pytest.raises(UsageError, match="not an ack subject"):
            parse_ack_subject(other)


def test_a_confirmed_ack_is_known_to_the_broker(one, control):
    message = one()
    message.ack(wait=True)
    assert message.is_answered
    info = control.durable(f"{one.station}$1", "c")
    assert (info["ack_floor"]["stream_seq"], info["num_ack_pending"]) == (1, 0)
    with pytest.raises(UsageError, match="already answered with ack"):
        message.ack(wait=True)
    with pytest.raises(ConfigurationError, match="timeout_s is 0"):
        one().ack(wait=True, timeout_s=0)


def test_many_threads_confirm_at_once(memphis, station_name):
    messages = 400
    producer = memphis.producer(station_name, "p")
    producer.produce_many(b"%d" % number for number in range(messages))
    consumer = memphis.consumer(station_name, "c", max_ack_time_ms=1000, max_msg_deliveries=10)
    batch = []
    while len(batch) < messages:
        batch += consumer.fetch(messages, timeout_s=5)
    for message in batch:
        message.in_progress()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda message: message.ack(wait=True), batch))
    assert len(memphis._session.data_link().replies._idle) <= 8, "a subscription for each thread that waited at once"
    assert consumer.fetch(10, timeout_s=1.5) == []


def test_a_confirmed_ack_that_gets_no_answer_is_no_ack(one, memphis):
    message = one()
    memphis.station(one.station).destroy()
    with pytest.raises(StationNotFoundError):
        message.ack(wait=True)
    assert not message.is_answered


def test_the_block_form(one):
    with one() as message:
        assert message.data == b"payload"
    assert message.answer == "ack"
    with pytest.raises(ZeroDivisionError), one(b"broken") as message:
        raise ZeroDivisionError
    assert message.answer == "nack"
    (again,) = one.consumer.fetch(timeout_s=5)
    assert (again.data, again.delivered) == (b"broken", 2)
    with again:
        again.delay(delay_ms=10)
    assert again.answer == "delay", "what was answered in the block stays as it is"
    (again,) = one.consumer.fetch(timeout_s=5)
    again.ack()
    with pytest.raises(KeyError), again:
        raise KeyError
    assert again.answer == "ack"


def test_a_delay_in_milliseconds(one):
    start = time.monotonic()
    one().delay(delay_ms=600)
    (message,) = one.consumer.fetch(timeout_s=5)
    assert time.monotonic() - start > 0.5
    with pytest.raises(ConfigurationError, match="delay_ms is -1"):
        message.delay(delay_ms=-1)
    for arguments in ({}, {"delay": 1, "delay_ms": 1000}):
        with pytest.raises(UsageError, match="pass exactly one of delay"):
            message.delay(**arguments)
    message.ack()


def test_a_batch_as_plain_dicts(memphis, station_name):
    producer = memphis.producer(station_name, "p")
    for payload in (b'{"a": 1}', b"text", b"\xff"):
        producer.produce(payload, headers={"kind": "k"})
    batch = memphis.consumer(station_name, "c").fetch(3, timeout_s=5)
    assert isinstance(batch, list)
    assert isinstance(batch, Messages)
    rows = batch.to_dicts()
    assert [row["data"] for row in rows] == [{"a": 1}, "text", b"\xff"]
    assert rows[2] == {
        "station": station_name,
        "partition": 1,
        "sequence": 3,
        "time": batch[2].timesent,
        "headers": {"kind": "k"},
        "data": b"\xff",
    }
