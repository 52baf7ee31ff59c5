"""
What makes "exercised by a test" true.

A test says what it exercises, ``@pytest.mark.exercises("Memphis.station(name, replicas)", "Retention.BYTES")``, and is
held to it: while it runs, each named function notes what the test's own file calls it with, and the test fails unless
every named parameter was given, and given something else than its default. Attributes and classes are looked for in the
test's source. test_surface.py then wants every name of memphis.py to be claimed by such a test, so that removing a test
or a call from one fails.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from typing import Any, Callable

import pytest

import memphis_sync

CLAIM = re.compile(r"(?P<path>[\w.]+)(?:\((?P<parameters>[\w, ]*)\))?")


def read_claim(claim: str) -> tuple[str, list[str], bool]:
    """``"Memphis.station(name, replicas)"`` as path, parameters, and whether it is a call."""
    match = CLAIM.fullmatch(claim)
    assert match is not None, f"{claim!r} is no claim"
    named = match["parameters"]
    return match["path"], [name.strip() for name in (named or "").split(",") if name.strip()], named is not None


class Recorder:
    """Notes with which arguments functions are called from one file."""

    def __init__(self, filename: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self._filename = filename
        self._monkeypatch = monkeypatch
        self.seen: dict[str, set[str]] = {}

    def watch(self, path: str) -> None:
        """Puts a note-taker around ``Class.method`` or ``Class``."""
        if path in self.seen:
            return
        self.seen[path] = set()
        owner_name, _, name = path.partition(".")
        owner = getattr(memphis_sync, owner_name)
        name = name or "__init__"
        function = inspect.getattr_static(owner, name)
        self._monkeypatch.setattr(owner, name, self._noting(path, function))

    def _noting(self, path: str, function: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if sys._getframe(1).f_code.co_filename == self._filename:
                given = signature.bind(*args, **kwargs).arguments
                self.seen[path].add("")
                self.seen[path].update(
                    name
                    for name, value in given.items()
                    if signature.parameters[name].default is inspect.Parameter.empty
                    or value != signature.parameters[name].default
                )
            return function(*args, **kwargs)

        return call


@pytest.fixture(autouse=True)
def _held_to_its_claims(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    claims = [read_claim(claim) for mark in request.node.iter_markers("exercises") for claim in mark.args]
    recorder = Recorder(request.function.__code__.co_filename, monkeypatch)
    for path, _, is_call in claims:
        if is_call:
            recorder.watch(path)
    yield
    source = ast.parse(textwrap.dedent(inspect.getsource(request.function)))
    read = {node.attr for node in ast.walk(source) if isinstance(node, ast.Attribute)}
    wrong = []
    for path, parameters, is_call in claims:
        if is_call:
            missing = {"", *parameters} - recorder.seen[path]
            wrong += [f"{path}({name}) was not given" if name else f"{path}() was not called" for name in missing]
        elif path.rpartition(".")[2] not in read:
            wrong.append(f"{path} was not read")
    assert not wrong, f"the test does not do what it says: {', '.join(sorted(wrong))}"
