"""Standard streams that are closed, full or broken, and Ctrl-C: what is stored is told, and never by a traceback."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable

import pytest
from control_client import ControlClient

COMMAND = f"{shlex.quote(sys.executable)} -m memphis_sync.cli"
Shell = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def shell(broker: Any) -> Shell:
    """``shell("pub STATION body", "<&-")`` runs the command with these redirections."""

    def run(args: str, redirections: str) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            ["sh", "-c", f"{COMMAND} {args} {redirections}"],
            input=b"",
            capture_output=True,
            env={**os.environ, "MEMPHIS_URL": broker.url},
            timeout=60,
            check=False,
        )
        assert b"Traceback" not in done.stderr, done.stderr
        assert b"Exception ignored" not in done.stderr, done.stderr
        return done

    return run


def stored(memphis: Any, station: str) -> list[bytes]:
    return [bytes(message.data) for message in memphis.fetch_messages(station, "check", timeout_s=5)]


@pytest.mark.parametrize("redirections", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", "2>/dev/full"])
def test_a_body_is_stored_whatever_stream_is_missing(
    shell: Shell, memphis: Any, station_name: str, redirections: str
) -> None:
    done = shell(f"pub {station_name} body", redirections)
    assert (done.returncode, stored(memphis, station_name)) == (0, [b"body"])


@pytest.mark.parametrize(
    "args", ["pub x", "pub x --file -", "schema create s --type json", "schema create s - --type json"]
)
def test_a_closed_stdin_that_is_needed_is_a_usage_error(shell: Shell, args: str) -> None:
    done = shell(args, "<&-")
    assert done.returncode == 2
    assert b"standard input is closed" in done.stderr


@pytest.mark.parametrize("args", ["sub {} --count 1", "dls ls {}"])
def test_a_closed_stdout_takes_nothing_from_the_station(
    shell: Shell, memphis: Any, station_name: str, args: str
) -> None:
    memphis.produce(station_name, "p", b"kept")
    done = shell(args.format(station_name), ">&-")
    assert done.returncode == 2
    assert b"standard output is closed" in done.stderr


def test_a_full_disk_under_sub_fails_once_and_acknowledges_nothing(
    shell: Shell, memphis: Any, station_name: str
) -> None:
    memphis.produce(station_name, "p", b"kept")
    done = shell(f"sub {station_name} --group g --count 1", ">/dev/full")
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert b"No space left" in done.stderr


def test_a_reader_that_went_away_does_not_change_what_pub_says(broker: Any, memphis: Any, station_name: str) -> None:
    memphis.create_schema(station_name, "json", schema_content='{"type": "object"}')
    memphis.station(station_name, schema_name=station_name)
    read, write = os.pipe()
    os.close(read)
    try:
        for streams in (
            {"stdout": write, "stderr": subprocess.DEVNULL},
            {"stdout": subprocess.DEVNULL, "stderr": write},
        ):
            done = subprocess.run(
                [*shlex.split(COMMAND), "--json", "pub", station_name, "17"],
                env={**os.environ, "MEMPHIS_URL": broker.url},
                timeout=60,
                check=False,
                **streams,
            )
            assert done.returncode == 4
    finally:
        os.close(write)


# ---- Ctrl-C ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_json", [False, True])
def test_ctrl_c_in_pub_says_what_is_stored(
    start: Any, memphis: Any, station_name: str, until: Any, as_json: bool
) -> None:
    child = start(*["--json"] * as_json, "pub", station_name, stdin=subprocess.PIPE)
    child.stdin.write(b"line\n" * 5000)
    child.stdin.flush()
    consumer = memphis.consumer(station_name, "watch")
    until(lambda: consumer.fetch(10, timeout_s=1))
    os.killpg(child.pid, signal.SIGINT)
    out, err = child.communicate(timeout=30)
    assert child.returncode == 130, err
    if as_json:
        result = json.loads(out)
        assert result["interrupted"] is True
        delivered = result["delivered"]
    else:
        assert err.startswith(b"interrupted: ")
        delivered = int(err.split()[1].replace(b",", b""))
    assert err.count(b"\n") == (0 if as_json else 1)
    assert 0 < delivered <= 5000
    assert memphis.fetch_messages(station_name, "last", batch_size=5000, timeout_s=5)


@pytest.fixture
def demo_lines(tmp_path: Path) -> str:
    """Enough to keep a demo busy for long."""
    path = tmp_path / "lines"
    path.write_bytes(b"a line\n" * 2_000_000)
    return str(path)


def demo_streams(client: ControlClient) -> list[str]:
    return [name for name in client.jetstream("STREAM.NAMES")["streams"] or () if name.startswith("demo-")]


def interrupt(pid: int) -> None:
    """Ctrl-C."""
    os.killpg(pid, signal.SIGINT)


def interrupt_beside_the_main_thread(pid: int) -> None:
    """A thread that wakes nobody gets the signal, as when it comes just before the main thread begins to wait."""
    os.kill(max(int(thread.name) for thread in Path(f"/proc/{pid}/task").iterdir()), signal.SIGINT)


@pytest.mark.parametrize("send", [interrupt, interrupt_beside_the_main_thread])
def test_ctrl_c_ends_a_demo_at_once_when_its_broker_ends_with_it(
    start: Any, fresh_broker: Any, until: Any, demo_lines: str, send: Callable[[int], None]
) -> None:
    """As on a terminal, where both get the Ctrl-C: nobody waits for acknowledgements that cannot come."""
    own = fresh_broker()
    with ControlClient(own) as client:
        child = start("--url", own.url, "demo", demo_lines)

        def messages() -> int:
            infos = [client.jetstream(f"STREAM.INFO.{name}") for name in demo_streams(client)]
            return sum(info["state"]["messages"] for info in infos if "state" in info)

        until(messages)
    own.kill()
    send(child.pid)
    out, err = child.communicate(timeout=12)  # waiting for acknowledgements takes 15 s
    assert (child.returncode, out) == (130, b""), err
    assert b"Traceback" not in err


def test_ctrl_c_in_a_demo_on_a_broker_of_somebody_elses_leaves_no_station(
    start: Any, broker: Any, until: Any, demo_lines: str
) -> None:
    with ControlClient(broker) as client:
        child = start("--url", broker.url, "demo", demo_lines)
        until(lambda: demo_streams(client))
        os.killpg(child.pid, signal.SIGINT)
        out, err = child.communicate(timeout=60)
        assert (child.returncode, out) == (130, b""), err
        assert demo_streams(client) == []
