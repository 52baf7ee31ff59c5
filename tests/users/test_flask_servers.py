"""The Flask shop in real servers, and its command ``flask memphis consume``, as processes of their own."""

from __future__ import annotations

import os
import re
import signal
import urllib.request
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from programs import LIMIT_S, Program, check_arrived

USERS = Path(__file__).parent
# The two lines of the how-to, in the script that is started.
WAITRESS = """
import logging, signal, sys, waitress
from flask_shop.shop import create_app
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
logging.basicConfig(level="INFO")
waitress.serve(create_app(), listen="127.0.0.1:0", threads=8)
"""


@pytest.fixture
def env(broker: Any, station_name: str, tmp_path: Path) -> dict[str, str]:
    """The shop's environment."""
    return {
        "HOME": str(tmp_path),  # gunicorn puts a socket there
        "PYTHONPATH": os.pathsep.join([str(USERS), str(USERS.parents[1])]),
        "FLASK_APP": "flask_shop.shop",
        "FLASK_MEMPHIS_URL": f"{broker.url}/?exit_timeout_s=30",
        "TEST_STATION": station_name,
        "TEST_DONE": str(tmp_path / "done"),
    }


def post(url: str, number: int) -> tuple[str, str]:
    """An order; gives the process that has answered, and the id of its connection."""
    with urllib.request.urlopen(urllib.request.Request(f"{url}/orders/{number}", b""), timeout=2 * LIMIT_S) as answer:
        pid, connection = answer.read().decode().split()
        return pid, connection


def order(url: str, numbers: Iterable[int]) -> dict[str, set[str]]:
    """Orders, eight at once; the connections of each process."""
    found: dict[str, set[str]] = {}
    with ThreadPoolExecutor(8) as pool:
        for pid, connection in pool.map(lambda number: post(url, number), numbers):
            found.setdefault(pid, set()).add(connection)
    return found


def messages(numbers: Iterable[int]) -> list[str]:
    return [f"order {number} {part}" for number in numbers for part in range(10)]


@pytest.mark.parametrize("options", [[], ["--preload"]], ids=["alone", "preload"])
def test_gunicorn_loses_nothing_and_each_worker_has_one_connection(
    options: list[str], env: dict[str, str], memphis: Any, station_name: str, start_program: Any
) -> None:
    command = ["-m", "gunicorn", "-w", "2", "-k", "gthread", "--threads", "8", "-b", "127.0.0.1:0", *options]
    server = start_program(*command, "flask_shop.shop:create_app()", env=env)
    (url,) = server.until(lambda: re.findall(r"Listening at: (http://\S+)", server.stderr))
    connections = order(url, range(64))
    assert all(len(each) == 1 for each in connections.values())
    assert len(set().union(*connections.values())) == len(connections)
    server.terminate()
    assert server.wait() == 0, server.stderr
    check_arrived(memphis, station_name, messages(range(64)))


def test_waitress_with_eight_threads_ends_in_order_on_sigterm(
    env: dict[str, str], memphis: Any, station_name: str, start_program: Any, tmp_path: Path
) -> None:
    (tmp_path / "serve.py").write_text(WAITRESS)
    server = start_program("serve.py", env=env)
    (url,) = server.until(lambda: re.findall(r"Serving on (http://\S+)", server.stdout + server.stderr))
    connections = order(url, range(64))
    assert [len(each) for each in connections.values()] == [1]
    server.terminate()
    assert server.wait() == 0, server.stderr
    check_arrived(memphis, station_name, messages(range(64)))


def test_without_a_handler_sigterm_runs_no_exit_handler(start_program: Any, env: dict[str, str]) -> None:
    """What the how-to says of waitress-serve, ``flask run`` and scripts."""
    for command in (["-m", "waitress", "--listen=127.0.0.1:0", "--call"], ["-m", "flask", "run", "--port", "0"]):
        application = ["flask_shop.shop:create_app"] if "waitress" in command else []
        server = start_program(*command, *application, env=env)
        server.until(lambda: re.search(r"Serving on http|Running on http", server.stdout + server.stderr))  # noqa: B023
        server.terminate()
        assert server.wait() == -signal.SIGTERM


def test_a_reloader_that_calls_the_factory_in_two_processes_leaves_one_connection(
    env: dict[str, str], memphis: Any, station_name: str, start_program: Any
) -> None:
    server: Program = start_program("-m", "flask", "run", "--debug", "--port", "0", env=env)
    (url,) = server.until(lambda: re.findall(r"Running on (http://\S+)", server.stderr))
    (pid,) = connections = order(url, range(16))
    assert int(pid) != server.pid
    assert len(server.processes()) == 2
    clients = [each for each in memphis.connections(station_name=station_name) if each.producers]
    assert len(clients) == len(connections[pid]) == 1
    os.killpg(server.pid, signal.SIGINT)
    server.wait()
    check_arrived(memphis, station_name, messages(range(16)))


# ---- flask memphis consume ------------------------------------------------------------------------------------------


def done(env: dict[str, str]) -> list[str]:
    path = Path(env["TEST_DONE"])
    return path.read_text().splitlines() if path.exists() else []


def consume(start_program: Any, env: dict[str, str], *options: str) -> Program:
    started: Program = start_program("-m", "flask", "memphis", "consume", "flask_shop.shop:on_order", *options, env=env)
    return started


def test_consume_handles_each_message_in_a_context_of_its_own_and_ends_when_told(
    env: dict[str, str], memphis: Any, station_name: str, start_program: Any
) -> None:
    bodies = [f"order {number}" for number in range(50)]
    memphis.producer(station_name, "web").produce_many(bodies[:20])
    assert consume(start_program, env, "--max-messages", "20").wait() == 0
    assert Counter(done(env)) == Counter(f"{body} shop" for body in bodies[:20])

    worker = consume(start_program, env, "--batch-size", "7")
    memphis.producer(station_name, "web").produce_many(bodies[20:])
    worker.until(lambda: len(done(env)) == 50)
    worker.terminate()
    assert worker.wait() == 0, worker.stderr
    assert worker.stderr == ""
    assert Counter(done(env)) == Counter(f"{body} shop" for body in bodies)

    assert consume(start_program, env, "--idle-exit", "0.5").wait() == 0
    assert len(done(env)) == 50  # everything was acknowledged
