"""A Django view that produces, and what consumes it: the spans of both, a line of JSON each."""

from __future__ import annotations

import json
import sys

import django
from django.conf import settings
from django.http import JsonResponse
from django.test import Client
from django.urls import path
from opentelemetry import trace
from opentelemetry.instrumentation.django import DjangoInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from memphis_sync.contrib.django import memphis
from memphis_sync.contrib.otel import MemphisInstrumentor

URL, STATION = sys.argv[1:]


def checkout(request):
    memphis.produce(STATION, "shop", {"id": 1})
    memphis.produce(STATION, "shop", {"id": 2}, nonblocking=True).result()
    return JsonResponse({})


urlpatterns = [path("checkout", checkout)]
settings.configure(
    ROOT_URLCONF=__name__,
    SECRET_KEY="x",
    ALLOWED_HOSTS=["*"],
    MEMPHIS={"default": {"URL": URL}},
    INSTALLED_APPS=["memphis_sync.contrib.django"],
)
exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
DjangoInstrumentor().instrument()
MemphisInstrumentor().instrument()
django.setup()
assert Client().post("/checkout").status_code == 200
memphis.consumer(STATION, "billing").run(lambda message: None, max_messages=2)
for span in exporter.get_finished_spans():
    parent, links = span.parent and span.parent.span_id, [link.context.span_id for link in span.links]
    print(json.dumps([span.name, span.kind.name, span.context.trace_id, span.context.span_id, parent, links]))
memphis.close()
