"""A program for memphis.py prints the same with memphis_sync once ``async`` and ``await`` are deleted: mechanically."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import fix_memphis_py
from parity_differences import REPLACEMENTS

from memphis_sync.broker import BrokerProcess

PROGRAM = Path(__file__).parent / "memphis_py_program.py"


class WithoutAwait(ast.NodeTransformer):
    """
    What the page about moving says: ``async`` and ``await`` go, ``memphis`` becomes ``memphis_sync``, and what the
    program takes from asyncio has the counterpart of the page's second table.
    """

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        self.generic_visit(node)
        return ast.copy_location(ast.FunctionDef(**{field: getattr(node, field) for field in node._fields}), node)

    def visit_Await(self, node: ast.Await) -> ast.AST:
        return self.visit(node.value)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        node.module = (node.module or "").replace("memphis", "memphis_sync")
        return node

    def visit_Import(self, node: ast.Import) -> ast.AST:
        for alias in node.names:
            alias.name = alias.name.replace("asyncio", "threading")
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """``asyncio.run(x)`` is x; an event waits by itself, with its limit."""
        self.generic_visit(node)
        called = ast.unparse(node.func)
        if called == "asyncio.run":
            return node.args[0]
        if called == "asyncio.Event":
            return ast.copy_location(ast.parse("threading.Event()", mode="eval").body, node)
        if called == "asyncio.wait_for":
            waiting, limit = node.args
            assert isinstance(waiting, ast.Call)
            waiting.args = [limit]
            return waiting
        return node


def without_await(source: str) -> str:
    """The program for memphis_sync."""
    return ast.unparse(ast.fix_missing_locations(WithoutAwait().visit(ast.parse(source))))


def run(python: object, program: Path, *args: object) -> list[str]:
    """What the program prints; it must end well, and say nothing else."""
    command = [str(python), "-W", "ignore::DeprecationWarning", str(program), *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stderr) == (0, ""), f"{done.stdout}\n{done.stderr}"
    return done.stdout.splitlines()


def test_the_page_names_all_of_asyncio_that_the_program_uses() -> None:
    used = set(re.findall(r"asyncio\.\w+", PROGRAM.read_text()))
    assert used <= {found for row in REPLACEMENTS for found in re.findall(r"asyncio\.\w+", row)}
    assert used == {"asyncio.run", "asyncio.Event", "asyncio.wait_for"}  # each one has a rule above


def test_the_same_program_prints_the_same(broker: BrokerProcess, station_name: str, tmp_path: Path) -> None:
    schema = tmp_path / "order.json"
    schema.write_text('{"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"]}')
    moved = tmp_path / "moved.py"
    moved.write_text(without_await(PROGRAM.read_text()))
    assert not re.search(r"\b(async|await|asyncio)\b(?!`)", moved.read_text())
    login = (broker.host, broker.port, broker.username, broker.password)
    theirs = run(fix_memphis_py.interpreter(), PROGRAM, *login, f"{station_name}-theirs", schema)
    ours = run(sys.executable, moved, *login, f"{station_name}-ours", schema)
    assert ours == theirs
    assert len(ours) == 18
    assert "failed:" not in "".join(ours)
