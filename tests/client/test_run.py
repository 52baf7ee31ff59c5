"""Consumer.run() and wait(): what is acknowledged, what an error means, and when they end."""

from __future__ import annotations

import logging
import signal
import threading
import time

import pytest

import memphis_sync
from memphis_sync import ClosedError, ConfigurationError, StationNotFoundError, UsageError


@pytest.fixture
def fill(memphis, station_name):
    """``fill(count)`` produces "0", "1" ... to a station; gives its name."""

    def fill(count):
        memphis.producer(station_name, "p").produce_many(str(number) for number in range(count))
        return station_name

    return fill


def left(memphis, station, group="c"):
    """What the station still holds for a group."""
    return [message.data for message in memphis.consumer(station, "another", group).read_all()]


def test_each_message_is_handled_in_order_and_acknowledged(memphis, fill):
    station, seen = fill(50), []
    consumer = memphis.consumer(station, "c")
    assert consumer.run(lambda message: seen.append(int(message.data)), idle_exit_s=0.5) == 50
    assert seen == list(range(50))
    assert left(memphis, station) == []


def test_after_max_messages_the_others_go_back(memphis, fill):
    station = fill(20)
    consumer = memphis.consumer(station, "c")
    assert consumer.run(lambda message: None, max_messages=7) == 7
    assert left(memphis, station) == [b"%d" % number for number in range(7, 20)]


def test_an_answer_of_the_function_itself_counts(memphis, fill):
    station, seen = fill(3), []

    def function(message):
        seen.append(int(message.data))
        if len(seen) == 1:
            message.nack()
        else:
            message.ack()

    assert memphis.consumer(station, "c").run(function, max_messages=4) == 4
    assert sorted(seen) == [0, 0, 1, 2]
    assert left(memphis, station) == []


def test_retry_delivers_again_after_a_pause_that_doubles(memphis, fill, caplog):
    station, seen = fill(1), []
    consumer = memphis.consumer(station, "c", max_msg_deliveries=4)

    def function(message):
        seen.append((time.monotonic(), message.delivered))
        raise ValueError("not today")

    with caplog.at_level(logging.ERROR, "memphis_sync"):
        assert consumer.run(function, delay_ms=200, max_delay_ms=400, max_messages=4) == 4
    assert [delivered for _, delivered in seen] == [1, 2, 3, 4]
    pauses = [after - before for (before, _), (after, _) in zip(seen, seen[1:])]
    assert all(pause > wanted * 0.9 for pause, wanted in zip(pauses, (0.2, 0.4, 0.4))), pauses
    texts = [record.getMessage() for record in caplog.records]
    assert [text.rpartition("back to the group for ")[2] for text in texts] == ["200 ms", "400 ms", "400 ms", "400 ms"]
    assert all(record.exc_info[0] is ValueError for record in caplog.records)


def test_retry_ends_as_a_dead_letter_of_the_stations_own_rule(memphis, fill, until):
    station, seen = fill(3), []

    def function(message):
        seen.append(int(message.data))
        if message.data == b"1":
            raise ValueError

    assert memphis.consumer(station, "c").run(function, delay_ms=0, max_messages=4) == 4
    assert sorted(seen) == [0, 1, 1, 2]
    until(lambda: [letter.data for letter in memphis.dls(station)] == [b"1"])


def test_dead_letter_keeps_the_error_and_goes_on(memphis, fill, caplog):
    station, seen = fill(4), []

    def function(message):
        seen.append(int(message.data))
        if message.data == b"1":
            raise ValueError("no such customer")

    with caplog.at_level(logging.ERROR, "memphis_sync"):
        assert memphis.consumer(station, "c").run(function, on_error="dead_letter", max_messages=4) == 4
    assert seen == [0, 1, 2, 3]
    letters = list(memphis.dls(station))
    assert [(letter.data, letter.reason) for letter in letters] == [(b"1", "ValueError: no such customer")]
    assert left(memphis, station) == []
    assert "becomes a dead letter" in caplog.text


def test_stop_raises_the_error_and_gives_everything_back(memphis, fill):
    station, seen = fill(10), []
    error = ValueError("stop here")

    def function(message):
        seen.append(int(message.data))
        if message.data == b"4":
            raise error

    with pytest.raises(ValueError, match="stop here") as caught:
        memphis.consumer(station, "c").run(function, on_error="stop")
    assert caught.value is error
    assert seen == [0, 1, 2, 3, 4]
    assert sorted(left(memphis, station)) == [b"%d" % number for number in range(4, 10)]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_is_no_exception_ends_it_whatever_the_policy(memphis, fill, kind):
    station = fill(3)

    def function(message):
        raise kind

    with pytest.raises(kind):
        memphis.consumer(station, "c").run(function, on_error="retry")
    assert sorted(left(memphis, station)) == [b"0", b"1", b"2"]


def test_errors_are_counted_and_no_payload_is_logged(memphis, station_name, caplog):
    memphis.produce(station_name, "p", b"very-secret")
    before = memphis.stats().callback_errors

    def function(message):
        raise ValueError("bad")

    with caplog.at_level(logging.DEBUG, "memphis_sync"):
        memphis.consumer(station_name, "c").run(function, max_messages=1)
    assert memphis.stats().callback_errors == before + 1
    assert "ValueError: bad" in caplog.text
    assert "very-secret" not in caplog.text


def test_stop_ends_it_after_the_current_message(memphis, fill):
    station, seen = fill(30), []
    consumer = memphis.consumer(station, "c")

    def function(message):
        seen.append(message.data)
        if len(seen) == 3:
            consumer.stop(0)

    assert consumer.run(function) == 3
    assert left(memphis, station) == [b"%d" % number for number in range(3, 30)]
    assert consumer.run(lambda message: None, idle_exit_s=0.3) == 0, "what has stopped can be run again"


def test_another_thread_stops_it_while_it_waits(memphis, fill, until):
    station = fill(1)
    consumer = memphis.consumer(station, "c")
    handled = threading.Event()
    results = []
    thread = threading.Thread(target=lambda: results.append(consumer.run(lambda message: handled.set())))
    thread.start()
    assert handled.wait(30)
    consumer.stop(0)
    thread.join(30)
    assert results == [1]


def test_close_ends_it(broker, station_name):
    client = memphis_sync.connect(broker.url)
    client.produce(station_name, "p", b"1")
    assert client.consumer(station_name, "c").run(lambda message: client.close()) == 1
    with pytest.raises(ClosedError):
        client.consumer(station_name, "c")


def test_a_destroyed_station_ends_it_with_an_error(memphis, fill):
    station = fill(1)
    consumer = memphis.consumer(station, "c")
    with pytest.raises(StationNotFoundError):
        consumer.run(lambda message: memphis.destroy_station(station))


def test_a_resent_dead_letter_that_fails_stays_one(memphis, fill, until, caplog):
    station = fill(1)
    consumer = memphis.consumer(station, "c")

    def function(message):
        raise ValueError("bad")

    consumer.run(function, on_error="dead_letter", max_messages=1)
    [letter] = memphis.dls(station)
    memphis.dls(station).resend()
    with caplog.at_level(logging.ERROR, "memphis_sync"):
        assert consumer.run(function, on_error="dead_letter", max_messages=1) == 1
    assert "the broker keeps the dead letter until it is resent" in caplog.text
    assert [each.id for each in memphis.dls(station)] == [letter.id]
    memphis.dls(station).resend()
    assert consumer.run(lambda message: None, max_messages=1) == 1
    until(lambda: not list(memphis.dls(station)))


def test_a_handler_that_returns_a_coroutine_has_failed(memphis, fill, caplog):
    async def later():
        """Never awaited."""

    with caplog.at_level(logging.ERROR, "memphis_sync"):
        memphis.consumer(fill(1), "c").run(lambda message: later(), max_messages=1)
    assert "which is never awaited" in caplog.text


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"on_error": "dead"}, "did you mean 'dead_letter'?"),
        ({"delay_ms": 70_000}, "delay_ms is 70000 and max_delay_ms is 60000"),
        ({"max_messages": 0}, "max_messages is 0"),
        ({"idle_exit_s": 0}, "idle_exit_s is 0"),
        ({"stop_signals": signal.SIGTERM}, "as in (signal.SIGTERM,)"),
        ({"stop_signals": "SIGTERM"}, "as in (signal.SIGTERM,)"),
        ({"stop_signals": (signal.SIGKILL,)}, "a program can handle"),
        ({"stop_signals": (0,)}, "stop_signals holds 0"),
    ],
)
def test_a_wrong_argument_is_named(memphis, fill, options, text):
    consumer = memphis.consumer(fill(1), "c")
    with pytest.raises(ConfigurationError) as caught:
        consumer.run(lambda message: None, **options)
    assert text in str(caught.value)
    assert left(memphis, consumer.station_name) == [b"0"]


def test_signals_are_for_the_main_thread_only(memphis, fill, in_threads):
    consumer = memphis.consumer(fill(1), "c")
    consumer.consume(lambda *_: None)
    before = signal.getsignal(signal.SIGTERM)

    def run(_):
        with pytest.raises(UsageError, match="signals reach the main thread only"):
            consumer.run(lambda message: None, stop_signals=(signal.SIGTERM,))
        with pytest.raises(UsageError, match="signals reach the main thread only"):
            consumer.wait(stop_signals=(signal.SIGTERM,))

    in_threads(1, run)
    assert signal.getsignal(signal.SIGTERM) is before


def test_handlers_of_signals_are_put_back(memphis, fill):
    consumer = memphis.consumer(fill(1), "c")
    before = signal.getsignal(signal.SIGTERM)
    during = []
    consumer.run(
        lambda message: during.append(signal.getsignal(signal.SIGTERM)), max_messages=1, stop_signals=(signal.SIGTERM,)
    )
    assert during[0] != before
    assert signal.getsignal(signal.SIGTERM) is before


def test_wait_lasts_as_long_as_consume(memphis, fill):
    station, seen = fill(5), []
    consumer = memphis.consumer(station, "c")

    def callback(messages, error, context):
        for message in messages:
            message.ack()
            seen.append(message.data)
        if len(seen) == 5:
            consumer.stop()

    consumer.consume(callback, workers=2)
    assert consumer.wait(60)
    assert len(seen) == 5
    assert consumer.wait(), "it has ended"


def test_wait_has_a_limit(memphis, fill):
    consumer = memphis.consumer(fill(1), "c")
    consumer.consume(lambda *_: None)
    assert not consumer.wait(0)
    assert not consumer.wait(0.2)
    assert consumer.stop(30)
    assert consumer.wait(0)


def test_wait_without_consume_is_refused(memphis, fill):
    consumer = memphis.consumer(fill(1), "c")
    with pytest.raises(UsageError, match=r"call consume\(\) before wait\(\)"):
        consumer.wait()


def test_the_callback_does_not_wait_for_itself(memphis, fill):
    consumer = memphis.consumer(fill(1), "c")
    caught = []

    def callback(messages, error, context):
        try:
            consumer.wait()
        except UsageError as exc:
            caught.append(str(exc))
        consumer.stop()

    consumer.consume(callback)
    assert consumer.wait(60)
    assert "would wait for itself" in caught[0]
