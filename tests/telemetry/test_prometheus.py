"""What Prometheus gets: of one client, of several, and of the workers of gunicorn together."""

from __future__ import annotations

import importlib
import os
import re
import sys

import pytest
from prometheus_client import CollectorRegistry, generate_latest, multiprocess

import memphis_sync
from memphis_sync import ClosedError, ConfigurationError, StationGoneError, UndeliveredWarning
from memphis_sync.contrib import prometheus

EACH = 5  # messages of a request to exported_shop


@pytest.fixture
def registry():
    return CollectorRegistry()


@pytest.fixture
def value(registry):
    """``value(name, **labels)`` of the test's registry."""

    def read(name, **labels):
        return registry.get_sample_value(name, labels)

    return read


@pytest.fixture
def client(observed, registry):
    made = observed()
    prometheus.export(made, interval_s=0.05, registry=registry)
    return made


def delivered(value):
    return value("memphis_messages_total", outcome="delivered")


# ---- one process -----------------------------------------------------------------------------------------------------


def test_settled_messages_are_counted_by_outcome(client, memphis, station, value, until):
    producer = client.producer(station, "p")
    for _ in range(10):
        producer.produce(b"1", nonblocking=True)
    producer.produce(b"2")
    until(lambda: delivered(value) == 11)
    gone = client.producer(f"{station}-gone", "p")
    memphis.destroy_station(f"{station}-gone")
    with pytest.raises(StationGoneError):
        gone.produce(b"3")
    until(lambda: value("memphis_messages_total", outcome="failed") == 1)
    assert value("memphis_messages_total", outcome="abandoned") is None
    assert value("memphis_queued") == value("memphis_queued_bytes") == value("memphis_in_flight") == 0


def test_at_its_close_a_client_tells_the_rest(observed, station, registry, value):
    client = observed()
    prometheus.export(client, interval_s=3600, registry=registry)
    client.producer(station, "p").produce_many([b"1"] * 100)
    client.close()
    assert delivered(value) == 100


def test_a_backlog_shows_and_is_over_when_the_client_has_given_it_up(fresh_broker, registry, value, until):
    broker = fresh_broker()
    client = memphis_sync.connect(broker.url)
    prometheus.export(client, interval_s=0.05, registry=registry)
    producer = client.producer("orders", "p")
    broker.stop()
    for _ in range(7):
        producer.produce(b"x" * 1000, nonblocking=True)
    until(lambda: (value("memphis_queued") or 0) + (value("memphis_in_flight") or 0) == 7)
    with pytest.warns(UndeliveredWarning):
        client.close(0)
    assert value("memphis_messages_total", outcome="abandoned") == 7
    assert value("memphis_queued") == value("memphis_queued_bytes") == value("memphis_in_flight") == 0


def test_reconnects_are_counted(broker, proxy_to, station, registry, value, until):
    proxy = proxy_to("127.0.0.1", broker.port)
    with memphis_sync.connect("127.0.0.1", broker.username, password=broker.password, port=proxy.port) as client:
        prometheus.export(client, interval_s=0.05, registry=registry)
        client.produce(station, "p", b"1")
        proxy.cut()
        until(lambda: client.stats().reconnects)
        until(lambda: value("memphis_reconnects_total") == client.stats().reconnects)


def test_blocking_produces_have_a_histogram_and_others_go_their_short_way(client, station, value):
    producer = client.producer(station, "p")
    producer.produce(b"1")
    producer.produce(b"2")
    producer.produce(b"3", nonblocking=True).result()
    producer.produce_many([b"4"])
    assert value("memphis_ack_seconds_count") == 2
    assert 0 < value("memphis_ack_seconds_sum") < 120
    assert value("memphis_ack_seconds_bucket", le="+Inf") == 2


def test_several_clients_add_up_and_exporting_twice_changes_nothing(observed, station, registry, value):
    for count in (3, 4):
        client = observed()
        for _ in range(2):
            prometheus.export(client, registry=registry)
        client.producer(station, "p").produce_many([b"1"] * count)
        client.close()
    assert delivered(value) == 7


def test_the_names_are_those_that_are_documented(client, registry):
    names = set(re.findall(r"^# TYPE (\w+)", generate_latest(registry).decode(), re.MULTILINE))
    documented = set(re.findall(r"memphis_\w+", prometheus.export.__doc__)) - {"memphis_sync"}
    assert {name for name in names if not name.endswith("_created")} == documented
    client.close()


def test_what_is_read_is_counted_by_its_answer(client, station, value, until):
    client.producer(station, "p").produce_many([b"1"] * 4)
    first, second, third, _ = [
        message for _, message in zip(range(4), client.consumer(station, "c").read_all(batch_size=4))
    ]
    first.ack()
    second.delay(3600)
    third.dead_letter("bad")
    until(lambda: value("memphis_consumed_total", outcome="dead_lettered") == 1)
    until(lambda: value("memphis_consumed_total", outcome="given_back") == 1)
    assert value("memphis_consumed_total", outcome="acked") == 1
    assert value("memphis_consumed_total", outcome="received") == 4
    until(lambda: value("memphis_unanswered") == 1)


# ---- several processes -----------------------------------------------------------------------------------------------


def test_a_child_counts_for_itself(client, station, value, until):
    producer = client.producer(station, "p")
    producer.produce_many([b"1"] * 5)
    until(lambda: delivered(value) == 5)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            producer.produce(b"2")
            producer.produce(b"3")
            client.close()
            code = 0 if delivered(value) == 7 else 2  # its copy of the parent's five, and its own
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert delivered(value) == 5


@pytest.mark.parametrize("preload", [False, True])
def test_the_workers_of_gunicorn_add_up_to_what_the_station_holds(memphis, station, gunicorn, tmp_path, preload):
    folder = tmp_path / "metrics"
    folder.mkdir()
    server, url, answers, loaded = gunicorn("exported_shop", preload, PROMETHEUS_MULTIPROC_DIR=str(folder))
    expected = len(answers) * EACH + loaded
    server.until(lambda: f'memphis_messages_total{{outcome="delivered"}} {expected}.0' in server.get(f"{url}/metrics"))
    server.terminate()
    assert server.wait() == 0, server.stderr
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry, path=str(folder))
    stored = memphis.station(station).info().messages
    assert stored == expected
    assert registry.get_sample_value("memphis_messages_total", {"outcome": "delivered"}) == stored
    assert registry.get_sample_value("memphis_ack_seconds_count") == len(answers) + loaded
    for name in ("memphis_queued", "memphis_queued_bytes", "memphis_in_flight"):
        assert registry.get_sample_value(name) == 0


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"client": "memphis"}, "client is of type str; it must be a Memphis, as connect() returns"),
        ({"interval_s": 0}, "interval_s is 0"),
        ({"interval_s": -1}, "interval_s is -1"),
        ({"interval_s": "5"}, "interval_s is a str"),
        ({"interval_s": float("nan")}, "interval_s is nan"),
        ({"registry": "mine"}, "registry is of type str; it must be a CollectorRegistry"),
    ],
)
def test_a_wrong_argument_is_refused(memphis, registry, options, text):
    with pytest.raises(ConfigurationError) as caught:
        prometheus.export(**{"client": memphis, "registry": registry, **options})
    assert str(caught.value).startswith(text)


def test_a_closed_client_is_refused(observed, registry):
    client = observed()
    client.close()
    with pytest.raises(ClosedError):
        prometheus.export(client, registry=registry)


def test_a_function_of_watch_stats_that_raises_is_counted_and_called_again(memphis, until):
    calls = []

    def fail(stats):
        calls.append(stats)
        raise ValueError

    memphis.watch_stats(fail, 0.01)
    until(lambda: len(calls) > 2)
    assert memphis.stats().callback_errors > 1


def test_what_is_added_later_is_checked_like_the_others(memphis):
    with pytest.raises(ConfigurationError, match=r"observer\[0\] is of type object, which has no method producing"):
        memphis.add_observer(object())
    with pytest.raises(ConfigurationError, match="function"):
        memphis.watch_stats(lambda: None)


def test_without_the_library_one_sentence_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "memphis_sync.contrib.prometheus")
    with pytest.raises(ImportError) as caught:
        importlib.import_module("memphis_sync.contrib.prometheus")
    assert "needs prometheus-client: pip install prometheus-client" in str(caught.value)
