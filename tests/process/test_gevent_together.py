"""Programs that gevent has patched: many greenlets of one thread share a client, and some of them are interrupted."""

from __future__ import annotations

from typing import Any

import pytest
from programs import check_arrived

START = """
from gevent import monkey; monkey.patch_all()
import os, signal, sys, time
import gevent
import memphis_sync

url, name = os.environ["TEST_URL"], os.environ["TEST_STATION"]

def until(condition, limit_s=60):
    with gevent.Timeout(limit_s):
        while not condition():
            gevent.sleep(0.005)
"""


@pytest.fixture
def run(start_program: Any, broker: Any, station_name: str) -> Any:
    """Starts a program after START; gives it as a ``Program``."""

    def start(text: str, url: str = broker.url) -> Any:
        return start_program("-W", "ignore", "-c", START + text, env={"TEST_URL": url, "TEST_STATION": station_name})

    return start


@pytest.fixture
def proxy(proxy_to: Any, broker: Any) -> Any:
    """What stands between the programs and their broker."""
    made = proxy_to("127.0.0.1", broker.port)
    made.url = f"memphis://root:memphis@127.0.0.1:{made.port}/?timeout_ms=60000"
    return made


CROWD = """
client = memphis_sync.connect(url, timeout_ms=60000)
out, back = [], []

def fetch(number):
    consumer = client.consumer(name + "-quiet", "c%d" % number, "g%d" % number)
    out.append(consumer)
    back.append(len(consumer.fetch(1, timeout_s=60)))

fetching = [gevent.spawn(fetch, number) for number in range(20)]
until(lambda: len(out) == 20)

def request(number):
    # Each makes its producer: the same for all, registered once.
    client.producer(name, "web").produce(b"%d" % number)

requests = [gevent.spawn(request, number) for number in range(200)]
gevent.joinall(requests, timeout=60, raise_error=True)
assert all(each.successful() for each in requests)
assert back == [], "a fetch has ended"
client.produce(name + "-quiet", "web", b"go")
gevent.joinall(fetching, timeout=60, raise_error=True)
assert back == [1] * 20, back
client.close()
"""


def test_many_greenlets_produce_while_others_wait_for_messages(run: Any, memphis: Any, station_name: str) -> None:
    run(CROWD).done()
    check_arrived(memphis, station_name, [str(number) for number in range(200)])


ONCE = """
client = memphis_sync.connect(url)
made, ended = [], []

def use(number):
    # The first one makes station and producer, and opens the data link; the others wait for that.
    made.append(client.produce(name, "p", b"%d" % number))

def close():
    client.close()
    ended.append(True)

def fetch():
    with gevent.Timeout(60):
        found = []
        while not found:
            found = consumer.fetch(1, timeout_s=60)
        fetched.extend(bytes(message.data) for message in found)
        found[0].ack()

consumer, fetched = client.consumer(name + "-other", "c"), []
print("stall", flush=True)
until(lambda: os.path.exists("stalled"))
# One of them asks for a message, which cannot come yet; the other waits for the first.
fetching = [gevent.spawn(fetch) for _ in range(2)]
users = [gevent.spawn(use, number) for number in range(10)]
for _ in range(20):
    gevent.sleep(0.005)
print("go on", flush=True)
gevent.joinall(users, timeout=60, raise_error=True)
assert len(made) == 10, made
for body in (b"1", b"2"):
    client.produce(name + "-other", "p", body)
gevent.joinall(fetching, timeout=60, raise_error=True)
assert sorted(fetched) == [b"1", b"2"], fetched
closers = [gevent.spawn(close) for _ in range(3)]
gevent.joinall(closers, timeout=60, raise_error=True)
assert ended == [True] * 3
"""


def stall_when_asked(program: Any, proxy: Any, tmp_path: Any) -> None:
    """Passes nothing from when the program says "stall" until it says "go on", and waits for its end."""
    program.until(lambda: "stall" in program.stdout)
    proxy.stall()
    (tmp_path / "stalled").touch()
    program.until(lambda: "go on" in program.stdout)
    proxy.go_on()
    program.done()


def test_what_is_done_once_is_waited_for_by_the_other_greenlets(
    run: Any, proxy: Any, memphis: Any, station_name: str, tmp_path: Any
) -> None:
    program = run(ONCE, proxy.url)
    stall_when_asked(program, proxy, tmp_path)
    check_arrived(memphis, station_name, [str(number) for number in range(10)])


INTERRUPTED = """
client = memphis_sync.connect(url)
producer = client.producer(name, "p")
producer.produce(b"first")
consumer = client.consumer(name, "c", "g")
calls = {
    "produce": lambda: producer.produce(b"produce"),
    "result": lambda: producer.produce(b"result", nonblocking=True).result(60),
    "produce_many": lambda: producer.produce_many([b"many 1", b"many 2"]),
    "flush": lambda: client.flush(60),
    "station": lambda: client.station(name + "-other"),
    "new producer": lambda: client.producer(name + "-third", "q"),
    "fetch": lambda: consumer.fetch(1, timeout_s=60),
    "iteration": lambda: next(iter(consumer)),
    "ping": lambda: client.ping(60),
}
print("stall", flush=True)
until(lambda: os.path.exists("stalled"))

for call, make in calls.items():
    start = time.monotonic()
    if HOW == "timeout":
        try:
            with gevent.Timeout(0.1):
                make()
        except gevent.Timeout:
            pass
        else:
            raise AssertionError(call)
    elif HOW == "kill":
        greenlet = gevent.spawn(make)
        gevent.sleep(0.1)
        assert not greenlet.ready(), call
        greenlet.kill(timeout=30)
        assert isinstance(greenlet.value, gevent.GreenletExit), (call, greenlet.value)
    else:
        gevent.spawn_later(0.1, os.kill, os.getpid(), signal.SIGINT)  # while the call waits: before that nobody runs it
        try:
            make()
        except KeyboardInterrupt:
            pass
        else:
            raise AssertionError(call)
    took_s = time.monotonic() - start
    assert took_s < 30, (call, took_s)
    print("ended", call, round(took_s, 3), flush=True)

print("go on", flush=True)
producer.produce(b"last")
assert client.flush(60) == 0
stats = client.stats()
assert stats.accepted == stats.delivered == 6 and stats.failed == stats.abandoned == 0, stats
client.station(name + "-other")
client.producer(name + "-third", "q").produce(b"x")
until(lambda: client.ping(60))
seen = [bytes(message.data) for message in consumer.read_all(timeout_s=60)]
assert sorted(seen) == [b"first", b"last", b"many 1", b"many 2", b"produce", b"result"], seen
client.close()
"""


@pytest.mark.parametrize("how", ["timeout", "kill", "Ctrl-C"])
def test_an_interruption_ends_the_wait_and_nothing_is_lost_or_counted_twice(
    how: str, run: Any, proxy: Any, memphis: Any, station_name: str, tmp_path: Any
) -> None:
    program = run(INTERRUPTED.replace("HOW", repr(how)), proxy.url)
    stall_when_asked(program, proxy, tmp_path)
    check_arrived(memphis, station_name, ["first", "produce", "result", "many 1", "many 2", "last"])


AROUND = """
client = memphis_sync.connect(url.replace("127.0.0.1", "localhost"), **OPTIONS)
producer = client.producer(name, "p")
producer.produce(b"1")

# Nothing waits in the hub, which runs all greenlets; what does not wait is free to be used there.
met = []
def in_hub():
    try:
        client.flush()
    except memphis_sync.OwnThreadError as exc:
        met.append(str(exc))
    met.append(producer.produce(b"2", nonblocking=True))
gevent.get_hub().loop.run_callback(in_hub)
until(lambda: len(met) == 2)
assert "gevent's hub" in met[0], met
met[1].result(60)

# Callbacks and handlers have threads of the interpreter's own, and may use the client there, and what gevent has
# patched; the hub takes what they have to the greenlets.
import threading
import gevent.queue
from gevent.monkey import get_original
thread = get_original("_thread", "get_ident")
here, found, hub = thread(), gevent.queue.Queue(), gevent.get_hub()

def hand_over(what):
    hub.loop.run_callback_threadsafe(found.put, what)

def report(delivery):
    time.sleep(0.01)
    producer.produce(b"4")
    hand_over(thread())

producer.produce(b"3", nonblocking=True, on_delivery=report)
with gevent.Timeout(30):
    assert found.get() != here

def handle(messages, error, context):
    for message in messages:
        time.sleep(0.01)
        message.ack(wait=True)
        hand_over((thread(), bytes(message.data)))

consumer = client.consumer(name, "c")
consumer.consume(handle)
with gevent.Timeout(30):
    handled = [found.get() for _ in range(4)]
assert all(which != here for which, _ in handled)
assert sorted(body for _, body in handled) == [b"1", b"2", b"3", b"4"], handled
assert consumer.stop_consume(60)
client.close()

def ours():
    return {each.name for each in threading.enumerate() if each.name.startswith("memphis-")}

until(lambda: ours() <= {"memphis-bell"})
"""


@pytest.mark.parametrize("link", ["plain", "tls"])
def test_callbacks_and_handlers_run_beside_the_greenlets(
    link: str, run: Any, broker: Any, tls_broker: Any, authority: Any, station_name: str
) -> None:
    options = {"ca_file": str(authority.file)} if link == "tls" else {}
    run(AROUND.replace("OPTIONS", repr(options)), (tls_broker if link == "tls" else broker).url).done()


FORKED = """
client = memphis_sync.connect(url, timeout_ms=60000)
client.produce(name, "p", b"parent 1")
consumer = client.consumer(name + "-quiet", "c")
seen = []

def fetch():
    try:
        seen.append(len(consumer.fetch(1, timeout_s=60)))
    except memphis_sync.MemphisError as exc:
        seen.append(type(exc).__name__)

waiting = gevent.spawn(fetch)
gevent.sleep(0.1)
child = os.fork()
if not child:
    # What waited for the parent's broker has been copied, and ends; a client of the child's own works.
    with gevent.Timeout(60):
        waiting.join()
    assert seen == ["ForkedError"], seen
    own = memphis_sync.connect(url)
    turns = gevent.spawn(gevent.sleep, 0.01)
    own.produce(name, "p", b"child")
    own.close()
    sys.stdout.flush()
    os._exit(0)
_, status = os.waitpid(child, 0)
assert status == 0, status
assert seen == []
client.produce(name + "-quiet", "p", b"go")
waiting.join(60)
assert seen == [1], seen
client.produce(name, "p", b"parent 2")
client.close()
"""


def test_a_greenlet_that_waits_ends_in_the_child_of_a_fork(run: Any, memphis: Any, station_name: str) -> None:
    run(FORKED).done()
    check_arrived(memphis, station_name, ["parent 1", "parent 2", "child"])
