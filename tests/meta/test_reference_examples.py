"""The examples of the reference run as they stand; test_docstrings.py looks that each function and method has one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import memphis_sync

FOLDER = Path(__file__).parents[2] / "docs" / "reference" / "examples"
CELLS = [
    (name, code)
    for file in sorted(FOLDER.glob("*.py"))
    for name, code in re.findall(r"^# %% (\S+)\n((?:(?!# %% ).*\n?)*)", file.read_text(), re.MULTILINE)
]


@pytest.mark.parametrize(("name", "code"), CELLS, ids=[name for name, _ in CELLS])
def test_an_example_of_the_reference_runs(
    name: str, code: str, memphis: Any, broker: Any, station_name: str, request: Any, monkeypatch: Any
) -> None:
    """With what a page has made before: a client, and a station with three orders; names are the test's own."""
    monkeypatch.setenv("MEMPHIS_URL", broker.url)
    code = re.sub(r'"(order|orders|orders-copy)"', lambda found: f'"{found[1].replace("orders", station_name)}"', code)
    code = code.replace('"order"', f'"{station_name}-schema"')
    given: dict[str, Any] = {"memphis_sync": memphis_sync, "memphis": memphis, "__name__": "shop"}
    given["station"] = memphis.station(station_name)
    given["producer"] = memphis.producer(station_name, "shop")
    given["producer"].produce_many({"id": number} for number in range(3))
    if re.search(r"\bconsumer\.|\bconsumer:", code):
        given["consumer"] = memphis.consumer(station_name, "billing")
    if name.startswith("memphis_sync.http."):
        url = request.getfixturevalue("gateway").url.replace("://", "://root:memphis@")
        given["memphis"] = memphis_sync.http.connect(url)
        request.addfinalizer(given["memphis"].close)
        code = code.replace("https://user:password@gateway:4444", url)
    exec(compile(code, name, "exec"), given)
