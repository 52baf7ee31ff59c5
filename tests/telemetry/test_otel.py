"""Spans, metrics and the context of a trace, as the OpenTelemetry SDK gets them."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from opentelemetry import baggage, context as contexts, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

import memphis_sync
from memphis_sync import BulkError, SchemaError, StationGoneError
from memphis_sync.contrib import otel

EACH = 5  # messages of a request to traced_shop
FOREIGN_TRACE, FOREIGN_SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
FOREIGN = f"00-{FOREIGN_TRACE}-{FOREIGN_SPAN}-01"


class Telemetry:
    """A tracer and a meter that keep everything in memory, and an observer on them."""

    def __init__(self, **options) -> None:
        self.exporter, self.reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.observer = otel.Observer(self.tracers, MeterProvider(metric_readers=[self.reader]), **options)
        self.tracer = self.tracers.get_tracer("test")

    def spans(self, name=""):
        """The finished ones, or those of a name."""
        return [span for span in self.exporter.get_finished_spans() if name in ("", span.name)]

    def points(self):
        """Of all metrics: ``(name, attributes, point)``."""
        data = self.reader.get_metrics_data()
        return [
            (metric.name, dict(point.attributes), point)
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            for point in metric.data.data_points
        ]

    def sums(self, name):
        """A counter's values by error type."""
        return {about.get("error.type", ""): point.value for found, about, point in self.points() if found == name}


@pytest.fixture
def telemetry():
    return Telemetry()


@pytest.fixture
def client(telemetry, observed):
    return observed(telemetry.observer, name="web")


def traceparent(span):
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def links(span):
    return [f"{link.context.span_id:016x}" for link in span.links]


def span_id(span):
    return f"{span.get_span_context().span_id:016x}"


@pytest.fixture
def stored(memphis):
    return lambda station: [dict(each.headers) for each in memphis.station(station).peek(1000)]


# ---- producing -------------------------------------------------------------------------------------------------------


def test_a_blocking_produce_is_one_span_that_ends_at_its_confirmation(broker, telemetry, client, station, stored):
    with telemetry.tracer.start_as_current_span("request") as request:
        ack = client.producer(station, "p").produce(b"1")
    (span,) = telemetry.spans(f"send {station}")
    assert span.kind is SpanKind.PRODUCER
    assert span.parent.span_id == request.get_span_context().span_id
    assert span.status.status_code is StatusCode.UNSET
    assert dict(span.attributes) == {
        "messaging.system": "memphis",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": station,
        "messaging.destination.partition.id": "1",
        "messaging.message.id": f"1-{ack.sequence}",
        "messaging.client.id": "web",
        "server.address": "127.0.0.1",
        "server.port": broker.port,
    }
    assert stored(station) == [{"traceparent": traceparent(span)}]


def test_a_failed_produce_says_so_in_its_span(telemetry, observed, station):
    client = observed(telemetry.observer, no_responders_retry=None)
    producer = client.producer(station, "p")
    client.destroy_station(station)
    with pytest.raises(StationGoneError) as caught:
        producer.produce(b"1")
    (span,) = telemetry.spans()
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == str(caught.value)
    assert span.attributes["error.type"] == "memphis_sync.errors.StationGoneError"
    assert telemetry.sums("messaging.client.sent.messages") == {"memphis_sync.errors.StationGoneError": 1}


def test_non_blocking_messages_carry_the_trace_and_are_no_spans(telemetry, client, station, stored, monkeypatch):
    encoded = []
    inject = otel.propagate.inject
    monkeypatch.setattr(otel.propagate, "inject", lambda *given: (encoded.append(given), inject(*given)))
    producer = client.producer(station, "p")
    parents = []
    for name in ("one", "two"):
        with telemetry.tracer.start_as_current_span(name) as span:
            parents.append(traceparent(span))
            for _ in range(50):
                producer.produce(b"1", nonblocking=True)
    client.flush()
    assert [span.name for span in telemetry.spans()] == ["one", "two"]
    assert [headers["traceparent"] for headers in stored(station)] == [parents[0]] * 50 + [parents[1]] * 50
    assert len(encoded) == 2
    assert telemetry.sums("messaging.client.sent.messages") == {"": 100}


def test_without_a_trace_nothing_is_added(telemetry, client, station, stored):
    client.producer(station, "p").produce(b"1", nonblocking=True).result()
    assert stored(station) == [{}]


def test_non_blocking_spans_end_at_the_confirmation(observed, station, until):
    telemetry = Telemetry(nonblocking_spans=True)
    producer = observed(telemetry.observer).producer(station, "p")
    for _ in range(10):
        producer.produce(b"1", nonblocking=True)
    until(lambda: len(telemetry.spans(f"send {station}")) == 10)
    ids = [span.attributes["messaging.message.id"] for span in telemetry.spans()]
    assert sorted(ids) == sorted(f"1-{number}" for number in range(1, 11))


def test_produce_many_is_one_span_with_its_count(telemetry, client, station, stored):
    client.producer(station, "p").produce_many(b"%d" % number for number in range(300))
    (span,) = telemetry.spans()
    assert (span.name, span.attributes["messaging.batch.message_count"]) == (f"send {station}", 300)
    assert stored(station) == [{"traceparent": traceparent(span)}] * 300
    assert telemetry.sums("messaging.client.sent.messages") == {"": 300}


def test_produce_many_that_fails_in_part_counts_both(telemetry, client, station):
    with pytest.raises(BulkError):
        client.producer(station, "p").produce_many([b"1", b"2", object()])
    (span,) = telemetry.spans()
    assert span.attributes["messaging.batch.message_count"] == 3
    assert span.attributes["error.type"] == "memphis_sync.bulk.BulkItemError"
    assert telemetry.sums("messaging.client.sent.messages") == {"": 2, "memphis_sync.errors.ProduceError": 1}


def test_each_of_several_stations_has_a_span(telemetry, client, station, stored):
    stations = [f"{station}-a", f"{station}-b"]
    client.producer(stations, "p").produce(b"1")
    spans = telemetry.spans()
    assert [span.name for span in spans] == [f"send {name}" for name in stations]
    assert [stored(name) for name in stations] == [[{"traceparent": traceparent(spans[0])}]] * 2


@pytest.mark.parametrize("name", ["traceparent", "TraceParent", "TRACEPARENT"])
@pytest.mark.parametrize("nonblocking", [False, True])
def test_a_trace_that_the_program_gives_itself_is_kept(telemetry, client, station, stored, name, nonblocking):
    producer = client.producer(station, "p")
    with telemetry.tracer.start_as_current_span("request"):
        producer.produce(b"1", headers={name: FOREIGN, "own": "x"}, nonblocking=nonblocking)
    client.flush()
    assert stored(station) == [{name: FOREIGN, "own": "x"}]
    assert [links(span) for span in telemetry.spans(f"send {station}")] == ([] if nonblocking else [[FOREIGN_SPAN]])


def test_baggage_travels_and_a_change_of_it_is_seen(telemetry, client, station, stored):
    producer = client.producer(station, "p")
    with telemetry.tracer.start_as_current_span("request"):
        for value in ("1", "2"):
            token = contexts.attach(baggage.set_baggage("shop", value))
            producer.produce(b"1", nonblocking=True)
            contexts.detach(token)
        producer.produce(b"1", nonblocking=True)
    client.flush()
    assert [headers.get("baggage") for headers in stored(station)] == ["shop=1", "shop=2", None]


# ---- consuming -------------------------------------------------------------------------------------------------------


def test_a_fetch_is_a_span_with_links_to_where_its_messages_come_from(telemetry, client, station):
    producer = client.producer(station, "p")
    producer.produce(b"1")
    producer.produce(b"2", headers={"TraceParent": FOREIGN})
    sent = telemetry.spans()[0]
    messages = client.consumer(station, "c", "billing").fetch(10, timeout_s=10)
    (span,) = telemetry.spans(f"receive {station}")
    assert span.kind is SpanKind.CLIENT
    assert links(span) == [span_id(sent), FOREIGN_SPAN][: len(messages)]
    about = dict(span.attributes)
    assert about["messaging.batch.message_count"] == len(messages)
    assert about["messaging.consumer.group.name"] == "billing"
    assert about["messaging.operation.type"] == "receive"
    assert span.start_time < span.end_time


def test_an_empty_fetch_is_no_span(telemetry, client, station):
    assert client.consumer(station, "c").fetch(10) == []
    assert telemetry.spans() == []
    assert telemetry.points() == []


def test_a_handler_continues_the_trace_of_its_message_where_there_is_no_other(telemetry, client, station):
    client.producer(station, "p").produce(b"1")
    seen = []
    client.consumer(station, "c", "billing").run(
        lambda message: seen.append(trace.get_current_span().get_span_context().span_id), max_messages=1
    )
    (sent,) = telemetry.spans(f"send {station}")
    (span,) = telemetry.spans(f"process {station}")
    assert span.kind is SpanKind.CONSUMER
    assert span.parent.span_id == sent.get_span_context().span_id
    assert span.get_span_context().trace_id == sent.get_span_context().trace_id
    assert links(span) == [span_id(sent)]
    assert seen == [span.get_span_context().span_id]
    assert span.attributes["messaging.message.id"] == sent.attributes["messaging.message.id"]
    assert span.attributes["messaging.consumer.group.name"] == "billing"
    assert not trace.get_current_span().get_span_context().is_valid


def test_with_a_span_around_it_processing_is_linked_and_stays_in_that_trace(telemetry, client, station):
    client.producer(station, "p").produce(b"1", headers={"traceparent": FOREIGN})
    message = client.consumer(station, "c").fetch(1, timeout_s=10)[0]
    with telemetry.tracer.start_as_current_span("job") as job, message.processing():
        pass
    (span,) = telemetry.spans(f"process {station}")
    assert span.parent.span_id == job.get_span_context().span_id
    assert links(span) == [FOREIGN_SPAN]


def test_the_baggage_of_a_message_is_there_while_it_is_handled(telemetry, client, station):
    client.producer(station, "p").produce(b"1", headers={"traceparent": FOREIGN, "Baggage": "shop=7"})
    message = client.consumer(station, "c").fetch(1, timeout_s=10)[0]
    with message.processing():
        assert baggage.get_baggage("shop") == "7"
    assert baggage.get_baggage("shop") is None


def test_a_batch_of_consume_is_one_span_with_links(telemetry, client, station, until):
    client.producer(station, "p").produce_many([b"1", b"2", b"3"])
    (sent,) = telemetry.spans()
    consumer = client.consumer(station, "c")
    consumer.consume(lambda messages, error, context: [message.ack() for message in messages])
    until(lambda: sum(len(span.links) for span in telemetry.spans(f"process {station}")) == 3)
    consumer.stop()
    assert all(set(links(span)) == {span_id(sent)} for span in telemetry.spans(f"process {station}"))


def test_a_handler_that_raises_marks_its_span_without_what_it_said(telemetry, client, station, caplog):
    client.producer(station, "p").produce(b"canary-payload")

    def handle(message):
        raise ValueError(message.data)

    client.consumer(station, "c").run(handle, max_messages=1)
    (span,) = telemetry.spans(f"process {station}")
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"] == "ValueError"
    assert "canary" not in span.to_json()


def test_no_span_has_a_payload(telemetry, observed, station, memphis):
    memphis.create_schema(station, "json", schema_content='{"type": "object", "required": ["id"]}')
    memphis.station(station, schema_name=station)
    client = observed(telemetry.observer)
    producer = client.producer(station, "p")
    with pytest.raises(SchemaError):
        producer.produce({"canary": "canary"})
    producer.produce({"id": "canary"})
    for message in client.consumer(station, "c").fetch(1, timeout_s=10):
        with message.processing():
            message.ack()
    shown = "".join(span.to_json() for span in telemetry.spans())
    assert len(telemetry.spans()) == 4
    assert "canary" not in shown


def test_metrics_have_the_names_and_attributes_of_the_conventions(broker, telemetry, client, station):
    client.producer(station, "p").produce(b"1")
    client.consumer(station, "c", "billing").run(lambda message: None, max_messages=1)
    common = {"messaging.system": "memphis", "messaging.destination.name": station}
    common.update({"server.address": "127.0.0.1", "server.port": broker.port})
    grouped = {**common, "messaging.consumer.group.name": "billing"}
    found = {(name, about["messaging.operation.name"]): about for name, about, _ in telemetry.points()}
    assert found == {
        ("messaging.client.sent.messages", "send"): {**common, "messaging.operation.name": "send"},
        ("messaging.client.operation.duration", "send"): {**common, "messaging.operation.name": "send"},
        ("messaging.client.operation.duration", "receive"): {**grouped, "messaging.operation.name": "receive"},
        ("messaging.client.consumed.messages", "receive"): {**grouped, "messaging.operation.name": "receive"},
        ("messaging.process.duration", "process"): {**grouped, "messaging.operation.name": "process"},
    }


# ---- headers of others -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["", "not a trace", "00-0-0-00", "\u2603"])
def test_a_foreign_traceparent_that_is_none_is_ignored(telemetry, client, station, header):
    client.producer(station, "p").produce(b"1", headers={"traceparent": header})
    for message in client.consumer(station, "c").fetch(1, timeout_s=10):
        with message.processing():
            pass
    assert [links(span) for span in telemetry.spans()] == [[], [], []]


def test_a_propagator_whose_values_are_no_headers_costs_the_context_only(telemetry, client, station, monkeypatch):
    monkeypatch.setattr(otel.propagate, "inject", lambda carrier, context: carrier.update({"bad": "1\n2"}))
    client.producer(station, "p").produce(b"1")
    client.producer(station, "p").produce(b"1", nonblocking=True).result()
    assert len(telemetry.spans()) == 1


# ---- agents ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def instrumentor(telemetry):
    made = otel.MemphisInstrumentor()
    made.instrument(tracer_provider=telemetry.tracers)
    yield made
    made.uninstrument()


def test_the_instrumentor_observes_each_later_client(telemetry, instrumentor, observed, station):
    observed().producer(station, "p").produce(b"1")
    assert [span.name for span in telemetry.spans()] == [f"send {station}"]
    instrumentor.uninstrument()
    observed().producer(station, "p").produce(b"2")
    assert len(telemetry.spans()) == 1


def test_a_client_with_an_observer_of_its_own_has_no_second_one(telemetry, instrumentor, observed, station):
    own = Telemetry()
    observed(own.observer).producer(station, "p").produce(b"1")
    assert (len(own.spans()), len(telemetry.spans())) == (1, 0)


SCRIPT = """
import sys
import memphis_sync
with memphis_sync.connect(sys.argv[1]) as memphis:
    memphis.produce(sys.argv[2], "script", b"hello")
    memphis.consumer(sys.argv[2], "c").run(lambda message: None, max_messages=1)
"""


def test_opentelemetry_instrument_observes_a_script_that_does_not_know_of_it(
    broker, station, tmp_path, package_metadata
):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = package_metadata(
        OTEL_TRACES_EXPORTER="console", OTEL_METRICS_EXPORTER="none", OTEL_LOGS_EXPORTER="none"
    )
    agent = "from opentelemetry.instrumentation.auto_instrumentation import run; run()"  # of opentelemetry-instrument
    command = [sys.executable, "-c", agent, sys.executable, str(script)]
    done = subprocess.run(
        [*command, broker.url, station], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    for name in ("send", "receive", "process"):
        assert f'"name": "{name} {station}"' in done.stdout, done.stdout + done.stderr


def test_a_view_of_django_a_station_and_a_consumer_are_one_trace(broker, station):
    program = Path(__file__).parent / "programs" / "django_traced.py"
    done = subprocess.run(
        [sys.executable, str(program), broker.url, station], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    spans = [json.loads(line) for line in done.stdout.splitlines()]
    view = next(span for span in spans if span[1] == "SERVER")
    (sent,) = [span for span in spans if span[1] == "PRODUCER"]
    receives = [span for span in spans if span[1] == "CLIENT"]
    blocking, nonblocking = (span for span in spans if span[1] == "CONSUMER")
    assert (view[0], sent[0], blocking[0]) == ("POST checkout", f"send {station}", f"process {station}")
    assert {span[2] for span in (view, sent, blocking, nonblocking)} == {view[2]}
    assert (sent[4], blocking[4], nonblocking[4]) == (view[3], sent[3], view[3])
    assert sorted(link for span in receives for link in span[5]) == sorted([sent[3], view[3]])
    assert all(span[4] is None for span in receives)


# ---- options ---------------------------------------------------------------------------------------------------------


def test_a_wrong_option_is_refused():
    with pytest.raises(memphis_sync.ConfigurationError, match="nonblocking_spans is of type str; it must be True or"):
        otel.Observer(nonblocking_spans="yes")


def test_without_the_library_one_sentence_names_the_extra(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "opentelemetry"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.delitem(sys.modules, "memphis_sync.contrib.otel")
    with pytest.raises(ImportError) as caught:
        importlib.import_module("memphis_sync.contrib.otel")
    assert str(caught.value) == "memphis_sync.contrib.otel needs opentelemetry-api: pip install 'memphis-sync[otel]'"


def test_one_observer_serves_several_clients(telemetry, observed, station):
    for name in ("one", "two"):
        observed(telemetry.observer, name=name).producer(station, "p").produce(b"1")
    assert [span.attributes["messaging.client.id"] for span in telemetry.spans()] == ["one", "two"]
    assert telemetry.sums("messaging.client.sent.messages") == {"": 2}


# ---- processes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preload", [False, True])
def test_the_workers_of_gunicorn_add_up_to_what_the_station_holds(memphis, station, gunicorn, tmp_path, preload):
    server, _, answers, loaded = gunicorn("traced_shop", preload, TEST_FOLDER=str(tmp_path))
    server.terminate()
    assert server.wait() == 0, server.stderr
    counts = {int(file.name): int(file.read_text()) for file in tmp_path.iterdir() if file.name.isdecimal()}
    assert {int(pid) for pid in answers} <= set(counts)
    stored = memphis.station(station).info().messages
    assert stored == len(answers) * EACH + loaded
    assert sum(counts.values()) == stored
