"""
Forks while other threads of the parent are in the middle of everything: no child hangs at a lock that somebody held, no
message is lost, none is there twice.
"""

from __future__ import annotations

import json

import pytest
from programs import LIMIT_S, Program, check_arrived

import memphis_sync

FORKS = 24  # of each program here; large: all of them

PRELUDE = """
import faulthandler, json, os, sys, threading, time, traceback, warnings
faulthandler.enable()
warnings.simplefilter("ignore", DeprecationWarning)
import memphis_sync
def fail(*error):
    traceback.print_exception(*error)
    sys.stderr.flush()
    os._exit(4)  # its threads go on
sys.excepthook = fail
name, forks, url = sys.argv[1], int(sys.argv[2]), sys.argv[3]
client = memphis_sync.connect(url)
AT_ONCE = 6
accepted, living, stopped = [], {}, threading.Event()
def reap(most):
    while len(living) > most:
        pid, status = os.wait()
        code = os.waitstatus_to_exitcode(status)
        assert code == 0, (living.pop(pid), code)
        del living[pid]
def storm(child):
    for number in range(forks):
        reap(AT_ONCE - 1)
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            try:
                leave = child(number)
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(1)
            leave()
        living[pid] = number
    reap(0)
def start(work):
    def run(number):
        try:
            work(number)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(3)
    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    return threads
def end(threads):
    stopped.set()
    for thread in threads:
        thread.join()
    client.close(60)
    print(json.dumps(accepted))
"""

PRODUCING = """
producer = client.producer(name, "p")
consumer = client.consumer(name, "c")
lately = []
def work(thread):
    n = 0
    while not stopped.is_set():
        body = "parent %d %d" % (thread, n)
        if n % 8 == 0:
            producer.produce(body)
        else:
            lately.append(producer.produce(body, nonblocking=True))
            if n % 16 == 1:
                time.sleep(0.002)
        accepted.append(body)
        n += 1
def child(number):
    assert client.stats().accepted == 0
    tickets = [producer.produce("child %d %d" % (number, n), nonblocking=True) for n in range(10)]
    producer.produce("child %d blocking" % number)
    client.produce(name, "cached", "child %d cached" % number)
    lately[-1:] and repr(lately[-1])
    consumer.fetch(3, timeout_s=0.1)
    if number % 3 == 0:
        return sys.exit  # the drain at the end of the process
    if number % 3 == 1:
        with client:
            pass
        assert all(ticket.done() for ticket in tickets)
    else:
        assert client.flush(60) == 0
    return lambda: os._exit(0)
threads = start(work)
storm(child)
for number in range(forks):
    accepted += ["child %d %s" % (number, n) for n in (*range(10), "blocking", "cached")]
end(threads)
"""

REGISTERING = """
def work(thread):
    n = 0
    while not stopped.is_set():
        n += 1
        body = "parent %d %d" % (thread, n)
        if thread == 0:
            client.produce(name, "new-%d" % n, body)  # each name is registered with the broker first
        elif thread == 1:
            client.producer(name, "made-%d" % n).produce(body)
        elif thread == 2:
            client.consumer(name, "joined-%d" % n, "group").fetch(1, timeout_s=0)
            continue
        else:
            with memphis_sync.connect(url) as other:
                other.produce(name, "other", body)
        accepted.append(body)
        latest[thread] = n
latest = {}
def child(number):
    for thread, n in list(latest.items()):
        client.produce(name, "new-%d" % (n + 1), "child %d %d" % (number, thread))
        accepted.append("child %d %d" % (number, thread))
    client.fetch_messages(name, "joined-%d" % number, "group", timeout_s=30)
    client.producer(name, "child-%d" % number).produce("child %d" % number)
    accepted.append("child %d" % number)
    os.write(told, json.dumps([body for body in accepted if body.startswith("child")]).encode() + b"\\n")
    return sys.exit
reading, told = os.pipe()
threads = start(work)
storm(child)
os.close(told)
with os.fdopen(reading) as lines:
    for line in lines:
        accepted += json.loads(line)
end(threads)
"""


@pytest.fixture
def storm(broker, station_name, tmp_path):
    """Runs a program with forks, and compares what arrived with what was accepted."""

    def run(script, forks, options=""):
        # A connection of the test's own: it is long gone from the session's when it reads.
        program = Program(["-c", PRELUDE + script, station_name, str(forks), broker.url + options], tmp_path)
        try:
            accepted = json.loads(program.done(LIMIT_S + 2 * forks))
        finally:
            program.close()
        with memphis_sync.connect(broker.url) as client:
            check_arrived(client, station_name, accepted)
        return accepted

    return run


def test_forks_among_threads_that_produce(storm):
    accepted = storm(PRODUCING, FORKS)
    assert sum(body.startswith("child") for body in accepted) == 12 * FORKS


def test_forks_among_threads_that_register_join_and_connect(storm):
    accepted = storm(REGISTERING, FORKS)
    assert sum(body.startswith("child") for body in accepted) >= FORKS


@pytest.mark.large
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("script", [PRODUCING, REGISTERING], ids=["producing", "registering"])
def test_two_hundred_forks(storm, script):
    storm(script, 200)
