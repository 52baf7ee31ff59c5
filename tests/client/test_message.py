"""A message: what it says of itself, and the ways to answer it."""

from __future__ import annotations

import json
import time
from datetime import datetime, timezone

import pytest

from memphis_sync import ClosedError, ConfigurationError, Headers, UsageError
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


def test_nack_brings_it_back_at_once(one):
    start = time.monotonic()
    one().nack()
    (message,) = one.consumer.fetch(timeout_s=3)
    assert message.delivered == 2
    assert time.monotonic() - start < 0.9


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


def test_dead_letter_reports_before_it_ends(one, memphis, until):
    heard = []
    runtime = memphis._runtime
    runtime.call(runtime.control.subscribe("$memphis_sync_dls_report", heard.append), 5, "subscribe")
    one(b"poison").dead_letter("unreadable")
    (report,) = until(lambda: list(heard))
    assert json.loads(report) == {
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
    for other in ("", "_INBOX.x.1", "$JS.ACK.a.b"):
        with pytest.raises(UsageError, match="no ack subject"):
            parse_ack_subject(other)
