"""memphis-sync outbox: what is in an outbox file, and sending, exporting and dropping it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from programs import read_back

import memphis_sync as memphis_package

LEFT = """
import os, memphis_sync
client = memphis_sync.connect(os.environ["TEST_URL"], outbox=os.environ["TEST_OUTBOX"])
producer = client.producer(os.environ["TEST_STATION"], "shop")
client._session._data.core.detach()  # nothing goes out any more
producer.produce("text", nonblocking=True, headers={"color": "red"}, msg_id="mine")
producer.produce(b"\\xff\\xfe", nonblocking=True)
os._exit(0)
"""


@pytest.fixture
def left(run_python: Any, broker: Any, memphis: Any, station_name: str, tmp_path: Path) -> str:
    """A file with two messages that a program has left."""
    memphis.station(station_name)
    path = str(tmp_path / "box")
    env = {"TEST_URL": broker.url, "TEST_OUTBOX": path, "TEST_STATION": station_name}
    run_python("-c", LEFT, env=env, timeout_s=60)
    return path


def test_it_shows_what_is_inside(memphis_sync: Any, left: str, station_name: str) -> None:
    done = memphis_sync("outbox", left)
    assert done.returncode == 0
    path, station, partition, count, size, oldest = done.stdout.decode().rstrip().split("\t")
    assert (path, station, partition, count, size) == (left, station_name, "1", "2", "6")
    assert oldest.endswith("+00:00")
    assert done.stderr.decode() == f"{left}: 2 messages, not in use\n"
    (line,) = memphis_sync("--json", "outbox", left).stdout.splitlines()
    shown = json.loads(line)
    assert (shown["path"], shown["messages"], shown["in_use_by"], shown["error"]) == (left, 2, None, None)
    assert shown["stations"] == [
        {"station": station_name, "partition": 1, "messages": 2, "bytes": 6, "oldest": shown["oldest"]}
    ]


def test_it_says_who_has_it_in_use(memphis_sync: Any, broker: Any, tmp_path: Path) -> None:
    with memphis_package.connect(broker.url, outbox=tmp_path / "box"):
        done = memphis_sync("outbox", str(tmp_path / "box"))
        assert f"in use by process {os.getpid()}" in done.stderr.decode()
        for option in ("--send", "--drop", "--export=x"):
            done = memphis_sync("outbox", str(tmp_path / "box"), option)
            assert done.returncode == 2
            assert f"in use by process {os.getpid()}" in done.stderr.decode()


def test_it_sends_what_is_inside(memphis_sync: Any, memphis: Any, left: str, station_name: str) -> None:
    done = memphis_sync("outbox", left, "--send")
    assert done.returncode == 0
    assert done.stderr.decode().endswith("2 sent\n")
    assert [message.data for message in read_back(memphis, station_name)] == [b"text", b"\xff\xfe"]
    assert json.loads(memphis_sync("--json", "outbox", left).stdout)["messages"] == 0
    again = memphis_sync("--json", "outbox", left, "--send")
    assert json.loads(again.stdout) == {"sent": 0, "failed": 0, "left": 0}


def test_what_could_not_be_sent_is_said_and_stays(
    memphis_sync: Any, memphis: Any, left: str, station_name: str
) -> None:
    memphis.station(station_name).destroy()
    done = memphis_sync("outbox", left, "--send")
    assert done.returncode == 4
    assert done.stderr.decode().endswith("0 sent, 2 failed\n")
    nobody = memphis_sync("--url", "memphis://root@127.0.0.1:1", "outbox", left, "--send")
    assert nobody.returncode in {2, 3}


def test_it_exports_what_is_inside(memphis_sync: Any, left: str, station_name: str, tmp_path: Path) -> None:
    done = memphis_sync("outbox", left, "--export", str(tmp_path / "out"))
    assert done.returncode == 0
    first, second = map(json.loads, (tmp_path / "out").read_text().splitlines())
    assert (first["station"], first["partition"], first["msg_id"], first["data"]) == (station_name, 1, "mine", "text")
    assert first["headers"]["color"] == "red"
    assert (second["data_base64"], second["may_be_stored"]) == ("//4=", False)
    assert memphis_sync("outbox", left, "--export", str(tmp_path / "out")).returncode == 1  # it overwrites nothing
    assert len(memphis_sync("outbox", left, "--export", "-").stdout.splitlines()) == 2
    assert json.loads(memphis_sync("--json", "outbox", left).stdout)["messages"] == 2


def test_it_drops_what_is_inside_when_it_may(memphis_sync: Any, left: str) -> None:
    done = memphis_sync("outbox", left, "--drop", input=b"n\n")
    assert done.returncode == 130
    assert f"Remove {left} with 2 messages that were never confirmed?" in done.stderr.decode()
    assert Path(left).exists()
    done = memphis_sync("outbox", left, "--drop", "--yes")
    assert (done.returncode, done.stderr) == (0, b"2 messages dropped\n")
    assert not Path(left).exists()


def test_a_damaged_file_is_shown_exported_and_dropped(memphis_sync: Any, left: str) -> None:
    content = bytearray(Path(left).read_bytes())
    content[content.index(b"text")] ^= 1
    Path(left).write_bytes(content)
    assert "1 messages, 1 damaged entries, not in use" in memphis_sync("outbox", left).stderr.decode()
    assert memphis_sync("outbox", left, "--send").returncode == 2
    assert len(memphis_sync("outbox", left, "--export", "-").stdout.splitlines()) == 1
    os.truncate(left, 5000)
    done = memphis_sync("outbox", left)
    assert done.returncode == 1
    assert "is cut off or grown" in done.stderr.decode()
    assert memphis_sync("outbox", left, "--drop", "--yes").returncode == 0
    assert not Path(left).exists()


def test_other_files_are_left_alone(memphis_sync: Any, tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("dear diary")
    for options in ([], ["--drop", "--yes"], ["--export", "-"], ["--send"]):
        done = memphis_sync("outbox", str(tmp_path / "notes"), *options)
        assert done.returncode in {1, 2}
        assert b"is not an outbox file" in done.stderr
    assert (tmp_path / "notes").read_text() == "dear diary"
    assert b"there is no such file" in memphis_sync("outbox", str(tmp_path / "none")).stderr
    assert memphis_sync("outbox", str(tmp_path), "--send", "--drop").returncode == 2
    assert memphis_sync("outbox").returncode == 2
