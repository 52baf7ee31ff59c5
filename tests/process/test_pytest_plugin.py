"""memphis_sync.testing in a user's own test run: opt-in, one broker a session, a station a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fix_process import run_python

CONFTEST = 'pytest_plugins = ["memphis_sync.testing"]\n'
TESTS = """
seen = []

def test_one(memphis, memphis_station, memphis_broker):
    seen.append(memphis_station.name)
    assert memphis.produce(memphis_station.name, "web", {"id": 7}).sequence == 1
    (message,) = memphis.fetch_messages(memphis_station.name, "reader")
    assert message.data == b'{"id": 7}'

def test_two_has_a_station_of_its_own(memphis, memphis_station):
    assert memphis_station.name not in seen
    assert memphis.produce(memphis_station.name, "web", b"x").sequence == 1
"""


def run(folder: Path, *args: str, **env: str) -> tuple[int, str]:
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_shop.py").write_text(TESTS)
    package = str(Path(__file__).parents[2])
    options = ["-p", "no:cacheprovider", "-q", "-W", "error", "--rootdir", folder, *args, folder]
    done = run_python(
        "-m", "pytest", *options, env={"PYTHONPATH": package, **env}, cwd=folder, timeout_s=60, check=False
    )
    return done.returncode, done.stdout.decode() + done.stderr.decode()


def test_a_broker_of_its_own(tmp_path: Path) -> None:
    code, output = run(tmp_path)
    assert code == 0, output
    assert "2 passed" in output


def test_a_broker_that_runs_already(tmp_path: Path, broker: Any) -> None:
    code, output = run(tmp_path, "--memphis-url", broker.url)
    assert code == 0, output


def test_a_broker_that_is_not_there_is_an_error_not_a_skip(tmp_path: Path, refused_address: tuple[str, int]) -> None:
    host, port = refused_address
    code, output = run(tmp_path, MEMPHIS_TEST_URL=f"memphis://root:memphis@{host}:{port}")
    assert code == 1
    assert "2 errors" in output
    assert str(port) in output
