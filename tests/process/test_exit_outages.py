"""The broker is away while a process ends: what is queued waits for it, and reaches it as soon as it is back."""

from __future__ import annotations

import time

import pytest

PROGRAM = """
import os, time
import memphis_sync
from memphis_sync._data import outages
outages.QUICK_S = 0.0  # as in an outage of more than a minute: the next try may be a minute away
client = memphis_sync.connect(os.environ["TEST_URL"], exit_timeout_s=50, reconnect_interval_ms=60000)
station = os.environ["TEST_STATION"]
producer = client.producer(station, "known")
producer.produce(b"warm")
print("ready", flush=True)
while client.is_connected():
    time.sleep(0.01)
for number in range(9):
    producer.produce(b"known %d" % number, nonblocking=True)
    client.produce(station, "new", b"new %d" % number, nonblocking=True)
"""


def stored(memphis, station_name, count):
    consumer = memphis.consumer(station_name, "reader")
    found = []
    deadline = time.monotonic() + 30
    while len(found) < count and time.monotonic() < deadline:
        batch = consumer.fetch(1000, timeout_s=0.5)
        for message in batch:
            message.ack()
        found += [bytes(message.data) for message in batch]
    return sorted(found)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_what_is_queued_is_sent_soon_after_the_broker_is_back(
    start_python, broker, memphis, proxy_to, station_name, until, host
):
    """Messages of a producer that is there, and of one that must be registered first, over the other link."""
    proxy = proxy_to("127.0.0.1", broker.port)
    url = broker.url.replace(str(broker.port), str(proxy.port)).replace("127.0.0.1", host)
    child = start_python("-c", PROGRAM, env={"TEST_URL": url, "TEST_STATION": station_name})
    assert child.line() == b"ready\n"
    proxy.down()
    until(lambda: b"18 messages are not confirmed yet" in child.stderr)
    proxy.up()
    start = time.monotonic()
    assert child.wait(60) == 0
    assert time.monotonic() - start < 20
    sent = [f"{kind} {number}".encode() for kind in ("known", "new") for number in range(9)]
    assert stored(memphis, station_name, 19) == sorted([*sent, b"warm"])
    assert b"UndeliveredWarning" not in child.stderr
    assert b"Traceback" not in child.stderr


FORKED_FROM_C = """
import ctypes, os, sys
import memphis_sync
client = memphis_sync.connect(os.environ["TEST_URL"])
pid = ctypes.PyDLL(None).fork()  # which runs none of Python's hooks
if pid == 0:
    sys.exit(7)
print(os.WEXITSTATUS(os.waitpid(pid, 0)[1]), client.ping(20) < 20, flush=True)
"""


def test_a_child_that_was_forked_from_c_ends_though_the_host_is_a_name(run_python, broker):
    """The interpreter waits for the threads of executors at its end, also for those that no fork has copied."""
    url = broker.url.replace("127.0.0.1", "localhost")
    assert run_python("-c", FORKED_FROM_C, env={"TEST_URL": url}, timeout_s=40).stdout == b"7 True\n"
