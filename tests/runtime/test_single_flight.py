"""One maker a key, however many threads ask."""

from __future__ import annotations

import threading
import time

import pytest

from memphis_sync._session.single_flight import SingleFlight


def race(count, run):
    barrier = threading.Barrier(count)

    def start(number):
        barrier.wait()
        run(number)

    threads = [threading.Thread(target=start, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)


def test_twenty_threads_make_one():
    cache = SingleFlight()
    made, got = [], []

    def make():
        time.sleep(0.05)
        made.append(object())
        return made[-1]

    race(20, lambda _: got.append(cache.get("key", make)))
    assert len(made) == 1
    assert got == made * 20


def test_keys_do_not_wait_for_each_other():
    cache = SingleFlight()
    all_at_once = threading.Barrier(8)

    def make(n):
        all_at_once.wait(20)
        return n + 1

    race(8, lambda n: cache.get(n, lambda: make(n)))
    assert sorted(cache.values()) == list(range(1, 9))


def test_a_failed_make_is_tried_again():
    cache = SingleFlight()
    with pytest.raises(ZeroDivisionError):
        cache.get("key", lambda: 1 // 0)
    assert cache.values() == []
    assert cache.get("key", lambda: "made") == "made"


def test_what_is_discarded_is_made_anew():
    cache = SingleFlight()
    first = cache.get("key", object)
    cache.discard(first)
    assert cache.get("key", object) is not first
    cache.clear()
    assert cache.values() == []


FORKED = """
import os, threading
from memphis_sync._session import fork
from memphis_sync._session.single_flight import SingleFlight
fork.watch_forks()
cache = SingleFlight()
cache.get("there", lambda: "made by the parent")
making, release = threading.Event(), threading.Event()
def make():
    making.set()
    release.wait(60)
    return "late"
thread = threading.Thread(target=cache.get, args=("key", make))
thread.start()
making.wait(60)
pid = os.fork()
if pid == 0:
    os._exit(0 if cache.get("key", lambda: "made by the child") == "made by the child" else 1)
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
release.set()
thread.join()
print(status, cache.get("key", object))
"""


def test_a_child_does_not_wait_for_a_maker_that_stayed_with_the_parent(run_python):
    done = run_python("-W", "ignore", "-c", FORKED, timeout_s=30)
    assert done.stdout == b"0 late\n"
