"""Celery's pool, whose processes end after each task and run no exit handlers: with the recipe and without."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from pages import program
from programs import Program, check_arrived, read_back

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "celery.md"
RECIPE = program(PAGE.read_text(), "Flush when a process of the pool ends")
# The transport of a single machine, without a server; each process of the pool says when it is told of its end.
SETTINGS = """
import os
from celery.signals import worker_process_shutdown
from shop import app

@worker_process_shutdown.connect
def tell(**_):
    os.write(1, b"told of its end\\n")

folders = {"data_folder_in": "queue", "data_folder_out": "queue", "control_folder": "control"}
app.conf.update(broker_url="filesystem://", broker_transport_options=folders)
"""
WORKER = (
    "-m celery -A settings worker -P prefork -c 2 --max-tasks-per-child 1 --without-gossip --without-mingle -l INFO"
)
TASKS, FEW = 20, 4


def run_tasks(start_program: Any, folder: Path, shop: str, url: str, tasks: int) -> Program:
    """A worker that has done all tasks, each in a process of its own, and has ended."""
    (folder / "shop.py").write_text(shop)
    (folder / "settings.py").write_text(SETTINGS)
    for name in ("queue", "control"):
        (folder / name).mkdir()
    address = {"MEMPHIS_URL": url, "PYTHONPATH": str(folder)}
    send = f"import settings, shop\nfor number in range({tasks}): shop.order.delay(number)"
    start_program("-c", send, env=address).done()
    worker = start_program(*WORKER.split(), env=address)
    worker.until(lambda: worker.stderr.count(" succeeded in ") == tasks)
    worker.terminate()  # its first process alone, which ends the others
    assert worker.wait() == 0
    assert worker.processes() == []
    return worker


def test_the_recipe_loses_nothing(
    broker: Any, memphis: Any, station_name: str, start_program: Any, proxy_to: Any, tmp_path: Path
) -> None:
    """Behind a network so slow that each task is over before its message is on its way."""
    proxy = proxy_to("127.0.0.1", broker.port)
    proxy.pause_s = 0.05
    shop = RECIPE.replace('"orders"', f'"{station_name}"')
    url = broker.url.replace(str(broker.port), str(proxy.port))
    worker = run_tasks(start_program, tmp_path, shop, url, TASKS)
    assert worker.stdout.count("told of its end") >= TASKS
    found = check_arrived(memphis, station_name, [f"order {number}" for number in range(TASKS)])
    assert len({message.connection_id for message in found}) == TASKS


def test_without_it_a_task_loses_at_most_what_it_has_not_flushed(
    broker: Any, memphis: Any, station_name: str, start_program: Any, tmp_path: Path
) -> None:
    shop = RECIPE.replace("@worker_process_shutdown.connect\n", "").replace('"orders"', f'"{station_name}"')
    assert shop.count("worker_process_shutdown") == 1
    shop += '    memphis.flush()\n    memphis.produce("STATION", "tasks", f"late {number}", nonblocking=True)\n'
    run_tasks(start_program, tmp_path, shop.replace("STATION", station_name), broker.url, FEW)
    found = Counter(message.data.decode() for message in read_back(memphis, station_name))
    assert set(found.values()) == {1}
    assert {body for body in found if body.startswith("order")} == {f"order {number}" for number in range(FEW)}
    assert found.keys() <= {f"{what} {number}" for what in ("order", "late") for number in range(FEW)}


def test_a_process_that_is_not_up_in_time_is_killed() -> None:
    """Why nothing may connect in worker_process_init; the page names the time."""
    from celery.concurrency import asynpool

    assert asynpool.PROC_ALIVE_TIMEOUT == 4.0
    assert "waits four seconds for a process to be up" in PAGE.read_text()
