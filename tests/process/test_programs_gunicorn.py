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
