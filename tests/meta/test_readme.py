"""README's programs run as they stand there, against the session's broker."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

README = (Path(__file__).parents[2] / "README.md").read_text()
SCRIPT, FLASK, NOTEBOOK = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


@pytest.fixture(autouse=True)
def _address(broker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMPHIS_URL", broker.url)


def lines(program: str) -> list[str]:
    return [line for line in program.splitlines() if line.strip()]


@pytest.mark.parametrize("program", [SCRIPT, FLASK, NOTEBOOK], ids=["script", "flask", "notebook"])
def test_a_program_is_ten_lines(program: str) -> None:
    assert len(lines(program)) <= 10


def test_exactly_two_commands_to_start() -> None:
    commands = re.findall(r"^```sh\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    assert len(commands) == 2
    assert all(len(command.splitlines()) == 1 for command in commands)


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


def test_the_notebook_cell(capsys: pytest.CaptureFixture[str]) -> None:
    """As a kernel runs it: a loop is running in the calling thread already."""

    async def kernel() -> None:
        exec(compile(NOTEBOOK, "README.md", "exec"), {"__name__": "__main__"})

    asyncio.run(kernel())
    stored, read = capsys.readouterr().out.splitlines()
    assert stored == "1000 stored, 0 failed"
    assert re.fullmatch(r"\d+ read, the first is bytearray\(b'\{\"sensor\": 0, \"value\": 0\.0\}'\)", read)
