"""memphis-sync station: stations as a whole."""

from __future__ import annotations

import json
from typing import Any


def test_rm(memphis: Any, memphis_sync: Any, station_name: str) -> None:
    memphis.station(station_name)
    memphis.produce(f"{station_name}.b", "p", b"x")
    done = memphis_sync("station", "rm", station_name, f"{station_name}.b")
    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr.decode() == f"station {station_name} is destroyed\nstation {station_name}.b is destroyed\n"
    assert memphis.produce(f"{station_name}.b", "p", b"x").sequence == 1
    again = memphis_sync("--json", "station", "rm", station_name)
    assert (again.returncode, json.loads(again.stdout)) == (0, {"station": station_name, "destroyed": True})


def test_rm_needs_a_name_that_can_be_one(memphis_sync: Any) -> None:
    assert memphis_sync("station", "rm").returncode == 2
    done = memphis_sync("station", "rm", "no/name")
    assert done.returncode == 2
    assert b"name is 'no/name'" in done.stderr
