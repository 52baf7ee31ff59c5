"""Servers that don't fork: waitress, and the development servers of Flask and Django with their reloaders."""

from __future__ import annotations

import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pages import program
from programs import check_arrived

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "where-a-process-can-die.md"
# The page's two lines
(HANDLER,) = re.findall(r"^signal\.signal\(.*$", program(PAGE.read_text(), "SIGTERM"), re.MULTILINE)
# A view in threads that returns at once, of an application that has connected when it was loaded.
SHOP = """
import os, sys
import flask, memphis_sync
app = flask.Flask(__name__)
memphis = memphis_sync.connect()

@app.get("/<int:number>")
def order(number):
    for part in range(20):
        memphis.produce(os.environ["TEST_STATION"], "web", f"order {number} {part}", nonblocking=True)
    return str(os.getpid())
"""
WAITRESS = f"""
import signal, sys
import logging, waitress
from shop import app
{HANDLER}
logging.basicConfig(level="INFO")
waitress.serve(app, listen="127.0.0.1:0", threads=4)
"""
FLASK = f"""
import signal, sys
from flask.cli import main
{HANDLER}
main()
"""


def change_until_reloaded(server: Any, file: Path, pid: str) -> None:
    """Until that process has ended: a reloader does not notice a change that came before its first look."""

    def is_gone() -> bool:
        if not Path("/proc", pid).exists():
            return True
        with file.open("a") as code:
            code.write("#\n")
        return False

    server.until(is_gone)


def test_a_server_without_handlers_ends_in_order_with_the_page_s(
    broker: Any, memphis: Any, station_name: str, start_program: Any, tmp_path: Path
) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "serve.py").write_text(WAITRESS)
    server = start_program("serve.py", env={"MEMPHIS_URL": broker.url, "TEST_STATION": station_name})
    (url,) = server.until(lambda: re.findall(r"Serving on (http://\S+)", server.stdout + server.stderr))
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(server.get, [f"{url}/{number}" for number in range(16)])) == {str(server.pid)}
    server.terminate()
    assert server.wait() == 0
    assert "were not confirmed" not in server.stderr
    check_arrived(memphis, station_name, [f"order {number} {part}" for number in range(16) for part in range(20)])


@pytest.mark.parametrize("options", [[], ["--debug"]], ids=["alone", "with its reloader"])
def test_flask_run(
    options: list[str], broker: Any, memphis: Any, station_name: str, start_program: Any, tmp_path: Path
) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "serve.py").write_text(FLASK)
    address = {"MEMPHIS_URL": broker.url, "TEST_STATION": station_name}
    server = start_program("serve.py", "--app", "shop", "run", "--port", "0", *options, env=address)
    (url,) = server.until(lambda: re.findall(r"Running on (http://\S+)", server.stderr))
    accepted = [1]
    first = server.get(f"{url}/1")
    if options:
        change_until_reloaded(server, tmp_path / "shop.py", first)
        accepted.append(2)
        assert server.get(f"{url}/2") != first
        os.killpg(server.pid, signal.SIGINT)  # as a terminal does
    else:
        server.terminate()
    server.wait()
    assert server.processes() == []
    assert "were not confirmed" not in server.stderr
    check_arrived(memphis, station_name, [f"order {number} {part}" for number in accepted for part in range(20)])


DJANGO = """
import os
import memphis_sync
SECRET_KEY, ROOT_URLCONF, DEBUG = "-", "shop", True
urlpatterns = []
if os.environ.get("RUN_MAIN"):  # the process that serves, not the one that starts it again
    memphis = memphis_sync.connect()
    for number in range(200):
        memphis.produce(os.environ["TEST_STATION"], "web", f"{os.getpid()} {number}", nonblocking=True)
    print("loaded in", os.getpid(), flush=True)
"""


def test_a_reload_of_django_s_runserver(
    broker: Any, memphis: Any, station_name: str, start_program: Any, tmp_path: Path
) -> None:
    (tmp_path / "shop.py").write_text(DJANGO)
    server = start_program(
        *("-m", "django", "runserver", "127.0.0.1:0", "--settings", "shop"),
        env={"MEMPHIS_URL": broker.url, "TEST_STATION": station_name, "PYTHONPATH": str(tmp_path)},
    )

    def loaded() -> list[str]:
        return re.findall(r"^loaded in (\d+)$", server.stdout, re.MULTILINE)

    (first,) = server.until(loaded)
    change_until_reloaded(server, tmp_path / "shop.py", first)
    server.until(lambda: len(loaded()) > 1)
    os.killpg(server.pid, signal.SIGINT)
    server.wait()
    assert server.processes() == []
    assert "were not confirmed" not in server.stderr
    check_arrived(memphis, station_name, [f"{pid} {number}" for pid in loaded() for number in range(200)])
