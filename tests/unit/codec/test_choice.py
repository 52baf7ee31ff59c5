"""Which binding the package takes, and what it says when that one is not there. Each case in its own interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

HIDE = """
import sys, platform
hidden = {hidden!r}
class Hider:
    def find_spec(self, name, path=None, target=None):
        if name in hidden:
            raise ImportError(f"hidden by the test: {{name}}")
sys.meta_path.insert(0, Hider())
if {pypy!r}:
    platform.python_implementation = lambda: "PyPy"
try:
    from memphis_sync import _core
except ImportError as exc:
    print("ImportError", exc, "| cause:", type(exc.__cause__).__name__)
else:
    print(_core.IMPL)
"""
CYTHON = "memphis_sync._core._cython"
CFFI = "memphis_sync._core._cffi_core"


def choose(wanted: str = "", *, hidden: tuple[str, ...] = (), pypy: bool = False) -> str:
    """The binding that a fresh interpreter takes, or the text of its ImportError."""
    environment = {**os.environ, "PYTHONPATH": os.fspath(ROOT)}
    environment.pop("MEMPHIS_SYNC_IMPL", None)
    if wanted:
        environment["MEMPHIS_SYNC_IMPL"] = wanted
    script = HIDE.format(hidden=hidden, pypy=pypy)
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, timeout=30, check=True)
    return done.stdout.decode().strip()


@pytest.mark.parametrize("name", ["cython", "cffi"])
def test_the_variable_forces_one(name: str) -> None:
    assert choose(name) == name


def test_without_the_variable_cython_comes_first_and_on_pypy_cffi() -> None:
    assert choose() == "cython"
    assert choose(pypy=True) == "cffi"


def test_without_the_variable_the_other_one_is_tried() -> None:
    assert choose(hidden=(CYTHON,)) == "cffi"
    assert choose(pypy=True, hidden=(CFFI,)) == "cython"


@pytest.mark.parametrize(("name", "hidden"), [("cython", CYTHON), ("cffi", CFFI)])
def test_a_forced_one_that_is_missing_is_an_error_with_its_cause(name: str, hidden: str) -> None:
    said = choose(name, hidden=(hidden,))
    assert said.startswith(f"ImportError MEMPHIS_SYNC_IMPL asks for '{name}', which cannot be imported: ")
    assert f"hidden by the test: {hidden}" in said
    assert said.endswith("cause: ImportError")


def test_with_neither_both_attempts_are_listed() -> None:
    said = choose(hidden=(CYTHON, CFFI))
    assert said.startswith("ImportError memphis_sync has no compiled core")
    assert said.index(f"cython: hidden by the test: {CYTHON}") < said.index(f"cffi: hidden by the test: {CFFI}")
    said = choose(hidden=(CYTHON, CFFI), pypy=True)
    assert said.index(f"cffi: hidden by the test: {CFFI}") < said.index(f"cython: hidden by the test: {CYTHON}")


def test_an_unknown_name_lists_the_known_ones() -> None:
    assert "MEMPHIS_SYNC_IMPL is 'ctypes'; it must be one of cython, cffi" in choose("ctypes")
