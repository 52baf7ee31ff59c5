"""memphis-sync bench: its figures add up, name machine and versions, and its stations are gone afterwards."""

from __future__ import annotations

import csv
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

FACTS = {"bench", "mode", "size", "clients", "storage", "server", "cpu", "cores", "system", "python", "memphis_sync"}


def left_over(memphis: Any) -> list[str]:
    return [each.name for each in memphis.stations() if each.name.startswith("memphis-sync-bench-")]


@pytest.mark.parametrize("mode", ["blocking", "nonblocking"])
def test_pub_counts_what_each_client_stored(run_here: Any, memphis: Any, mode: str) -> None:
    done = run_here("--json", "bench", "pub", "--msgs", "100", "--size", "1KiB", "--clients", "3", "--mode", mode)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert set(result) >= FACTS
    assert (result["mode"], result["size"], result["clients"], result["storage"]) == (mode, 1024, 3, "disk")
    assert result["server"].startswith("nats-server ")
    assert [(row["client"], row["messages"], row["failed"]) for row in result["rows"]] == [
        ("1", 34, 0),
        ("2", 33, 0),
        ("3", 33, 0),
        ("all", 100, 0),
    ]
    assert all(row["messages_per_s"] > 0 and row["seconds"] > 0 for row in result["rows"])
    assert left_over(memphis) == []


def test_sub_reads_all_of_it_as_one_group(run_here: Any, memphis: Any, tmp_path: Path) -> None:
    file = tmp_path / "figures.csv"
    options = ("--msgs", "2000", "--clients", "2", "--storage", "memory", "--csv", str(file))
    done = run_here("bench", "sub", *options)
    assert done.returncode == 0, done.stderr
    *each, total = [line.split("\t") for line in done.stdout.decode().splitlines()]
    assert total[:3] == ["all", "2000", "0"]
    assert sum(int(row[1]) for row in each) == 2000
    assert b"storage memory" in done.stderr
    assert b"nats-server " in done.stderr
    rows = list(csv.DictReader(file.read_text().splitlines()))
    assert [(row["client"], row["messages"]) for row in rows] == [(row[0], row[1]) for row in [*each, total]]
    assert set(rows[0]) >= FACTS
    assert left_over(memphis) == []


def test_latency_has_percentiles_of_both_ways(run_here: Any, memphis: Any) -> None:
    rows = json.loads(run_here("--json", "bench", "latency", "--msgs", "20", "--clients", "2").stdout)["rows"]
    assert [(row["client"], row["what"], row["messages"]) for row in rows] == [
        ("1", "stored", 10),
        ("1", "received", 10),
        ("2", "stored", 10),
        ("2", "received", 10),
        ("all", "stored", 20),
        ("all", "received", 20),
    ]
    for row in rows:
        assert 0 < row["p50_us"] <= row["p90_us"] <= row["p99_us"] <= row["max_us"]
    only = run_here("--json", "bench", "latency", "--msgs", "3", "--mode", "nonblocking").stdout
    assert [row["what"] for row in json.loads(only)["rows"]] == ["received"]
    assert left_over(memphis) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("pub", "--size", "many"), "'many' is not a number of bytes up to 64MiB"),
        (("pub", "--size", "1GB"), "'1GB' is not a number of bytes"),
        (("pub", "--msgs", "0"), "0 is not in the range"),
        (("sub", "--msgs", "2", "--clients", "3"), "--clients is 3; it must be at most --msgs, which is 2"),
        (("pub", "--mode", "async"), "'async' is not one of"),
        (("pub", "--storage", "tape"), "'tape' is not one of"),
        (("latency", "--csv", "/no/such/folder/f"), "--csv is '/no/such/folder/f'; its folder does not exist"),
        (("publish",), "Did you mean 'pub'?"),
    ],
)
def test_wrong_options_are_usage(run_here: Any, options: tuple[str, ...], said: str) -> None:
    done = run_here("bench", *options)
    assert done.returncode == 2
    assert said in " ".join(done.stderr.decode().split())


def test_ctrl_c_leaves_no_station(start: Any, fresh_broker: Any, until: Any) -> None:
    import memphis_sync as library

    own = fresh_broker()
    child = start("--url", own.url, "bench", "pub", "--mode", "blocking", "--msgs", "1000000", "--clients", "2")
    with library.connect(own.url) as client:
        until(lambda: [each for each in client.stations() if each.messages])
        os.killpg(child.pid, signal.SIGINT)
        out, err = child.communicate(timeout=60)
        assert (child.returncode, out) == (130, b""), err
        assert b"Traceback" not in err
        assert left_over(client) == []


@pytest.mark.slow
def test_a_broker_that_is_killed_gives_4_and_the_counts(start: Any, fresh_broker: Any, until: Any) -> None:
    import memphis_sync as library

    own = fresh_broker()
    child = start("--url", own.url, "--json", "bench", "pub", "--mode", "blocking", "--msgs", "1000000")
    with library.connect(own.url) as client:
        until(lambda: [each for each in client.stations() if each.messages])
    own.kill()
    out, err = child.communicate(timeout=120)
    assert child.returncode == 4, err
    total = json.loads(out)["rows"][-1]
    assert total["messages"] + total["failed"] == 1_000_000
    assert 0 < total["messages"] < 1_000_000
    assert b" of 1,000,000 messages were not stored" in err
