"""The fork counter, in an interpreter of its own: it counts what os.fork and what a C library's fork do alike."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

SCRIPT = """
import ctypes, os, sys
from memphis_sync import _core

# PyDLL keeps the GIL over the call: the child's only thread has it. Nothing of Python's own fork hooks runs.
c_fork = ctypes.PyDLL(None).fork
fork = {"os": os.fork, "c": c_fork}[sys.argv[1]]

def in_child(expected, then=None):
    pid = fork()
    if pid == 0:
        right = _core.fork_generation() == expected and (then is None or then())
        os._exit(0 if right else 1)
    return os.waitpid(pid, 0)[1] == 0

assert in_child(0), "a fork that nobody watches is not counted"
_core.watch_forks()
_core.watch_forks()
assert _core.fork_generation() == 0
assert in_child(1, lambda: in_child(2, lambda: in_child(3))), "each generation is counted"
assert in_child(1), "a sister's fork does not count"
assert _core.fork_generation() == 0
print("ok")
"""


@pytest.mark.parametrize("binding", ["cython", "cffi"])
@pytest.mark.parametrize("fork", ["os", "c"])
def test_forks_are_counted(binding: str, fork: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.fspath(ROOT), "MEMPHIS_SYNC_IMPL": binding}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, fork], env=environment, capture_output=True, timeout=30, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == (b"ok\n", b"", 0)
