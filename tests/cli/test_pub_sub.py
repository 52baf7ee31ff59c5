"""pub and sub in pipes: what goes in comes out, byte for byte, and the exit code says what happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

EVERY_BYTE = bytes(range(256))


def test_lines_come_back(memphis_sync: Any, station_name: str) -> None:
    lines = [b"one", b"", b"three \xff\xfe", b"carriage\r", b"last without newline"]
    sent = memphis_sync("pub", station_name, input=b"\n".join(lines))
    assert sent.returncode == 0, sent.stderr
    assert sent.stdout == b""
    assert sent.stderr.startswith(b"5 stored in ")
    assert sent.stderr.endswith(b" 0 duplicates, 0 failed\n")
    got = memphis_sync("sub", station_name, "--end")
    assert got.returncode == 0, got.stderr
    assert got.stdout == b"".join(line + b"\n" for line in lines)


@pytest.mark.parametrize("split", ["nul", "none"])
def test_binary_input_is_cut_only_where_it_is_said(memphis_sync: Any, station_name: str, split: str) -> None:
    payload = (EVERY_BYTE if split == "none" else EVERY_BYTE[1:]) * 40
    data = payload if split == "none" else b"\0".join([payload, b"second"])
    assert memphis_sync("pub", station_name, "--split", split, input=data).returncode == 0
    got = memphis_sync("sub", station_name, "--end", "--split", split)
    assert got.stdout == (data if split == "none" else data + b"\0")


def test_a_file_a_key_headers_and_ids(memphis_sync: Any, station_name: str, memphis: Any, tmp_path: Path) -> None:
    memphis.station(station_name, partitions_number=3)
    source = tmp_path / "input"
    source.write_bytes(b"a\nb\nc\n")
    options = ("--file", str(source), "--key", "customer-17", "-H", "kind=test", "-H", "empty=", "--id", "run-1")
    assert b"0 duplicates" in memphis_sync("pub", station_name, *options).stderr
    again = memphis_sync("--json", "pub", station_name, *options)
    assert json.loads(again.stdout)["duplicates"] == 3, "the same ids again are stored once"
    rows = [json.loads(line) for line in memphis_sync("--json", "sub", station_name, "--end").stdout.splitlines()]
    assert [row["data"] for row in rows] == ["a", "b", "c"]
    assert len({row["partition"] for row in rows}) == 1
    assert all(row["headers"]["kind"] == "test" and row["headers"]["empty"] == "" for row in rows)
    assert rows[0]["station"] == station_name


def test_json_of_what_is_no_text(memphis_sync: Any, station_name: str) -> None:
    memphis_sync("pub", station_name, "--split", "none", input=b"\xff\x00")
    (line,) = memphis_sync("--json", "sub", station_name, "--count", "1").stdout.splitlines()
    row = json.loads(line)
    assert row["data_base64"] == "/wA="
    assert "data" not in row


def test_a_body_on_the_command_line(memphis_sync: Any, station_name: str) -> None:
    assert memphis_sync("pub", station_name, "hello", "--partition", "1").returncode == 0
    assert memphis_sync("sub", station_name, "--count", "1").stdout == b"hello\n"


def test_a_group_goes_on_where_it_stopped(memphis_sync: Any, station_name: str) -> None:
    memphis_sync("pub", station_name, input=b"1\n2\n3\n4\n5\n")
    assert memphis_sync("sub", station_name, "--group", "g", "--count", "2").stdout == b"1\n2\n"
    assert memphis_sync("sub", station_name, "--group", "g", "--end").stdout == b"3\n4\n5\n"
    assert memphis_sync("sub", station_name, "--end").stdout == b"1\n2\n3\n4\n5\n", "no group: everything, each time"


def test_each_message_is_written_at_once(broker: Any, memphis: Any, station_name: str) -> None:
    """A line must not sit in a buffer until the next one comes."""
    producer = memphis.producer(station_name, "now")
    child = subprocess.Popen(
        [sys.executable, "-m", "memphis_sync.cli", "sub", station_name],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "MEMPHIS_URL": broker.url},
    )
    try:
        for number in range(3):
            producer.produce(b"message %d" % number)
            assert child.stdout is not None
            assert child.stdout.readline() == b"message %d\n" % number
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=10)
        assert child.returncode == 130
        assert (out, err.strip()) == (b"", b"")
    finally:
        child.kill()
        child.communicate()


def test_a_reader_that_has_enough_is_no_error(broker: Any, memphis: Any, station_name: str) -> None:
    """``sub | head -1``: the pipe closes, the command ends by itself, quietly and with 0."""
    producer = memphis.producer(station_name, "many")
    producer.produce_many(b"line %d" % number for number in range(2000))
    child = subprocess.Popen(
        [sys.executable, "-m", "memphis_sync.cli", "sub", station_name],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "MEMPHIS_URL": broker.url},
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"line 0\n"
        child.stdout.close()
        assert child.wait(15) == 0
        assert child.stderr is not None
        assert child.stderr.read() == b""
    finally:
        child.kill()
        child.wait()
        if child.stderr is not None:
            child.stderr.close()


@pytest.mark.slow
@pytest.mark.parametrize("count", [250_000, pytest.param(1_000_000, marks=pytest.mark.large)])
def test_many_lines_in_bounded_memory(broker: Any, memphis: Any, station_name: str, count: int) -> None:
    memphis.station(station_name)
    script = (
        "import re, sys; from memphis_sync.cli import main; code = main(['pub', sys.argv[1]]);"
        # Not getrusage(): its maximum is the parent's, if that was larger when it started this process.
        "print(code, re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1])"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, station_name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "MEMPHIS_URL": broker.url},
    )
    lines = b"".join(b"%d\n" % number for number in range(count))
    out, err = child.communicate(lines, timeout=110)
    code, peak_kib = map(int, out.split())
    assert code == 0, err
    assert err.startswith(f"{count:,} stored in ".encode())
    assert peak_kib < 400 * 1024, "the outbox holds 64 MiB and a million slots; everything else is small"


def test_what_was_not_stored_is_counted(fresh_broker: Any, station_name: str, tmp_path: Path) -> None:
    """The station goes away under a running pub: exit code 4, and stored + not stored is what was read."""
    import memphis_sync as library

    own = fresh_broker()
    child = subprocess.Popen(
        [sys.executable, "-m", "memphis_sync.cli", "--json", "pub", station_name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "MEMPHIS_URL": own.url},
    )
    try:
        assert child.stdin is not None
        child.stdin.write(b"stored\n" * 700)
        child.stdin.flush()
        with library.connect(own.url) as client:
            consumer = client.consumer(station_name, "watch", batch_max_time_to_wait_ms=1000)
            seen, deadline = 0, time.monotonic() + 30
            while seen == 0 and time.monotonic() < deadline:
                seen += len(consumer.fetch(10))
            client.station(station_name).destroy()
        out, err = child.communicate(b"lost\n" * 300, timeout=60)
    finally:
        child.kill()
        child.wait()
    result = json.loads(out)
    assert child.returncode == 4, err
    assert result["delivered"] + result["failed"] == 1000
    assert result["failed"] >= 300
    assert err.count(b"error: not stored: ") == 5, "some are spelled out"


@pytest.mark.slow
def test_a_broker_that_is_killed_under_pub_gives_4_and_the_exact_count(fresh_broker: Any, station_name: str) -> None:
    """Each message has the default 15 s to be confirmed, then it counts as not stored; nothing else is waited for."""
    import memphis_sync as library

    own = fresh_broker()
    child = subprocess.Popen(
        [sys.executable, "-m", "memphis_sync.cli", "--json", "pub", station_name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "MEMPHIS_URL": own.url},
    )
    try:
        assert child.stdin is not None
        child.stdin.write(b"stored\n" * 1000)
        child.stdin.flush()
        with library.connect(own.url) as client:
            consumer = client.consumer(station_name, "watch", batch_size=1000, batch_max_time_to_wait_ms=1000)
            seen, deadline = 0, time.monotonic() + 30
            while seen < 1000 and time.monotonic() < deadline:
                seen += len(consumer.fetch(1000))
            assert seen == 1000
        own.kill()
        start = time.monotonic()
        out, err = child.communicate(b"lost\n" * 500, timeout=60)
    finally:
        child.kill()
        child.wait()
    assert child.returncode == 4, err
    result = json.loads(out)
    assert (result["delivered"], result["failed"]) == (1000, 500)
    assert time.monotonic() - start < 25


def test_a_misspelt_station_is_an_error_of_sub_and_makes_none(
    memphis_sync: Any, memphis: Any, station_name: str
) -> None:
    done = memphis_sync("sub", station_name, "--end")
    assert (done.returncode, done.stdout) == (1, b"")
    assert f"there is no station '{station_name}'".encode() in done.stderr
    assert memphis_sync("sub", station_name, "--end").returncode == 1, "the first call has created nothing"
    assert memphis_sync("sub", station_name, "--end", "--create").returncode == 0
    assert memphis_sync("sub", station_name, "--end").returncode == 0


def test_no_odd_message_costs_the_lines_of_the_others(memphis_sync: Any, broker: Any, station_name: str) -> None:
    """Deep JSON, bytes that are not UTF-8, headers that are none: each is a line of JSON."""
    import socket

    memphis_sync("pub", station_name, "first")
    subject = f"{station_name}$1.final".encode()
    odd = [
        (b"", b"[" * 100_000),
        (b"NATS/1.0\r\nname: \xff\r\n\r\n", b"\xff"),
        (b"NATS/1.0\r\nnonsense\r\n\r\n", b"x"),
        (b"NATS/1.0", b"y"),
    ]
    with socket.create_connection((broker.host, broker.port), 10) as sock:
        login = {"user": "root$1", "pass": broker.password, "name": "odd::root", "headers": True, "verbose": False}
        sock.sendall(b"CONNECT %b\r\n" % json.dumps(login).encode())
        for head, body in odd:
            size = len(head)
            line = b"HPUB %b %d %d" % (subject, size, size + len(body)) if head else b"PUB %b %d" % (subject, len(body))
            sock.sendall(b"%b\r\n%b%b\r\n" % (line, head, body))
        sock.sendall(b"PING\r\n")
        said = b""
        while b"PONG\r\n" not in said:
            piece = sock.recv(4096)
            assert piece, said
            said += piece
    memphis_sync("pub", station_name, "last")
    done = memphis_sync("--json", "sub", station_name, "--end")
    assert done.returncode == 0, done.stderr
    records = [json.loads(line.decode()) for line in done.stdout.splitlines()]
    assert [records[0]["data"], records[-1]["data"]] == ["first", "last"]
    assert [record.get("data") for record in records[1:3]] == ["[" * 100_000, None]
    assert records[2]["headers"] == {"name": "\udcff"}
    assert all(isinstance(record["headers"], dict) for record in records)


def test_a_line_that_is_too_large_is_counted_and_the_others_are_stored(memphis_sync: Any, station_name: str) -> None:
    done = memphis_sync("--json", "pub", station_name, input=b"a\nb\n" + b"x" * 9_000_000 + b"\nc\n")
    assert done.returncode == 4, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["delivered"], summary["failed"]) == (3, 1)
    assert b"max_payload" in done.stderr
    assert memphis_sync("sub", station_name, "--end").stdout == b"a\nb\nc\n"
