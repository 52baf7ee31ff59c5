"""What an observer is told of each message that is produced, by whichever call."""

from __future__ import annotations

import logging
import os
import threading

import pytest
from recorder import Recorder

import memphis_sync
from memphis_sync import (
    BulkError,
    BulkResult,
    ConfigurationError,
    HeaderError,
    Headers,
    Item,
    MultiStationError,
    Observer,
    PubAck,
    StationGoneError,
    observer as seam,
)
from memphis_sync.errors import ProduceError


@pytest.fixture
def stored(memphis):
    """``stored(station)``: what a station holds, payload and headers, in order."""

    def read(station):
        return [(each.data, dict(each.headers)) for each in memphis.station(station).peek(1000)]

    return read


# ---- each way to produce ---------------------------------------------------------------------------------------------


def test_a_blocking_produce_is_told_with_its_confirmation(observed, station, stored):
    recorder = Recorder({"trace": "1"})
    client = observed(recorder, name="web")
    ack = client.producer(station, "p").produce(b"1", headers={"own": "x"})
    assert recorder.of("producing") == [(station, 1, {"own": "x"}, False)]
    assert recorder.outcomes() == {1: ack}
    assert isinstance(ack, PubAck)
    assert stored(station) == [(b"1", {"own": "x", "trace": "1"})]
    assert [name for name, _ in recorder.clients] == ["web"]


def test_a_non_blocking_produce_is_told_when_it_is_stored(observed, station, stored, until):
    recorder = Recorder({"trace": "1"})
    producer = observed(recorder).producer(station, "p")
    deliveries = [producer.produce(b"%d" % number, nonblocking=True) for number in range(100)]
    until(lambda: len(recorder.of("settled")) == 100)
    assert recorder.of("producing") == [(station, 1, {}, True)] * 100
    assert sorted(recorder.outcomes().values()) == sorted(each.result() for each in deliveries)
    assert stored(station) == [(b"%d" % number, {"trace": "1"}) for number in range(100)]


def test_the_first_produce_of_a_client_is_told_once(observed, station, stored):
    """It is held until its producer is registered."""
    recorder = Recorder({"trace": "1"})
    client = observed(recorder)
    held = client.produce(station, "p", b"1", headers={"own": "x"}, nonblocking=True)
    client.produce(station, "p", b"2")
    held.result()
    client.flush()
    assert recorder.of("producing") == [(station, 1, {"own": "x"}, True), (station, 1, {}, False)]
    assert stored(station) == [(b"1", {"own": "x", "trace": "1"}), (b"2", {"trace": "1"})]


def test_a_blocking_produce_that_waits_for_the_registration_is_told(observed, station):
    recorder = Recorder()
    ack = observed(recorder).produce(station, "p", b"1")
    assert recorder.outcomes() == {1: ack}


def test_produce_many_is_told_once_with_its_count(observed, station, stored):
    recorder = Recorder({"trace": "1"})
    result = observed(recorder).producer(station, "p").produce_many([b"1", {"id": 2}, Item(b"3", headers={"own": "x"})])
    assert recorder.of("producing") == [(station, 3, {}, False)]
    assert recorder.outcomes() == {1: result}
    assert [headers for _, headers in stored(station)] == [{"trace": "1"}, {"trace": "1"}, {"own": "x", "trace": "1"}]


def test_produce_many_of_an_iterator_tells_the_count_at_its_end(observed, station):
    recorder = Recorder()
    observed(recorder).producer(station, "p").produce_many(b"%d" % number for number in range(1000))
    assert recorder.of("producing") == [(station, 0, {}, False)]
    assert recorder.outcomes()[1].delivered == 1000


def test_an_item_that_has_one_of_the_headers_gets_none(observed, station, stored):
    recorder = Recorder({"traceparent": "ours", "tracestate": "ours"})
    items = [Item(b"1", headers={"TraceParent": "theirs"}), Item(b"2", headers={"other": "x"})]
    observed(recorder).producer(station, "p").produce_many(items)
    assert stored(station) == [
        (b"1", {"TraceParent": "theirs"}),
        (b"2", {"other": "x", "traceparent": "ours", "tracestate": "ours"}),
    ]


def test_produce_each_tells_each_message(observed, station, stored, until):
    recorder = Recorder({"trace": "1"})
    found = observed(recorder).producer(station, "p").produce_each([b"1", 2, "3"], headers={"own": "x"})
    assert [type(each).__name__ for each in found] == ["Delivery", "ConfigurationError", "Delivery"]
    until(lambda: len(recorder.of("settled")) == 3)
    assert recorder.of("producing") == [(station, 1, {"own": "x"}, True)] * 3
    assert recorder.outcomes()[2 if recorder.calls[1][0] == "producing" else 3] is not None
    assert stored(station) == [(data, {"own": "x", "trace": "1"}) for data in (b"1", b"3")]


def test_each_of_several_stations_is_told(observed, station, until):
    recorder = Recorder()
    client = observed(recorder)
    stations = [f"{station}-a", f"{station}-b"]
    producer = client.producer(stations, "p")
    acks = producer.produce(b"1")
    assert [told[0] for told in recorder.of("producing")] == stations
    assert [outcome.station for outcome in recorder.outcomes().values()] == stations
    assert list(recorder.outcomes().values()) == [acks[name] for name in stations]
    deliveries = producer.produce(b"2", nonblocking=True)
    until(lambda: len(recorder.of("settled")) == 4)
    assert set(recorder.outcomes().values()) == {*acks.values(), *deliveries.result().values()}


def test_each_of_several_stations_hears_of_its_part_of_produce_many(observed, station, until):
    recorder = Recorder()
    client = observed(recorder, no_responders_retry=None)
    stations = [f"{station}-a", f"{station}-b"]
    producer = client.producer(stations, "p")
    client.destroy_station(stations[1])
    result = producer.produce_many([b"1", 2, b"3"], on_error="collect")
    assert (result.delivered, len(result.failed)) == (2, 3)
    one, other = recorder.outcomes().values()
    assert (one.delivered, [each.index for each in one.failed]) == (2, [1])
    assert (other.delivered, [each.index for each in other.failed]) == (0, [0, 1, 2])


def test_the_failure_of_one_station_is_told_for_it_alone(observed, station):
    recorder = Recorder()
    client = observed(recorder, no_responders_retry=None)
    stations = [f"{station}-a", f"{station}-b"]
    producer = client.producer(stations, "p")
    client.destroy_station(stations[1])
    with pytest.raises(MultiStationError):
        producer.produce(b"1")
    one, other = recorder.outcomes().values()
    assert isinstance(one, PubAck)
    assert isinstance(other, ProduceError)


# ---- what fails ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nonblocking", [False, True])
def test_a_message_that_is_not_accepted_is_told_with_its_error(observed, station, nonblocking):
    recorder = Recorder()
    producer = observed(recorder).producer(station, "p")
    with pytest.raises(ConfigurationError) as caught:
        producer.produce(object(), nonblocking=nonblocking)
    assert recorder.outcomes() == {1: caught.value}


def test_bad_headers_are_refused_as_without_observers(observed, memphis, station):
    texts = []
    for client in (memphis, observed(Recorder())):
        producer = client.producer(station, "p")
        for headers in ({"$memphis": "x"}, {"a": 1}, [("a", "b")], "ab"):
            with pytest.raises(HeaderError) as caught:
                producer.produce(b"1", headers=headers)
            texts.append(str(caught.value))
    assert texts[:4] == texts[4:]


def test_a_failure_that_only_an_observer_has_seen_is_still_logged(observed, station, until, caplog):
    recorder = Recorder()
    client = observed(recorder, no_responders_retry=None)
    producer = client.producer(station, "p")
    client.destroy_station(station)
    producer.produce(b"1", nonblocking=True)
    until(lambda: recorder.of("settled"))
    assert isinstance(recorder.outcomes()[1], StationGoneError)
    client.close()
    assert [record.levelname for record in caplog.records if record.name == "memphis_sync.produce"] == ["ERROR"]


def test_produce_many_that_fails_is_told_with_what_was_stored(observed, station):
    recorder = Recorder()
    with pytest.raises(BulkError) as caught:
        observed(recorder).producer(station, "p").produce_many([b"1", object(), b"3"])
    assert recorder.outcomes() == {1: caught.value}
    assert isinstance(caught.value.result, BulkResult)


# ---- what an observer may do -----------------------------------------------------------------------------------------


def test_an_unwatched_message_is_not_told_again(observed, station):
    recorder = Recorder(watches=False)
    client = observed(recorder)
    producer = client.producer(station, "p")
    producer.produce(b"1")
    producer.produce(b"2", nonblocking=True)
    producer.produce_many([b"3"])
    client.close()
    assert len(recorder.of("producing")) == 3
    assert recorder.of("settled") == []


@pytest.mark.parametrize("method", ["for_client", "producing", "settled"])
@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_an_observer_that_raises_is_logged_once_and_detached(observed, station, caplog, method, error):
    class Broken(Recorder):
        pass

    def fail(*_):
        raise error("mine")

    broken, recorder = Broken(), Recorder()
    setattr(broken, method, fail)
    client = observed(broken, recorder)
    producer = client.producer(station, "p")
    acks = [producer.produce(b"%d" % number) for number in range(3)]
    assert list(recorder.outcomes().values()) == acks
    (line,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert line.getMessage() == (
        f"'memphis-sync': the observer {Broken.__qualname__} raised in {method}(); it is not called any more"
    )
    assert line.exc_info[0] is error
    assert line.memphis_client == "memphis-sync"
    assert len(broken.of("producing")) == (1 if method == "settled" else 0)


def test_when_the_last_observer_is_detached_messages_go_the_short_way(observed, station, stored):
    class Broken(Recorder):
        def producing(self, station, count, headers):
            raise ValueError

    producer = observed(Broken()).producer(station, "p")
    producer.produce(b"1")
    producer.produce(b"2", nonblocking=True).result()
    assert [each.result().sequence for each in producer.produce_each([b"3", b"4"])] == [3, 4]
    producer.produce_many([b"5"])
    assert len(stored(station)) == 5


def test_ctrl_c_inside_an_observer_reaches_the_program(observed, station):
    class Interrupted(Recorder):
        def settled(self, token, outcome):
            super().settled(token, outcome)
            if len(self.of("settled")) == 1:
                raise KeyboardInterrupt

    interrupted = Interrupted()
    producer = observed(interrupted).producer(station, "p")
    with pytest.raises(KeyboardInterrupt):
        producer.produce(b"1")
    producer.produce(b"2")
    assert len(interrupted.of("settled")) == 2


def test_headers_that_are_encoded_once_serve_many_messages(observed, station, stored):
    class Shared(Observer):
        kept = Headers({"traceparent": "one"})

        def producing(self, station, count, headers):
            headers.add_all(self.kept)

    producer = observed(Shared()).producer(station, "p")
    producer.produce(b"1", headers=Headers({"own": "x"}))
    producer.produce(b"2")
    assert stored(station) == [(b"1", {"own": "x", "traceparent": "one"}), (b"2", {"traceparent": "one"})]
    assert dict(Shared.kept) == {"traceparent": "one"}


def test_threads_share_a_producer_that_is_observed(observed, station, stored, until):
    recorder = Recorder({"trace": "1"})
    producer = observed(recorder).producer(station, "p")

    def produce(letter):
        for number in range(50):
            producer.produce(f"{letter}{number}", nonblocking=True)

    threads = [threading.Thread(target=produce, args=(letter,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: len(recorder.of("settled")) == 200)
    assert len(recorder.outcomes()) == len(recorder.of("producing")) == len(stored(station)) == 200


def test_a_producer_from_before_a_fork_is_observed_in_the_child(observed, station, stored):
    recorder = Recorder({"trace": "1"})
    client = observed(recorder)
    producer = client.producer(station, "p")
    producer.produce(b"1")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            recorder.calls.clear()
            producer.produce(b"2")
            producer.produce(b"3")
            client.produce(station, "q", b"4")
            code = 0 if len(recorder.outcomes()) == len(recorder.of("producing")) == 3 else 2
            client.close()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert stored(station) == [(b"%d" % number, {"trace": "1"}) for number in (1, 2, 3, 4)]
    assert len(recorder.outcomes()) == 1


# ---- which observers -------------------------------------------------------------------------------------------------


class NoLink:
    producing = settled = received = processing = acked = Recorder.acked


class Few(Recorder):
    def producing(self, station):
        return station


class Late(Recorder):
    async def settled(self, token, outcome):
        return token


@pytest.mark.parametrize(
    ("observers", "text"),
    [
        (Recorder(), "observers is of type Recorder; it must be a list of observers: [observer]"),
        (None, "observers is of type NoneType; it must be a list of observers: [observer]"),
        ("otel", "observers is of type str; it must be a list of observers: [observer]"),
        ([Recorder(), Recorder], "observers[1] is the class Recorder; pass an object of it: Recorder()"),
        ([object()], "observers[0] is of type object, which has no method producing(); a subclass of "),
        ([Few()], "observers[0].producing is Few.producing(station), which cannot be called with (station, count, "),
        ([Late()], "observers[0].settled is Late.settled, a coroutine function or a generator"),
    ],
)
def test_what_is_no_observer_is_refused_before_anything_is_opened(refused_address, observers, text):
    host, port = refused_address
    with pytest.raises(ConfigurationError) as caught:
        memphis_sync.connect(host, "root", password="memphis", port=port, observers=observers)
    assert str(caught.value).startswith(text)


def test_any_object_with_the_methods_is_an_observer(observed, station):
    class Plain:
        calls = []  # noqa: RUF012

        def producing(self, station, count, headers):
            self.calls.append(station)

        def settled(self, token, outcome):
            self.calls.append((token, outcome))

        def received(self, station, group, messages, seconds): ...
        def processing(self, messages): ...
        def acked(self, messages, kind): ...
        def link(self, event): ...

    ack = observed(Plain()).producer(station, "p").produce(b"1")
    assert Plain.calls == [station, (None, ack)]


def test_a_default_observer_is_in_each_later_client_unless_it_is_given_one_of_its_class(observed, station, request):
    default, own = Recorder(), Recorder()
    request.addfinalizer(lambda: seam.remove_default_observer(default))
    before = observed()
    seam.add_default_observer(default)
    seam.add_default_observer(default)
    before.producer(station, "p").produce(b"1")
    observed().producer(station, "p").produce(b"2")
    observed(own).producer(station, "p").produce(b"3")
    seam.remove_default_observer(default)
    observed().producer(station, "p").produce(b"4")
    assert len(default.of("producing")) == len(own.of("producing")) == 1


# ---- links -----------------------------------------------------------------------------------------------------------


def test_an_outage_is_told_as_to_the_callables_of_connect(broker, proxy_to, station, until):
    proxy = proxy_to("127.0.0.1", broker.port)
    recorder, events = Recorder(), []
    with memphis_sync.connect(
        "127.0.0.1",
        broker.username,
        password=broker.password,
        port=proxy.port,
        observers=[recorder],
        on_disconnect=events.append,
        on_reconnect=events.append,
    ) as client:
        client.produce(station, "p", b"1")
        proxy.cut()
        until(lambda: len(events) == 4)
        until(lambda: len(recorder.of("link")) == 4)
        assert [event for (event,) in recorder.of("link")] == events
