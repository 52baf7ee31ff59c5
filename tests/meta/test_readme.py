"""
README's code runs as it stands there: each Python block against the session's broker, each command.

A block that is added later is run without a word here. The two commands above the first heading are run word for word
by .ci/run, since they install the package and run this very suite.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fix_process import run_python

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


class Block(NamedTuple):
    """A fenced block."""

    heading: str  # of its section; "" above the first
    language: str
    code: str


def blocks(text: str) -> list[Block]:
    """All fenced blocks, in their order."""
    found, heading = [], ""
    for part in re.finditer(r"^## (?P<heading>.*)$|^```(?P<language>.*)\n(?P<code>(?:.*\n)*?)```$", text, re.MULTILINE):
        heading = part["heading"] or heading
        if part["code"] is not None:
            found.append(Block(heading, part["language"].strip(), part["code"]))
    return found


BLOCKS = blocks(README)
PYTHON = [block for block in BLOCKS if block.language == "python"]
START = [block for block in BLOCKS if block.language == "sh" and not block.heading]
COMMANDS = [block for block in BLOCKS if block.language == "sh" and block.heading]
(SCRIPT,) = (block.code for block in PYTHON if block.heading == "A script")
(FLASK,) = (block.code for block in PYTHON if block.heading == "A Flask view")
(SUPERVISED,) = (block.code for block in PYTHON if block.heading == "Consuming")
(NOTEBOOK,) = (block.code for block in PYTHON if block.heading == "A notebook cell")


@pytest.fixture(autouse=True)
def _address(broker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMPHIS_URL", broker.url)


def lines(program: str) -> list[str]:
    return [line for line in program.splitlines() if line.strip()]


def names(found: list[Block]) -> list[str]:
    return [block.heading.replace(" ", "-") for block in found]


# ---- every block is run ---------------------------------------------------------------------------------------------


def test_no_block_is_left_out() -> None:
    """A block in another language, or one that the pattern above does not see, would be shown and never run."""
    assert README.count("\n```") == 2 * len(BLOCKS)
    assert [block for block in BLOCKS if block not in [*PYTHON, *START, *COMMANDS]] == []


@pytest.mark.parametrize("block", PYTHON, ids=names(PYTHON))
def test_a_python_block_runs_without_a_warning(block: Block, tmp_path: Path, fresh_broker: Any) -> None:
    program = tmp_path / "block.py"
    program.write_text(block.code)
    address = {"MEMPHIS_URL": fresh_broker().url}  # nobody else's: the tests below look at what their block did
    assert run_python("-W", "error", program, env=address, cwd=tmp_path, timeout_s=60).stderr == b""


def test_two_commands_to_start_and_ci_runs_both() -> None:
    assert [len(block.code.splitlines()) for block in START] == [1, 1]
    ci = (ROOT / ".ci" / "run").read_text()
    assert re.findall(r"\$\(readme_command (\d+)\)", ci) == ["2", "1"]
    assert START[0].code.endswith(" .venv/bin/memphis-sync demo\n")
    assert START[1].code.endswith(" .venv/bin/python -m pytest\n")


def run_commands(code: str, folder: Path) -> None:
    """Runs shell commands in a folder, with those of this environment on the path."""
    subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code],
        cwd=folder,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        timeout=90,
        check=True,
    )


def test_further_commands_run(tmp_path: Path) -> None:
    for block in COMMANDS:
        run_commands(block.code, tmp_path)
    added = "## New\n\n```sh\nmemphis-sync --version\nfalse\n```\n"
    (block,) = blocks(added)  # it is seen, and held to its end
    assert block == Block("New", "sh", "memphis-sync --version\nfalse\n")
    with pytest.raises(subprocess.CalledProcessError):
        run_commands(block.code, tmp_path)


# ---- and what it does -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("program", "limit"), [(SCRIPT, 10), (FLASK, 14), (NOTEBOOK, 10)])
def test_a_program_is_short(program: str, limit: int) -> None:
    assert len(lines(program)) <= limit


def test_the_script(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(SCRIPT, "README.md", "exec"), {"__name__": "__main__"})
    stored, *messages = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"stored in partition [123] as number \d+", stored)
    assert messages[-1] == """bytearray(b'{"id": 7, "total": "12.50"}') None"""


def test_the_flask_view(memphis: Any, station_name: str) -> None:
    names: dict[str, Any] = {"__name__": "shop"}
    exec(compile(FLASK.replace('"orders"', f'"{station_name}"'), "README.md", "exec"), names)
    try:
        client = names["app"].test_client()
        answers = [client.post("/orders", json={"id": n}) for n in range(3)]
        assert [answer.status_code for answer in answers] == [201, 201, 201]
        assert answers[0].get_json() == {"stored": True}
    finally:
        names["app"].extensions["memphis"].close()
    got = memphis.fetch_messages(station_name, "reader", batch_size=10)
    assert sorted(bytes(message.get_data()) for message in got) == [b'{"id": 0}', b'{"id": 1}', b'{"id": 2}']


def test_requests_do_not_queue_behind_a_broker_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """One connect() takes 2 s to fail; eight requests one behind the other would take 16."""
    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor(8) as pool:
        monkeypatch.setenv("MEMPHIS_URL", f"memphis://root:memphis@127.0.0.1:{silent.getsockname()[1]}")
        names: dict[str, Any] = {"__name__": "shop"}
        exec(compile(FLASK, "README.md", "exec"), names)
        start = time.monotonic()
        answers = pool.map(lambda n: names["app"].test_client().post("/orders", json={"id": n}), range(8))
        codes = sorted(answer.status_code for answer in answers)
        assert time.monotonic() - start < 12
        assert codes[0] == 500
        assert codes.count(503) >= 5


def test_one_bad_message_among_thirty(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(SUPERVISED, "README.md", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out == "29 handled, dead letters: [b'0']\n"


def test_the_notebook_cell(capsys: pytest.CaptureFixture[str]) -> None:
    """As a kernel runs it: a loop is running in the calling thread already."""

    async def kernel() -> None:
        exec(compile(NOTEBOOK, "README.md", "exec"), {"__name__": "__main__"})

    asyncio.run(kernel())
    stored, read = capsys.readouterr().out.splitlines()
    assert stored == "1000 stored, 0 failed"
    assert re.fullmatch(r"\d+ read, the first is bytearray\(b'\{\"sensor\": 0, \"value\": 0\.0\}'\)", read)
