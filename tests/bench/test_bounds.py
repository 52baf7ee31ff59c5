"""
The measurements against bench/bounds.json. Runs when ``-m bench`` names it; CI does, beside other work.

A figure out of its bound is measured again, twice at most: a machine that others use as well may stop one side of a run
for as long as that takes, but what has become slower is slower each time.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
from fix_process import run_python

BENCH = Path(__file__).parents[2] / "bench"
BOUNDS = json.loads((BENCH / "bounds.json").read_text())["bounds"]
RUN_S = 110
LOOKS = 3


@functools.cache
def measured(script: str, *args: str, look: int) -> dict[str, Any]:
    """One run for all figures that are read off it. A soak's exit code is for the bounds of long runs."""
    done = run_python(
        BENCH / f"{script}.py", *args, env={"PYTHONPATH": str(BENCH.parent)}, timeout_s=RUN_S, check=script != "soak"
    )
    return json.loads(done.stdout)


def value_of(bound: dict[str, Any], look: int) -> float:
    figures: Any = measured(bound["script"], *bound["args"], look=look)
    return functools.reduce(lambda found, key: found[key], bound["figure"].split("."), figures)


def is_kept(bound: dict[str, Any], value: float) -> bool:
    if "at_least" in bound:
        return value >= bound["at_least"]["checked"]
    return value <= bound["at_most"]["checked"]


@pytest.mark.bench
@pytest.mark.timeout((LOOKS + 1) * RUN_S)
@pytest.mark.parametrize("bound", BOUNDS, ids=lambda bound: f"{bound['script']}-{bound['figure']}")
def test_a_measurement_keeps_its_bound(bound: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    values = [value_of(bound, look=1)]
    while not is_kept(bound, values[-1]) and len(values) < LOOKS:
        values.append(value_of(bound, look=len(values) + 1))
    with capsys.disabled():
        limit = bound.get("at_least") or bound["at_most"]
        print(f"\n{bound['script']} {' '.join(bound['args'])}: {bound['figure']} {values}, {limit}")
    assert is_kept(bound, values[-1]), bound["reason"]


def test_each_bound_is_one_sided_and_has_its_reason() -> None:
    for bound in BOUNDS:
        assert ("at_least" in bound) != ("at_most" in bound)
        assert len(bound["reason"]) > 10
        assert (BENCH / f"{bound['script']}.py").is_file()
        limit = bound.get("at_least") or bound["at_most"]
        slack = limit["promised"] - limit["checked"]
        assert slack >= 0 if "at_least" in bound else slack <= 0, "what is checked is no stricter than what is promised"


def test_a_figure_beyond_its_bound_is_found() -> None:
    for bound in BOUNDS:
        at_least = "at_least" in bound
        checked = bound["at_least" if at_least else "at_most"]["checked"]
        assert is_kept(bound, checked)
        assert not is_kept(bound, checked - 0.01 if at_least else checked + 0.01)
