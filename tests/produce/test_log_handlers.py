"""A program's logging handlers are its own code: they may produce, connect and be slow, and stop nothing of ours."""

from __future__ import annotations

import logging
import threading

import pytest

import memphis_sync
from memphis_sync import MemphisError


@pytest.fixture
def handling():
    """``handling(emit)`` adds a handler to the root logger for the rest of the test."""
    added = []

    def add(emit):
        handler = logging.Handler()
        handler.emit = emit
        logging.getLogger().addHandler(handler)
        added.append(handler)

    yield add
    for handler in added:
        logging.getLogger().removeHandler(handler)


def test_a_handler_that_blocks_delays_no_reconnection(through_proxy, station_name, handling, until):
    memphis, proxy = through_proxy()
    producer = memphis.producer(station_name, "p")
    producer.produce(b"1")
    called, release = threading.Event(), threading.Event()

    def emit(record):
        if record.name.startswith("memphis_sync"):
            called.set()
            assert record.threadName.startswith(("memphis-reader-", "memphis-loop-"))
            assert record.filename == "outages.py"
            assert not threading.current_thread().name.startswith(("memphis-reader-", "memphis-loop-"))
            release.wait(60)

    handling(emit)
    try:
        proxy.cut()
        assert called.wait(30)
        until(memphis.is_connected)
        assert producer.produce(b"2", ack_wait_sec=60).sequence == 2
        assert not release.is_set()
    finally:
        release.set()


def test_a_handler_that_produces_blocking_gets_its_lines_through(through_proxy, station_name, handling, until):
    memphis, proxy = through_proxy()
    producer = memphis.producer(station_name, "p")
    producer.produce(b"warm")
    produced, errors = [], []

    def emit(record):
        if record.name.startswith(("memphis_sync", "mine")):
            try:
                producer.produce(record.getMessage())
            except MemphisError as exc:
                errors.append(exc)
            else:
                produced.append(record.getMessage())

    handling(emit)
    proxy.cut()
    until(lambda: any("lost" in text for text in produced))
    logging.getLogger("mine").warning("of the program")
    assert "of the program" in produced
    assert errors == []


SCRIPT = """
import faulthandler, logging, logging.config, os
import memphis_sync
faulthandler.dump_traceback_later(50, exit=True)
class ToStation(logging.Handler):
    client = None
    def __init__(self, level=0, eager=False):
        super().__init__(level)
        if eager:
            self.connect()
    def connect(self):
        ToStation.client = memphis_sync.connect(os.environ["TEST_URL"])
    def emit(self, record):
        if self.client is None:
            self.connect()
        self.client.produce(os.environ["TEST_STATION"], "app", self.format(record), nonblocking=%(nonblocking)s)
%(configure)s
logging.info("hello")
logging.getLogger().handlers.clear()
ToStation.client.flush(20)
print(ToStation.client.stats().failed)
ToStation.client.close()
"""


@pytest.mark.parametrize("nonblocking", [True, False])
@pytest.mark.parametrize(
    "configure",
    [
        "logging.basicConfig(level=logging.DEBUG, handlers=[ToStation()])",
        (
            "logging.config.dictConfig({'version': 1, 'root': {'level': 'INFO', 'handlers': ['it']}, "
            "'handlers': {'it': {'()': ToStation, 'eager': True}}})"
        ),
    ],
    ids=["connects at the first line", "connects while logging is being configured"],
)
def test_a_handler_may_connect(run_python, broker, memphis, station_name, configure, nonblocking, until):
    script = SCRIPT % {"nonblocking": nonblocking, "configure": configure}
    done = run_python("-c", script, env={"TEST_URL": broker.url, "TEST_STATION": station_name}, timeout_s=60)
    assert done.stdout == b"0\n", done.stderr
    consumer = memphis.consumer(station_name, "c")
    found = set()
    until(lambda: found.update(message.data[-5:] for message in consumer.fetch(100)) or b"hello" in found)


def test_a_line_says_where_and_when_it_was_made(broker, proxy_to, caplog, until):
    proxy = proxy_to(broker.host, broker.port)
    url = broker.url.replace(str(broker.port), str(proxy.port))
    with memphis_sync.connect(url, reconnect_interval_ms=20) as client:
        client.producer("lines", "p")
        proxy.cut()
        until(lambda: [record for record in caplog.records if "lost" in record.getMessage()])
    for record in caplog.records:
        if "lost" in record.getMessage():
            assert record.filename == "outages.py"
            assert record.threadName.startswith(("memphis-reader-", "memphis-loop-"))
            assert abs(record.created % 1 * 1000 - record.msecs) < 1.001
