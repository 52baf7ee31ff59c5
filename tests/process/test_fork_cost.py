"""
What an open client adds to the mappings of its process, each of which costs every fork of the program about as much as
all else that the client does for one.
"""

from __future__ import annotations

import sys
from typing import Any

import pytest
from fix_process import run_python

if sys.platform != "linux":
    pytest.skip("only Linux lists a process's mappings", allow_module_level=True)

PROGRAM = """
import os, sys, warnings
import memphis_sync
warnings.simplefilter("ignore", DeprecationWarning)
def mappings():
    with open("/proc/self/maps") as file:
        return [line.split() for line in file]
def libraries():
    return {mapping[5] for mapping in mappings() if len(mapping) > 5 and ".so" in mapping[5]}
def size_kb():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmSize:"))
libraries_before, name = libraries(), os.environ["TEST_STATION"]
client = memphis_sync.connect(os.environ["TEST_URL"])
client.produce(name, "p", b"x")
client.fetch_messages(name, "c", timeout_s=30)[0].ack()
"""


def test_connecting_loads_no_library(broker: Any, station_name: str) -> None:
    run_python(
        "-c",
        PROGRAM + "assert libraries() == libraries_before, libraries() - libraries_before; client.close()",
        env={"TEST_URL": broker.url, "TEST_STATION": station_name},
        timeout_s=60,
    )


def test_a_child_inherits_no_outbox(broker: Any, station_name: str) -> None:
    """Its 64 MiB and what belongs to each message are mapped for the parent alone; the inherited objects still end."""
    run_python(
        "-c",
        PROGRAM
        + """
before = size_kb()
pid = os.fork()
if pid == 0:
    inherited, client = before - size_kb(), None
    import gc; gc.collect()
    print(inherited, flush=True)
    os._exit(0 if inherited > 100_000 else 1)
assert os.waitpid(pid, 0)[1] == 0
assert client.produce(name, "p", b"y").sequence == 2
client.close()
""",
        env={"TEST_URL": broker.url, "TEST_STATION": station_name},
        timeout_s=60,
    )


def test_a_link_is_known_as_the_parents_without_anybody_having_asked_about_forks_before() -> None:
    """It would look for its outbox, which is not there."""
    run_python(
        "-c",
        """
import os, warnings
from memphis_sync._core import Link
from memphis_sync.errors import ForkedError
warnings.simplefilter("ignore", DeprecationWarning)
link = Link(b"token", 1 << 20, 1000, 100, 1 << 20)
pid = os.fork()
if pid == 0:
    try:
        link.abandon()
    except ForkedError:
        del link
        os._exit(0)
    os._exit(1)
assert os.waitpid(pid, 0)[1] == 0
""",
        timeout_s=60,
    )
