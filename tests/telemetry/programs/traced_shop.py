"""A WSGI application that produces with each request, and whose processes each write down what OpenTelemetry got."""

from __future__ import annotations

import atexit
import os
from pathlib import Path

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

import memphis_sync
from memphis_sync.contrib.otel import Observer

STATION, NONBLOCKING = os.environ["TEST_STATION"], 4

reader = InMemoryMetricReader()
memphis = memphis_sync.connect(observers=[Observer(meter_provider=MeterProvider([reader]))])  # in the master
memphis.produce(STATION, "master", b"0")


@atexit.register
def write_down():
    data = reader.get_metrics_data()
    metrics = [metric for scope in data.resource_metrics[0].scope_metrics for metric in scope.metrics]
    sent = next(metric for metric in metrics if metric.name == "messaging.client.sent.messages")
    count = sum(point.value for point in sent.data.data_points)
    (Path(os.environ["TEST_FOLDER"]) / str(os.getpid())).write_text(str(count))


def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Connection", "close")])
    for _ in range(NONBLOCKING):
        memphis.produce(STATION, "web", b"1", nonblocking=True)
    memphis.produce(STATION, "web", b"2")
    return [b"%d" % os.getpid()]
