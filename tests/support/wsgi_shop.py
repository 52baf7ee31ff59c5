"""
A WSGI application for servers with several processes, each of which produces at its first request.

``/?3&`` is answered when three processes have produced, so that as many requests as all of them take at once reach
each; ``/?3&flush`` when their messages are confirmed, too. With TEST_OPENED="in the master" the client is opened, and
messages are queued, when the application is loaded.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import memphis_sync

STATION, EACH, GATE = os.environ["TEST_STATION"], int(os.environ["TEST_EACH"]), Path(os.environ["TEST_GATE"])
opening = threading.Lock()
clients, asked = [], set()


def memphis():
    with opening:
        if not clients:
            clients.append(memphis_sync.connect())
        return clients[0]


def produce(who):
    producer = memphis().producer(STATION, "web")
    for number in range(EACH):
        producer.produce(f"{who} {number}", nonblocking=True)


if os.environ["TEST_OPENED"] == "in the master":
    produce("master")


def application(environ, start_response):
    with opening:
        is_first = os.getpid() not in asked
        asked.add(os.getpid())
    wanted, flush = environ["QUERY_STRING"].split("&")
    if is_first:
        produce(os.getpid())
        if flush:
            assert memphis().flush(60) == 0
        (GATE / str(os.getpid())).touch()
    until = time.monotonic() + 60
    while len(list(GATE.iterdir())) < int(wanted) and time.monotonic() < until:
        time.sleep(0.02)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Connection", "close")])
    return [b"%d" % os.getpid()]
