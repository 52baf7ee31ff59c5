"""memphis-sync ls, info and peek: tables for people, columns and JSON for programs, and nothing consumed."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Callable

import pytest
from fetching import fetch_exactly
from fix_proxy import AsMemphis

if TYPE_CHECKING:
    from memphis_sync import Station

Run = Callable[..., "tuple[int, str, str]"]
NO_STATION = (
    "there is no station 'no.such.station'; the first message to it creates it "
    "('memphis-sync ls' shows all stations, 'memphis-sync pub STATION' sends a message)"
)


@pytest.fixture
def run(broker: Any, monkeypatch: pytest.MonkeyPatch, capfdbinary: Any) -> Run:
    """``run("ls")`` gives exit code, stdout and stderr of the command, in this process."""
    from memphis_sync.cli._app import run as run_command

    monkeypatch.setenv("MEMPHIS_URL", broker.url)

    def go(*args: str) -> tuple[int, str, str]:
        capfdbinary.readouterr()
        code = run_command(list(args))
        out, err = capfdbinary.readouterr()
        return code, out.decode(), err.decode()

    return go


@pytest.fixture
def orders(memphis: Any, station_name: str) -> Station:
    """Twelve messages on two partitions, text that is no friend of terminals among them, and a group with a lag."""
    station = memphis.station(f"{station_name}.eu", partitions_number=2)
    producer = memphis.producer(station.name, "web")
    for number in range(10):
        producer.produce({"n": number}, headers={"kind": "a\tb"}, producer_partition_number=number % 2 + 1)
    consumer = memphis.consumer(station.name, "mailer", "mail")
    fetch_exactly(consumer, 3)
    producer.produce("a\tb\n\x1b[31m[/red]ü".encode(), producer_partition_number=1)
    producer.produce(b"\xff\x00", producer_partition_number=2)
    return station


def line_of(name: str, out: str) -> list[str]:
    (line,) = (line for line in out.splitlines() if line.startswith(f"{name}\t"))
    return line.split("\t")


@pytest.mark.parametrize("name", ["ls", "info", "peek"])
def test_help_has_examples(run: Run, name: str) -> None:
    code, out, _ = run(name, "--help")
    assert code == 0
    examples = out.partition("Examples:\n")[2].splitlines()
    assert len(examples) >= 2
    assert all(line.strip().startswith("memphis-sync ") and f" {name}" in line for line in examples)
    assert f"\n  {name} " in run("--help")[1]


def test_ls(run: Run, orders: Station) -> None:
    code, out, err = run("ls")
    assert (code, err) == (0, "")
    info = orders.info()
    assert info.last_time is not None
    row = [orders.name, "12", str(info.bytes), "2", info.last_time.isoformat(), "", "3600 seconds"]
    assert line_of(orders.name, out) == row
    assert line_of(orders.name, run("ls", "--groups")[1])[:5] == [orders.name, "12", "1", str(info.groups[0].lag), "3"]  # type: ignore[index]
    found = {each["station"]: each for each in map(json.loads, run("--json", "ls", "--groups")[1].splitlines())}
    record = found[orders.name]
    assert (record["messages"], record["retention"], record["schema"]) == (12, "message_age_sec", None)
    assert [each["partition"] for each in record["partitions"]] == [1, 2]
    assert [(each["group"], each["unacknowledged"]) for each in record["groups"]] == [("mail", 3)]


def test_info(run: Run, memphis: Any, orders: Station) -> None:
    memphis.create_schema(f"s-{orders.internal_name.partition('#')[0]}", "json", schema_content="{}")
    memphis.enforce_schema(f"s-{orders.internal_name.partition('#')[0]}", orders.name)
    code, out, err = run("info", orders.name)
    assert (code, err) == (0, "")
    assert re.search(rf"^station: +{re.escape(orders.name)}$", out, re.MULTILINE)
    assert re.search(r"^messages: +12$", out, re.MULTILINE)
    assert re.search(r"^schema: +s-.*\(version 1\)$", out, re.MULTILINE)
    assert re.search(r"^  mail +9 +3 +0 +0 ", out, re.MULTILINE)
    assert re.search(r"^  producer +web ", out, re.MULTILINE)
    record = json.loads(run("--json", "info", orders.name)[1])
    (client,) = record["clients"]
    assert [each["name"] for each in client["producers"]] == ["web"]
    assert [(each["name"], each["group"]) for each in client["consumers"]] == [("mailer", "mail")]
    assert record["unknown"] == {}


def test_peek(run: Run, orders: Station) -> None:
    code, out, err = run("peek", orders.name, "--count", "3")
    assert (code, err) == (0, "")
    rows = [line.split("\t") for line in out.splitlines()]
    assert [row[:2] for row in rows] == [["2", "5"], ["1", "6"], ["2", "6"]]
    assert [row[4] for row in rows] == ['{"n": 9}', r"a\tb\n\x1b[31m[/red]ü", r"\xff\x00"]
    assert rows[0][5:] == [r"kind=a\tb", "web"]
    assert datetime.now(timezone.utc) - datetime.fromisoformat(rows[0][2]) < timedelta(minutes=10)
    one = ("--partition", "2", "--from", "5", "--count", "1")
    assert run("peek", orders.name, *one, "--raw", "--split", "nul") == (0, '{"n": 9}\0', "")
    found = [json.loads(line) for line in run("--json", "peek", orders.name, "--count", "2")[1].splitlines()]
    assert [each.get("data") for each in found] == ["a\tb\n\x1b[31m[/red]ü", None]
    assert found[1]["data_base64"] == "/wA="
    assert run("peek", orders.name, "--since", "1h", "--count", "1")[1].split("\t")[:2] == ["1", "1"]
    later = (datetime.now(timezone.utc) + timedelta(hours=1)).isoformat()
    assert run("peek", orders.name, "--since", later) == (0, "", f"station {orders.name} holds no such messages\n")
    assert run("-q", "peek", orders.name, "--since", later) == (0, "", "")


def test_peek_writes_payloads_byte_for_byte(memphis_sync: Any, orders: Station) -> None:
    done = memphis_sync("peek", orders.name, "--count", "2", "--raw", "--split", "none")
    assert (done.returncode, done.stdout, done.stderr) == (0, "a\tb\n\x1b[31m[/red]ü".encode() + b"\xff\x00", b"")


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["info", "no.such.station"], 1, NO_STATION),
        (["peek", "no.such.station"], 1, NO_STATION),
        (["info", "no blanks"], 2, "name is 'no blanks'"),
        (["info"], 2, "STATION"),
        (["peek", "orders", "--count", "0"], 2, "count"),
        (["peek", "orders", "--since", "soon"], 2, "'soon' is neither a time as"),
        (["peek", "orders", "--since", "99999999999d"], 2, "neither a time"),
        (["ls", "orders"], 2, "orders"),
    ],
)
def test_what_is_refused(run: Run, args: list[str], code: int, said: str) -> None:
    got, out, err = run(*args)
    assert (got, out) == (code, ""), err
    assert said in err
    assert "Traceback" not in err


def test_schemas(run: Run, memphis: Any, orders: Station) -> None:
    name = f"s-{orders.internal_name.partition('#')[0]}"
    memphis.create_schema(name, "json", schema_content='{"title": "first"}')
    memphis.create_schema(name, "json", schema_content='{"title": "second"}')
    memphis.enforce_schema(name, orders.name)
    assert line_of(name, run("schema", "ls")[1]) == [name, "json", "2", "1", orders.name]
    rows = [json.loads(line) for line in run("--json", "schema", "ls")[1].splitlines()]
    assert {"name": name, "type": "json", "versions": 2, "active_version": 1, "stations": [orders.name]} in rows
    assert run("schema", "show", name) == (0, '{"title": "first"}\n', "")
    assert run("schema", "show", name, "2")[1] == '{"title": "second"}\n'
    assert json.loads(run("--json", "schema", "show", name)[1])["version"] == 1
    code, out, err = run("schema", "show", name, "3")
    assert (code, out) == (1, "")
    assert f"Schema {name} has no version 3; it has 1 to 2" in err


def test_from_and_since_together_are_refused(run: Run, orders: Station) -> None:
    code, _, err = run("peek", orders.name, "--from", "1", "--since", "1h")
    assert code == 2
    assert "are both given" in err


def test_a_memphis_broker_does_not_tell_everything(
    run: Run, broker: Any, orders: Station, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    proxy = AsMemphis((broker.host, broker.port))
    request.addfinalizer(proxy.close)
    monkeypatch.setenv("MEMPHIS_URL", broker.url.replace(str(broker.port), str(proxy.port)))
    record = json.loads(run("--json", "info", orders.name)[1])
    assert (record["messages"], record["schema"], record["clients"]) == (12, None, None)
    assert set(record["unknown"]) == {"schema", "clients"}
    code, out, _ = run("info", orders.name)
    assert code == 0
    assert re.search(r"^schema is not known: .*REST API", out, re.MULTILINE)
    assert line_of(orders.name, run("ls")[1])[5] == "?"


@pytest.mark.parametrize("columns", [60, 200])
def test_a_terminal_gets_a_table_that_fits(broker: Any, orders: Station, columns: int) -> None:
    master, slave = pty.openpty()
    env = {**os.environ, "MEMPHIS_URL": broker.url, "COLUMNS": str(columns), "TERM": "xterm-256color"}
    shown = b""
    with subprocess.Popen([sys.executable, "-m", "memphis_sync.cli", "ls"], stdout=slave, stderr=slave, env=env):
        os.close(slave)
        try:
            while data := os.read(master, 65536):
                shown += data
        except OSError:  # the child has closed its side
            pass
    os.close(master)
    lines = shown.decode().splitlines()
    assert lines[0].split()[:2] == ["STATION", "MESSAGES"]
    assert max(map(len, lines)) <= columns
    assert ("RETENTION" in lines[0]) == (columns == 200)
    assert "\x1b" not in shown.decode()
    assert any(line.startswith(orders.name[:20]) for line in lines)


def test_a_reader_that_has_enough(broker: Any, orders: Station) -> None:
    command = f"{sys.executable} -m memphis_sync.cli peek {orders.name} | head -1"
    env = {**os.environ, "MEMPHIS_URL": broker.url}
    done = subprocess.run(["sh", "-c", command], env=env, capture_output=True, timeout=60, check=True)
    assert (done.stdout.count(b"\n"), done.stderr) == (1, b"")
