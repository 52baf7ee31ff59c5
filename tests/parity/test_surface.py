"""Every public name and parameter of memphis-py 1.3.1 is here, with its default, and a test uses it."""

from __future__ import annotations

import ast
import enum
import importlib
import inspect
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import fix_memphis_py
import pytest
from parity_differences import DIFFERENCES, MAX_ROWS, PAGE, REPLACEMENTS, as_markdown, replacements_as_markdown

import memphis_sync
from memphis_sync import Memphis

HERE = Path(__file__).parent
TESTS = HERE.parent
EXCUSED = {name for row in DIFFERENCES for name in row.names}


@pytest.fixture(scope="module")
def theirs() -> dict[str, Any]:
    """What inspection of the installed package finds."""
    command = [str(fix_memphis_py.interpreter()), str(HERE / "memphis_py_surface.py")]
    found: dict[str, Any] = json.loads(subprocess.check_output(command, timeout=60))
    return found


def classes(theirs: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and description of each class that is not in a module that is excused as a whole."""
    for module, contents in theirs["modules"].items():
        for name, described in contents["classes"].items():
            if f"{module}.{name}" not in EXCUSED or hasattr(memphis_sync, name):
                yield name, described


def paths(theirs: dict[str, Any]) -> set[str]:
    """Everything that can be missing: modules and what they hold, classes, members, methods, parameters, attributes."""
    found = {f"memphis.{name}" for name in theirs["exports"]}
    for module, contents in theirs["modules"].items():
        found |= {module, *(f"{module}.{name}" for kind in contents.values() for name in kind)}
    for name, described in classes(theirs):
        found.add(name)
        found |= {f"{name}({parameter['name']})" for parameter in described["init"] or ()}
        if described["init"] and f"{name}()" in EXCUSED:
            found.add(f"{name}()")  # a constructor that is excused as a whole
        for method, of in described["methods"].items():
            found |= {f"{name}.{method}", *(f"{name}.{method}({parameter['name']})" for parameter in of["parameters"])}
        found |= {f"{name}.{member}" for kind in ("members", "constants", "attributes") for member in described[kind]}
    return found


# ---- what is wrong with one path ------------------------------------------------------------------------------------


@pytest.fixture
def objects(memphis: Memphis, station_name: str) -> dict[str, object]:
    """One living object of each class, to look for attributes on."""
    station = memphis.station(station_name)
    producer = memphis.producer(station_name, "p")
    producer.produce(b"x")
    consumer = memphis.consumer(station_name, "c")
    (message,) = consumer.fetch(1, timeout_s=10)
    living = [memphis, station, producer, consumer, message, memphis_sync.Headers(), memphis_sync.MemphisError("x")]
    return {type(thing).__name__: thing for thing in living}


class Comparison:
    """memphis_sync held against the description of memphis.py."""

    def __init__(self, theirs: dict[str, Any], objects: dict[str, object]) -> None:
        self._theirs = theirs
        self._classes = dict(classes(theirs))
        self._objects = objects

    def problem(self, path: str) -> Optional[str]:
        """What is missing or different; None when all is well."""
        if path.startswith("memphis."):
            return self._in_module(path)
        function, _, parameter = path.rstrip(")").partition("(")
        owner, _, member = function.partition(".")
        ours = getattr(memphis_sync, owner, None)
        if not inspect.isclass(ours):
            return "no such class"
        if path == f"{owner}()":
            taken = (self._parameter(ours, owner, "", given["name"]) for given in self._classes[owner]["init"])
            return next((problem for problem in taken if problem), None)
        if parameter:
            return self._parameter(ours, owner, member, parameter)
        if not member:
            return self._bases(ours, owner)
        return self._member(ours, owner, member)

    def _in_module(self, path: str) -> Optional[str]:
        module = next((m for m in sorted(self._theirs["modules"], reverse=True) if path.startswith(m)), "memphis")
        name = path[len(module) + 1 :]
        try:
            ours: Any = importlib.import_module("memphis_sync" + module[len("memphis") :])
        except ImportError:
            return "no such module"
        return None if not name or hasattr(ours, name) else "not in the module"

    def _bases(self, ours: type, owner: str) -> Optional[str]:
        names = {base.__name__ for base in ours.__mro__}
        aliases = {name for name, value in vars(memphis_sync).items() if value in ours.__mro__}
        missing = set(self._classes[owner]["bases"]) - names - aliases
        return f"not a subclass of {', '.join(sorted(missing))}" if missing else None

    def _parameter(self, ours: type, owner: str, method: str, name: str) -> Optional[str]:
        described = self._classes[owner]
        theirs = described["methods"][method]["parameters"] if method else described["init"]
        function = getattr(ours, method or "__init__", None)
        if function is None:
            return "no such method"
        mine = [p for p in inspect.signature(function).parameters.values() if p.name != "self"]
        index, wanted = next((i, p) for i, p in enumerate(theirs) if p["name"] == name)
        if index >= len(mine) or mine[index].name != name or mine[index].kind.name != wanted["kind"]:
            return f"no {wanted['kind'].lower()} parameter of this name in place {index + 1}"
        default = mine[index].default
        if wanted["required"] or default is inspect.Parameter.empty:
            is_same = wanted["required"] and default is inspect.Parameter.empty
            return None if is_same else "required in one, optional in the other"
        plain = f"{type(default).__name__}.{default.name}" if isinstance(default, enum.Enum) else default
        same = plain == wanted["default"] and (type(plain) is bool) == (type(wanted["default"]) is bool)
        return None if same else f"its default is {plain!r}, not {wanted['default']!r}"

    def _member(self, ours: type, owner: str, member: str) -> Optional[str]:
        described = self._classes[owner]
        if member in described["members"]:
            value = getattr(getattr(ours, member, None), "value", None)
            return None if value == described["members"][member] else f"its value is {value!r}"
        if member in described["constants"]:
            value = getattr(ours, member, None)
            return None if value == described["constants"][member] else f"its value is {value!r}"
        if member in described["methods"]:
            return None if callable(getattr(ours, member, None)) else "no such method"
        if not hasattr(self._objects[owner], member):
            return "no such attribute"
        is_name = owner == "Message" and member == "station"
        return "a str, not a Station" if is_name and isinstance(self._objects[owner].station, str) else None  # type: ignore[attr-defined]


@pytest.fixture
def comparison(theirs: dict[str, Any], objects: dict[str, object]) -> Comparison:
    return Comparison(theirs, objects)


# ---- the tests ------------------------------------------------------------------------------------------------------


def test_the_inspection_sees_the_package(theirs: dict[str, Any]) -> None:
    """Figures of memphis-py 1.3.1: an inspection that finds less would let everything else here pass."""
    found = paths(theirs)
    assert {"Memphis.connect(ca_file)", "Message.delay(delay)", "Storage.MEMORY", "Headers.headers"} <= found
    assert len(theirs["modules"]) == 10
    assert len([path for path in found if "(" in path and not path.endswith("()")]) == 158
    assert len([path for path in found if not path.endswith("()")]) == 348


def test_every_name_is_here_or_excused_by_name(theirs: dict[str, Any], comparison: Comparison) -> None:
    problems = {path: comparison.problem(path) for path in paths(theirs)}
    missing = {path: problem for path, problem in problems.items() if problem and not excused(path)}
    assert not missing
    stale = {name for name in EXCUSED if name not in problems or not problems[name]}
    assert not stale, "excused, but there and the same"


def excused(path: str) -> bool:
    """By its own name, or as a parameter of a method or of a constructor that is excused."""
    function = path.partition("(")[0]
    return path in EXCUSED or ("(" in path and bool({function, f"{function}()"} & EXCUSED))


def test_every_coroutine_is_a_plain_function(theirs: dict[str, Any]) -> None:
    coroutines = [
        (name, method)
        for name, described in classes(theirs)
        for method, of in described["methods"].items()
        if of["coroutine"] and not excused(f"{name}.{method}")
    ]
    assert ("Memphis", "connect") in coroutines
    for name, method in coroutines:
        assert inspect.isfunction(getattr(getattr(memphis_sync, name), method)), (name, method)
        assert not inspect.iscoroutinefunction(getattr(getattr(memphis_sync, name), method)), (name, method)


def claims() -> set[str]:
    """What the tests of this folder say that they exercise; conftest.py holds each of them to it."""
    found = set()
    for file in HERE.glob("test_*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.FunctionDef) or not node.name.startswith("test_"):
                continue
            marks = [
                d
                for d in node.decorator_list
                if isinstance(d, ast.Call) and ast.unparse(d.func) == "pytest.mark.exercises"
            ]
            for claim in (ast.literal_eval(argument) for mark in marks for argument in mark.args):
                path, _, parameters = claim.rstrip(")").partition("(")
                found |= {path, path.partition(".")[0]}
                found |= {f"{path}({name.strip()})" for name in parameters.split(",") if name.strip()}
    return found


def test_every_name_is_exercised_by_a_test(theirs: dict[str, Any]) -> None:
    wanted = {path for path in paths(theirs) if not path.startswith("memphis.") and not excused(path)}
    claimed = claims()
    assert not {path for path in wanted if path not in claimed and path.rstrip("()") not in claimed}


def test_the_table_is_short_and_each_row_has_its_reason_and_its_proof() -> None:
    assert len(DIFFERENCES) <= MAX_ROWS
    names = [name for row in DIFFERENCES for name in row.names]
    assert len(names) == len(set(names))
    for row in DIFFERENCES:
        assert all((row.theirs, row.ours, row.why)), row
        assert bool(row.names) != bool(row.shown_by), row
        if row.shown_by:
            file, _, test = row.shown_by.partition("::")
            assert re.search(rf"^def {test}\(", (TESTS / file).read_text(), re.MULTILINE), row.shown_by


def test_the_page_shows_both_tables_as_they_are() -> None:
    text = PAGE.read_text()
    assert f"\n\n{as_markdown()}\n\n" in text
    assert f"\n\n{replacements_as_markdown()}\n\n" in text


def test_what_stands_for_asyncio_is_there() -> None:
    """On both sides each dotted name is one; a program of a user's has names of its own: consumer, event."""
    for theirs, ours in REPLACEMENTS.items():
        assert re.match(r"asyncio\.\w+", theirs)
        for dotted in re.findall(r"(?<![\w.])[a-z_]+(?:\.\w+)+", f"{theirs} {ours.partition(': ')[0]}"):
            module, _, name = dotted.rpartition(".")
            if module not in {"consumer", "event"}:
                assert hasattr(importlib.import_module(module), name), dotted
    assert issubclass(memphis_sync.DeadlineError, TimeoutError)
