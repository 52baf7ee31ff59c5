"""
The frame of the suite: which fixtures there are, and what a crash leaves behind.

One concern a file: ``support/fix_*.py`` hold the fixtures, and README.md says how to run each part.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Optional

import pytest
from hypothesis import settings

settings.register_profile("busy", deadline=None)  # other programs take the machine's time as well
settings.load_profile("busy")

MOST_NAMED_BYTES = 20

pytest_plugins = [
    "fix_backend",
    "fix_broker",
    "fix_browser",
    "fix_cluster",
    "fix_door",
    "fix_gateway",
    "fix_console",  # after the module that it imports
    "fix_memphis_gateway",
    "fix_memphis_js",
    "fix_memphis_py",
    "fix_postgres",
    "fix_process",
    "fix_django",  # after the module that it imports
    "fix_proxy",
    "fix_threads",
    "fix_tls",
    "fix_tmux",
    "fix_waiting",
    "fix_left_out",  # after the modules that it imports
]

# Names the process and the test it is in. A segfault leaves no failed test behind, but it leaves this file.
SENTINEL = Path(__file__).parent.parent / ".pytest_cache" / "running"


def pytest_make_parametrize_id(val: object, argname: str) -> Optional[str]:
    """
    Many bytes don't go into a test's name: processes that share the tests have to find the same names, and what is
    compressed holds the time.
    """
    return argname if isinstance(val, (bytes, bytearray)) and len(val) > MOST_NAMED_BYTES else None


def crashed_in() -> Optional[str]:
    """The test in which an earlier run died; None when none did, or when that process is still alive."""
    try:
        pid, _, test = SENTINEL.read_text().partition(" ")
        os.kill(int(pid), 0)
    except FileNotFoundError:
        return None
    except ProcessLookupError:
        return test
    return None


class Sentinel:
    """Keeps the name of the running test in a file."""

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Says where the last run crashed; refuses ``--last-failed`` then, which would find nothing to run and pass."""
        test = crashed_in()
        if test is not None:
            SENTINEL.unlink()
            if session.config.getoption("lf", False):
                raise session.Failed(
                    f"the last run crashed in {test}; --last-failed would pass over it: run without it"
                )
            session.config.pluginmanager.get_plugin("terminalreporter").write_line(
                f"the last run crashed in {test}", red=True
            )
        SENTINEL.parent.mkdir(exist_ok=True)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        SENTINEL.write_text(f"{os.getpid()} {nodeid}")

    def pytest_sessionfinish(self) -> None:
        SENTINEL.unlink(missing_ok=True)


def is_alone(config: pytest.Config) -> bool:
    """Whether this process runs the whole suite: pytest-xdist names by itself the test in which one of several died."""
    return config.getoption("dist", "no") == "no" and not hasattr(config, "workerinput")


def pytest_configure(config: pytest.Config) -> None:
    """Remembers the running test, for the next run."""
    if is_alone(config):
        config.pluginmanager.register(Sentinel())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what takes minutes or wants an idle machine, unless ``-m`` names it."""
    asked_for = config.getoption("markexpr")
    for marker in ("large", "bench"):
        if marker not in asked_for:
            left_out = [item for item in items if item.get_closest_marker(marker)]
            items[:] = [item for item in items if item not in left_out]
            config.hook.pytest_deselected(items=left_out)
