"""A WSGI application that produces with each request, and exports what its client counts."""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, generate_latest, multiprocess

import memphis_sync
from memphis_sync.contrib.prometheus import export

STATION, NONBLOCKING = os.environ["TEST_STATION"], 4

memphis = memphis_sync.connect()  # in the master: with --preload before the workers are forked
export(memphis, interval_s=0.05)
memphis.produce(STATION, "master", b"0")


def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Connection", "close")])
    if environ["PATH_INFO"] == "/metrics":
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)
        return [generate_latest(registry)]
    for _ in range(NONBLOCKING):
        memphis.produce(STATION, "web", b"1", nonblocking=True)
    memphis.produce(STATION, "web", b"2")
    return [b"%d" % os.getpid()]
