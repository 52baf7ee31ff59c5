"""The outbox in a file across a fork: a child has a file of its own, and nothing that it has left stays unsent."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from programs import check_arrived, read_back

import memphis_sync

CHILD_OF_ITS_OWN = """
import os, sys
import memphis_sync
path, station = os.environ["TEST_OUTBOX"], os.environ["TEST_STATION"]
client = memphis_sync.connect(os.environ["TEST_URL"], outbox=path)
producer = client.producer(station, "parent")
producer.produce(b"before", nonblocking=True)
pid = os.fork()
if pid == 0:
    with memphis_sync.connect(os.environ["TEST_URL"], outbox=path) as mine:
        print(sorted(os.listdir(os.path.dirname(path))), os.getpid(), flush=True)
        mine.produce(station, "child", b"of the child")
    sys.exit(0)
code = os.WEXITSTATUS(os.waitpid(pid, 0)[1])
producer.produce(b"behind", nonblocking=True)
client.close()
print(code, sorted(os.listdir(os.path.dirname(path))), flush=True)
"""


def check_files(run_python, script, broker, station_name, tmp_path):
    """Runs a program that forks: its child says which files there are in its time, and it says so after its end."""
    env = {"TEST_URL": broker.url, "TEST_OUTBOX": str(tmp_path / "outbox"), "TEST_STATION": station_name}
    first, second = run_python("-c", script, env=env, timeout_s=60).stdout.decode().splitlines()
    pid = first.split()[-1]
    assert first == f"['outbox', 'outbox.{pid}'] {pid}"
    assert second == "0 ['outbox']"


def test_a_child_gets_a_file_of_its_own_that_is_gone_when_it_is_empty(
    run_python, broker, memphis, station_name, tmp_path
):
    memphis.station(station_name)
    check_files(run_python, CHILD_OF_ITS_OWN, broker, station_name, tmp_path)
    arrived = read_back(memphis, station_name)
    assert sorted(message.data for message in arrived) == [b"before", b"behind", b"of the child"]


ONE_CLIENT_FOR_BOTH = """
import os, sys, threading
import memphis_sync
path, station = os.environ["TEST_OUTBOX"], os.environ["TEST_STATION"]
client = memphis_sync.connect(os.environ["TEST_URL"], outbox=path)
producer = client.producer(station, "both")
producer.produce(b"before", nonblocking=True)
pid = os.fork()
if pid == 0:
    def produce(number):
        producer.produce(b"child %d" % number)
        client.produce(station, "other", b"other %d" % number, nonblocking=True)
    threads = [threading.Thread(target=produce, args=(number,)) for number in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    print(sorted(os.listdir(os.path.dirname(path))), os.getpid(), flush=True)
    sys.exit(0)
code = os.WEXITSTATUS(os.waitpid(pid, 0)[1])
producer.produce(b"behind", nonblocking=True)
client.close()
print(code, sorted(os.listdir(os.path.dirname(path))), flush=True)
"""


def test_a_client_from_before_the_fork_gets_a_file_of_its_own_in_the_child(
    run_python, broker, memphis, station_name, tmp_path
):
    memphis.station(station_name)
    check_files(run_python, ONE_CLIENT_FOR_BOTH, broker, station_name, tmp_path)
    children = [f"{kind} {number}" for kind in ("child", "other") for number in range(4)]
    check_arrived(memphis, station_name, ["before", "behind", *children])


CHILDREN_THAT_DIE = """
import os, signal, time
import memphis_sync
path, station = os.environ["TEST_OUTBOX"], os.environ["TEST_STATION"]
client = memphis_sync.connect(os.environ["TEST_URL"], outbox=path)
producer = client.producer(station, "parent")
for number in range(2):
    pid = os.fork()
    if pid == 0:
        mine = memphis_sync.connect(os.environ["TEST_URL"], outbox=path)
        its = mine.producer(station, "child")
        mine._session._data.core.detach()  # nothing goes out any more
        its.produce(b"child %d" % number, nonblocking=True)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
client._session._data.core.detach()
producer.produce(b"parent", nonblocking=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_killed_children_have_left_is_sent_with_what_the_parent_has(
    run_python, broker, memphis, station_name, tmp_path
):
    memphis.station(station_name)
    path = tmp_path / "outbox"
    env = {"TEST_URL": broker.url, "TEST_OUTBOX": str(path), "TEST_STATION": station_name}
    run_python("-c", CHILDREN_THAT_DIE, env=env, timeout_s=60, check=False)
    assert len(list(tmp_path.iterdir())) == 3
    with memphis_sync.connect(broker.url, outbox=path) as client:
        assert client.stats().recovered == 3
        assert list(tmp_path.iterdir()) == [path]
    arrived = [message.data for message in read_back(memphis, station_name)]
    assert arrived[0] == b"parent"
    assert sorted(arrived) == [b"child 0", b"child 1", b"parent"]


PARENT_THAT_DIES = """
import ctypes, os, signal, time
import memphis_sync
client = memphis_sync.connect(os.environ["TEST_URL"], outbox=os.environ["TEST_OUTBOX"])
producer = client.producer(os.environ["TEST_STATION"], "parent")
fork = os.fork if os.environ["TEST_FORK"] == "python" else ctypes.PyDLL(None).fork
pid = fork()
if pid == 0:
    time.sleep(600)
client._session._data.core.detach()
producer.produce(b"of the parent", nonblocking=True)
print(pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("fork", ["python", "c"])
def test_a_child_that_lives_on_keeps_nobody_out(start_python, broker, memphis, station_name, tmp_path, fork):
    """The lock is its parent's alone, and it never had the mapping."""
    memphis.station(station_name)
    path = tmp_path / "outbox"
    env = {"TEST_URL": broker.url, "TEST_OUTBOX": str(path), "TEST_STATION": station_name, "TEST_FORK": fork}
    program = start_python("-c", PARENT_THAT_DIES, env=env)
    child = int(program.line())
    try:
        assert str(path) not in Path(f"/proc/{child}/maps").read_text()
        program.process.kill()
        program.process.wait()
        with memphis_sync.connect(broker.url, outbox=path) as client:
            assert client.stats().recovered == 1
    finally:
        os.kill(child, signal.SIGKILL)
    assert [message.data for message in read_back(memphis, station_name)] == [b"of the parent"]
