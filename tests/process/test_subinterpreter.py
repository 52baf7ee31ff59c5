"""
Subinterpreters: one that shares the GIL runs a client, a second one and an isolated one are refused in words. Each case
is a process of its own, since what is loaded there stays.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from fix_process import run_python

if sys.implementation.name != "cpython":
    pytest.skip("only CPython has subinterpreters", allow_module_level=True)

ROOT = str(Path(__file__).parents[2])
RUN = """
import os, sys
WHERE = f"import sys; sys.path.insert(0, {os.environ['TEST_ROOT']!r})\\n"  # one does not have the folder it began in
if sys.version_info >= (3, 13):
    import _interpreters as interpreters
    def run(code, is_isolated):
        made = interpreters.create("isolated" if is_isolated else "legacy")
        failed = interpreters.exec(made, WHERE + code)
        interpreters.destroy(made)
        print(failed.formatted if failed else "done", flush=True)
else:
    import _xxsubinterpreters as interpreters
    def run(code, is_isolated):
        made = interpreters.create(isolated=is_isolated)
        try:
            interpreters.run_string(made, WHERE + code)
            print("done", flush=True)
        except interpreters.RunFailedError as exc:
            print(exc, flush=True)
        interpreters.destroy(made)
"""
ROUND_TRIP = """
import memphis_sync, os
with memphis_sync.connect(os.environ["TEST_URL"]) as memphis:
    assert memphis.produce(os.environ["TEST_STATION"], "p", b"x").sequence > 0
    message = memphis.fetch_messages(os.environ["TEST_STATION"], "c", timeout_s=30)[0]
    assert message.data == b"x"
    message.ack()
if os.environ["TEST_LEAVES_OPEN"]:
    left_open = memphis_sync.connect(os.environ["TEST_URL"])
    left_open.produce(os.environ["TEST_STATION"], "p", b"last", nonblocking=True)
"""
CODEC = """
from memphis_sync import _core
from memphis_sync._protocol.names import internal_name
assert _core.encode_pub(b"a", b"hi") == b"PUB a 2\\r\\nhi\\r\\n"
assert internal_name("a.b") == "a#b"
"""


def lines(script: str, **env: Any) -> list[str]:
    done = run_python("-W", "error", "-c", RUN + script, env={"TEST_ROOT": ROOT, **env}, timeout_s=60)
    assert b"Traceback" not in done.stderr
    return done.stdout.decode().splitlines()


def test_an_interpreter_that_shares_the_gil_runs_a_client(broker: Any, memphis: Any, station_name: str) -> None:
    """As mod_wsgi does with an application."""
    # Before 3.13 the interpreter's own module refuses to end one that has threads, and then its end sends nothing.
    leaves_open = "1" if sys.version_info >= (3, 13) else ""
    env = {"TEST_URL": broker.url, "TEST_STATION": station_name, "TEST_LEAVES_OPEN": leaves_open}
    assert lines(f"run({ROUND_TRIP!r}, False)", **env) == ["done"]
    found = memphis.fetch_messages(station_name, "reader", until_end=True)
    assert [bytes(message.data) for message in found] == ([b"x", b"last"] if leaves_open else [b"x"])


def test_a_second_one_with_the_same_core_is_refused_in_words() -> None:
    script = f"run({CODEC!r}, False); run({CODEC!r}, False); import memphis_sync"
    script = script.replace(
        "import memphis_sync", "exec('try: import memphis_sync\\nexcept ImportError as e: print(e)')"
    )
    first, second, main = lines(script, MEMPHIS_SYNC_IMPL="cython")
    assert first == "done"
    for refused in (second, main):
        assert "used in another interpreter of this process already" in refused
        assert "WSGIApplicationGroup %{GLOBAL}" in refused


def test_the_cffi_binding_goes_into_several() -> None:
    script = f"run({CODEC!r}, False); run({CODEC!r}, False)"
    assert lines(script, MEMPHIS_SYNC_IMPL="cffi") == ["done", "done"]


def test_an_isolated_one_is_refused_in_words() -> None:
    """From Python 3.12 on it cannot load the core at all; before, it can, and starts no threads."""
    connect = "import memphis_sync; memphis_sync.connect('memphis://root:memphis@127.0.0.1:1')"
    impl = "cython" if sys.version_info >= (3, 12) else "cffi"
    (refused,) = lines(f"run({connect!r}, True)", MEMPHIS_SYNC_IMPL=impl)
    assert ("ImportError" if sys.version_info >= (3, 12) else "ConfigurationError") in refused
    assert "daemon threads" in refused
    assert "isolated subinterpreter" in refused or "subinterpreter does not allow" in refused
    assert "WSGIApplicationGroup %{GLOBAL}" in refused
