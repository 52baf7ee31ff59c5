"""A child harms nothing of its parent's, and may open clients of its own. tests/process has what it may use of them."""

from __future__ import annotations

PRELUDE = """
import gc, os, sys, traceback, warnings
warnings.simplefilter("ignore", DeprecationWarning)
import memphis_sync
client = memphis_sync.connect(os.environ["TEST_URL"])
station = client.station(os.environ["TEST_STATION"])
producer = client.producer(station.name, "p")
consumer = client.consumer(station.name, "c")
producer.produce(b"one")
(message,) = consumer.fetch(1, timeout_s=5)
def child(run):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            run()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""

COLLECT = """
loop = client._session.loop._loop
def run():
    global client, station, producer, consumer, message
    from memphis_sync._session import shutdown
    shutdown._open.clear()  # the first net: nothing of the parent's is collected while it is listed there
    assert loop.is_closed()  # the second: a StreamWriter that is collected then leaves the shared epoll set alone
    client = station = producer = consumer = message = None
    gc.collect()
assert child(run) == 0
assert not client._session.loop._loop.is_closed()
assert client.ping() < 5
client.station("after-the-fork")
client.close()
print("ok")
"""

OWN = """
def run():
    with memphis_sync.connect(os.environ["TEST_URL"]) as own:
        own.produce(os.environ["TEST_STATION"], "child", b"from the child")
assert child(run) == 0
assert [m.data for m in consumer.fetch(1, timeout_s=5)] == [b"from the child"]
client.close()
print("ok")
"""


def run(run_python, broker, station_name, script):
    env = {"TEST_URL": broker.url, "TEST_STATION": station_name}
    done = run_python("-c", PRELUDE + script, env=env)
    assert done.stdout == b"ok\n", done.stderr


def test_a_child_that_collects_garbage_does_not_deafen_its_parent(run_python, broker, station_name):
    run(run_python, broker, station_name, COLLECT)


def test_a_child_may_open_a_client_of_its_own(run_python, broker, station_name):
    run(run_python, broker, station_name, OWN)
