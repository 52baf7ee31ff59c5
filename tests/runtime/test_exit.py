"""The end of a process: what is queued is sent; what cannot be is counted, and nothing hangs."""

from __future__ import annotations

import re
import sys
import time

import pytest

SCRIPT = """
import logging, os, sys
import memphis_sync
client = memphis_sync.connect(os.environ["TEST_URL"], exit_timeout_s=float(os.environ.get("TEST_EXIT_S", "5")))
producer = client.producer(os.environ["TEST_STATION"], "leaver")
for number in range(2000):
    producer.produce(b"%d" % number, nonblocking=True)
{end}
"""


@pytest.mark.slow
def test_a_broker_that_is_away_costs_the_limit_and_one_line(run_python, fresh_broker):
    own = fresh_broker()
    end = "sys.stdout.write('ready\\n'); sys.stdout.flush(); sys.stdin.readline()"
    end += "\nfor number in range(50): producer.produce(b'late', nonblocking=True)"
    from fix_process import Child

    child = Child("-c", SCRIPT.format(end=end), env={"TEST_URL": own.url, "TEST_STATION": "away", "TEST_EXIT_S": "1.5"})
    try:
        assert child.line() == b"ready\n"
        own.stop()
        start = time.monotonic()
        child.process.stdin.write(b"go\n")
        child.process.stdin.flush()
        assert child.wait(15) == 0
    finally:
        child.close()
    assert time.monotonic() - start < 1.5 + 4
    text = child.stderr.decode()
    assert re.search(
        r"memphis_sync: \d+ messages are not confirmed yet; waiting up to 1\.5 s \(Ctrl-C to give up\)", text
    )
    assert re.search(r"UndeliveredWarning: \d+ messages were not confirmed at the end of the process", text)
    assert "Traceback" not in text


def test_a_child_leaves_the_parents_messages_alone(run_python, broker, memphis, station_name):
    """Atexit handlers are inherited by a fork: in the child the drain must do nothing, at once."""
    script = SCRIPT.format(
        end="""
pid = os.fork()
if pid == 0:
    sys.exit(7)
status = os.waitpid(pid, 0)[1]
print(os.WEXITSTATUS(status), client.flush(10), client.is_connected(), flush=True)
"""
    )
    done = run_python(
        "-W", "ignore::DeprecationWarning", "-c", script, env={"TEST_URL": broker.url, "TEST_STATION": station_name}
    )
    assert done.stdout == b"7 0 True\n"
    assert done.stderr == b""


def test_importing_starts_nothing(run_python):
    script = """
import threading, atexit, sys
before = threading.active_count(), atexit._ncallbacks()
import memphis_sync
assert (threading.active_count(), atexit._ncallbacks()) == before, atexit._ncallbacks()
print("quiet")
"""
    # concurrent.futures (asyncio's own) registers with threading, not with atexit; logging is imported by anyone.
    done = run_python("-c", "import logging, asyncio, nats.aio.client\n" + script)
    assert done.stdout == b"quiet\n"
    assert sys.version_info >= (3, 9)
