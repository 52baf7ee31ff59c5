"""gunicorn: its master forks workers from an application that may have a client already, and replaces one that dies."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from programs import Shop

WORKERS, AT_ONCE = 4, 2


@pytest.mark.parametrize(
    ("worker_class", "opened"),
    [
        ("sync", "by a request"),
        ("sync", "in the master"),
        ("gthread", "in the master"),
        ("gevent", "by a request"),
        ("gevent", "in the master"),
    ],
)
def test_each_process_has_a_connection_and_nothing_is_lost(
    worker_class: str,
    opened: str,
    broker: Any,
    memphis: Any,
    station_name: str,
    start_program: Any,
    tmp_path: Path,
) -> None:
    shop = Shop(tmp_path, broker.url, station_name, opened=opened, each=1000, at_once=WORKERS * AT_ONCE)
    options = f"-k {worker_class} -w {WORKERS} --worker-connections {AT_ONCE} --timeout 120 --graceful-timeout 60"
    options += f" --threads {AT_ONCE}" if worker_class == "gthread" else ""
    options += " --preload" if opened == "in the master" else ""
    server = start_program("-m", "gunicorn", *options.split(), "-b", "127.0.0.1:0", "wsgi_shop", env=shop.env)
    (url,) = server.until(lambda: re.findall(r"Listening at: (http://\S+)", server.stderr))
    shop.reach(server, url, WORKERS, flush=True)

    os.kill(int(min(shop.workers)), signal.SIGKILL)
    shop.reach(server, url, WORKERS + 1, flush=False)  # the last is its replacement, and has a backlog
    server.terminate()
    assert server.wait() == 0, server.stderr
    assert "were not confirmed" not in server.stderr
    assert server.processes() == []
    shop.check(memphis)


# What the how-tos of the frameworks say of gunicorn
HOOKED = """
import atexit, os, signal, sys
if os.environ["TEST_HANDLER"]:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
atexit.register(lambda: os.write(1, f"atexit {os.getpid()}\\n".encode()))

def application(environ, start_response):
    start_response("200 OK", [("Connection", "close")])
    return [f"{os.getpid()} {signal.getsignal(signal.SIGTERM)}".encode()]
"""
HOOKS = """
import os
def worker_exit(server, worker):
    os.write(1, f"worker_exit {os.getpid()}\\n".encode())
"""


def hooked(start_program: Any, folder: Path, *options: str, handler: str) -> tuple[Any, str, str]:
    """A server of one worker that says who ends; the worker, and who handles its SIGTERM."""
    (folder / "hooked.py").write_text(HOOKED)
    (folder / "hooks.py").write_text(HOOKS)
    env = {"HOME": str(folder), "PYTHONPATH": str(folder), "TEST_HANDLER": handler}
    server = start_program("-m", "gunicorn", "-c", "hooks.py", "-b", "127.0.0.1:0", *options, "hooked", env=env)
    (url,) = server.until(lambda: re.findall(r"Listening at: (http://\S+)", server.stderr))
    worker, _, handles = server.get(url).partition(" ")
    return server, worker, handles


def test_exit_handlers_run_after_the_hook_of_a_worker_and_in_the_master_last(
    start_program: Any, tmp_path: Path
) -> None:
    server, worker, handles = hooked(start_program, tmp_path, "--preload", handler="")
    assert "handle_exit" in handles
    server.terminate()
    assert server.wait() == 0
    assert server.stdout.splitlines() == [f"worker_exit {worker}", f"atexit {worker}", f"atexit {server.pid}"]


def test_a_handler_of_the_application_takes_the_place_of_the_worker_s(start_program: Any, tmp_path: Path) -> None:
    """Why the pages keep theirs out of a module that gunicorn loads."""
    _, _, handles = hooked(start_program, tmp_path, handler="yes")
    assert "<lambda>" in handles
