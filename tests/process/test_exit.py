"""The ends of a process, and what each costs: handlers, daemon threads, clients that are stalled, exit handlers."""

from __future__ import annotations

import os
import signal
import time

import pytest
from fix_process import said_beside_the_wait
from programs import check_arrived, read_back

LIMIT_S = 60

# ---- nine ways to end, and two more ---------------------------------------------------------------------------------

PROGRAM = """
import os, signal, sys
import memphis_sync
client = memphis_sync.connect(os.environ["TEST_URL"], exit_timeout_s=50)
producer = client.producer(os.environ["TEST_STATION"], "leaver")
for number in range(100):
    producer.produce(b"%d" % number, nonblocking=True)
client.flush()
for number in range(100, 2000):
    producer.produce(b"%d" % number, nonblocking=True)
{end}
"""
TWO_LINES = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n"  # what the documentation tells
EXEC = "os.execv(sys.executable, [sys.executable, '-c', ''])"


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("", 0),
        ("sys.exit(3)", 3),
        ("raise KeyError('boom')", 1),
        ("signal.raise_signal(signal.SIGINT)", -signal.SIGINT),
        (TWO_LINES + "signal.raise_signal(signal.SIGTERM)", 0),
        ("del client, producer", 0),
    ],
    ids=["return", "sys.exit", "exception", "ctrl-c", "sigterm-handled", "forgotten"],
)
def test_an_end_that_runs_exit_handlers_loses_nothing(run_python, broker, memphis, station_name, end, code):
    env = {"TEST_URL": broker.url, "TEST_STATION": station_name}
    done = run_python("-c", PROGRAM.format(end=end), env=env, check=False, timeout_s=LIMIT_S)
    assert done.returncode == code, done.stderr
    assert b"UndeliveredWarning" not in done.stderr
    check_arrived(memphis, station_name, (str(number) for number in range(2000)))


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("signal.raise_signal(signal.SIGTERM)", -signal.SIGTERM),
        ("signal.raise_signal(signal.SIGHUP)", -signal.SIGHUP),
        ("os._exit(4)", 4),
        ("signal.raise_signal(signal.SIGKILL)", -signal.SIGKILL),
        (EXEC, 0),
    ],
    ids=["sigterm", "sighup", "os._exit", "sigkill", "exec"],
)
def test_an_end_that_runs_none_loses_at_most_what_was_queued(run_python, broker, memphis, station_name, end, code):
    env = {"TEST_URL": broker.url, "TEST_STATION": station_name}
    done = run_python("-c", PROGRAM.format(end=end), env=env, check=False, timeout_s=LIMIT_S)
    assert (done.returncode, done.stderr) == (code, b"")
    arrived = [int(message.data) for message in read_back(memphis, station_name)]
    assert len(arrived) == len(set(arrived))
    assert set(range(100)) <= set(arrived) <= set(range(2000))


MANY = """
import os
import memphis_sync
client = memphis_sync.connect(os.environ["TEST_URL"], exit_timeout_s=50)
producer = client.producer(os.environ["TEST_STATION"], "leaver")
for number in range(100_000):
    producer.produce(b"x", nonblocking=True)
"""


def test_a_hundred_thousand_queued_messages_are_sent_at_the_end(run_python, broker, memphis, station_name):
    done = run_python("-c", MANY, env={"TEST_URL": broker.url, "TEST_STATION": station_name}, timeout_s=LIMIT_S)
    assert b"UndeliveredWarning" not in done.stderr
    info = memphis._session.call(
        lambda: memphis._session.control.js_api(f"STREAM.INFO.{station_name}$1", None, 20), 20, "STREAM.INFO"
    )
    assert info["state"]["messages"] == 100_000


# ---- a drain that lasts ---------------------------------------------------------------------------------------------

STALLED = """
import os, signal, sys, threading
import memphis_sync
exit_s, count = float(os.environ["TEST_EXIT_S"]), int(os.environ["TEST_CLIENTS"])
clients = [memphis_sync.connect(os.environ["TEST_URL"], exit_timeout_s=exit_s) for _ in range(count)]
producers = [client.producer(os.environ["TEST_STATION"], "leaver") for client in clients]
print("connected", flush=True)
sys.stdin.readline()
for producer in producers:
    for number in range(10):
        producer.produce(b"stalled", nonblocking=True)
threading.Thread(target=producers[0].produce, args=(b"blocking",), daemon=True).start()
while producers[0]._sender.link.stats().accepted < 11:
    pass
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
"""


@pytest.fixture
def stalled(start_python, broker, proxy_to, station_name):
    """``stalled(clients, exit_s)`` gives a program that ends while nothing passes on its clients' connections."""

    def start(clients, exit_s):
        proxy = proxy_to("127.0.0.1", broker.port)
        url = broker.url.replace(str(broker.port), str(proxy.port))
        env = {"TEST_URL": url, "TEST_STATION": station_name}
        env.update({"TEST_CLIENTS": str(clients), "TEST_EXIT_S": str(exit_s)})
        child = start_python("-c", STALLED, env=env)
        assert child.line() == b"connected\n"
        proxy.stall()
        child.process.stdin.write(b"go\n")
        child.process.stdin.flush()
        return child

    return start


def test_many_stalled_clients_drain_side_by_side(stalled):
    """One after the other these would take a second each, and each of the threads that wait would show a traceback."""
    start = time.monotonic()
    child = stalled(45, 2.0)
    assert child.wait(LIMIT_S) == 0
    assert time.monotonic() - start < 2 + 30
    text = child.stderr.decode()
    assert "memphis_sync: 451 messages are not confirmed yet; waiting up to 2 s (Ctrl-C to give up)" in text
    assert "UndeliveredWarning: 451 messages were not confirmed at the end of the process" in text
    assert "Traceback" not in text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm-handled"])
@pytest.mark.parametrize("times", [1, 2])
def test_a_signal_ends_the_drain_at_once(stalled, until, number, times):
    child = stalled(2, 50.0)
    until(lambda: b"21 messages are not confirmed yet; waiting up to 50 s" in child.stderr)
    for _ in range(times):
        os.kill(child.process.pid, number)
    start = time.monotonic()
    assert child.wait(LIMIT_S) == 0
    assert time.monotonic() - start < 20
    text = child.stderr.decode()
    assert "memphis_sync: given up" in text
    assert "UndeliveredWarning: 21 messages were not confirmed at the end of the process" in text
    assert "Traceback" not in text


# ---- handlers and threads that go on --------------------------------------------------------------------------------

CALLBACK = """
import os, sys, threading
import memphis_sync
client = memphis_sync.connect(os.environ["TEST_URL"], exit_timeout_s=50)
producer = client.producer(os.environ["TEST_STATION"], "p")
producer.produce_many([b"first", b"never handed out"])
is_handling = threading.Event()
def handle(messages, error, context):
    is_handling.set()
    print(*(message.data.decode() for message in messages), flush=True)
    sys.stdin.readline()
    producer.produce(b"by the handler", nonblocking=True)
    for message in messages:
        message.ack()
    print("handled", flush=True)
client.consumer(producer.station_name, "g", batch_size=1).consume(handle)
is_handling.wait()
"""


ON_DELIVERY = """
import os, sys
import memphis_sync
client = memphis_sync.connect(os.environ["TEST_URL"], exit_timeout_s=50)
def settled(delivery):
    print(delivery.result().sequence, flush=True)
    sys.stdin.readline()
    print("returned", flush=True)
client.produce(os.environ["TEST_STATION"], "p", b"x", nonblocking=True, on_delivery=settled)
"""


def check_the_end_waits(child, until, last_line):
    """The end of the child waits for its callback, which goes on when it is written to."""
    until(lambda: b"memphis_sync: 1 callback still runs; waiting up to 50 s" in child.stderr)
    child.process.stdin.write(b"go on\n")
    child.process.stdin.flush()
    assert child.line() == last_line
    assert child.wait(LIMIT_S) == 0


def test_a_delivery_callback_that_runs_has_the_time_to_end(start_python, broker, station_name, until):
    child = start_python("-c", ON_DELIVERY, env={"TEST_URL": broker.url, "TEST_STATION": station_name})
    assert child.line() == b"1\n"
    check_the_end_waits(child, until, b"returned\n")


def test_a_handler_that_runs_has_the_time_to_end(start_python, broker, memphis, station_name, until):
    child = start_python("-c", CALLBACK, env={"TEST_URL": broker.url, "TEST_STATION": station_name})
    assert child.line() == b"first\n"
    check_the_end_waits(child, until, b"handled\n")
    assert child.process.stdout.read() == b""
    left = [message.data for message in memphis.consumer(station_name, "g").read_all()]
    assert left == [b"never handed out", b"by the handler"]


DAEMONS = """
import os, threading, time
import memphis_sync
client = memphis_sync.connect(os.environ["TEST_URL"], exit_timeout_s=50, outbox_max_messages=3000)
producer = client.producer(os.environ["TEST_STATION"], "p")
started = threading.Barrier(4)
def produce():
    started.wait()
    while True:
        try:
            producer.produce(b"more", nonblocking=True)
        except memphis_sync.BufferFullError:
            time.sleep(0.001)
def read():
    consumer = client.consumer(producer.station_name, "g")
    started.wait()
    while True:
        consumer.fetch(1, timeout_s=60)
for work in (produce, produce, read):
    threading.Thread(target=work, daemon=True).start()
started.wait()
for _ in range(5):
    producer.produce(b"confirmed")
"""


def test_daemon_threads_that_go_on_delay_no_end_and_show_no_traceback(run_python, broker, memphis, station_name):
    start = time.monotonic()
    done = run_python("-c", DAEMONS, env={"TEST_URL": broker.url, "TEST_STATION": station_name}, timeout_s=LIMIT_S)
    assert time.monotonic() - start < 40
    assert b"Traceback" not in done.stderr
    assert b"Warning" not in done.stderr


# ---- exit handlers --------------------------------------------------------------------------------------------------

CONNECT = """
import atexit, os, threading
import memphis_sync
def late():
    try:
        memphis_sync.connect(os.environ["TEST_URL"])
    except memphis_sync.UsageError as exc:
        print(exc)
{when}
"""


@pytest.mark.parametrize(
    "when",
    [
        "atexit.register(late); client = memphis_sync.connect(os.environ['TEST_URL'])",
        "client = memphis_sync.connect(os.environ['TEST_URL']); atexit.register(late)",
        "atexit.register(late)",
        "threading._register_atexit(late)",
    ],
    ids=["after-the-drain", "before-the-drain", "without-a-client", "of-threading"],
)
def test_connect_in_an_exit_handler_is_refused(run_python, broker, when):
    done = run_python("-c", CONNECT.format(when=when), env={"TEST_URL": broker.url}, timeout_s=LIMIT_S)
    assert done.stdout.startswith(b"the process is ending, and no client can be opened any more"), done.stderr
    assert done.stderr == b""


PRODUCE = """
import atexit, os
import memphis_sync
def late(text, **options):
    try:
        print(type(producer.produce(text, **options)).__name__, flush=True)
    except memphis_sync.ClosedError:
        print("ClosedError", flush=True)
atexit.register(late, b"too late")
client = memphis_sync.connect(os.environ["TEST_URL"], exit_timeout_s=50)
producer = client.producer(os.environ["TEST_STATION"], "p")
atexit.register(late, b"blocking")
atexit.register(late, b"in the background", nonblocking=True)
"""


def test_an_exit_handler_produces_until_the_drain_has_ended(run_python, broker, memphis, station_name):
    done = run_python("-c", PRODUCE, env={"TEST_URL": broker.url, "TEST_STATION": station_name}, timeout_s=LIMIT_S)
    assert done.stdout.split() == [b"Delivery", b"PubAck", b"ClosedError"]
    assert said_beside_the_wait(done.stderr) == []
    check_arrived(memphis, station_name, ["blocking", "in the background"])
