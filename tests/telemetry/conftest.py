"""A client that is observed, and a station of the test's own."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


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
