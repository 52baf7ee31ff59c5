"""The package's imports and the C core's calls, for the tests that guard their direction."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

Graph = Mapping[str, Mapping[str, str]]  # from, to, and the place


def walk(tree: ast.AST, *, top_level: bool) -> Iterator[tuple[ast.AST, bool]]:
    """All nodes but those under ``if TYPE_CHECKING``; with it, whether they run when the module is imported."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for other in node.orelse:
                yield from walk(other, top_level=top_level)
            continue
        yield node, top_level
        yield from walk(node, top_level=top_level and not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


def dotted(path: Path, root: Path) -> str:
    """``<root>/memphis_sync/_data/__init__.py`` -> ``memphis_sync._data``."""
    return path.relative_to(root).with_suffix("").as_posix().replace("/", ".").replace(".__init__", "")


def imported_names(path: Path, root: Path) -> Iterator[tuple[ast.stmt, str, list[str], bool]]:
    """Each import outside ``if TYPE_CHECKING``: itself, the absolute module it names, names from it, if at the top."""
    name = dotted(path, root)
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node, top_level in walk(ast.parse(path.read_bytes()), top_level=True):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name, [], top_level
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *(node.module or "").split(".")]).strip(".")
            yield node, base, [alias.name for alias in node.names], top_level


def import_graph(package: Path) -> dict[str, dict[str, str]]:
    """Which module imports which, also inside functions; ``from package import name`` means the module of that name."""
    root = package.parent
    modules = {dotted(path, root): path for path in sorted(package.rglob("*.py"))}
    graph: dict[str, dict[str, str]] = {name: {} for name in modules}
    for name, path in modules.items():
        for node, base, names, _ in imported_names(path, root):
            for target in [f"{base}.{each}" if f"{base}.{each}" in modules else base for each in names] or [base]:
                if target in modules and target != name:
                    graph[name][target] = f"{path.relative_to(root)}:{node.lineno}"
    return graph


def call_graph(folder: Path) -> dict[str, dict[str, str]]:
    """Which C file calls a function that is defined in which other one."""
    texts = {path.name: _without_comments(path.read_text()) for path in sorted(folder.glob("*.c"))}
    definition = re.compile(r"^(?!static\b)[A-Za-z_][\w \t*]*?\b(\w+)\([^;{}]*?\)\s*\{", re.MULTILINE)
    home = {name: file for file, text in texts.items() for name in definition.findall(text)}
    graph: dict[str, dict[str, str]] = {name: {} for name in texts}
    for file, text in texts.items():
        for called in re.finditer(r"\b(\w+)\s*\(", text):
            target = home.get(called[1], file)
            if target != file:
                line = text.count("\n", 0, called.start()) + 1
                graph[file].setdefault(target, f"{folder.name}/{file}:{line} ({called[1]})")
    return graph


def _without_comments(text: str) -> str:
    """C without comments and strings, each line at its number."""
    return re.sub(
        r"/\*.*?\*/|//[^\n]*|\"(?:\\.|[^\"\\])*\"", lambda part: "\n" * part[0].count("\n"), text, flags=re.DOTALL
    )


def circles(graph: Graph) -> Iterator[list[str]]:
    """For each node on a circle the shortest one through it, each circle once."""
    seen: set[frozenset[str]] = set()
    for start in sorted(graph):
        paths, reached = [[start]], {start}
        while paths:
            path = paths.pop(0)
            targets = sorted(graph.get(path[-1], {}))
            if start in targets:
                if frozenset(path) not in seen:
                    seen.add(frozenset(path))
                    yield [*path, start]
                break
            for target in targets:
                if target not in reached:
                    reached.add(target)
                    paths.append([*path, target])
