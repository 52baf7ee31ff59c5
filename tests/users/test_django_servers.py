"""The Django project in real servers: one client a process, and nothing lost when they end."""

from __future__ import annotations

import os
import re
import signal
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fix_django import PYTHONPATH
from programs import check_arrived

MESSAGES = 10  # a request
NO_CONTROL_SOCKET = "--no-control-socket"  # gunicorn 27 otherwise writes one in the home directory
# Says in which order a worker and the master end.
CONFIG = """
import atexit, os, sys

def say(what):
    print(what, "in the master" if os.getpid() == master else "in a worker", file=sys.stderr, flush=True)

master = os.getpid()
atexit.register(say, "atexit")

def worker_exit(server, worker):
    say("worker_exit")
"""


def gunicorn_options() -> list[str]:
    from gunicorn.config import make_settings

    return (
        [NO_CONTROL_SOCKET] if any(NO_CONTROL_SOCKET in (each.cli or ()) for each in make_settings().values()) else []
    )


@pytest.mark.parametrize("requests", [80, pytest.param(2000, marks=[pytest.mark.large, pytest.mark.timeout(900)])])
def test_gunicorn_with_a_client_that_was_used_before_the_fork(
    requests: int, broker: Any, memphis: Any, station_name: str, shop_env: Any, start_program: Any, tmp_path: Path
) -> None:
    """Three processes have three connections; SIGTERM with a backlog loses nothing."""
    (tmp_path / "config.py").write_text(CONFIG)
    env = {**shop_env, "SHOP_PRELOADED": "1", "HOME": str(tmp_path), "MEMPHIS_URL": f"{broker.url}/?exit_timeout_s=60"}
    options = "--preload -w 2 -k gthread --threads 4 --timeout 120 --graceful-timeout 90 -c config.py -b 127.0.0.1:0"
    server = start_program(
        *("-m", "gunicorn", *options.split(), *gunicorn_options(), "django_shop.wsgi"),
        env=env,
    )
    (url,) = server.until(lambda: re.findall(r"Listening at: (http://\S+)", server.stderr))
    numbers = iter(range(10**9))
    asked, pids = 0, set()
    with ThreadPoolExecutor(8) as pool:
        while len(pids) < 2 or asked < requests:
            urls = [f"{url}/produce/{next(numbers) * MESSAGES}/{MESSAGES}" for _ in range(40)]
            pids.update(pool.map(server.get, urls))
            asked += len(urls)
    server.terminate()
    assert server.wait() == 0, server.stderr
    assert "were not confirmed" not in server.stderr
    assert "ResourceWarning" not in server.stderr
    found = check_arrived(memphis, station_name, ["master", *map(str, range(asked * MESSAGES))])
    assert len({message.connection_id for message in found}) == 3
    ends = re.findall(r"^(?:worker_exit|atexit) in .*$", server.stderr, re.MULTILINE)
    assert sorted(ends[:-1]) == ["atexit in a worker"] * 2 + ["worker_exit in a worker"] * 2
    assert ends[0] == "worker_exit in a worker"
    assert ends[-1] == "atexit in the master"


def test_runserver_opens_one_client_in_each_process_that_serves(
    broker: Any, memphis: Any, station_name: str, shop_env: Any, start_program: Any, tmp_path: Path
) -> None:
    """The process that starts the other one anew opens none."""
    (tmp_path / "reloaded.py").write_text("from django_shop.settings import *\n")
    path = f"{PYTHONPATH}{os.pathsep}{tmp_path}"
    env = {**shop_env, "SHOP_DEBUG": "1", "DJANGO_SETTINGS_MODULE": "reloaded", "PYTHONPATH": path}
    server = start_program("-m", "django", "runserver", "127.0.0.1:0", env=env)

    def address() -> list[str]:
        return re.findall(r"Starting development server at (http://[\d.:]+)", server.stdout)

    def pids(number: int) -> set[str]:
        url = address()[-1]
        with ThreadPoolExecutor(4) as pool:
            return set(pool.map(server.get, [f"{url}/produce/{number + each}/1" for each in range(8)]))

    server.until(address)
    (first,) = pids(0)

    def is_gone() -> bool:
        if not Path("/proc", first).exists():
            return True
        with (tmp_path / "reloaded.py").open("a") as code:
            code.write("#\n")
        return False

    server.until(is_gone)
    server.until(lambda: len(address()) > 1)
    (second,) = pids(8)
    assert second != first
    os.killpg(server.pid, signal.SIGINT)  # as a terminal does
    server.wait()
    assert server.processes() == []
    by_connection = defaultdict(set)
    for message in check_arrived(memphis, station_name, map(str, range(16))):
        by_connection[message.connection_id].add(int(message.data))
    assert sorted(map(sorted, by_connection.values())) == [[*range(8)], [*range(8, 16)]]


def test_a_script_that_leaves_its_client_open_draws_no_warning_and_loses_nothing(
    memphis: Any, station_name: str, shop_env: Any, run_python: Any, tmp_path: Path
) -> None:
    """Contrib's clients are the process's own to drain."""
    code = (
        "import django; django.setup(); import os\n"
        "from memphis_sync.contrib.django import memphis\n"
        "for number in range(500): memphis.produce(os.environ['SHOP_STATION'], 'web', str(number), nonblocking=True)\n"
    )
    done = run_python("-X", "dev", "-W", "error", "-c", code, env=shop_env, cwd=tmp_path, timeout_s=60)
    assert b"Warning" not in done.stderr, done.stderr
    check_arrived(memphis, station_name, map(str, range(500)))
