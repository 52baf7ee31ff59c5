"""uWSGI: it loads the application in its master and forks in C, with or without calling Python's hooks."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
from programs import Shop

WORKERS = 2
# As the command `uwsgi` of the package pyuwsgi
UWSGI = ("-c", "import pyuwsgi; pyuwsgi.run()")


@pytest.mark.parametrize("opened", ["by a request", "in the master"])
@pytest.mark.parametrize("hooks", ["", "--py-call-uwsgi-fork-hooks"], ids=["without hooks", "with hooks"])
def test_each_process_has_a_connection_and_nothing_is_lost(
    hooks: str, opened: str, broker: Any, memphis: Any, station_name: str, start_program: Any, tmp_path: Path
) -> None:
    shop = Shop(tmp_path, broker.url, station_name, opened=opened, each=50, at_once=WORKERS)
    options = f"--http-socket 127.0.0.1:0 --master --processes {WORKERS} --enable-threads --die-on-term {hooks}"
    server = start_program(*UWSGI, *options.split(), "--module", "wsgi_shop", env=shop.env)
    (address,) = server.until(lambda: re.findall(r"bound to TCP address (\S+) \(port auto-assigned\)", server.stderr))
    shop.reach(server, f"http://{address}/", WORKERS, flush=False)
    start = time.monotonic()
    server.terminate()
    server.wait()
    assert time.monotonic() - start < 40, server.stderr  # a worker that does not end is waited for a minute
    assert server.processes() == []
    assert "were not confirmed" not in server.stderr
    shop.check(memphis)


def test_threads_that_cannot_run_are_refused(run_python: Any) -> None:
    """By what an old uWSGI says of itself: in the package that is installed here threads are always allowed."""
    script = """
import sys, types
uwsgi = sys.modules["uwsgi"] = types.ModuleType("uwsgi")
uwsgi.has_threads, uwsgi.opt = 0, {"master": True}
import memphis_sync
try:
    memphis_sync.connect("127.0.0.1", username="root", password="memphis", port=1)
except memphis_sync.ConfigurationError as error:
    print(error)
"""
    assert b"start it with --enable-threads" in run_python("-c", script).stdout
