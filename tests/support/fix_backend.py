"""Which of the two C bindings runs: forced by ``--backend`` or MEMPHIS_SYNC_IMPL, shown in the header."""

from __future__ import annotations

import os
import platform
import sys

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backend",
        choices=["cython", "cffi"],
        help="run against this binding of the C core (sets MEMPHIS_SYNC_IMPL, for child processes too)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Sets the variable before anything imports the package: the choice is made at import."""
    backend = config.getoption("--backend")
    if backend:
        if "memphis_sync._core" in sys.modules:
            raise pytest.UsageError("--backend comes too late: the package is imported already")
        os.environ["MEMPHIS_SYNC_IMPL"] = backend


def pytest_report_header() -> str:
    """Imports the package on purpose: without its C core no test can say anything."""
    from memphis_sync import _core

    return f"memphis_sync: {_core.IMPL} binding, {platform.python_implementation()} on {os.cpu_count()} cores"
