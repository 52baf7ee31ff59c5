"""gunicorn: its master forks workers from an application that may have a client already, and replaces one that dies."""

from __future__ import annotations

import os
import re
import signal
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from programs import check_arrived

# Each worker produces at its first request. A request is answered when enough workers have had theirs, so that as many
# requests as the workers take at once reach them all.
APP = """
import os, threading, time
import memphis_sync

station, each, gate = os.environ["TEST_STATION"], int(os.environ["TEST_EACH"]), os.environ["TEST_GATE"]
opening, clients, asked = threading.Lock(), [], set()

def memphis():
    with opening:
        if not clients:
            clients.append(memphis_sync.connect())
        return clients[0]

def produce(who):
    producer = memphis().producer(station, "web")
    for number in range(each):
        producer.produce(f"{who} {number}", nonblocking=True)

if os.environ["TEST_OPENED"] == "in the master":
    produce("master")

def application(environ, start_response):
    with opening:
        is_first = os.getpid() not in asked
        asked.add(os.getpid())
    wanted, flush = environ["QUERY_STRING"].split("&")
    if is_first:
        produce(os.getpid())
        if flush:
            assert memphis().flush(60) == 0
        open(os.path.join(gate, str(os.getpid())), "w").close()
    until = time.monotonic() + 60
    while len(os.listdir(gate)) < int(wanted) and time.monotonic() < until:
        time.sleep(0.02)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Connection", "close")])
    return [b"%d" % os.getpid()]
"""
WORKERS, AT_ONCE = 4, 2


def reach_all(server: Any, url: str) -> set[str]:
    """As many requests as all workers take at once; the processes that have answered."""
    with ThreadPoolExecutor(WORKERS * AT_ONCE) as pool:
        return set(pool.map(server.get, [url] * WORKERS * AT_ONCE))


@pytest.mark.parametrize("each", [50, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("opened", ["by a request"])
@pytest.mark.parametrize("worker_class", ["sync", "gthread"])
def test_each_process_has_a_connection_and_nothing_is_lost(
    worker_class: str,
    opened: str,
    each: int,
    broker: Any,
    memphis: Any,
    station_name: str,
    start_program: Any,
    tmp_path: Path,
) -> None:
    (tmp_path / "shop.py").write_text(APP)
    gate = tmp_path / "gate"
    gate.mkdir()
    options = f"-k {worker_class} -w {WORKERS} --worker-connections {AT_ONCE} --timeout 120"
    if worker_class == "gthread":
        options += f" --threads {AT_ONCE}"
    server = start_program(
        "-m",
        "gunicorn",
        *f"{options} --graceful-timeout 60 -b 127.0.0.1:0".split(),
        *(["--preload"] if opened == "in the master" else []),
        "shop:application",
        env={
            "HOME": str(tmp_path),  # it may put a socket there
            "MEMPHIS_URL": f"{broker.url}/?exit_timeout_s=30",
            "TEST_STATION": station_name,
            "TEST_EACH": str(each),
            "TEST_GATE": str(gate),
            "TEST_OPENED": opened,
        },
    )
    (url,) = server.until(lambda: re.findall(r"Listening at: (http://\S+)", server.stderr))
    first = reach_all(server, f"{url}?{WORKERS}&flush")
    assert {path.name for path in gate.iterdir()} == first
    assert len(first) == WORKERS

    os.kill(int(min(first)), signal.SIGKILL)
    reach_all(
        server, f"{url}?{WORKERS + 1}&"
    )  # waits for the one that replaces it, and that one is stopped with a backlog
    workers = {path.name for path in gate.iterdir()}
    assert len(workers) == WORKERS + 1
    server.terminate()
    assert server.wait() == 0, server.stderr
    assert "not confirmed" not in server.stderr
    assert server.processes() == []

    processes = workers | ({"master"} if opened == "in the master" else set())
    connections = defaultdict(set)
    for message in check_arrived(
        memphis, station_name, [f"{who} {number}" for who in processes for number in range(each)]
    ):
        connections[message.data.split()[0].decode()].add(message.connection_id)
    assert {who: len(ids) for who, ids in connections.items()} == dict.fromkeys(processes, 1)
    assert len(set().union(*connections.values())) == len(processes)
