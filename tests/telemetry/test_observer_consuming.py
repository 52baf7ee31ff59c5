"""What an observer is told of messages that come, are handled and are answered, by whichever way of reading."""

from __future__ import annotations

import json
import logging
import pickle
import threading

import pytest
from recorder import Recorder

from memphis_sync import Message, ResentMessage, UsageError


@pytest.fixture
def filled(memphis, station):
    """A station with five messages."""
    memphis.producer(station, "p").produce_many([b"1", b"2", b"3", b"4", b"5"])
    return station


def sequences(recorder):
    """Of everything that came, in order."""
    return [message.sequence for _, _, messages, _ in recorder.of("received") for message in messages]


# ---- what comes ------------------------------------------------------------------------------------------------------


def test_a_fetch_is_told_with_its_messages_and_how_long_it_took(observed, filled):
    recorder = Recorder()
    messages = observed(recorder).consumer(filled, "c", "g").fetch(10, timeout_s=10)
    ((station, group, told, seconds),) = recorder.of("received")
    assert (station, group, told) == (filled, "g", list(messages))
    assert 0 < seconds < 60


def test_an_empty_fetch_is_not_told(observed, station):
    recorder = Recorder()
    assert observed(recorder).consumer(station, "c").fetch(10) == []
    assert recorder.of("received") == []


@pytest.mark.parametrize("read", ["iterate", "read_all", "fetch", "prefetch", "consume", "run"])
def test_each_message_is_told_once_however_it_is_read(observed, filled, read, until):
    recorder = Recorder()
    consumer = observed(recorder).consumer(filled, "c", batch_size=2)
    seen = []

    def take(message):
        seen.append(message.sequence)
        message.ack()

    if read == "iterate":
        for message in consumer:
            take(message)
            if len(seen) == 5:
                break
    elif read == "read_all":
        for message in consumer.read_all():
            take(message)
    elif read == "run":
        assert consumer.run(take, max_messages=5) == 5
    elif read == "consume":
        consumer.consume(lambda messages, error, context: [take(message) for message in messages])
        until(lambda: len(seen) == 5)
        assert consumer.stop()
    else:
        while len(seen) < 5:
            for message in consumer.fetch(2, timeout_s=10, prefetch=read == "prefetch"):
                take(message)
    assert sorted(sequences(recorder)) == sorted(seen) == [1, 2, 3, 4, 5]


def test_what_an_iteration_has_left_is_not_told_again_by_a_fetch(observed, filled):
    recorder = Recorder()
    consumer = observed(recorder).consumer(filled, "c", batch_size=5)
    seen = []
    for message in consumer:
        message.ack()
        seen.append(message.sequence)
        if consumer._reader.buffer:
            seen += [other.sequence for other in consumer.fetch(5)]
        if len(seen) == 5:
            break
    assert sorted(sequences(recorder)) == [1, 2, 3, 4, 5]


# ---- what is handled -------------------------------------------------------------------------------------------------


def test_a_callback_of_consume_is_told_around_its_batch(observed, filled, until):
    recorder = Recorder()
    consumer = observed(recorder).consumer(filled, "c")
    inside = []

    def callback(messages, error, context):
        inside.append((len(recorder.of("begin")), len(recorder.of("end"))))
        for message in messages:
            message.ack()

    consumer.consume(callback, workers=1)
    until(lambda: len(recorder.of("acked")) == 5)
    consumer.stop()
    assert inside == [(number + 1, number) for number in range(len(inside))]
    assert [messages for messages, _ in recorder.of("end")] == [messages for (messages,) in recorder.of("begin")]


def test_an_error_of_a_callback_is_told_and_the_callback_hears_of_it(observed, filled, until, caplog):
    recorder = Recorder()
    consumer = observed(recorder).consumer(filled, "c")
    errors = []

    def callback(messages, error, context):
        if error is not None:
            errors.append(error)
            return
        for message in messages:
            message.ack()
        raise ValueError

    consumer.consume(callback)
    until(lambda: errors)
    consumer.stop()
    assert isinstance(recorder.of("end")[0][1], ValueError)
    assert isinstance(errors[0].__cause__, ValueError)
    assert all(messages for (messages,) in recorder.of("begin"))


def test_a_handler_of_run_is_told_around_each_message(observed, filled):
    recorder = Recorder()

    def handle(message):
        if message.sequence == 2:
            raise LookupError

    observed(recorder).consumer(filled, "c").run(handle, max_messages=3, on_error="dead_letter")
    told = [(message.sequence, type(error)) for (message,), error in recorder.of("end")]
    assert told == [(1, type(None)), (2, LookupError), (3, type(None))]
    assert [(message.sequence, kind) for (message,), kind in recorder.of("acked")] == [
        (1, "ack"),
        (2, "dead_letter"),
        (3, "ack"),
    ]


def test_a_block_with_processing_is_told(observed, filled):
    recorder = Recorder()
    message = observed(recorder).consumer(filled, "c").fetch(1, timeout_s=10)[0]
    with message.processing():
        assert recorder.of("begin") == [([message],)]
        assert recorder.of("end") == []
    assert recorder.of("end") == [([message], None)]
    assert not message.is_answered
    with pytest.raises(KeyError), message, message.processing():
        raise KeyError
    assert isinstance(recorder.of("end")[1][1], KeyError)
    assert recorder.of("acked") == [([message], "nack")]


def test_without_an_observer_a_block_with_processing_does_nothing(memphis, filled):
    message = memphis.consumer(filled, "c").fetch(1, timeout_s=10)[0]
    with message.processing():
        pass
    with pytest.raises(KeyError), message.processing():
        raise KeyError


@pytest.mark.parametrize("broken", ["processing", "__enter__", "__exit__"])
@pytest.mark.parametrize("fails", [False, True])
def test_an_observer_that_raises_around_a_handler_changes_nothing_for_it(observed, filled, caplog, broken, fails):
    class Manager:
        def __enter__(self):
            if broken == "__enter__":
                raise ValueError

        def __exit__(self, *error):
            if broken == "__exit__":
                raise ValueError
            return True  # which it may not

    class Broken(Recorder):
        def processing(self, messages):
            if broken == "processing":
                raise ValueError
            return Manager()

    recorder, handled = Recorder(), []
    message = observed(recorder, Broken(), recorder).consumer(filled, "c").fetch(1, timeout_s=10)[0]

    def handle():
        with message.processing():
            handled.append(message)
            if fails:
                raise LookupError

    if fails:
        with pytest.raises(LookupError):
            handle()
    else:
        handle()
    assert handled == [message]
    assert [type(error) for _, error in recorder.of("end")] == [LookupError if fails else type(None)] * 2
    assert len([record for record in caplog.records if record.levelno >= logging.ERROR]) == 1


# ---- what is answered ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (lambda message: message.ack(), "ack"),
        (lambda message: message.ack(wait=True), "ack"),
        (lambda message: message.nack(), "nack"),
        (lambda message: message.delay(1), "delay"),
        (lambda message: message.delay(delay_ms=1), "delay"),
        (lambda message: message.dead_letter("bad"), "dead_letter"),
        (lambda message: message.__exit__(None, None, None), "ack"),
        (lambda message: message.__exit__(KeyError, KeyError(), None), "nack"),
    ],
)
def test_an_answer_is_told_once(observed, filled, answer, kind):
    recorder = Recorder()
    message = observed(recorder).consumer(filled, "c").fetch(1, timeout_s=10)[0]
    message.in_progress()
    answer(message)
    with pytest.raises(UsageError):
        message.ack()
    assert recorder.of("acked") == [([message], kind)]


def test_an_answer_from_a_receipt_is_told(observed, filled):
    recorder = Recorder()
    consumer = observed(recorder).consumer(filled, "c")
    receipt = consumer.receipt(consumer.fetch(1, timeout_s=10)[0])
    restored = consumer.restore(receipt)
    restored.ack()
    assert recorder.of("acked") == [([restored], "ack")]
    assert json.dumps(receipt)


def test_a_dead_letter_that_was_resent_is_told_like_the_others(observed, memphis, filled):
    recorder = Recorder()
    consumer = observed(recorder).consumer(filled, "c")
    consumer.fetch(1, timeout_s=10)[0].dead_letter("bad")
    letters = memphis.dls(filled)
    letters.resend([letter.id for letter in letters.list()])
    found = []
    while not any(isinstance(message, ResentMessage) for message in found):
        found = consumer.fetch(10, timeout_s=10)
    found[0].ack()
    assert recorder.of("acked")[-1] == ([found[0]], "ack")
    assert found[0] in recorder.of("received")[-1][2]


def test_an_observed_message_is_like_any_other(observed, filled):
    message = observed(Recorder()).consumer(filled, "c").fetch(1, timeout_s=10)[0]
    assert type(message).__name__ == "Message"
    assert isinstance(message, Message)
    assert repr(message) == f"<Message {filled}[1] seq=1 1 bytes>"
    with pytest.raises(TypeError, match="acknowledge it in the process"):
        pickle.dumps(message)
    with pytest.raises(TypeError, match="did you mean 'delay_ms'"):
        message.delay(delay_m=1)


def test_workers_at_the_same_time_are_told_each_for_itself(observed, memphis, station, until):
    memphis.producer(station, "p").produce_many([b"%d" % number for number in range(100)])
    recorder = Recorder()
    consumer = observed(recorder).consumer(station, "c")
    threads = set()

    def callback(messages, error, context):
        threads.add(threading.get_ident())
        for message in messages:
            message.ack()

    consumer.consume(callback, workers=4)
    until(lambda: len(recorder.of("acked")) == 100)
    consumer.stop()
    assert sorted(sequences(recorder)) == list(range(1, 101))
    assert len(recorder.of("begin")) == len(recorder.of("end"))
