"""memphis_sync.testing in a user's own test run: opt-in, one broker a session, a station a test."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from fix_process import run_python
from pages import blocks

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "test-your-program.md").read_text()
CONFTEST, *EXAMPLES = (block.code for block in blocks("", PAGE))
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


def run(folder: Path, *args: str, tests: str = TESTS, **env: str) -> tuple[int, str]:
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_shop.py").write_text(tests)
    path = os.pathsep.join([str(Path(__file__).parents[2]), *env.pop("PYTHONPATH", "").split()])
    options = ["-p", "no:cacheprovider", "-q", "-W", "error", "--rootdir", folder, *args, folder]
    done = run_python("-m", "pytest", *options, env={"PYTHONPATH": path, **env}, cwd=folder, timeout_s=240, check=False)
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


def test_the_examples_of_the_page_in_four_processes_each_with_its_broker(tmp_path: Path) -> None:
    see = (
        "def test_see(memphis_broker, worker_id):\n    with open(worker_id, 'w') as file: file.write(memphis_broker)\n"
    )
    (tmp_path / "test_other.py").write_text(see)
    code, output = run(tmp_path, "-n", "4", "--dist", "each", tests="\n".join(["import memphis_sync", *EXAMPLES]))
    assert code == 0, output
    assert "16 passed" in output
    assert len({(tmp_path / f"gw{number}").read_text() for number in range(4)}) == 4


SENT = """
import memphis_sync, pytest

@pytest.fixture
def shop():
    with memphis_sync.connect("memory://", name="shop") as client:
        yield client

@pytest.mark.parametrize("number", range(3))
def test_it_begins_empty(memphis_sent, shop, number):
    assert memphis_sent == []
    assert not shop.produce("orders", "web", b"x", msg_id="1").duplicate
    assert len(memphis_sent) == 1

def test_before_the_client_is_there_or_after(shop, request):
    shop.produce("orders", "web", b"x", nonblocking=True)
    assert request.getfixturevalue("memphis_sent") == []
"""


def test_what_was_sent_is_empty_when_a_test_begins_and_needs_no_broker(tmp_path: Path) -> None:
    code, output = run(tmp_path, tests=SENT, PATH="/nowhere", PYTHONPATH=hidden_server(tmp_path))
    assert code == 0, output
    assert "4 passed" in output


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("localhost", "is not a URL; the form is memphis://user:password@host:port"),
        ("memphis://u:secret@b1:66x/", "the URL's port is not a number"),
        ("memphis://u:secret@b1/?namex=x", "did you mean 'name'"),
        ("memori://", "is not one of memphis"),
        ("memory://", "which is no broker"),
    ],
)
def test_a_url_that_cannot_be_one_ends_the_run_before_its_first_test(tmp_path: Path, url: str, text: str) -> None:
    given: Any = ["--memphis-url", url], {}
    if url == "localhost":
        given = [], {"MEMPHIS_TEST_URL": url}
    code, output = run(tmp_path, *given[0], **given[1])
    assert code == 4, output
    assert "MEMPHIS_TEST_URL" in output if given[1] else "--memphis-url" in output
    assert text in output
    assert "secret" not in output.replace(url, "")
    assert "Traceback" not in output


def hidden_server(folder: Path) -> str:
    """What keeps a program from finding nats-server where pip puts programs."""
    hide = f"import sysconfig\nget = sysconfig.get_path\nsysconfig.get_path = lambda name, *args: {str(folder)!r}"
    (folder / "sitecustomize.py").write_text(f"{hide} if name == 'scripts' else get(name, *args)\n")
    return str(folder)


def test_a_missing_broker_extra_is_an_error_that_says_what_to_install(tmp_path: Path) -> None:
    """Where pip puts programs there is no nats-server, and none on the path."""
    code, output = run(tmp_path, PATH="/nowhere", PYTHONPATH=hidden_server(tmp_path))
    assert code == 1
    assert "2 errors" in output
    assert "skipped" not in output
    assert "pip install 'memphis-sync[broker]'" in output
