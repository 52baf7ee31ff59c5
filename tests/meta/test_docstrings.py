"""Every public name says what it is: the reference is made from the docstrings, so a missing one is a blank page."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Union

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
    import memphis_sync

    assert sorted(set(memphis_sync.__all__)) == sorted(memphis_sync.__all__)
    for name in memphis_sync.__all__:
        assert hasattr(memphis_sync, name), name
        assert not name.startswith("_") or name == "__version__", name
