"""
Traces and metrics for OpenTelemetry: an Observer.

    from memphis_sync.contrib import otel
    with memphis_sync.connect("memphis://user:password@host", observers=[otel.Observer()]) as memphis:
        memphis.produce("orders", "web", b"hello")

A blocking produce is a span, and so is a produce_many(), a fetch that returned something, and a handler. A non-blocking
message carries the trace and is no span. No payload is in a span, nor the text of what a handler raised.

Source: OpenTelemetry's semantic conventions for messaging, https://opentelemetry.io/docs/specs/semconv/messaging/.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
import weakref
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Optional, Union

import memphis_sync
from memphis_sync import (
    BulkError,
    BulkResult,
    HeaderError,
    Headers,
    LinkEvent,
    MemphisError,
    Message,
    Outgoing,
    PubAck,
    SchemaError,
)
from memphis_sync.observer import UNWATCHED, AckKind, add_default_observer, remove_default_observer

try:
    from opentelemetry import context as contexts, metrics, propagate, trace
    from opentelemetry.propagators.textmap import Getter
    from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
except ImportError as exc:
    raise ImportError(
        "memphis_sync.contrib.otel needs opentelemetry-api: pip install 'memphis-sync[otel]'", name=exc.name
    ) from exc
if TYPE_CHECKING:
    BaseInstrumentor = object
else:
    try:
        from opentelemetry.instrumentation.instrumentor import BaseInstrumentor
    except ImportError:  # only agents need it, and bring it
        BaseInstrumentor = object

# Every attribute of a span or a metric, in one place.
SYSTEM = "messaging.system"  # conventions have no name for a Memphis broker, nor for NATS
OPERATION_NAME = "messaging.operation.name"
OPERATION_TYPE = "messaging.operation.type"
DESTINATION = "messaging.destination.name"
PARTITION = "messaging.destination.partition.id"
GROUP = "messaging.consumer.group.name"
MESSAGE_ID = "messaging.message.id"  # partition and sequence, as in "1-17": what both ends know
CLIENT = "messaging.client.id"
COUNT = "messaging.batch.message_count"
SERVER = "server.address"
PORT = "server.port"
ERROR = "error.type"

# Seconds; the conventions' buckets.
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_MOST_LINKS = 128  # what an SDK keeps of a span by default; each costs a look into a message's headers
_Attributes = dict[str, Any]
# What the last message of a thread got as headers, and in which context: encoded once, used while that is the same.
_encoded: ContextVar[Optional[tuple[object, Headers]]] = ContextVar("memphis_sync_encoded", default=None)


class Observer(memphis_sync.Observer):
    """
    Tells OpenTelemetry of a client's messages; one object may serve several clients.

    Args:
        tracer_provider: For spans; None: the global one, also when that is set later.
        meter_provider: For metrics; the same.
        nonblocking_spans: Whether a non-blocking produce is a span as well, from the call to the confirmation. It costs
            several times what the message does.
    """

    def __init__(
        self,
        tracer_provider: Optional[trace.TracerProvider] = None,
        meter_provider: Optional[metrics.MeterProvider] = None,
        *,
        nonblocking_spans: bool = False,
    ) -> None:
        if not isinstance(nonblocking_spans, bool):
            raise memphis_sync.ConfigurationError(
                f"nonblocking_spans is of type {type(nonblocking_spans).__name__}; it must be True or False"
            )
        self._nonblocking_spans = nonblocking_spans
        name, version = "memphis_sync", memphis_sync.__version__
        self._tracer = trace.get_tracer(name, version, tracer_provider)
        meter = metrics.get_meter(name, version, meter_provider)
        self._duration = meter.create_histogram(
            "messaging.client.operation.duration", "s", "Of a call", explicit_bucket_boundaries_advisory=_BUCKETS
        )
        self._process_duration = meter.create_histogram(
            "messaging.process.duration", "s", "Of a handler", explicit_bucket_boundaries_advisory=_BUCKETS
        )
        self._consumed = meter.create_counter("messaging.client.consumed.messages", "{message}", "Received messages")
        self._sent = _Tally()
        # Read when metrics are collected: to count in a counter of an SDK costs ten times what a message does.
        meter.create_observable_counter(
            "messaging.client.sent.messages", [self._sent.observe], "{message}", "Messages that were produced"
        )
        self._common: _Attributes = {SYSTEM: "memphis"}

    def for_client(self, client: str, address: str) -> Observer:
        """The same for one client, whose name and broker are among the attributes."""
        made: Observer = object.__new__(type(self))
        vars(made).update(vars(self))
        made._common = {**self._common, CLIENT: client}
        made._set_address(address)
        return made

    def _set_address(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._common = {**self._common, SERVER: host.strip("[]"), PORT: int(port)}

    def link(self, event: LinkEvent) -> None:
        """Remembers which broker it is."""
        if event.link == "data":
            self._set_address(event.address)

    # ---- producing ---------------------------------------------------------------------------------------------------

    def producing(self, station: str, count: int, headers: Outgoing) -> object:
        """Begins a span, and puts its context, or the present one, into the headers."""
        if headers.nonblocking and not self._nonblocking_spans:
            _inject(headers, None)
            self._sent.add((station, "", self._common), 1)
            return UNWATCHED
        links = [Link(found)] if (found := _context_of(headers)) else None
        attributes = self._about("send", station)
        span = self._tracer.start_span(f"send {station}", None, SpanKind.PRODUCER, attributes, links)
        _inject(headers, trace.set_span_in_context(span))
        return _Sending(span, time.perf_counter(), station)

    def settled(self, token: Any, outcome: Union[PubAck, BulkResult, BaseException]) -> None:
        """Ends the span."""
        span, station = token.span, token.station
        error = outcome if isinstance(outcome, BaseException) else None
        result = outcome.result if isinstance(outcome, BulkError) else outcome
        if isinstance(result, PubAck):
            span.set_attributes({PARTITION: str(result.partition), MESSAGE_ID: f"{result.partition}-{result.sequence}"})
            self._sent.add((station, "", self._common), 1)
        elif isinstance(result, BulkResult):
            span.set_attribute(COUNT, result.delivered + len(result.failed))
            self._sent.add((station, "", self._common), result.delivered)
            for failure in result.failed:
                self._sent.add((station, _kind_of(failure.error), self._common), 1)
            error = error or (result.failed[0].error if result.failed else None)
        elif error is not None:
            self._sent.add((station, _kind_of(error), self._common), 1)
        self._end(span, error)
        self._record(self._duration, time.perf_counter() - token.started, self._about("send", station), error)

    # ---- consuming ---------------------------------------------------------------------------------------------------

    def received(self, station: str, group: str, messages: Sequence[Message], seconds: float) -> None:
        """A span of what has just been waited for, with a link to where each message comes from."""
        attributes = self._about("receive", station, group)
        self._consumed.add(len(messages), _for_metrics(attributes))
        self._record(self._duration, seconds, attributes, None)
        span = self._tracer.start_span(
            f"receive {station}",
            kind=SpanKind.CLIENT,
            attributes={**attributes, COUNT: len(messages)},
            links=_links_of(messages),
            start_time=time.time_ns() - int(seconds * 1e9),
        )
        span.end()

    @contextlib.contextmanager
    def processing(self, messages: Sequence[Message]) -> Iterator[None]:
        """
        A span around a handler. Where there is no other one, that of a single message continues its trace; else it is
        linked to it.
        """
        first = messages[0]
        attributes = self._about("process", first.station, first.group)
        more: _Attributes = {COUNT: len(messages)}
        parent: Optional[contexts.Context] = None
        if len(messages) == 1:
            more = {PARTITION: str(first.partition), MESSAGE_ID: f"{first.partition}-{first.sequence}"}
            if not trace.get_current_span().get_span_context().is_valid:
                parent = _extracted(_lowered(first))
        token = None if parent is None else contexts.attach(parent)
        started, error = time.perf_counter(), None
        try:
            with self._tracer.start_as_current_span(
                f"process {first.station}",
                kind=SpanKind.CONSUMER,
                attributes={**attributes, **more},
                links=_links_of(messages),
                record_exception=False,  # its text may hold what is in the message
                set_status_on_exception=False,
            ) as span:
                try:
                    yield
                except BaseException as exc:
                    error = exc
                    _fail(span, exc)
                    raise
        finally:
            if token is not None:
                contexts.detach(token)
            self._record(self._process_duration, time.perf_counter() - started, attributes, error)

    def acked(self, messages: Sequence[Message], kind: AckKind) -> None:
        """Nothing: an ack waits for nobody, so it would be a span of no length."""

    # ---- both --------------------------------------------------------------------------------------------------------

    def _about(self, operation: str, station: str, group: str = "") -> _Attributes:
        found = {**self._common, OPERATION_NAME: operation, OPERATION_TYPE: operation, DESTINATION: station}
        return {**found, GROUP: group} if group else found

    def _end(self, span: Span, error: Optional[BaseException]) -> None:
        if error is not None:
            _fail(span, error)
        span.end()

    def _record(self, into: metrics.Histogram, seconds: float, about: _Attributes, error: object) -> None:
        about = _for_metrics(about)
        into.record(seconds, about if error is None else {**about, ERROR: _kind_of(error)})


class _Sending:
    """A span of a produce."""

    __slots__ = ("span", "started", "station")

    def __init__(self, span: Span, started: float, station: str) -> None:
        self.span, self.started, self.station = span, started, station


_tallies: weakref.WeakSet[_Tally] = weakref.WeakSet()


def _begin_anew() -> None:
    """In the child of a fork: what the parent has counted is the parent's."""
    for tally in list(_tallies):
        tally.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


class _Tally:
    """How many messages went to each station, by any thread at the same time, and without a lock."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str, Any, Any], itertools.count[int]] = {}
        self._clients: dict[tuple[str, str, Any, Any], _Attributes] = {}
        _tallies.add(self)

    def clear(self) -> None:
        """Begins anew."""
        self._counts.clear()
        self._clients.clear()

    def add(self, key: tuple[str, str, _Attributes], count: int) -> None:
        """So many more to a station, with this error, or "", of a client with these attributes."""
        station, error, common = key
        place = station, error, common.get(SERVER), common.get(PORT)
        counter = self._counts.get(place)
        if counter is None:
            self._clients[place] = common
            counter = self._counts.setdefault(place, itertools.count())
        if count == 1:
            next(counter)  # one step of the interpreter's
        else:
            deque(itertools.islice(counter, count), maxlen=0)

    def observe(self, _: metrics.CallbackOptions) -> Iterator[metrics.Observation]:
        """The sums, for whoever collects them."""
        for place, counter in list(self._counts.items()):
            station, error, _server, _port = place
            about = _for_metrics(self._clients[place])
            about.update({OPERATION_NAME: "send", DESTINATION: station}, **({ERROR: error} if error else {}))
            yield metrics.Observation(int(repr(counter)[6:-1]), about)  # count(17): no other look takes none away


class _IgnoringCase(Getter[dict[str, str]]):
    """Reads headers whose names are in lower case."""

    def get(self, carrier: dict[str, str], key: str) -> Optional[list[str]]:
        """The one value."""
        value = carrier.get(key.lower())
        return None if value is None else [value]

    def keys(self, carrier: dict[str, str]) -> list[str]:
        """All names."""
        return list(carrier)


_GETTER = _IgnoringCase()


def _inject(headers: Outgoing, context: Optional[contexts.Context]) -> None:
    """Puts a context, by default the present one, into the headers; what a program has put there itself stays."""
    if context is None:
        context = contexts.get_current()
        kept = _encoded.get()
        if kept is None or kept[0] is not context:
            kept = context, _headers_of(context)
            _encoded.set(kept)
        found = kept[1]
    else:
        found = _headers_of(context)
    if not found:
        return
    if headers:
        own = {name.lower() for name in headers}
        if any(name.lower() in own for name in found):
            return
    headers.add_all(found)


def _headers_of(context: contexts.Context) -> Headers:
    carrier: dict[str, str] = {}
    propagate.inject(carrier, context)
    try:
        return Headers(carrier)
    except HeaderError:  # a propagator of the program's whose values are no headers
        return Headers()


def _lowered(message: Message) -> dict[str, str]:
    try:
        return {name.lower(): value for name, value in message.headers.items()}
    except (HeaderError, memphis_sync.UsageError):  # not valid; or restored from a receipt, without any
        return {}


def _extracted(carrier: dict[str, str]) -> Optional[contexts.Context]:
    """The context of a message; None without one."""
    if not carrier:
        return None
    found = propagate.extract(carrier, contexts.Context(), _GETTER)
    return found if trace.get_current_span(found).get_span_context().is_valid else None


def _context_of(headers: Outgoing) -> Optional[trace.SpanContext]:
    found = _extracted({name.lower(): value for name, value in headers.items()}) if headers else None
    return None if found is None else trace.get_current_span(found).get_span_context()


def _links_of(messages: Sequence[Message]) -> list[Link]:
    found = [_extracted(_lowered(message)) for message in messages[:_MOST_LINKS]]
    return [Link(trace.get_current_span(context).get_span_context()) for context in found if context is not None]


def _for_metrics(about: _Attributes) -> _Attributes:
    return {key: value for key, value in about.items() if key not in (OPERATION_TYPE, CLIENT)}


def _kind_of(error: object) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ in ("builtins", None) else f"{kind.__module__}.{kind.__qualname__}"


def _fail(span: Span, error: BaseException) -> None:
    """Marks a span; of the client's own errors it has the text, which never holds a payload."""
    is_own = isinstance(error, MemphisError) and not isinstance(error, SchemaError)
    span.set_attribute(ERROR, _kind_of(error))
    span.set_status(Status(StatusCode.ERROR, str(error) if is_own else None))


class MemphisInstrumentor(BaseInstrumentor):
    """
    What ``opentelemetry-instrument`` finds and calls: every client that is opened later has an Observer. Nothing is
    patched, and clients that were given one keep their own.
    """

    _observer: Optional[Observer] = None

    def instrumentation_dependencies(self) -> Collection[str]:
        """None: it comes with what it instruments."""
        return ()

    def _instrument(self, **options: Any) -> None:
        kind = type(self)
        kind._observer = Observer(options.get("tracer_provider"), options.get("meter_provider"))
        add_default_observer(kind._observer)

    def _uninstrument(self, **_: Any) -> None:
        kind = type(self)
        if kind._observer is not None:
            remove_default_observer(kind._observer)
            kind._observer = None


__all__ = ["MemphisInstrumentor", "Observer"]
