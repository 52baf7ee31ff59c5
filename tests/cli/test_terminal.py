"""On a terminal: a bar with the rate, no colour where NO_COLOR says so, and Ctrl-C. Nothing of it in a pipe."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any, Callable

import pytest

COLOUR = re.compile(rb"\x1b\[[0-9;]*m")
Start = Callable[..., "tuple[subprocess.Popen[bytes], bytearray]"]


@pytest.fixture
def start_on_terminal(broker: Any) -> Iterator[Start]:
    """Starts the command with stderr on a pseudo terminal; gives the child and what the terminal shows."""
    cleanups: list[Callable[[], object]] = []

    def start(*args: str, **env: str) -> tuple[subprocess.Popen[bytes], bytearray]:
        master, slave = pty.openpty()
        child = subprocess.Popen(
            [sys.executable, "-m", "memphis_sync.cli", *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=slave,
            env={**os.environ, "MEMPHIS_URL": broker.url, "TERM": "xterm-256color", "COLUMNS": "100", **env},
        )
        os.close(slave)
        shown = bytearray()

        def read() -> None:
            try:
                while data := os.read(master, 65536):
                    shown.extend(data)
            except OSError:  # the child has closed its side
                pass

        reader = threading.Thread(target=read, name="test-terminal")
        reader.start()
        cleanups.extend([child.kill, child.communicate, reader.join, lambda: os.close(master)])
        return child, shown

    yield start
    for cleanup in cleanups:
        cleanup()


def test_pub_shows_a_bar_with_the_rate(start_on_terminal: Start, station_name: str) -> None:
    child, shown = start_on_terminal("pub", station_name)
    child.communicate(b"".join(b"line %d\n" % number for number in range(200_000)), timeout=60)
    assert child.returncode == 0
    assert re.search(rb"[\d,]+ stored, [\d,]+/s", shown), "the bar"
    assert b"200,000 stored in " in shown, "the summary"
    assert COLOUR.search(shown)


def test_no_color_is_respected(start_on_terminal: Start, station_name: str) -> None:
    child, shown = start_on_terminal("pub", station_name, NO_COLOR="1")
    child.communicate(b"line\n" * 100_000, timeout=60)
    assert child.returncode == 0
    assert b" stored, " in shown
    assert not re.search(rb"\x1b\[(?:[0-9;]*;)?(?:3[0-9]|4[0-9]|9[0-7])[;m]", shown), (
        "no colour, whatever else the bar does"
    )


def test_quiet_shows_nothing(start_on_terminal: Start, station_name: str) -> None:
    child, shown = start_on_terminal("-q", "pub", station_name)
    child.communicate(b"line\n" * 1000, timeout=60)
    assert child.returncode == 0
    assert bytes(shown) == b""


def test_ctrl_c_in_pub_is_130_without_a_traceback(start_on_terminal: Start, station_name: str, memphis: Any) -> None:
    child, shown = start_on_terminal("pub", station_name)
    assert child.stdin is not None
    child.stdin.write(b"line\n" * 5000)
    child.stdin.flush()
    consumer = memphis.consumer(station_name, "watch", batch_max_time_to_wait_ms=10_000)
    assert consumer.fetch(1), "it is at work"
    child.send_signal(signal.SIGINT)
    assert child.wait(15) == 130
    assert b"Traceback" not in shown


def test_the_bar_follows_what_is_stored() -> None:
    from memphis_sync.cli._pub import _Stored

    stored = _Stored()
    assert len(list(stored.watch([b"123456789"] * 3000))) == 3000
    assert [stored.bytes_of(count) for count in (0, 1023, 2048, 2999, 3000)] == [0, 0, 20_480, 20_480, 30_000]
