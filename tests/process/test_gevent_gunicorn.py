"""``gunicorn -k gevent``: one worker serves many requests at a time, and each of them waits for its message's ack."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from programs import check_arrived

# A request is answered once so many of them have produced, and the client was opened by the first.
APP = """
import os
import gevent.event
import memphis_sync

clients, produced, at_once = [], [], int(os.environ["TEST_AT_ONCE"])
opening, all_are_here = gevent.lock.RLock(), gevent.event.Event()

def memphis():
    with opening:
        if not clients:
            clients.append(memphis_sync.connect())
        return clients[0]

def application(environ, start_response):
    number = environ["QUERY_STRING"].encode()
    memphis().produce(os.environ["TEST_STATION"], "web", number)
    produced.append(number)
    if len(produced) >= at_once:
        all_are_here.set()
    assert all_are_here.wait(60), len(produced)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Connection", "close")])
    return [number]
"""


@pytest.mark.parametrize("at_once", [40, pytest.param(200, marks=pytest.mark.slow)])
def test_a_worker_serves_requests_that_each_wait_for_their_message(
    at_once: int, broker: Any, memphis: Any, station_name: str, start_program: Any, tmp_path: Path
) -> None:
    (tmp_path / "shop.py").write_text(APP)
    server = start_program(
        "-m",
        "gunicorn",
        *[
            "-k",
            "gevent",
            "-w",
            "1",
            "--worker-connections",
            "1000",
            "--timeout",
            "120",
            "--graceful-timeout",
            "60",
            "-b",
            "127.0.0.1:0",
        ],
        "shop:application",
        env={
            "HOME": str(tmp_path),  # it may put a socket there
            "MEMPHIS_URL": broker.url,
            "TEST_STATION": station_name,
            "TEST_AT_ONCE": str(at_once),
        },
    )
    (url,) = server.until(lambda: re.findall(r"Listening at: (http://\S+)", server.stderr))
    with ThreadPoolExecutor(at_once) as pool:
        answers = set(pool.map(lambda number: server.get(f"{url}?{number}"), range(at_once)))
    assert answers == {str(number) for number in range(at_once)}
    server.terminate()
    assert server.wait() == 0, server.stderr
    assert "WORKER TIMEOUT" not in server.stderr
    assert "not confirmed" not in server.stderr
    check_arrived(memphis, station_name, answers)
