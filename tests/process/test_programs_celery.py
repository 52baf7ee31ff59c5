"""Celery's pool, whose processes end after each task and run no exit handlers: with the recipe and without."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from pages import program
from programs import Program, check_arrived, read_back

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "where-a-process-can-die.md"
RECIPE = program(PAGE.read_text(), "Celery")
# The transport of a single machine, without a server
SETTINGS = """
from shop import app

folders = {"data_folder_in": "queue", "data_folder_out": "queue", "control_folder": "control"}
app.conf.update(broker_url="filesystem://", broker_transport_options=folders)
"""
WORKER = (
    "-m celery -A settings worker -P prefork -c 2 --max-tasks-per-child 1 --without-gossip --without-mingle -l INFO"
)
TASKS = 6


def run_tasks(start_program: Any, folder: Path, shop: str, url: str) -> Program:
    """A worker that has done all tasks, each in a process of its own, and has ended."""
    (folder / "shop.py").write_text(shop)
    (folder / "settings.py").write_text(SETTINGS)
    for name in ("queue", "control"):
        (folder / name).mkdir()
    address = {"MEMPHIS_URL": url, "PYTHONPATH": str(folder)}
    send = f"import settings, shop\nfor number in range({TASKS}): shop.order.delay(number)"
    start_program("-c", send, env=address).done()
    worker = start_program(*WORKER.split(), env=address)
    worker.until(lambda: worker.stderr.count(" succeeded in ") == TASKS)
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
    run_tasks(start_program, tmp_path, shop, broker.url.replace(str(broker.port), str(proxy.port)))
    found = check_arrived(memphis, station_name, [f"order {number}" for number in range(TASKS)])
    assert len({message.connection_id for message in found}) == TASKS


def test_without_it_a_task_loses_at_most_what_it_has_not_flushed(
    broker: Any, memphis: Any, station_name: str, start_program: Any, tmp_path: Path
) -> None:
    shop = RECIPE.replace("@worker_process_shutdown.connect\n", "").replace('"orders"', f'"{station_name}"')
    assert shop.count("worker_process_shutdown") == 1
    shop += '    memphis.flush()\n    memphis.produce("STATION", "tasks", f"late {number}", nonblocking=True)\n'
    run_tasks(start_program, tmp_path, shop.replace("STATION", station_name), broker.url)
    found = Counter(message.data.decode() for message in read_back(memphis, station_name))
    assert set(found.values()) == {1}
    assert {body for body in found if body.startswith("order")} == {f"order {number}" for number in range(TASKS)}
    assert found.keys() <= {f"{what} {number}" for what in ("order", "late") for number in range(TASKS)}
