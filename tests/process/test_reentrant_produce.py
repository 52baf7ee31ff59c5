"""
Produce from a signal handler, a thousand times a second, and from destructors, in the middle of everything: between any
two lines of the client's own code.
"""

from __future__ import annotations

import pytest

PROGRAM = """
import os, signal, sys
import memphis_sync

package = os.path.dirname(memphis_sync.__file__)

client = memphis_sync.connect(os.environ["TEST_URL"])
station = os.environ["TEST_STATION"]
producer, consumer = client.producer(station, "p"), client.consumer(station, "c")
others, refused = [], []  # a handler may interrupt itself: append() is one step

def produce():
    try:
        producer.produce(b"from in between", nonblocking=True)
        client.produce(station, "kept", b"from in between", nonblocking=True)
        others.append(2)
    except BaseException as exc:
        refused.append(exc)

class Dies:
    def __del__(self):
        produce()

lines = 0
def let_one_die(frame, event, arg):
    global lines
    if not frame.f_code.co_filename.startswith(package):
        return None
    if event == "line":
        lines += 1
        if lines % 7 == 0:
            Dies()
    return let_one_die

client.produce(station, "kept", b"first")
own = 1
if {by_signal}:
    signal.signal(signal.SIGALRM, lambda *_: produce())
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
else:  # the garbage collector could choose any of these moments
    sys.settrace(let_one_die)
rounds = 0
while sum(others) < 600 or rounds < 20:
    rounds += 1
    producer.produce(b"own")
    deliveries = [producer.produce(b"own", nonblocking=True) for _ in range(20)]
    memphis_sync.wait(deliveries)
    own += 21 + producer.produce_many([b"own"] * 20).delivered
    for message in consumer.fetch(100, timeout_s=20):
        message.ack()
    client.flush(20)
signal.setitimer(signal.ITIMER_REAL, 0)
sys.settrace(None)
client.flush(40)
stats = client.stats()
assert refused == [], refused[:3]
assert stats.delivered == stats.accepted == own + sum(others), (stats, own, sum(others))
client.close()
print("ended")
"""


@pytest.mark.parametrize("by_signal", [True, False], ids=["signal", "destructor"])
def test_produce_in_between_hangs_nothing_and_loses_nothing(run_python, broker, station_name, by_signal):
    env = {"TEST_URL": broker.url, "TEST_STATION": station_name}
    done = run_python("-c", PROGRAM.format(by_signal=by_signal), env=env, timeout_s=100)
    assert done.stdout == b"ended\n", done.stderr
