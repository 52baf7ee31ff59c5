"""How a program that gevent has patched waits: what the whole calls of the other files would hide or make up for."""

from __future__ import annotations

from typing import Any

import pytest

# A ring that nobody hears is made up for after greenlets.NET_S. Here it is not: a wait that counts on it never ends.
WITHOUT_NET = """
from gevent import monkey; monkey.patch_all()
import os, threading as program_threads, time
import gevent
import memphis_sync
from gevent.monkey import get_original
from memphis_sync._base import native, threads, waits
from memphis_sync._session import greenlets
from memphis_sync.errors import OwnThreadError
greenlets.NET_S = 3600
name = os.environ["TEST_STATION"]
client = memphis_sync.connect(os.environ["TEST_URL"], timeout_ms=60000)
lock = native.Lock()
lock.acquire()

def until(condition):
    with gevent.Timeout(60):
        while not condition():
            gevent.sleep(0.005)

"""

CASES = {
    "a pause lets others run": """
ticking = gevent.spawn(lambda: [gevent.sleep(0.005) for _ in range(20)])
while not ticking.ready():
    waits.sleep(0.02)
""",
    "the hub is told that it must not wait": """
met = []
def in_hub():
    try:
        waits.acquire(lock, 1)
    except OwnThreadError as exc:
        met.append(str(exc))
gevent.get_hub().loop.run_callback(in_hub)
until(lambda: met)
assert "gevent's hub" in met[0], met
""",
    "greenlets of a thread are told apart": """
inside, checked, found = [], [], []
def hand_over():
    with threads.handing_over(print):
        inside.append(True)
        until(lambda: checked)
        found.append(threads.sink() is print)
other = gevent.spawn(hand_over)
until(lambda: inside)
assert threads.sink() is None
checked.append(True)
other.join()
assert found == [True] and threads.sink() is None
""",
    "a thread without a hub sleeps": """
worked, clock = [], time.thread_time
def wait_there():
    start = clock()
    waits.acquire(lock, 1.0)
    worked.append(clock() - start)
get_original("_thread", "start_new_thread")(wait_there, ())
until(lambda: worked)
assert worked[0] < 0.03, worked
""",
    "a loop whose greenlets have ended is over": """
client.produce(name, "p", b"x")
assert gevent.wait(timeout=60) is True
""",
    "each ring is heard": """
consumer = client.consumer(name, "c")
def produce(number):
    for _ in range(25):
        client.produce(name, "p", b"x")
def fetch():
    found = 0
    while found < 100:
        for message in consumer.fetch(100, timeout_s=60):
            message.ack(wait=True)
            found += 1
gevent.joinall([*(gevent.spawn(produce, number) for number in range(4)), gevent.spawn(fetch)], raise_error=True)
""",
    "a release on another thread is heard": """
client.close()  # whose links ring as well
def release():
    native.sleep(0.3)
    lock.release()
    waits.ring()
get_original("_thread", "start_new_thread")(release, ())
with gevent.Timeout(60):
    assert waits.acquire(lock, 3600)
""",
    "a ring between a look and the wait after it is heard": """
client.close()
def in_thread():
    gevent.sleep(0)
    waits.acquire(lock, 3600)  # for this hub the bell is being heard, and the ring is told to it alone
get_original("_thread", "start_new_thread")(in_thread, ())
until(lambda: waits.greenlets._waiting)
class Late:
    is_free = False
    def acquire(self, blocking=True, timeout=-1):
        was_free, self.is_free = self.is_free, True
        waits.ring()
        native.sleep(0.3)
        return was_free
with gevent.Timeout(60):
    assert waits.acquire(Late(), 3600)
""",
    "a hub that is gone keeps no other from hearing": """
consumer, left = client.consumer(name + "-quiet", "c"), []
def in_thread():
    gevent.spawn(consumer.fetch, 1, timeout_s=60)
    gevent.sleep(0.1)
    gevent.get_hub().destroy(destroy_loop=True)
    left.append(True)
get_original("_thread", "start_new_thread")(in_thread, ())
until(lambda: left)
for _ in range(20):
    client.produce(name, "p", b"x")
""",
    "a thread may have a hub after another": """
done = []
def in_thread():
    for _ in range(2):
        gevent.sleep(0)
        client.produce(name, "p", b"x")
        gevent.get_hub().destroy(destroy_loop=True)
        done.append(True)
get_original("_thread", "start_new_thread")(in_thread, ())
until(lambda: len(done) == 2)
""",
    "who waits no longer is told of nothing": """
client.produce(name, "p", b"x")
until(lambda: not waits.greenlets._waiting)
""",
    "what waited before a fork ends in the child": """
greenlets.NET_S, met = 0.05, []  # the child's bell is another one
def wait_here():
    try:
        waits.acquire(lock, 60)
    except memphis_sync.ForkedError:
        met.append(True)
waiting = gevent.spawn(wait_here)
gevent.sleep(0.05)
child = os.fork()
if not child:
    with gevent.Timeout(30):
        memphis_sync.connect(os.environ["TEST_URL"]).produce(name, "p", b"y")
        waiting.join()
    os._exit(0 if met else 1)
assert os.waitpid(child, 0)[1] == 0
assert not waiting.ready()
""",
    "the hub of a callbacks thread ends with it": """
def once():
    own, told = memphis_sync.connect(os.environ["TEST_URL"]), []
    def report(delivery):
        time.sleep(0.001)  # gevent's, which makes a hub there
        own.produce(name, "p", b"y")
        told.append(True)
    own.produce(name, "p", b"x", nonblocking=True, on_delivery=report)
    until(lambda: told)
    own.close()
def descriptors():
    return len(os.listdir("/proc/self/fd"))
once()
until(lambda: not any(each.name.startswith("memphis-callbacks") for each in program_threads.enumerate()))
before = descriptors()
for _ in range(5):
    once()
until(lambda: descriptors() <= before)
""",
}


@pytest.mark.parametrize("case", CASES)
def test_waiting(case: str, broker: Any, station_name: str, start_program: Any) -> None:
    program = WITHOUT_NET + CASES[case] + "print('ended', flush=True)\nos._exit(0)  # without a drain\n"
    env = {"TEST_URL": broker.url, "TEST_STATION": station_name}
    assert start_program("-W", "ignore", "-c", program, env=env).done() == "ended\n"
