"""
What keeps the house in order. Imports go down: each layer may use the ones below it and nothing else. No module needs
itself by way of others, none is too long for one sitting, each says first what it is. The failure shows the line.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from source_tree import call_graph, circles, dotted, import_graph, imported_names

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "memphis_sync"

# Bottom first. A name stands for the module or package memphis_sync.<name>; those of one row may use each other.
ROWS = [
    {"errors", "types", "observer", "_base"},
    {"_core"},
    {"_protocol", "_schema", "_options"},
    {"_nats"},
    {"_control", "_data"},
    {"_memory"},
    {"_session"},
    {
        "client",
        "log_handler",
        "station",
        "producer",
        "consumer",
        "_consuming",
        "_producing",
        "_inspecting",
        "_managing",
        "info",
        "message",
        "messages",
        "dead_letters",
        "handlers",
        "headers",
        "memory",
        "delivery",
        "bulk",
        "",
    },
    {"broker", "testing", "cli", "contrib", "http"},
]
RANK = {name: rank for rank, row in enumerate(ROWS) for name in row}
# The broker is a program of its own: of the client it shares the wire and the bottom row only, the hardened nats-py,
# and the schemas: it must refuse whatever source a client could not compile, and only the same code knows what that is.
BROKER_MAY_USE = {"broker", "_nats", "_protocol", "_core", "_schema", "_base", "_options", "errors", "types"}
# The broker's own rows, bottom first: each program in it is a folder, and only the supervisor starts them all.
BROKER_ROWS = [{"options", "request_error"}, {"storage"}, {"service", "sdk_port"}, {"server"}, {"__init__", "__main__"}]
BROKER_RANK = {name: rank for rank, row in enumerate(BROKER_ROWS) for name in row}
# What stands on the public names alone, like any program; and the parts of http, of which each is a program.
ON_PUBLIC_NAMES = {"contrib", "http"}
# The command line does so where it can. Each module that needs more, and what for.
CLI_SHARES = {
    "_bench_run": {"_core"},  # the binding that was measured
    "_cures": {"_nats", "_options"},  # the steps of a handshake, and its words
    "_doctor": {"_nats"},
    "_doctor_steps": {"_nats", "_options", "_protocol"},  # the handshake that every client makes
    "_gateway": {"_base", "_options"},  # options from fields
    "_group": {"_base"},  # the nearest name
    "_keywords": {"_base"},
    "_origins": {"_base", "_options"},
    "_outbox": {"_core", "_data", "_protocol"},  # what is inside of an outbox file
    "_schema": {"_options"},
    "_station": {"_base", "_options"},  # options from keywords
}
# But the client over HTTP checks and writes what it is given by the same rules as the other client.
HTTP_CLIENT_SHARES = {"_base", "_options", "_protocol"}
HTTP_MAY_USE = {
    "client": {"client"},
    "gateway": {"gateway", "console"},
    "console": {"gateway", "console"},
    "__init__": {"client"},
}
# A foreign module, and the only parts that may import it.
ONLY_IN = {
    "threading": {"_base", "_data", "contrib", "http"},
    "_thread": {"_base", "_data"},
    # A line of the client's goes through _base.logs.Log.
    "logging": {"_base", "_control", "", "broker", "cli", "contrib", "http", "log_handler"},
    "nats": {"_nats", "_control", "broker"},
    "click": {"cli", "contrib"},  # Flask's commands are made with it
    "rich": {"cli"},
    "pytest": {"testing"},
    "django": {"contrib"},
    "flask": {"contrib"},
    "starlette": {"http"},
    "uvicorn": {"http"},
    "jwt": {"http"},
    "jinja2": {"http"},
    "httpx": {"http"},
    "brotli": {"http"},
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

# What is not in order yet. These tables may only get shorter: an entry that is not needed any more fails as well.
MOST_LINES = 450
GENERATED = {"memphis_sync/_core/_cython.c", "memphis_sync/_core/_declarations.pxi"}

# Longer than MOST_LINES today.
TOO_LONG = {}
# Two modules of which one imports the other inside a function, and why that is no circle at work.
LAZY: dict[tuple[str, str], str] = {}
# Calls from one C file to another that close a circle.
C_CIRCLES: set[tuple[str, str]] = set()


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
    for node, base, names, top_level in imported_names(path, ROOT):
        for name in [f"{base}.{each}" for each in names] if base == "memphis_sync" and names else [base]:
            yield Import(path, node.lineno, part_of(dotted(path, ROOT)), name, top_level)


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
    if target == "http" and found.part not in {"http", "cli"}:
        return "only the command line imports http"
    is_shared = "client" in found.path.parent.parts and target in HTTP_CLIENT_SHARES
    if found.part in ON_PUBLIC_NAMES and target.startswith("_") and not is_shared:
        return f"{found.part} stands on the public names alone"
    if found.part == "cli" and target.startswith("_") and target not in CLI_SHARES.get(found.path.stem, ()):
        return f"{found.path.stem} of the command line stands on the public names, unless CLI_SHARES names {target}"
    if found.part in RANK and RANK[target] > RANK[found.part] and not (target == "" and found.part == ""):
        return f"imports go down: {target or 'the package'} is above {found.part}"
    return ""


def test_imports_go_down() -> None:
    unknown = {found.part for found in ALL_IMPORTS} - set(RANK) - {"__main__"}
    assert not unknown, f"modules without a row in this test: {sorted(unknown)}"
    broken = [show(found, why) for found in ALL_IMPORTS if (why := broken_rule(found))]
    assert not broken, "\n" + "\n".join(broken)


def test_what_the_command_line_shares_is_needed() -> None:
    used = {(found.path.stem, part_of(found.target)) for found in ALL_IMPORTS if found.part == "cli"}
    assert {(stem, part) for stem, parts in CLI_SHARES.items() for part in parts} <= used


def test_the_imports_of_the_broker_go_down() -> None:
    broken = []
    for found in ALL_IMPORTS:
        if found.part == "broker" and found.target.startswith("memphis_sync.broker."):
            own = found.path.relative_to(PACKAGE / "broker").with_suffix("").parts[0]
            other = found.target.split(".")[2]
            if BROKER_RANK[other] > BROKER_RANK[own]:
                broken.append(show(found, f"imports go down: {other} is above {own}"))
    assert not broken, "\n" + "\n".join(broken)


def test_the_parts_of_http_are_apart() -> None:
    """Importing the client must not need what the gateway needs."""
    broken = []
    for found in ALL_IMPORTS:
        if found.part == "http" and found.target.startswith("memphis_sync.http."):
            own = found.path.relative_to(PACKAGE / "http").with_suffix("").parts[0]
            other = found.target.split(".")[2]
            if other not in HTTP_MAY_USE[own]:
                broken.append(show(found, f"{own} uses {' and '.join(sorted(HTTP_MAY_USE[own]))} only"))
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
        ("client.py", "from .http.gateway import app"),
        ("http/gateway/app.py", "from memphis_sync._session import waiting"),
        ("http/gateway/app.py", "from memphis_sync._options import checks"),
        ("http/client/client.py", "from memphis_sync._session import waiting"),
        ("broker/service/service.py", "import starlette"),
        ("cli/_ls.py", "from memphis_sync._core import IMPL"),
    ]:
        path = tmp_path / "memphis_sync" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"def late():\n    {line}\n")
        assert [broken_rule(found) for found in imports_of(path)] != [""], f"{name}: {line}"
    path = tmp_path / "memphis_sync" / "types.py"
    path.write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .client import Memphis\n")
    assert [broken_rule(found) for found in imports_of(path)] == [""]


def sources() -> list[Path]:
    """What is written by hand of the package and of the C core."""
    found = [path for kind in ("py", "pyi", "pyx", "pxi", "pxd") for path in PACKAGE.rglob(f"*.{kind}")]
    found += (ROOT / "csrc").glob("*.[ch]")
    return sorted(path for path in found if name_of(path) not in GENERATED)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def says_what_it_is(path: Path) -> bool:
    text = path.read_text()
    if path.suffix in {".py", ".pyi"}:
        return bool(ast.get_docstring(ast.parse(text)))
    return text.startswith("/*") if path.suffix in {".c", ".h"} else text.startswith("#")


def check_circles(graph: dict[str, dict[str, str]], known: Collection[tuple[str, str]], table: str) -> None:
    """There is no circle but by a known step, and each of those still closes one."""
    places = {(one, other): graph.get(one, {}).pop(other, "") for one, other in known}
    broken = [
        "\n".join(f"{graph[one][other]}: {other}" for one, other in zip(each, each[1:])) for each in circles(graph)
    ]
    assert not broken, "\n" + "\n\n".join(broken)
    for (one, other), place in places.items():
        is_needed = bool(place) and bool(list(circles({**graph, one: {**graph.get(one, {}), other: place}})))
        assert is_needed, f"take {one} -> {other} out of {table}: it closes no circle any more"


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = import_graph(PACKAGE)
    assert len(graph) > 50
    check_circles(graph, LAZY, "LAZY")


def test_no_c_file_calls_itself_by_way_of_others() -> None:
    graph = call_graph(ROOT / "csrc")
    assert sum(map(len, graph.values())) > 20
    check_circles(graph, C_CIRCLES, "C_CIRCLES")


def test_no_module_is_too_long() -> None:
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in sources()}
    too_long = {name: length for name, length in lengths.items() if length > MOST_LINES}
    assert not too_long.keys() - TOO_LONG, {name: too_long[name] for name in too_long.keys() - TOO_LONG}
    assert not TOO_LONG - too_long.keys(), f"take these out of TOO_LONG: {sorted(TOO_LONG - too_long.keys())}"


def test_each_module_and_c_file_begins_with_what_it_is() -> None:
    assert [name_of(path) for path in sources() if not says_what_it_is(path)] == []


def test_the_root_of_the_package_holds_what_users_see() -> None:
    private = {
        name_of(path) for path in PACKAGE.glob("*.py") if path.stem.startswith("_") and not path.stem.startswith("__")
    }
    assert not private


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"a.py": "from pack import b", "b.py": "import pack.a"}, {"pack.a", "pack.b"}),
        ({"a.py": "def f():\n    from pack.b import x", "b.py": "from pack import a"}, {"pack.a", "pack.b"}),
        (
            {"a.py": "from .b import x", "b.py": "from .c import y", "c.py": "from . import a"},
            {"pack.a", "pack.b", "pack.c"},
        ),
        ({"a.py": "if TYPE_CHECKING:\n    from pack import b", "b.py": "from pack import a"}, set()),
        (
            {"a.py": "from pack.sub import x", "sub/__init__.py": "from pack.sub.b import x", "sub/b.py": "import os"},
            set(),
        ),
    ],
)
def test_circles_of_imports_are_found(tmp_path: Path, files: dict[str, str], expected: set[str]) -> None:
    for name, text in {"__init__.py": "", **files}.items():
        path = tmp_path / "pack" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    found = list(circles(import_graph(tmp_path / "pack")))
    assert {name for circle in found for name in circle} == expected


def test_circles_of_calls_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.c").write_text("/* c() */\nint a(void)\n{\n    return b();\n}\n")
    (tmp_path / "b.c").write_text("static int own(void) {\n    return a();\n}\nint b(void) { return own(); }\n")
    (tmp_path / "c.c").write_text("int c(int x) {\n    return a();\n}\n")
    assert list(circles(call_graph(tmp_path))) == [["a.c", "b.c", "a.c"]]
