"""
The recipes of "Where your process can die", as they stand on the page.

tests/meta/test_readme.py runs each program of the page; here they run in the servers they are for, and what the page
says about each way to end is tried.
"""

from __future__ import annotations

import configparser
import json
import re
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from pages import blocks, program, section
from programs import check_arrived, read_back

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "where-a-process-can-die.md").read_text()
ROWS = re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \|$", section(PAGE, "Nine ways to end"), re.MULTILINE)[
    1:
]  # without the head
# What ends the process in each row, in the order of the page
ENDINGS = {
    "falls off its end": ["", 0],
    "calls `sys.exit()`": ["sys.exit()", 0],
    "raises an exception that nobody catches": ["raise KeyError('boom')", 1],
    "gets Ctrl-C (SIGINT)": ["os.kill(os.getpid(), signal.SIGINT); time.sleep(60)", -2],
    "gets SIGTERM, with the handler below": ["HANDLER\nos.kill(os.getpid(), signal.SIGTERM); time.sleep(60)", 0],
    "gets SIGTERM or SIGHUP, without a handler": ["os.kill(os.getpid(), signal.SIGHUP); time.sleep(60)", -1],
    "calls `os._exit()`": ["os._exit(0)", 0],
    "calls `os.execv()` or a sibling": ["os.execv('/bin/true', ['true'])", 0],
    "gets SIGKILL, crashes, or loses power": ["os.kill(os.getpid(), signal.SIGKILL)", -9],
}
QUEUED = 20_000
PROGRAM = """
import os, signal, sys, time
import memphis_sync

memphis = memphis_sync.connect()
producer = memphis.producer(os.environ["TEST_STATION"], "leaver")
for number in range(int(os.environ["TEST_QUEUED"])):
    producer.produce(b"%d" % number, nonblocking=True)
ENDING
"""


def test_the_page_names_what_is_tried() -> None:
    assert [row[0] for row in ROWS] == list(ENDINGS)
    assert len(ROWS) == 9


@pytest.mark.parametrize(("ending", "runs", "lost"), ROWS, ids=[row[0] for row in ROWS])
def test_an_ending_loses_what_the_page_says(
    ending: str, runs: str, lost: str, broker: Any, memphis: Any, station_name: str, start_program: Any, tmp_path: Path
) -> None:
    """Where something is lost, the messages are sent one by one, so that most of them are still queued."""
    code, expected = ENDINGS[ending]
    (handler,) = re.findall(r"^signal\.signal.*$", program(PAGE, "SIGTERM"), re.MULTILINE)
    (tmp_path / "leaver.py").write_text(PROGRAM.replace("ENDING", code.replace("HANDLER", handler)))
    options = "?exit_timeout_s=60" if runs == "yes" else "?max_in_flight=1"
    env = {"MEMPHIS_URL": f"{broker.url}/{options}", "TEST_STATION": station_name, "TEST_QUEUED": str(QUEUED)}
    leaver = start_program("leaver.py", env=env)
    assert leaver.wait() == expected, leaver.stderr
    assert "were not confirmed" not in leaver.stderr
    if lost.startswith("nothing"):
        check_arrived(memphis, station_name, [str(number) for number in range(QUEUED)])
    else:
        assert lost.startswith("what is queued")
        found = [message.data for message in read_back(memphis, station_name)]
        assert len(set(found)) == len(found) < QUEUED


def test_the_sigterm_recipe_loses_nothing(
    broker: Any, memphis: Any, station_name: str, start_program: Any, tmp_path: Path
) -> None:
    (tmp_path / "script.py").write_text(program(PAGE, "SIGTERM").replace('"orders"', f'"{station_name}"'))
    start_program("script.py", env={"MEMPHIS_URL": broker.url}).done()
    check_arrived(memphis, station_name, [f"order {number}" for number in range(1000)])


def test_the_unit_of_systemd_waits_longer_than_its_program() -> None:
    (block,) = blocks("", section(PAGE, "systemd"))
    unit = configparser.ConfigParser()
    unit.optionxform = str  # type: ignore[assignment, method-assign]  names of systemd have capitals
    unit.read_string(block.code)
    (exit_timeout_s,) = re.findall(r"exit_timeout_s=(\d+)$", unit["Service"]["Environment"])
    assert unit.getint("Service", "TimeoutStopSec") >= int(exit_timeout_s) + 2


@pytest.mark.parametrize("name", ["gunicorn", "uwsgi"])
def test_the_application_in_a_server_that_forks(
    name: str, broker: Any, memphis: Any, station_name: str, start_program: Any, tmp_path: Path
) -> None:
    text = section(PAGE, "gunicorn and uWSGI")
    (tmp_path / "shop.py").write_text(program(PAGE, "gunicorn and uWSGI").replace('"orders"', f'"{station_name}"'))
    (options,) = re.findall(rf"`{name} (.*?)`", text)
    command = {
        "gunicorn": ["-m", "gunicorn", "-b", "127.0.0.1:0"],
        "uwsgi": ["-c", "import pyuwsgi; pyuwsgi.run()"],
    }[name]
    address = {"MEMPHIS_URL": broker.url, "HOME": str(tmp_path)}
    server = start_program(*command, *options.replace(":8000", ":0").split(), env=address)
    (port,) = server.until(
        lambda: re.findall(r"(?:Listening at|bound to).* (?:http://)?127\.0\.0\.1:(\d+)", server.stderr)
    )
    for number in range(8):
        body = json.dumps({"order": number}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}/orders", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.status == 201
    server.terminate()
    assert server.wait() == 0, server.stderr
    assert server.processes() == []
    check_arrived(memphis, station_name, [json.dumps({"order": number}) for number in range(8)])


NOTEBOOK = """
import os, sys
import nbclient, nbformat
cell = nbformat.v4.new_code_cell(sys.argv[1])
book = nbformat.v4.new_notebook(cells=[cell, nbformat.v4.new_code_cell(sys.argv[1])])
runner = nbclient.NotebookClient(book, timeout=60)
runner.create_kernel_manager()
runner.km.kernel_spec.argv[0] = sys.executable
runner.km.shutdown_wait_time = 60  # then it is killed
runner.execute(env=dict(os.environ))
"""


def test_a_cell_that_runs_twice_before_its_kernel_is_shut_down(
    broker: Any, memphis: Any, station_name: str, start_program: Any
) -> None:
    cell = program(PAGE, "Notebooks").replace('"readings"', f'"{station_name}"')
    start_program("-c", NOTEBOOK, cell, env={"MEMPHIS_URL": broker.url}).done()
    check_arrived(memphis, station_name, [f"reading {number}" for number in range(1000)] * 2)
