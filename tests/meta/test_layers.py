"""Imports go down: each layer may use the ones below it and nothing else; the failure shows the line."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "memphis_sync"

# Bottom first. A name stands for the module or package memphis_sync.<name>; those of one row may use each other.
ROWS = [
    {"errors", "types", "_base"},
    {"_core"},
    {"_protocol", "_schema", "_options"},
    {"_nats"},
    {"_control", "_data"},
    {"_session"},
    {"_connection", "_schema_calls"},
    {
        "client",
        "station",
        "producer",
        "consumer",
        "_consuming",
        "_producing",
        "message",
        "dead_letters",
        "headers",
        "delivery",
        "bulk",
        "",
    },
    {"broker", "testing", "cli", "contrib"},
]
RANK = {name: rank for rank, row in enumerate(ROWS) for name in row}
# The broker is a program of its own: of the client it shares the wire and the bottom row only, the hardened nats-py,
# and the schemas: it must refuse whatever source a client could not compile, and only the same code knows what that is.
BROKER_MAY_USE = {"broker", "_nats", "_protocol", "_core", "_schema", "_base", "_options", "errors", "types"}
# The broker's own rows, bottom first: each program in it is a folder, and only the supervisor starts them all.
BROKER_ROWS = [{"options", "request_error"}, {"storage"}, {"service", "sdk_port"}, {"server"}, {"__init__", "__main__"}]
BROKER_RANK = {name: rank for rank, row in enumerate(BROKER_ROWS) for name in row}
# A foreign module, and the only parts that may import it.
ONLY_IN = {
    "threading": {"_base", "_data"},
    "_thread": {"_base", "_data"},
    "logging": {"_base", "_control", "", "broker", "cli"},  # a line of the client's goes through _base.logs.Log
    "nats": {"_nats", "_control", "broker"},
    "click": {"cli"},
    "rich": {"cli"},
    "pytest": {"testing"},
    "django": {"contrib"},
    "flask": {"contrib"},
    "opentelemetry": {"contrib"},
    "prometheus_client": {"contrib"},
    "jsonschema_rs": {"_schema"},
    "google": {"_schema"},
    "fastavro": {"_schema"},
    "graphql": {"_schema"},
    "grpc_tools": {"broker"},
}
# Sans-IO: no socket, no clock, no thread.
NO_IO = {"_protocol": {"asyncio", "os", "select", "selectors", "socket", "ssl", "subprocess", "time"}}
NO_IO["_schema"] = NO_IO["_protocol"]


class Import(NamedTuple):
    """One imported module, with the place that imports it."""

    path: Path
    line: int
    part: str
    target: str
    top_level: bool


def part_of(dotted: str) -> str:
    """``memphis_sync._data.tls_loops`` -> ``_data``; the package itself is ``""``."""
    return dotted.split(".")[1] if "." in dotted else ""


def imports_of(path: Path) -> Iterator[Import]:
    """Every import of a module outside ``if TYPE_CHECKING``, with relative ones made absolute."""
    dotted = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").replace(".__init__", "")
    package = dotted if path.name == "__init__.py" else dotted.rpartition(".")[0]
    tree = ast.parse(path.read_bytes())
    for node, top_level in walk(tree, top_level=True):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join(
                    [*package.split(".")[: len(package.split(".")) - node.level + 1], *base.split(".")]
                ).strip(".")
            names = [f"{base}.{alias.name}" for alias in node.names] if base == "memphis_sync" else [base]
        else:
            continue
        for name in names:
            yield Import(path, node.lineno, part_of(dotted), name, top_level)


def walk(tree: ast.AST, *, top_level: bool) -> Iterator[tuple[ast.AST, bool]]:
    """All nodes but those under ``if TYPE_CHECKING``; with it, whether they run when the module is imported."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for other in node.orelse:
                yield from walk(other, top_level=top_level)
            continue
        yield node, top_level
        yield from walk(node, top_level=top_level and not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


def show(found: Import, why: str) -> str:
    line = found.path.read_text().splitlines()[found.line - 1].strip()
    return f"{found.path.relative_to(ROOT)}:{found.line}: {line}\n    {why}"


ALL_IMPORTS = [found for path in sorted(PACKAGE.rglob("*.py")) for found in imports_of(path)]


def broken_rule(found: Import) -> str:
    """What is wrong with an import; empty when nothing is."""
    first = found.target.split(".")[0]
    if first != "memphis_sync":
        allowed = ONLY_IN.get(first)
        if allowed is not None and found.part not in allowed:
            return f"{first} belongs in {' and '.join(sorted(allowed))} only"
        if first in NO_IO.get(found.part, ()):
            return f"{found.part} has no IO and no clock"
        return ""
    target = part_of(found.target)
    if target not in RANK:
        target = ""  # a name that the package itself defines: from memphis_sync import connect
    if found.part == "broker" and target not in BROKER_MAY_USE:
        return "the broker uses _nats, _protocol, _schema and the bottom row only"
    if target == "broker" and found.part not in {"broker", "cli", "testing"}:
        return "the client never imports the broker"
    if target in {"testing", "cli", "contrib"} and found.part != target:
        return f"nothing imports {target}"
    if found.part in RANK and RANK[target] > RANK[found.part] and not (target == "" and found.part == ""):
        return f"imports go down: {target or 'the package'} is above {found.part}"
    return ""


def test_imports_go_down() -> None:
    unknown = {found.part for found in ALL_IMPORTS} - set(RANK) - {"__main__"}
    assert not unknown, f"modules without a row in this test: {sorted(unknown)}"
    broken = [show(found, why) for found in ALL_IMPORTS if (why := broken_rule(found))]
    assert not broken, "\n" + "\n".join(broken)


def test_the_imports_of_the_broker_go_down() -> None:
    broken = []
    for found in ALL_IMPORTS:
        if found.part == "broker" and found.target.startswith("memphis_sync.broker."):
            own = found.path.relative_to(PACKAGE / "broker").with_suffix("").parts[0]
            other = found.target.split(".")[2]
            if BROKER_RANK[other] > BROKER_RANK[own]:
                broken.append(show(found, f"imports go down: {other} is above {own}"))
    assert not broken, "\n" + "\n".join(broken)


@pytest.mark.parametrize("name", ["cli", "testing"])
def test_nothing_optional_is_imported_with_the_package(name: str) -> None:
    """The command line's libraries load in the command that needs them: a missing extra is one sentence."""
    libraries = {"rich", "nats", "pytest"} if name == "cli" else {"rich", "click"}
    broken = [
        show(found, f"{found.target} loads too early")
        for found in ALL_IMPORTS
        if found.part == name and found.top_level and found.target.split(".")[0] in libraries
    ]
    assert not broken, "\n" + "\n".join(broken)


def test_the_core_knows_no_python() -> None:
    """One C library, two bindings: Python.h in csrc would tie it to one of them."""
    sources = sorted((ROOT / "csrc").glob("*.[ch]"))
    assert sources
    broken = [
        f"{path.relative_to(ROOT)}:{number}: {line}"
        for path in sources
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if line.lstrip().startswith("#") and "include" in line and "Python.h" in line
    ]
    assert not broken, "\n" + "\n".join(broken)


def test_the_rules_bite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test of this test: one line of each kind that must not pass."""
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    for name, line in [
        ("_protocol/names.py", "import time"),
        ("_protocol/names.py", "from .. import client"),
        ("_protocol/__init__.py", "from ..client import Memphis"),
        ("client.py", "import threading"),
        ("client.py", "from .broker import run"),
        ("broker/service/service.py", "from memphis_sync import connect"),
        ("broker/service/service.py", "from memphis_sync._data import DataLink"),
        ("_data/tls_loops.py", "from nats.aio.client import Client"),
        ("consumer.py", "from . import cli"),
    ]:
        path = tmp_path / "memphis_sync" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"def late():\n    {line}\n")
        assert [broken_rule(found) for found in imports_of(path)] != [""], f"{name}: {line}"
    path = tmp_path / "memphis_sync" / "types.py"
    path.write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .client import Memphis\n")
    assert [broken_rule(found) for found in imports_of(path)] == [""]
