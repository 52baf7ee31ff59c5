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


def test_create_takes_the_keywords_of_the_call(memphis: Any, memphis_sync: Any, station_name: str) -> None:
    options = ["--partitions-number", "3", "--storage-type", "memory", "--retention-type", "messages"]
    options += ["--retention-value", "500", "--idempotency-window-ms", "2000", "--no-send-poison-msg-to-dls"]
    done = memphis_sync("station", "create", station_name, *options)
    assert (done.returncode, done.stderr.decode()) == (0, f"station {station_name} is created\n")
    info = memphis.station(station_name, create_station=False).info()
    assert (info.partitions_number, info.storage.name, info.retention.name) == (3, "MEMORY", "MESSAGES")
    assert (info.retention_value, info.idempotency_window_ms) == (500, 2000)


def test_create_leaves_what_exists_and_says_so(memphis: Any, memphis_sync: Any, station_name: str) -> None:
    memphis.station(station_name, partitions_number=2)
    done = memphis_sync("--json", "station", "create", station_name, "--partitions-number", "5")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"station": station_name, "created": False})
    assert memphis.station(station_name, create_station=False).info().partitions_number == 2


def test_purge_says_how_many_are_gone(run_here: Any, memphis: Any, station_name: str) -> None:
    memphis.station(station_name, partitions_number=2)
    memphis.producer(station_name, "p").produce_many([b"x"] * 10)
    one = run_here("--json", "station", "purge", station_name, "--partition", "1")
    assert (one.returncode, json.loads(one.stdout)) == (0, {"station": station_name, "removed": 5})
    assert (
        run_here("station", "purge", station_name).stderr.decode()
        == f"5 messages of station {station_name} are removed\n"
    )
    assert memphis.station(station_name).info().messages == 0
    assert run_here("station", "purge", f"{station_name}-no").returncode == 1
