"""memphis-sync dls: lines and JSON on stdout, words on stderr, and an exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from control_client import ControlClient
from dead_letter_client import DeadLetterClient

if TYPE_CHECKING:
    from memphis_sync._protocol.dead_letters import DeadLetterRow
    from memphis_sync.broker import BrokerProcess


@pytest.fixture
def client(broker: BrokerProcess) -> Iterator[DeadLetterClient]:
    with DeadLetterClient(broker) as connected:
        yield connected


@pytest.fixture
def rows(client: DeadLetterClient, station_name: str) -> list[DeadLetterRow]:
    """Three that group g has given up, the last with a reason that is no friend of terminals; one of no schema."""
    assert client.station(station_name) == ""
    assert client.consumer(station_name, "g").startswith("{")
    for number, reason in enumerate(["first", "", "a\tb\n\x1b[31m[/red]ü"]):
        client.nack(station_name, client.produce(station_name, b"[bold]%d\n" % number), error=reason)
    client.wait_for(station_name, 3)
    client.schema_failure(station_name, "ff00")
    return client.wait_for(station_name, 4)


def test_ls(memphis_sync: Any, station_name: str, rows: list[DeadLetterRow]) -> None:
    done = memphis_sync("dls", "ls", station_name)
    assert (done.returncode, done.stderr) == (0, b"")
    lines = [line.split(b"\t") for line in done.stdout.splitlines()]
    assert [len(line) for line in lines] == [9] * 4
    assert [int(line[0]) for line in lines] == [row.id for row in rows]
    assert lines[0][1:6] == [b"poison", b"1", b"1", b"g", b"p"]
    assert lines[0][8] == b"first"
    assert lines[2][8].decode() == r"a\tb\n\x1b[31m[/red]ü"
    assert lines[3][1] == b"schema"
    assert b"[bold]" not in done.stdout
    assert memphis_sync("dls", "ls", station_name, "--type", "schema").stdout == done.stdout.splitlines(True)[3]
    some = memphis_sync("dls", "ls", station_name, "--after", str(rows[0].id), "--limit", "2").stdout
    assert some.splitlines() == done.stdout.splitlines()[1:3]


def test_json(memphis_sync: Any, station_name: str, rows: list[DeadLetterRow]) -> None:
    done = memphis_sync("--json", "dls", "ls", station_name)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["id"] for record in found] == [row.id for row in rows]
    assert found[2]["data"] == "[bold]2\n"
    assert found[2]["reason"] == "a\tb\n\x1b[31m[/red]ü"
    assert found[2]["headers"] == {"kind": "test"}
    assert found[3]["data_base64"] == "/wA="
    assert "data" not in found[3]
    keys = {"id", "station", "type", "partition", "sequence", "producer", "groups", "reason", "time", "headers", "data"}
    assert set(found[0]) == keys


def test_sub_writes_one_that_is_sent_again_as_json(
    broker: BrokerProcess, memphis_sync: Any, station_name: str, rows: list[DeadLetterRow]
) -> None:
    """It is no delivery of a partition, and all that JSON says of a message must do without one."""
    first = str(rows[0].id)
    with subprocess.Popen(
        [sys.executable, "-m", "memphis_sync.cli", "--json", "sub", station_name, "--group", "g", "--count", "1"],
        stdout=subprocess.PIPE,
        env={**os.environ, "MEMPHIS_URL": broker.url},
    ) as child:
        while child.poll() is None:  # one that comes too early for the group stays with the broker
            memphis_sync("dls", "resend", station_name, first)
        assert child.stdout is not None
        record = json.loads(child.stdout.read())
    assert child.returncode == 0
    assert (record["station"], record["sequence"], record["data"]) == (station_name, rows[0].sequence, "[bold]0\n")
    assert record["headers"] == {"kind": "test"}


def test_resend_and_drop(
    memphis_sync: Any, station_name: str, rows: list[DeadLetterRow], client: DeadLetterClient
) -> None:
    first, second = str(rows[0].id), str(rows[1].id)
    done: list[Any] = []
    sent = client.received(
        f"$memphis_dls_{station_name}.g", 1, lambda: done.append(memphis_sync("dls", "resend", station_name, first))
    )
    assert [headers["$memphis_pm_id"] for _, headers in sent] == [first]
    assert (done[0].returncode, done[0].stdout, done[0].stderr) == (0, b"", b"1 sent again\n")
    assert json.loads(memphis_sync("--json", "dls", "resend", station_name, "--all").stdout) == {"resent": 3}
    assert memphis_sync("dls", "drop", station_name, first, second, "999999999").stderr == b"2 dropped\n"
    assert json.loads(memphis_sync("--json", "dls", "drop", station_name, "--all", "--type", "schema").stdout) == {
        "dropped": 1
    }
    assert [row.id for row in client.letters(station_name)] == [rows[2].id]
    assert memphis_sync("-q", "dls", "drop", station_name, "--all").stderr == b""
    assert memphis_sync("dls", "ls", station_name).stdout == b""


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["dls", "resend", "orders"], 2, b"--all"),
        (["dls", "drop", "orders"], 2, b"--all"),
        (["dls", "drop", "orders", "1", "--all"], 2, b"--all"),
        (["dls", "drop", "orders", "0"], 2, b"0"),
        (["dls", "drop", "orders", "x"], 2, b"x"),
        (["dls", "ls"], 2, b"STATION"),
        (["dls", "ls", "orders", "--type", "functions"], 2, b"functions"),
        (["dls", "ls", "no blanks"], 2, b"station_name"),
        (["dls", "nonsense"], 2, b"nonsense"),
        (["dls", "ls", "station.that.is.not.there"], 1, b"does not exist"),
        (["dls", "drop", "station.that.is.not.there", "--all"], 1, b"does not exist"),
    ],
)
def test_what_is_refused(memphis_sync: Any, args: list[str], code: int, said: bytes) -> None:
    done = memphis_sync(*args)
    assert (done.returncode, done.stdout) == (code, b""), done.stderr
    assert said in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("is_known", [True, False])
def test_json_sub_of_a_message_that_was_sent_again(
    memphis: Any, broker: Any, station_name: str, until: Any, is_known: bool
) -> None:
    """Our broker says where it lies; a Memphis broker does not, and the row has null there."""
    station = memphis.station(station_name)
    consumer = memphis.consumer(station_name, "c", "g")
    memphis.produce(station_name, "p", b"text")
    (message,) = consumer.fetch(timeout_s=10)
    message.dead_letter("why")
    consumer._reader.membership.end()  # the other member of the group shall have it
    command = [sys.executable, "-m", "memphis_sync.cli", "--json", "sub", station_name, "--group", "g", "--count", "1"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "MEMPHIS_URL": broker.url}
    )
    headers = {"$memphis_pm_id": "1", "$memphis_pm_cg_name": "g"}
    with ControlClient(broker, connection_id="resend") as raw:

        def send() -> bool:  # again and again: it is not known when the other listens
            if is_known:
                station.dls.resend()
            else:
                raw.run(raw.connection.publish(f"$memphis_dls_{station_name}.g", b"text", headers=headers))
                raw.run(raw.connection.flush())
            return process.poll() is not None

        until(send)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    row = json.loads(out)
    place = [1, message.sequence, message.timesent.isoformat()] if is_known else [None, None, None]
    assert [row["partition"], row["sequence"], row["time"]] == place
    assert row["data"] == "text"
