"""
The code in README and docs/ runs as it stands there, each Python block and each command, and prints what is shown.

Sybil finds the blocks and names the line of one that fails. A block or page that is added later is run without a word
here. The two commands above README's first heading are run word for word by .ci/run, since they install the package and
run this very suite.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Optional

import pytest
from fix_process import run_python
from pages import Block, blocks, regions
from sybil import Document, Example
from sybil.example import SybilFailure

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# As pages show them; those of the tests are somewhere else.
URL = "memphis://root:memphis@127.0.0.1:6666"
GATEWAY = "http://127.0.0.1:4444"

LARGE = 200_000  # messages of a program that takes seconds with them, which it runs with fewer here
FEWER = int(os.environ.get("TEST_PAGE_MESSAGES", "9000"))

EXAMPLES = ROOT / "docs" / "examples"  # programs that pages show as they are, and start in a shell


def parsed(path: Path) -> Document:
    """A page with its blocks, each of which knows how to be run."""
    document = Document(path.read_text(), path.name)
    for region in regions(document):
        region.evaluator = {"python": run_program, "sh": run_in_shell}.get(region.parsed.language)
        document.add(region)
    return document


def run_program(example: Example) -> Optional[str]:
    """Runs a Python block in a process of its own; what it printed, if that is not what is shown."""
    block, folder, get = example.parsed, example.namespace["folder"], example.namespace["get"]
    file = folder / "block.py"
    file.write_text(block.code.replace(f"{LARGE:_}", str(FEWER)))
    add_examples(folder)
    address = {"MEMPHIS_URL": get("fresh_broker")().url}  # nobody else's: it prints what it finds there
    if "memphis_sync.http" in block.code:
        address["MEMPHIS_HTTP_URL"] = get("fresh_gateway")(address["MEMPHIS_URL"]).url.replace(
            "://", "://root:memphis@"
        )
    fork = "ignore:This process:DeprecationWarning"  # of Python 3.12 and later, when a process with threads forks
    done = run_python("-W", "error", "-W", fork, file, env=address, cwd=folder, timeout_s=60)
    # A busy machine may take longer than half a second to end it, which it then says.
    assert re.sub(rb"(?m)^memphis_sync: .*; waiting up to .*\n", b"", done.stderr) == b""
    shown = None if block.output is None else block.output.replace(str(LARGE), str(FEWER))
    return difference(done.stdout.decode(), shown)


def add_examples(folder: Path) -> None:
    """The programs that pages show, as a reader has them."""
    shutil.copytree(EXAMPLES, folder, dirs_exist_ok=True)


def run_in_shell(example: Example) -> Optional[str]:
    """The same for commands, beside the programs that pages show."""
    block, folder, get = example.parsed, example.namespace["folder"], example.namespace["get"]
    code = block.code
    if GATEWAY in code:  # starting one takes longer than all that a page does with it, so they share the suite's
        code = code.replace(GATEWAY, get("gateway").url)
    else:
        code = code.replace(URL, get("fresh_broker")().url)
    add_examples(folder)
    return difference(run_commands(code, folder), block.output)


def difference(printed: str, shown: Optional[str]) -> Optional[str]:
    """What was printed, if a page shows something else, which has dots where it differs from run to run."""
    pattern = re.escape(shown or "").replace(re.escape("..."), ".*")
    return None if re.fullmatch(pattern, printed) else f"it printed:\n{printed}"


DOCUMENTS = [parsed(path) for path in PAGES]
BLOCKS = [example.parsed for document in DOCUMENTS for example in document]
START = [block for block in BLOCKS if block.language == "sh" and block.page == "README.md" and not block.heading]
SHOWN_FILES = [file.read_text() for file in sorted(EXAMPLES.rglob("*.py"))]
PYTHON = [block for block in BLOCKS if block.language == "python" and block.code not in SHOWN_FILES]
COMMANDS = [block for block in BLOCKS if block.language == "sh" and block not in START]
RUN = [example for document in DOCUMENTS for example in document if example.parsed in [*PYTHON, *COMMANDS]]


def program(heading: str, page: str = "README.md") -> Block:
    """The one Python block of a page below a heading."""
    (found,) = (block for block in PYTHON if (block.page, block.heading) == (page, heading))
    return found


SCRIPT, DJANGO, FLASK, CONSUMING = map(program, ("", "Django", "Flask", "Consuming safely"))
NOTEBOOK = program("A first cell", "notebooks.md")


@pytest.fixture(autouse=True)
def _address(broker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMPHIS_URL", broker.url)


def lines(code: str) -> list[str]:
    return [line for line in code.splitlines() if line.strip()]


def names(found: list[Block]) -> list[str]:
    return [f"{block.page}-{block.heading}".replace(" ", "-") for block in found]


# ---- every block is run ---------------------------------------------------------------------------------------------


def test_no_block_is_left_out() -> None:
    """A block in another language, or one that the pattern above does not see, would be shown and never run."""
    fences = sum(path.read_text().count("\n```") for path in PAGES)
    assert fences == 2 * (len(BLOCKS) + sum(block.output is not None for block in BLOCKS))
    shown = [block for block in BLOCKS if block.page != "README.md" and block.language in {"json", "text"}]
    shown += [block for block in BLOCKS if block.code in SHOWN_FILES]
    assert [block for block in BLOCKS if block not in [*PYTHON, *START, *COMMANDS, *shown]] == []


def test_what_a_program_prints_stands_below_it() -> None:
    assert [block for block in PYTHON if "print(" in block.code and block.output is None] == []
    assert [block for block in COMMANDS if block.output is None] == []


@pytest.mark.parametrize("example", RUN, ids=names([example.parsed for example in RUN]))
def test_a_block_runs_and_prints_what_is_shown(
    example: Example, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    example.namespace.update(folder=tmp_path, get=request.getfixturevalue)
    example.evaluate()


def test_each_program_of_the_examples_is_shown_and_started() -> None:
    """Its page shows the file as it is, and starts it below."""
    for file in EXAMPLES.glob("*.py"):
        (page,) = {block.page for block in BLOCKS if block.code == file.read_text()}
        assert any(file.name in block.code for block in COMMANDS if block.page == page)


def test_two_commands_to_start_and_ci_runs_both() -> None:
    assert [block.language for block in BLOCKS[:2]] == ["sh", "sh"]
    assert [len(block.code.splitlines()) for block in START] == [1, 1]
    ci = (ROOT / ".ci" / "run").read_text()
    assert re.findall(r"\$\(readme_command (\d+)\)", ci) == ["2", "1"]
    assert START[0].code.endswith(" .venv/bin/memphis-sync demo\n")
    assert START[1].code.endswith(" .venv/bin/python -m pytest\n")


def run_commands(code: str, folder: Path) -> str:
    """Runs shell commands in a folder, with those of this environment on the path; all that they print."""
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code],
        cwd=folder,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=90,
        check=True,
    ).stdout


def test_these_tests_bite(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The test of this test: what is added is seen, held to its end, and compared."""
    page = tmp_path / "x.md"
    added = "## New\n\n```sh\nmemphis-sync --version\nfalse\n```\n\n```text\nmemphis-sync...\n```\n"
    page.write_text(added + added.replace("false\n", "") + added.replace("false", "echo 2"))
    fails, passes, differs = parsed(page)
    assert fails.parsed == Block("x.md", "New", "sh", "memphis-sync --version\nfalse\n", "memphis-sync...\n")
    fails.namespace.update(folder=tmp_path, get=request.getfixturevalue)
    with pytest.raises(subprocess.CalledProcessError):
        fails.evaluate()
    passes.evaluate()
    with pytest.raises(SybilFailure, match=r"x\.md, line 22, (.|\n)*memphis-sync, .*\n2\n"):
        differs.evaluate()
    assert [found.language for found in blocks("x.md", "## A\n```sh\n```\n## B\n```text\n```\n")] == ["sh", "text"]


# ---- and what it does -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("block", "limit"), [(SCRIPT, 8), (CONSUMING, 14), (DJANGO, 8), (FLASK, 10), (NOTEBOOK, 10)], ids=str
)
def test_a_program_is_short(block: Block, limit: int) -> None:
    assert len(lines(block.code)) <= limit


def test_the_flask_view(memphis: Any, station_name: str) -> None:
    names: dict[str, Any] = {"__name__": "shop"}
    exec(compile(FLASK.code.replace('"orders"', f'"{station_name}"'), "README.md", "exec"), names)
    try:
        client = names["app"].test_client()
        answers = [client.post("/orders", json={"id": n}) for n in range(3)]
        assert [answer.status_code for answer in answers] == [201, 201, 201]
        assert answers[0].get_json() == {"stored": True}
    finally:
        names["memphis"].client_for(names["app"]).close()
    got = memphis.fetch_messages(station_name, "reader", batch_size=10)
    assert sorted(bytes(message.get_data()) for message in got) == [b'{"id": 0}', b'{"id": 1}', b'{"id": 2}']


def test_requests_do_not_queue_behind_a_broker_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """One connect() takes 2 s to fail; eight requests one behind the other would take 16."""
    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor(8) as pool:
        monkeypatch.setenv("MEMPHIS_URL", f"memphis://root:memphis@127.0.0.1:{silent.getsockname()[1]}")
        names: dict[str, Any] = {"__name__": "shop"}
        exec(compile(FLASK.code, "README.md", "exec"), names)
        start = time.monotonic()
        answers = pool.map(lambda n: names["app"].test_client().post("/orders", json={"id": n}), range(8))
        codes = sorted(answer.status_code for answer in answers)
        assert time.monotonic() - start < 12
        assert codes == [500] * 8


# A project around the view, in a process of its own, since Django's settings are the process's.
DJANGO_PROJECT = """
import sys
from django.conf import settings
database = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
apps = ["memphis_sync.contrib.django"]
settings.configure(DATABASES={"default": database}, INSTALLED_APPS=apps, USE_TZ=True, LOGGING_CONFIG=None)
import django
django.setup()
exec(compile(sys.argv[1], "README.md", "exec"))
from django.test import RequestFactory
def post(n):
    return order(RequestFactory().post("/orders", data=b"order %d" % n, content_type="text/plain")).status_code
"""


def test_the_django_view_produces_what_was_committed(memphis: Any, station_name: str) -> None:
    """The second order is rolled back by the transaction around the view."""
    code = f"""{DJANGO_PROJECT}
print(post(1))
try:
    with transaction.atomic():
        post(2)
        raise KeyError
except KeyError:
    print(post(3))
from memphis_sync.contrib.django import clients
clients.close_all()
"""
    done = run_python("-W", "error", "-c", code, DJANGO.code.replace('"orders"', f'"{station_name}"'), timeout_s=60)
    assert (done.stdout, done.stderr) == (b"201\n201\n", b"")
    got = memphis.fetch_messages(station_name, "reader", batch_size=10)
    assert [bytes(message.get_data()) for message in got] == [b"order 1", b"order 3"]


@pytest.mark.slow
def test_django_saves_orders_while_the_broker_is_away() -> None:
    """As test_requests_do_not_queue_behind_a_broker_that_is_away(); what could not be sent is logged."""
    code = f"""{DJANGO_PROJECT}
import time
from concurrent.futures import ThreadPoolExecutor
from memphis_sync.contrib.django import clients
start = time.monotonic()
with ThreadPoolExecutor(8) as pool:
    print(set(pool.map(post, range(8))), time.monotonic() - start < 12, clients.lost_after_commit)
"""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = {"MEMPHIS_URL": f"memphis://root:memphis@127.0.0.1:{silent.getsockname()[1]}"}
        done = run_python("-c", code, DJANGO.code, env=address, timeout_s=60)
    assert done.stdout == b"{201} True 8\n"
    assert b"a message to orders was not accepted after the commit, and is lost" in done.stderr


def test_the_worker_ends_in_order_on_sigterm(
    start_python: Any, memphis: Any, tmp_path: Path, station_name: str
) -> None:
    """In the form that never ends by itself; what it has not handled is there for the next one."""
    file = tmp_path / "worker.py"
    code = CONSUMING.code.replace('"mails"', f'"{station_name}"')
    file.write_text(code.replace("in consumer.read_all():", "in consumer:"))
    assert file.read_text() != code
    child = start_python(file)
    assert child.line().startswith(b"delivery 1 of message 1 failed")
    child.process.send_signal(signal.SIGTERM)
    said = child.line()
    while not (ended := re.fullmatch(rb"(\d+) sent, dead letters: (.*)\n", said)):
        said = child.line()
    assert child.wait(20) == 0
    left = list(memphis.consumer(station_name, "worker").read_all())
    handled = {message.data for message in left} - {b"0"}
    assert len(handled) == 29 - int(ended[1])


def test_the_notebook_cell(capsys: pytest.CaptureFixture[str], fresh_broker: Any, monkeypatch: Any) -> None:
    """As a kernel runs it: a loop is running in the calling thread already."""
    monkeypatch.setenv("MEMPHIS_URL", fresh_broker().url)

    async def kernel() -> None:
        exec(compile(NOTEBOOK.code, "notebooks.md", "exec"), {"__name__": "__main__"})

    asyncio.run(kernel())
    assert capsys.readouterr().out == NOTEBOOK.output
