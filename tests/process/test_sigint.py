"""Ctrl-C in every call that waits, while nothing passes on the connections: it is served at once, and no more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

SUPPORT = Path(__file__).parent.parent / "support"
SERVED_S = 5.0  # the promise is 0.3 s on a machine that is not busy; a wait that serves no signal takes a minute

PROGRAM = """
import json, os, signal, sys, threading, time
import memphis_sync
from fix_proxy import Proxy, listen_at

direct, station = os.environ["TEST_URL"], os.environ["TEST_STATION"]
port = int(direct.rpartition(":")[2])
proxy = Proxy(("127.0.0.1", port))
url = direct.replace(str(port), str(proxy.port))
with listen_at(0) as unused:
    away = direct.replace(str(port), str(unused.getsockname()[1]))

patience = {"ping_interval_s": 600}  # nothing passes for long, and no connection is to be given up for that
client = memphis_sync.connect(url, **patience)
idle = memphis_sync.connect(url, **patience)  # with one connection only: its second one is opened below
small = memphis_sync.connect(url, outbox_max_messages=8, **patience)
producer = client.producer(station, "p")
doomed = client.producer(station, "doomed")
patient = small.producer(station, "patient", block_on_full_s=60)
consumer, handled = client.consumer(station, "c"), client.consumer(station, "handled")
producer.produce(b"received")
(message,) = consumer.fetch(1, timeout_s=20)
is_handling, may_end = threading.Event(), threading.Event()
def handle(*_):
    is_handling.set()
    may_end.wait(60)
handled.consume(handle)
is_handling.wait(60)
proxy.stall()
for _ in range(8):
    patient.produce(b"full", nonblocking=True)

def queued():
    return producer.produce(b"queued", nonblocking=True)

calls = {
    "connect": lambda: memphis_sync.connect(url, timeout_ms=60000),
    "connect to a broker that is away": lambda: memphis_sync.connect(away, wait_s=60),
    "station": lambda: client.station("another"),
    "destroy_station": lambda: client.destroy_station("another"),
    "producer": lambda: client.producer("another", "p"),
    "consumer": lambda: client.consumer("another", "c"),
    "create_schema": lambda: client.create_schema("s", "json", schema_content="{}"),
    "dls": lambda: list(client.dls(station).list()),
    "produce": lambda: producer.produce(b"interrupted", 60),
    "produce, registering": lambda: client.produce("another", "new", b"interrupted", ack_wait_sec=60),
    "produce, opening the second connection": lambda: idle.produce(station, "idle", b"interrupted"),
    "produce_many": lambda: producer.produce_many([b"interrupted"] * 10),
    "concurrent_task_limit": lambda: producer.produce(b"no", nonblocking=True, concurrent_task_limit=2),
    "block_on_full_s": lambda: patient.produce(b"no", nonblocking=True),
    "fetch": lambda: consumer.fetch(timeout_s=60),
    "fetch_messages": lambda: client.fetch_messages(station, "new", timeout_s=60),
    "iteration": lambda: next(iter(consumer)),
    "read_all": lambda: list(consumer.read_all(timeout_s=60)),
    "ack": lambda: message.ack(wait=True, timeout_s=60),
    "stop_consume": lambda: handled.stop_consume(60),
    "wait": handled.wait,
    "run": lambda: consumer.run(print, stop_signals=(signal.SIGTERM,)),
    "flush": client.flush,
    "flush of a producer": producer.flush,
    "result": lambda: queued().result(),
    "exception": lambda: queued().exception(60),
    "wait": lambda: memphis_sync.wait([queued(), queued()]),
    "as_completed": lambda: next(memphis_sync.as_completed([queued(), queued()])),
    "ping": lambda: client.ping(60),
    "destroy of a producer": doomed.destroy,
    "destroy of a consumer": consumer.destroy,
}
served = {}
for name, call in calls.items():
    sent = []
    def interrupt():
        time.sleep(0.2)
        sent.append(time.monotonic())
        if os.environ["TEST_SERVED_ON"] == "main":
            os.kill(os.getpid(), signal.SIGINT)
        else:  # nothing wakes the main thread, as when the signal comes just before it begins to wait
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        try:
            served[name] = f"it returned {call()!r}"
        except KeyboardInterrupt:
            served[name] = time.monotonic() - sent[0]
        except Exception as exc:
            served[name] = repr(exc)
        thread.join()
    except KeyboardInterrupt:
        thread.join()
may_end.set()
proxy.go_on()
end = time.monotonic() + 40
while not (client.is_connected() and small.is_connected()) and time.monotonic() < end:
    time.sleep(0.01)
answers = client.flush(40), small.flush(40), client.ping(20) < 20, idle.ping(20) < 20
acks = producer.produce(b"usable"), client.produce(station, "fresh", b"usable"), idle.produce(station, "f", b"usable")
every = [each.stats() for each in (client, small, idle)]
counted = [s.accepted == s.delivered + s.failed + s.abandoned + s.queued + s.in_flight for s in every]
for each in (client, small, idle):
    each.close()
delivered = sum(s.delivered for s in every)
print(json.dumps({"served": served, "answers": answers, "counted": counted, "delivered": delivered}))
proxy.close()
"""


@pytest.mark.slow
@pytest.mark.parametrize("thread", ["main", "another"])
def test_ctrl_c_is_served_in_every_call_that_waits(run_python, broker, memphis, station_name, thread):
    memphis.station(station_name)
    env = {"TEST_URL": broker.url, "TEST_STATION": station_name, "TEST_SERVED_ON": thread, "PYTHONPATH": str(SUPPORT)}
    done = run_python("-W", "ignore", "-c", PROGRAM, env=env, timeout_s=110)
    result = json.loads(done.stdout)
    late = {name: took for name, took in result["served"].items() if isinstance(took, str) or took > SERVED_S}
    assert late == {}
    assert result["answers"] == [0, 0, True, True]
    assert result["counted"] == [True, True, True]


CLOSING = """
import os, signal, threading, time
import memphis_sync
from fix_proxy import Proxy

direct, station = os.environ["TEST_URL"], os.environ["TEST_STATION"]
port = int(direct.rpartition(":")[2])
proxy = Proxy(("127.0.0.1", port))
url = direct.replace(str(port), str(proxy.port))
for gap_s in (0, 0.001, 0.003, 0.01, 0.03, 0.06, 0.09):
    client = memphis_sync.connect(url)
    producer = client.producer(station, "p")
    proxy.stall()
    for _ in range(3):
        producer.produce(b"queued", nonblocking=True)
    def interrupt():
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(gap_s)
        if os.environ["TEST_SERVED_ON"] == "main":
            os.kill(os.getpid(), signal.SIGINT)
        else:  # nothing wakes the main thread, as when the signal comes just before it begins to wait
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)
    thread = threading.Thread(target=interrupt)
    thread.start()
    start = time.monotonic()
    try:
        try:
            client.close(60)
        finally:
            took_s = time.monotonic() - start
            thread.join()
            time.sleep(0.001)
    except KeyboardInterrupt:
        pass
    assert took_s < 20, took_s
    client.close(0)
    assert client.stats().abandoned == 3, client.stats()
    proxy.go_on()
    proxy.cut()
proxy.close()
end = time.monotonic() + 20
while any(thread.name.startswith("memphis-") for thread in threading.enumerate()) and time.monotonic() < end:
    time.sleep(0.01)
print([thread.name for thread in threading.enumerate() if thread.name.startswith("memphis-")])
"""


def test_a_second_ctrl_c_leaves_close_at_once_and_another_close_ends_it(run_python, broker, memphis, station_name):
    memphis.station(station_name)
    env = {"TEST_URL": broker.url, "TEST_STATION": station_name, "PYTHONPATH": str(SUPPORT)}
    done = run_python("-W", "ignore", "-c", CLOSING, env=env, timeout_s=110)
    assert done.stdout == b"[]\n", done.stderr
