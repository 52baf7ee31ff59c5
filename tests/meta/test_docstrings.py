"""Every public name says what it is, and how it is used: the reference is made from docstrings and examples."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Union

import public_api
import pytest

import memphis_sync
import memphis_sync.http

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
PACKAGE = Path(__file__).parents[2] / "memphis_sync"
Documented = Union[ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef]


def public_names(node: Documented, name: str) -> Iterator[tuple[str, Documented]]:
    """The node itself and every class and function in it that a user can see; overloads and setters share one text."""
    yield name, node
    for child in node.body:
        if not isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) or child.name.startswith("_"):
            continue
        if any(
            ast.unparse(mark).rpartition(".")[2] in {"overload", "setter", "override"} for mark in child.decorator_list
        ):
            continue
        if isinstance(child, ast.ClassDef):
            yield from public_names(child, f"{name}.{child.name}")
        else:
            yield f"{name}.{child.name}", child


def test_every_public_name_has_a_docstring() -> None:
    missing = []
    for path in sorted(PACKAGE.rglob("*.py*")):
        if path.suffix not in {".py", ".pyi"} or path.name.startswith("_cffi"):
            continue  # what the two bindings of the C core have in common is told once, in their stub
        tree = ast.parse(path.read_bytes())
        module = path.relative_to(PACKAGE.parent).as_posix()
        missing += [
            f"{module}:{getattr(node, 'lineno', 1)}: {name}"
            for name, node in public_names(tree, path.stem)
            if not ast.get_docstring(node)
        ]
    assert not missing, "\n" + "\n".join(missing)


def test_what_all_lists_exists_and_nothing_private_is_in_it() -> None:
    assert sorted(set(memphis_sync.__all__)) == sorted(memphis_sync.__all__)
    for name in memphis_sync.__all__:
        assert hasattr(memphis_sync, name), name
        assert not name.startswith("_") or name == "__version__", name


def test_the_reference_has_every_public_name() -> None:
    pages = "".join(path.read_text() for path in (REFERENCE / "api").glob("*.rst"))
    documented = re.findall(r"^\.\. auto(?:class|data|exception|function):: (\w+)$", pages, re.MULTILINE)
    assert sorted(set(memphis_sync.__all__) - {"__version__", *documented}) == []


# Classes whose methods a program does not call, or that are another's.
TOLD_ELSEWHERE = {
    "LogHandler": "logging calls them; the class has an example",
    "Observer": "the client calls them; docs/how-to/telemetry.md implements them",
    "Outgoing": "of an observer, which is on the same page",
    "Producing": "they are those of Producer; the class has an example",
    "ResentMessage": "they are those of Message",
}
INTERNAL = {"Consumer.check_open"}


def callables(module: Any) -> list[str]:
    """The functions of a module and the methods of its classes, without those of errors."""
    found = []
    for name in module.__all__:
        thing = getattr(module, name)
        if not inspect.isclass(thing):
            found += [name] if inspect.isroutine(thing) else []
        elif not issubclass(thing, BaseException) and name not in TOLD_ELSEWHERE:
            methods = [key for key, value in public_api.members(thing) if inspect.isfunction(value)]
            found += [f"{name}.{method}" for method in methods if f"{name}.{method}" not in INTERNAL]
    return [f"{module.__name__}.{name}" for name in found]


def has_example(path: str) -> bool:
    """Whether its docstring has one: an indented paragraph that is Python."""
    thing: Any = memphis_sync
    for name in path.split(".")[1:]:
        thing = getattr(thing, name)
    paragraphs = (inspect.getdoc(thing) or "").replace("Example:\n", "").split("\n\n")
    return any(all(line.startswith("    ") for line in text.splitlines()) and is_python(text) for text in paragraphs)


def is_python(text: str) -> bool:
    try:
        return bool(ast.parse(inspect.cleandoc(text)).body)
    except SyntaxError:
        return False


@pytest.mark.parametrize("module", [memphis_sync, memphis_sync.http], ids=lambda module: module.__name__)
def test_everything_that_can_be_called_has_an_example(module: Any) -> None:
    names = callables(module)
    cells = "".join(file.read_text() for file in (REFERENCE / "examples").glob("*.py"))
    told = re.findall(r"^# %% (\S+)$", cells, re.MULTILINE)
    assert len(names) >= 10
    assert sorted(told) == sorted(set(told))
    assert [name for name in names if name not in told and not has_example(name)] == []
