"""Dead letters that are sent again reach one reader of their group, once, and are acknowledged in their own way."""

from __future__ import annotations

import gc
import json
import threading
import time

import pytest
from control_client import ControlClient

import memphis_sync
from memphis_sync import ConfigurationError, Message, ResentMessage, UsageError
from memphis_sync._consuming import resent as module
from memphis_sync._control.dead_letters import give_back
from memphis_sync._protocol.dead_letters import GivenBack


@pytest.fixture
def raw(broker):
    """A plain connection: what the broker's resend publishes, this one publishes."""
    with ControlClient(broker, connection_id="dead-letters") as client:
        yield client


@pytest.fixture
def resend(raw):
    """``resend(station, group, number)`` sends a dead letter of that number again, with the payload ``letter N``."""

    def send(station, group, number, payload=None, **more):
        headers = {
            "$memphis_producedBy": "$memphis_dls",
            "$memphis_pm_id": str(number),
            "$memphis_pm_cg_name": group,
            "kind": "invoice",
            **more,
        }
        subject = f"$memphis_dls_{station}.{group}"
        raw.run(raw.connection.publish(subject, payload or b"letter %d" % number, headers=headers))
        raw.run(raw.connection.flush())

    return send


@pytest.fixture
def acks(memphis):
    """What was told to the broker about dead letters."""
    heard = []
    session = memphis._session
    session.call(
        lambda: session.control.subscribe("$memphis_pm_acks", lambda body: heard.append(json.loads(body))),
        5,
        "subscribe",
    )
    memphis.ping()
    return heard


def test_a_dead_letter_is_a_message_with_an_ack_of_its_own(memphis, station_name, resend, acks, until):
    consumer = memphis.consumer(station_name, "c", "Billing.eu")
    resend(station_name, "billing#eu", 7, **{"$memphis_pm_cg_name": "billing.eu"})
    (letter,) = consumer.fetch(timeout_s=10)
    assert isinstance(letter, Message)
    assert isinstance(letter, ResentMessage)
    assert letter.is_dead_letter
    assert (letter.data, letter.get_data(), len(letter)) == (b"letter 7", bytearray(b"letter 7"), 8)
    assert (letter.id, letter.group, letter.station) == (7, "billing.eu", station_name)
    assert letter.headers == {"kind": "invoice"}
    assert letter.get_headers()["$memphis_producedBy"] == "$memphis_dls"
    assert letter.get_sequence_number() is None
    assert letter.get_timesent() is None
    assert (letter.sequence, letter.partition, letter.timesent, letter.metadata, letter.delivered) == (
        None,
        None,
        None,
        None,
        0,
    )
    assert repr(letter) == f"<ResentMessage 7 of {station_name} 8 bytes>"
    assert b"kind: invoice\r\n" in letter.header_block
    assert (letter.subject, letter.reply) == (f"$memphis_dls_{station_name}.billing#eu", "")
    for refused in (letter.nack, letter.in_progress, lambda: letter.delay(1), lambda: letter.dead_letter("why")):
        with pytest.raises(UsageError, match=r"cannot \w+ DLS message"):
            refused()
    assert not letter.is_answered
    letter.ack(wait=True)
    assert until(lambda: acks) == [{"id": 7, "cg_name": "billing.eu"}]
    with pytest.raises(UsageError, match="already answered with ack"):
        letter.ack()


def test_the_block_form_acknowledges_and_leaves_a_failed_one_to_the_broker(memphis, station_name, resend, acks, until):
    consumer = memphis.consumer(station_name, "c")
    resend(station_name, "c", 1)
    resend(station_name, "c", 2)
    seen = []
    while len(seen) < 2:
        seen += consumer.fetch(timeout_s=10)
    with pytest.raises(ZeroDivisionError), seen[0]:
        raise ZeroDivisionError
    with seen[1]:
        pass
    until(lambda: acks)
    assert [ack["id"] for ack in acks] == [seen[1].id]
    assert not seen[0].is_answered


@pytest.mark.parametrize("how", ["fetch", "one partition", "iteration", "consume"])
def test_a_reader_that_waits_gets_it_at_once(memphis, station_name, resend, how):
    memphis.station(station_name, partitions_number=2)
    consumer = memphis.consumer(station_name, "c")
    got, came = [], threading.Event()

    def take(messages):
        got.append((list(messages), time.monotonic()))
        came.set()

    if how == "consume":
        consumer.consume(lambda messages, *_: take(messages))
    else:
        partition = 2 if how == "one partition" else -1
        read = {
            "iteration": lambda: take([next(iter(consumer))]),
        }.get(how, lambda: take(consumer.fetch(timeout_s=30, consumer_partition_number=partition)))
        reader = threading.Thread(target=read)
        reader.start()
    time.sleep(0.3)  # it waits by now; if not, it finds the letter when it looks
    sent = time.monotonic()
    resend(station_name, "c", 3)
    assert came.wait(20)
    if how == "consume":
        consumer.stop()
    else:
        reader.join(20)
    ((messages, when),) = got
    assert [message.data for message in messages] == [b"letter 3"]
    assert when - sent < 5, "not at the end of its wait of 30 s"


def test_each_goes_to_one_reader_only(broker, memphis, station_name, resend, until):
    """Two members of the group, one of which iterates and fetches by turns."""
    seen, lock = [], threading.Lock()

    def note(messages):
        with lock:
            seen.extend(message.id for message in messages if message.is_dead_letter)

    with memphis_sync.connect(broker.url) as other:
        first = memphis.consumer(station_name, "a", "group")
        second = other.consumer(station_name, "b", "group")
        first.consume(lambda messages, *_: note(messages), workers=2)
        stop = threading.Event()

        def fetch():
            while not stop.is_set():
                note(second.fetch(2, timeout_s=0.2))
                note(first.fetch(2, timeout_s=0.1))

        reader = threading.Thread(target=fetch)
        reader.start()
        for number in range(200):
            resend(station_name, "group", number)
        until(lambda: len(seen) >= 200)
        time.sleep(0.3)  # for one that came twice
        stop.set()
        reader.join(10)
        first.stop()
    assert sorted(seen) == list(range(200))


def test_they_come_before_the_messages_and_among_them(memphis, station_name, resend, until):
    producer = memphis.producer(station_name, "p")
    for number in range(20):
        producer.produce(b"%d" % number)
    consumer = memphis.consumer(station_name, "c")
    resend(station_name, "c", 5)
    until(lambda: consumer.dls_messages)
    assert [letter.id for letter in consumer.dls_messages] == [5]
    seen = []
    for message in consumer:
        seen.append(message)
        message.ack()
        if len(seen) == 21:
            break
    assert seen[0].is_dead_letter
    assert consumer.dls_messages == []
    assert [message.is_dead_letter for message in seen].count(True) == 1
    assert [message.sequence for message in seen[1:]] == list(range(1, 21))


def test_a_full_box_leaves_them_to_the_broker_and_says_so(memphis, station_name, resend, caplog, monkeypatch, until):
    monkeypatch.setattr(module, "MAX_MESSAGES", 3)
    monkeypatch.setattr(module, "MAX_BYTES", 100)
    consumer = memphis.consumer(station_name, "c")
    for number in range(5):
        resend(station_name, "c", number)
    until(lambda: consumer._reader.letters._refused == 2)
    assert [record for record in caplog.records if "left to the broker" in record.getMessage()]
    assert [letter.id for letter in consumer.fetch(10, timeout_s=10)] == [0, 1, 2]
    resend(station_name, "c", 6, payload=b"x" * 101)
    resend(station_name, "c", 7)
    until(lambda: consumer.dls_messages)
    assert [letter.id for letter in consumer.fetch(10, timeout_s=10)] == [7]


def test_what_is_no_dead_letter_is_logged_and_dropped(memphis, station_name, raw, resend, caplog, until):
    consumer = memphis.consumer(station_name, "c")
    for headers in (None, {"$memphis_pm_id": "1"}, {"$memphis_pm_id": "x", "$memphis_pm_cg_name": "c"}):
        raw.run(raw.connection.publish(f"$memphis_dls_{station_name}.c", b"odd", headers=headers))
    resend(station_name, "c", 8)
    (letter,) = consumer.fetch(timeout_s=10)
    assert letter.id == 8
    until(lambda: len([record for record in caplog.records if "could not be used" in record.getMessage()]) == 3)


@pytest.mark.parametrize("how", ["destroyed", "forgotten"])
def test_a_consumer_that_is_no_more_takes_none_from_the_others(memphis, station_name, resend, how):
    """The server gives each dead letter to one member of the queue group: it must be one who still reads."""
    other = memphis.consumer(station_name, "other", "group")
    gone = [memphis.consumer(station_name, f"gone-{number}", "group") for number in range(5)]
    if how == "destroyed":
        while gone:
            gone.pop().destroy()
    gone.clear()
    gc.collect()
    memphis.ping()
    for number in range(20):
        resend(station_name, "group", number)
    seen = []
    while len(seen) < 20 and (batch := other.fetch(20, timeout_s=5)):
        seen += batch
    assert sorted(letter.id for letter in seen) == list(range(20))


def test_bad_arguments(memphis, station_name, resend):
    consumer = memphis.consumer(station_name, "c")
    resend(station_name, "c", 9)
    (letter,) = consumer.fetch(timeout_s=10)
    with pytest.raises(ConfigurationError, match="timeout_s is 0"):
        letter.ack(timeout_s=0)
    letter.ack()


PLACE = {"$memphis_sync_partition": "2", "$memphis_sync_sequence": "7", "$memphis_sync_time": "1700000000123456789"}
OWED = {**PLACE, "$memphis_sync_owed": "1"}


def test_our_broker_says_where_it_lies(memphis, station_name):
    station = memphis.station(station_name, partitions_number=2)
    consumer = memphis.consumer(station_name, "c")
    memphis.produce(station_name, "p", b"{}", producer_partition_number=2, headers={"kind": "invoice"})
    (message,) = consumer.fetch(timeout_s=10)
    message.dead_letter("why")
    assert station.dls.resend() == 1
    batch = consumer.fetch(timeout_s=10)
    (letter,) = batch
    assert isinstance(letter, ResentMessage)
    assert (letter.partition, letter.sequence, letter.timesent) == (2, message.sequence, message.timesent)
    assert (letter.get_sequence_number(), letter.get_timesent()) == (message.sequence, message.timesent)
    assert (letter.metadata, letter.is_owed, letter.headers) == (None, False, {"kind": "invoice"})
    assert batch.to_dicts() == [
        {
            "station": station_name,
            "partition": 2,
            "sequence": message.sequence,
            "time": message.timesent,
            "headers": {"kind": "invoice"},
            "data": {},
        }
    ]
    letter.ack()


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5", "²"])
def test_a_place_that_is_no_number_is_none(memphis, station_name, resend, text):
    consumer = memphis.consumer(station_name, "c")
    resend(station_name, "c", 7, **dict.fromkeys(PLACE, text))
    batch = consumer.fetch(timeout_s=10)
    (letter,) = batch
    assert (letter.partition, letter.sequence, letter.timesent) == (None, None, None)
    (row,) = batch.to_dicts()
    assert (row["partition"], row["sequence"], row["time"], row["data"]) == (None, None, None, "letter 7")


def test_one_that_is_owed_is_answered_as_any_message(memphis, station_name, resend, acks, until):
    """It is no dead letter: a program that gives back what it cannot use meets it among the others."""
    consumer = memphis.consumer(station_name, "c")
    for number in range(1, 5):
        resend(station_name, "c", number, **OWED)
    seen = []
    while len(seen) < 4:
        seen += consumer.fetch(timeout_s=10)
    assert all(letter.is_owed for letter in seen)
    first, second, third, fourth = seen
    first.in_progress()
    first.nack()
    with pytest.raises(UsageError, match="pass exactly one of delay"):
        second.delay()
    second.delay(1)
    with pytest.raises(ZeroDivisionError), third:
        raise ZeroDivisionError
    for answered in (first, second, third):
        assert answered.is_answered
        with pytest.raises(UsageError, match="already answered"):
            answered.in_progress()
    fourth.ack()
    assert until(lambda: acks) == [{"id": 4, "cg_name": "c"}]


def test_one_that_is_owed_can_be_given_up(broker, memphis, station_name, until):
    """What a member gave back without a look comes again; dead_letter() ends it, with its reason."""
    station = memphis.station(station_name)
    consumer = memphis.consumer(station_name, "c", max_ack_time_ms=60_000, max_msg_deliveries=1)
    memphis.produce(station_name, "p", b"m")
    (message,) = consumer.fetch(timeout_s=10)
    session = memphis._session
    triples = [(message.partition, message.sequence, message.delivered)]
    request = GivenBack.of(station_name, "c", triples, [])
    session.call(lambda: give_back(session.control, request, 5), 5, "give_back()")
    message.nack()
    (again,) = until(lambda: consumer.fetch(timeout_s=1))
    assert (again.is_owed, again.data, again.sequence) == (True, b"m", message.sequence)
    assert station.dls.list() == []
    again.dead_letter("no use")
    (letter,) = station.dls.list()
    assert (letter.data, letter.reason, letter.groups, letter.sequence) == (b"m", "no use", ("c",), message.sequence)
    with ControlClient(broker) as raw:
        assert (
            "subjects"
            not in raw.jetstream(
                "STREAM.INFO.memphis_dead_letters",
                {"subjects_filter": f"memphis_dead_letters.owed.{station_name}.>"},
            )["state"]
        ), "it is not owed any more"
