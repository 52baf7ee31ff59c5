"""A client that is observed, and a station of the test's own."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(__file__).parent / "programs"
WORKERS, AT_ONCE = 2, 4


@pytest.fixture
def station(station_name):
    """The name of a station that no other test uses."""
    return station_name


@pytest.fixture
def observed(broker):
    """``observed(observer, ...)``: a client with these observers; closed after the test."""
    import memphis_sync

    clients = []

    def connect(*observers, **options):
        clients.append(memphis_sync.connect(broker.url, observers=observers, **options))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


@pytest.fixture
def package_metadata(tmp_path):
    """``package_metadata(NAME=value)``: an environment in which the entry points of pyproject.toml are installed."""

    def environment(**more):
        text = (ROOT / "pyproject.toml").read_text()
        groups = re.findall(r'^\[project\.entry-points\."?([\w.]+)"?\]\n((?:.+\n)+)', text, re.MULTILINE)
        assert groups
        found = tmp_path / "metadata" / "memphis_sync-0.dist-info"
        found.mkdir(parents=True)
        (found / "METADATA").write_text("Metadata-Version: 2.1\nName: memphis-sync\nVersion: 0\n")
        lines = (f"[{name}]\n{body}".replace('"', "") for name, body in groups)
        (found / "entry_points.txt").write_text("\n".join(lines))
        return {**os.environ, "PYTHONPATH": os.pathsep.join([str(found.parent), str(ROOT)]), **more}

    return environment


@pytest.fixture
def gunicorn(broker, station, start_program):
    """
    ``gunicorn(program, preload, NAME=value)``: the server of a program that produces, once each of its workers has
    answered; its URL; all answers; and how many times the program was loaded.
    """

    def start(program, preload, **environment):
        environment |= {
            "MEMPHIS_URL": broker.url,
            "TEST_STATION": station,
            "PYTHONPATH": os.pathsep.join([str(PROGRAMS), *filter(None, [os.environ.get("PYTHONPATH")])]),
        }
        options = f"-w {WORKERS} -k gthread --threads 4 --timeout 120 --graceful-timeout 60".split()
        options += ["--preload"] if preload else []
        server = start_program("-m", "gunicorn", *options, "-b", "127.0.0.1:0", program, env=environment)
        (url,) = server.until(lambda: re.findall(r"Listening at: (http://\S+)", server.stderr))
        answers = []
        with ThreadPoolExecutor(AT_ONCE) as pool:
            server.until(lambda: answers.extend(pool.map(server.get, [url] * AT_ONCE)) or len(set(answers)) == WORKERS)
        return server, url, answers, 1 if preload else WORKERS

    return start
