"""What a process keeps after many clients have come and gone: no thread, no descriptor, no memory."""

from __future__ import annotations

from typing import Any

import pytest
from fix_process import run_python

SCRIPT = """
import ctypes, gc, os, sys, threading, time
import memphis_sync
url, station, how, warm_up, cycles = *sys.argv[1:4], int(sys.argv[4]), int(sys.argv[5])

def use(client):
    client.produce(station, "p", b"x")
    client.produce(station, "p", b"y", nonblocking=True)
    consumer = client.consumer(station, "c")
    consumer.consume(lambda messages, *_: [message.ack() for message in messages])

def threads():  # those in reserve, which 3.12.0 to 3.12.2 keep, aside
    names = [thread.name for thread in threading.enumerate()]
    return sum(name.startswith("memphis-") and name != "memphis-spare" for name in names)

def cycle():
    if how == "closed":
        with memphis_sync.connect(url) as client:
            use(client)
    else:
        use(memphis_sync.connect(url))  # forgotten, as by a cell that is run again
    ended()  # how many are there at once is not the question

def ended():
    deadline = time.monotonic() + 60
    while threads() and time.monotonic() < deadline:
        time.sleep(0.01)

def settled():
    gc.collect()
    # What is free goes back to the system: how much of it the C library keeps is up to it.
    getattr(ctypes.CDLL(None), "malloc_trim", lambda _: 0)(0)
    pages = int(open("/proc/self/statm").read().split()[1])
    kib = pages * os.sysconf("SC_PAGE_SIZE") // 1024
    return len(os.listdir("/proc/self/fd")), threads(), len(gc.get_objects()), kib

for _ in range(warm_up):
    cycle()
before = settled()
for _ in range(cycles):
    cycle()
after = settled()
print(*(b - a for a, b in zip(before, after)))
"""


@pytest.mark.parametrize("how", ["closed", "forgotten"])
@pytest.mark.parametrize(("warm_up", "cycles"), [(10, 15), pytest.param(100, 1000, marks=pytest.mark.large)])
@pytest.mark.timeout(900)
def test_clients_that_have_ended_leave_nothing(
    broker: Any, station_name: str, how: str, warm_up: int, cycles: int
) -> None:
    args = [broker.url, station_name, how, str(warm_up), str(cycles)]
    # One arena: with one for each thread the C library keeps what ended threads have freed, some more each time.
    env = {"MALLOC_ARENA_MAX": "1"}
    options = ["-W", "ignore::ResourceWarning", "-c", SCRIPT]
    done = run_python(*options, *args, env=env, timeout_s=120 + cycles)
    descriptors, threads, objects, kib = map(int, done.stdout.split())
    assert (descriptors, threads) == (0, 0)
    assert objects < cycles, "not one object for each client"
    assert kib < 1024


def test_connections_that_fail_leave_nothing(refused_address: tuple[str, int], deaf_address: tuple[str, int]) -> None:
    script = """
import gc, os, sys, threading
import memphis_sync
def fail(port):
    try: memphis_sync.connect(f"memphis://root:memphis@127.0.0.1:{port}", timeout_ms=50)
    except memphis_sync.ConnectError: return
    raise AssertionError
def now():
    gc.collect()
    return len(os.listdir("/proc/self/fd")), sum(t.name.startswith("memphis-loop") for t in threading.enumerate())
for port in sys.argv[1:]: fail(port)
before = now()
for _ in range(20):
    for port in sys.argv[1:]: fail(port)
assert now() == before, (now(), before)
"""
    run_python("-W", "error", "-c", script, str(refused_address[1]), str(deaf_address[1]), timeout_s=60)
