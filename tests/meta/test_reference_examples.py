"""Each public function and method has an example in the reference, and each example runs as it stands."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import public_api
import pytest

import memphis_sync

FOLDER = Path(__file__).parents[2] / "docs" / "reference" / "examples"
CELLS = [
    (name, code)
    for file in sorted(FOLDER.glob("*.py"))
    for name, code in re.findall(r"^# %% (\S+)\n((?:(?!# %% ).*\n?)*)", file.read_text(), re.MULTILINE)
]
# Classes whose methods a program does not call, or that are another's.
TOLD_ELSEWHERE = {
    "LogHandler": "logging calls them; the class has an example",
    "Observer": "the client calls them; docs/how-to/telemetry.md implements them",
    "Outgoing": "of an observer, which is on the same page",
    "ResentMessage": "they are those of Message",
}
INTERNAL = {"Consumer.check_open", "Message.processing"}


def callables(module: Any) -> list[str]:
    """The functions of a module and the methods of its classes, without those of errors."""
    found = []
    for name in module.__all__:
        thing = getattr(module, name)
        if not inspect.isclass(thing):
            found += [name] if callable(thing) else []
        elif not issubclass(thing, BaseException) and name not in TOLD_ELSEWHERE:
            methods = [key for key, value in public_api.members(thing) if inspect.isfunction(value)]
            found += [f"{name}.{method}" for method in methods if f"{name}.{method}" not in INTERNAL]
    return [f"{module.__name__}.{name}" for name in found]


def has_example(path: str) -> bool:
    """Whether its docstring has one."""
    module, _, name = path.rpartition(".")
    thing = getattr(memphis_sync, name, None) if module == "memphis_sync" else None
    return "\n    " in (inspect.getdoc(thing) or "").partition("Example")[2]


@pytest.mark.parametrize("module", [memphis_sync, public_api.importlib.import_module("memphis_sync.http")], ids=str)
def test_everything_that_can_be_called_has_an_example(module: Any) -> None:
    names = callables(module)
    told = [name for name, _ in CELLS]
    assert len(names) >= 10
    assert sorted(told) == sorted(set(told))
    assert [name for name in names if name not in told and not has_example(name)] == []


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
