"""README's first command, once in full: the standard library's sources, and nothing lost."""

from __future__ import annotations

import json

from fix_process import run_python


def test_the_whole_standard_library() -> None:
    done = run_python("-m", "memphis_sync.cli", "--json", "demo", timeout_s=115)
    report = json.loads(done.stdout)
    rows = {row["what"].strip(): row for row in report["rows"]}
    produced = rows["produced by 4 threads"]["messages"]
    assert produced > 200_000
    assert [report[kind] for kind in ("lost", "duplicated", "out_of_order", "changed")] == [0, 0, 0, 0]
    assert sum(1 for what, row in rows.items() if "read by" in what and row["messages"] == produced) == 2
