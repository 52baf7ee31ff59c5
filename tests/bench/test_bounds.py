"""The measurements against bench/bounds.json. Runs when ``-m bench`` names it: on a busy machine it says little."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
from fix_process import run_python

BENCH = Path(__file__).parents[2] / "bench"
BOUNDS = json.loads((BENCH / "bounds.json").read_text())["bounds"]


@functools.cache
def measured(script: str, *args: str) -> dict[str, Any]:
    """One run for all figures that are read off it. A soak's exit code is for the bounds of long runs."""
    done = run_python(
        BENCH / f"{script}.py", *args, env={"PYTHONPATH": str(BENCH.parent)}, timeout_s=110, check=script != "soak"
    )
    return json.loads(done.stdout)


@pytest.mark.bench
@pytest.mark.parametrize("bound", BOUNDS, ids=lambda bound: f"{bound['script']}-{bound['figure']}")
def test_a_measurement_keeps_its_bound(bound: dict[str, Any], record_property: Any) -> None:
    figures: Any = measured(bound["script"], *bound["args"])
    value = functools.reduce(lambda found, key: found[key], bound["figure"].split("."), figures)
    record_property(f"{bound['script']} {bound['figure']}", value)
    print(f"{bound['script']} {bound['figure']}: {value}")
    if "at_least" in bound:
        assert value >= bound["at_least"]["checked"], bound["reason"]
    else:
        assert value <= bound["at_most"]["checked"], bound["reason"]


def test_each_bound_is_one_sided_and_has_its_reason() -> None:
    for bound in BOUNDS:
        assert ("at_least" in bound) != ("at_most" in bound)
        assert len(bound["reason"]) > 10
        assert (BENCH / f"{bound['script']}.py").is_file()
        limit = bound.get("at_least") or bound["at_most"]
        slack = limit["promised"] - limit["checked"]
        assert slack >= 0 if "at_least" in bound else slack <= 0, "what is checked is no stricter than what is promised"
