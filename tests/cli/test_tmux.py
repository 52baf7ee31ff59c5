"""In a real terminal of 60 columns: the bar, Ctrl-C, a narrow table, and a password that is asked for."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

import memphis_sync

pytestmark = pytest.mark.tmux


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A pipe with a name: ``cat`` of it ends when the test has opened and closed it."""
    path = tmp_path / "gate"
    os.mkfifo(path)
    return path


def test_pub_draws_a_bar_and_removes_it(terminal: Any, station_name: str, gate: Path) -> None:
    terminal.type(f"(seq 300000; cat {gate}) | memphis pub {station_name}")
    terminal.until(" stored, ")
    gate.write_bytes(b"")
    shown = terminal.until("code=0")
    assert "300,000 stored in " in shown
    assert re.search(r"\d/s *\d:\d\d:\d\d", shown) is None, "the bar is gone"


def test_ctrl_c_ends_sub_with_130(terminal: Any, memphis: Any, station_name: str) -> None:
    memphis.produce(station_name, "p", b"a message")
    terminal.type(f"memphis sub {station_name}")
    terminal.until("a message")
    terminal.press("C-c")
    shown = terminal.until("code=130")
    assert "Traceback" not in shown


def test_a_table_and_a_help_fit(terminal: Any, fresh_broker: Any) -> None:
    own = fresh_broker()  # the table of the session's would leave the screen
    with memphis_sync.connect(own.url) as client:
        client.produce("orders", "p", b"x")
    terminal.type(f"clear; MEMPHIS_URL={own.url} memphis ls")
    shown = terminal.until("code=0")
    assert "STATION" in shown
    assert "MESSAGES" in shown
    terminal.type("clear; memphis doctor")
    shown = terminal.until("all is well")
    assert "stored     ok" in shown
    assert max(map(len, shown.splitlines())) <= 60


def test_no_color_leaves_the_bar_without_colour(terminal: Any, station_name: str, gate: Path) -> None:
    terminal.type(f"export NO_COLOR=1; clear; (seq 1000; cat {gate}) | memphis pub {station_name}")
    terminal.until(" stored, ")
    coloured = terminal.screen(with_colour=True)
    assert " stored, " in coloured
    gate.write_bytes(b"")
    terminal.until("code=0")
    assert not re.search(r"\x1b\[(?:[0-9;]*;)?(?:3[0-8]|4[0-8]|9[0-7])(?:;[0-9;]*)?m", coloured)


def test_a_password_that_is_missing_is_asked_for(terminal: Any, broker: Any) -> None:
    terminal.type(f"clear; memphis --url memphis://root@{broker.host}:{broker.port} ping")
    terminal.until("Password of root:")
    terminal.type(broker.password)
    shown = terminal.until("code=0")
    assert "answer 1: " in shown
    assert "Password of root:\n" in shown, "what is typed is not shown"
    terminal.type(
        f"clear; export MEMPHIS_URL= MEMPHIS_HOST={broker.host} MEMPHIS_PORT={broker.port} MEMPHIS_USERNAME=someone;"
        "memphis bench pub --msgs 10 --clients 2"
    )
    terminal.until("Password of someone:")
    terminal.type("wrong")
    assert "refused the user name" in " ".join(terminal.until("code=3").split())


def test_ctrl_c_at_the_question_is_130(terminal: Any, broker: Any) -> None:
    terminal.type(f"clear; memphis --url memphis://root@{broker.host}:{broker.port} ls")
    terminal.until("Password of root:")
    terminal.press("C-c")
    assert "Traceback" not in terminal.until("code=130")
