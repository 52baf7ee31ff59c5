"""The measurements run and say what they promise; at this size their figures mean nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from fix_process import run_python

BENCH = Path(__file__).parents[2] / "bench"
ROOT = {"PYTHONPATH": str(BENCH.parent)}


@pytest.mark.parametrize(
    ("script", "figure"),
    [
        ("produce_throughput", "msgs_per_s"),
        ("produce_latency", "p50_us"),
        ("fetch_throughput", "msgs_per_s"),
    ],
)
@pytest.mark.parametrize("options", [[], ["--ids", "--storage", "file", "--partitions", "3"]], ids=["plain", "ids"])
def test_a_measurement_prints_its_ratio(broker: Any, script: str, figure: str, options: list[str]) -> None:
    args = ["--count", "2000", "--pairs", "2", "--url", broker.url, *options]
    done = run_python(BENCH / f"{script}.py", *args, env=ROOT, timeout_s=60)
    (line,) = done.stdout.splitlines()
    report = json.loads(line)
    assert report["question"] == script
    assert report[figure] > 0
    assert report["ratio"] > 0
    assert report["binding"] in {"cython", "cffi"}
    assert report["cores"] >= 1
    said = re.search(rb": ([\d.]+) (?:of it|times)\n", done.stderr)
    assert said, "the sentence for people"
    assert float(said[1]) == pytest.approx(report["ratio"], abs=0.01)


@pytest.mark.parametrize(
    ("script", "options", "question", "figure"),
    [
        ("fetch_throughput", ["--iterate", "--count", "2000", "--batch", "100"], "iterate_throughput", "msgs_per_s"),
        ("end_to_end_latency", ["--count", "20"], "end_to_end_latency", "p50_us"),
    ],
)
def test_a_measurement_of_a_reader(broker: Any, script: str, options: list[str], question: str, figure: str) -> None:
    args = [*options, "--pairs", "1", "--partitions", "1", "--url", broker.url]
    done = run_python(BENCH / f"{script}.py", *args, env=ROOT, timeout_s=60)
    report = json.loads(done.stdout)
    assert report["question"] == question
    assert report[figure] > 0
    assert report["ratio"] > 0


def test_the_cost_of_each_kind_of_schema_is_measured() -> None:
    done = run_python(BENCH / "schema_cost.py", "--count", "20", "--pairs", "3", env=ROOT, timeout_s=60)
    report = json.loads(done.stdout)
    ratios = [form["ratio"] for kind in ("json", "protobuf", "avro", "graphql") for form in report[kind].values()]
    assert len(ratios) == done.stderr.count(b" times\n") == 9
    assert max(ratios) == report["worst_ratio"] > 0


def test_what_observers_cost_is_measured(broker: Any) -> None:
    args = ["--count", "20", "--pairs", "2", "--url", broker.url]
    report = json.loads(run_python(BENCH / "observer_cost.py", *args, env=ROOT, timeout_s=60).stdout)
    assert report["unset_instructions"] == 0
    assert min(report["unset_ratio"], *report["kinds"].values(), *report["blocking"].values()) > 0


def test_the_share_that_tls_leaves_is_measured(broker: Any) -> None:
    args = ["--tls", "--count", "2000", "--pairs", "1", "--url", broker.url]
    done = run_python(BENCH / "produce_throughput.py", *args, env=ROOT, timeout_s=60)
    report = json.loads(done.stdout)
    assert report["question"] == "produce_throughput_tls"
    assert report["msgs_per_s"] > 0
    assert report["plain_msgs_per_s"] > 0
    assert b"the same without TLS" in done.stderr


def test_the_cost_of_an_outbox_in_a_file_is_measured(broker: Any, tmp_path: Path) -> None:
    args = ["--count", "2000", "--pairs", "1", "--outbox", str(tmp_path / "outbox"), "--url", broker.url]
    done = run_python(BENCH / "outbox_file.py", *args, env=ROOT, timeout_s=60)
    report = json.loads(done.stdout)
    assert report["question"] == "outbox_file"
    assert min(report["ratio"], report["cpu_ratio"], report["memory_msgs_per_s"]) > 0
    assert set(report["call_us"]) == {"memory", "none", "second", "produce"}
    assert (tmp_path / "outbox").exists()


def test_other_clients_are_measured_beside_ours(broker: Any, memphis_py_python: Path, tmp_path: Path) -> None:
    args = ["--count", "400", "--latency-count", "20", "--pairs", "1", "--sizes", "16", "1048576", "--url", broker.url]
    args += ["--memphis-py", str(memphis_py_python), "--plot", str(tmp_path)]
    done = run_python(BENCH / "compare.py", *args, env=ROOT, timeout_s=60)
    report = json.loads(done.stdout)
    clients = {"raw replay", "memphis_sync", "nats-py", "memphis-py"}
    for row in (*report["msgs_per_s"].values(), report["p50_us"], report["p99_us"]):
        assert set(row) == clients
        assert all(value > 0 for value in row.values())
    for name in ("throughput.svg", "latency.svg"):
        drawn = (tmp_path / name).read_text()
        assert all(client in drawn for client in clients)


def test_the_gateway_is_measured_beside_an_endpoint_that_does_nothing(broker: Any) -> None:
    args = ["--pairs", "1", "--requests", "40", "--count", "400", "--batch", "50", "--lines", "1000"]
    args += ["--connections", "1", "4", "--url", broker.url]
    done = run_python(BENCH / "http_throughput.py", *args, env=ROOT, timeout_s=100)
    report = json.loads(done.stdout)
    assert report["question"] == "http_throughput"
    assert min(report["single_ratio"], report["batch_ratio"], report["stream"]["msgs_per_s"]) > 0
    for name in ("nothing", "single", "batch", "lines", "consume"):
        assert set(report[name]) == {"1", "4"}
        assert all(run["p99_ms"] >= run["p50_ms"] > 0 and run["msgs_per_s"] > 0 for run in report[name].values())


def test_an_idle_client_is_measured() -> None:
    done = run_python(BENCH / "idle_cpu.py", "--seconds", "0.5", "--waiting", env=ROOT, timeout_s=60)
    report = json.loads(done.stdout)
    assert report["question"] == "idle_cpu"
    assert report["percent_of_a_core"] > 0


def test_the_return_of_clients_is_measured() -> None:
    args = ["--clients", "3", "--outages", "0.5"]
    done = run_python(BENCH / "reconnect_after_outage.py", *args, env=ROOT, timeout_s=60)
    report = json.loads(done.stdout)
    assert report["question"] == "reconnect_after_outage"
    assert report["max_s"] >= report["p50_s"] > 0
    assert b"3 clients back" in done.stderr


def test_a_fork_is_measured(broker: Any) -> None:
    done = run_python(
        BENCH / "fork_cost.py", "--count", "10", "--couples", "1", "--url", broker.url, env=ROOT, timeout_s=60
    )
    report = json.loads(done.stdout)
    assert report["question"] == "fork_cost"
    assert report["parent"]["with_p50_us"] >= report["processor"]["with_p50_us"] > 0
    assert b"child" in done.stderr


def test_the_replay_sends_the_very_bytes_of_our_client(broker: Any, station_name: str) -> None:
    """The template is taken off the client's connection, and gives back the frame it was taken from."""
    program = """
import sys
sys.path.insert(0, sys.argv[1])
import _raw, memphis_sync
from urllib.parse import urlsplit
url, station, ids = sys.argv[2], sys.argv[3], sys.argv[4] == "1"
parts = urlsplit(url)
frames = []
of = _raw.Template.of
_raw.Template.of = classmethod(lambda cls, frame: frames.append(frame) or of(frame))
def produce(port):
    with memphis_sync.connect(parts._replace(netloc=f"root:memphis@127.0.0.1:{port}").geturl()) as client:
        client.producer(station, "bench", idempotent=ids).produce(b"payload", nonblocking=True).result()
template = _raw.Template.record(parts.hostname, parts.port, produce)
(frame,) = frames
subject = frame.split(b" ")[1]
number = int(frame.split(b" ")[2].rpartition(b".")[2])
again = template.frame(subject, b"payload", number)
assert again == frame, (again, frame)
assert b"$memphis_producedBy: bench\\r\\n" in frame and (b"msg-id" in frame.lower()) == ids
"""
    for ids in "01":
        run_python("-c", program, BENCH, broker.url, station_name, ids, env=ROOT, timeout_s=60)


def test_what_the_port_for_sdks_costs_is_measured() -> None:
    done = run_python(BENCH / "sdk_port.py", "--count", "2000", "--pairs", "1", env=ROOT, timeout_s=60)
    report = json.loads(done.stdout)
    assert report["question"] == "sdk_port"
    assert report["msgs_per_s"] > 0
    assert report["has_ids"] is True
    assert b"on the SDK port" in done.stderr
