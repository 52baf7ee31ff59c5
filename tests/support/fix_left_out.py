"""Tests whose mark says what they need are left out where that is missing, and the last lines of the run say so."""

from __future__ import annotations

from typing import Any, Callable, NamedTuple, Optional

import fix_browser
import fix_memphis_js
import fix_postgres
import fix_tmux
import pytest


class Need(NamedTuple):
    """The mark, what its tests are, and what says which program of theirs the machine lacks."""

    mark: str
    tests: str
    missing: Callable[[], Optional[str]]


NEEDS = (
    Need(fix_browser.MARK, "of the console in a browser", fix_browser.missing),
    Need(fix_memphis_js.MARK, "of memphis-dev", fix_memphis_js.missing),
    Need(fix_postgres.MARK, "with PostgreSQL", fix_postgres.missing),
    Need(fix_tmux.MARK, "in a terminal", fix_tmux.missing),
)
LEFT_OUT = pytest.StashKey[dict[Need, int]]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what cannot run."""
    config.stash[LEFT_OUT] = {}
    for need in NEEDS:
        left_out = [item for item in items if item.get_closest_marker(need.mark)]
        if left_out and need.missing() is not None:
            items[:] = [item for item in items if not item.get_closest_marker(need.mark)]
            config.hook.pytest_deselected(items=left_out)
            config.stash[LEFT_OUT][need] = len(left_out)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """A line a need that says what was not run."""
    for need, count in config.stash.get(LEFT_OUT, {}).items():
        terminalreporter.write_line(
            f"NOT RUN: {count} tests {need.tests}; there is no {need.missing()} on this machine", yellow=True
        )
