"""The demo: what it promises when all is well, and that it does not say so when it isn't."""

from __future__ import annotations

import json
import os
import random
import re
from pathlib import Path
from typing import Any

import pytest
from fix_process import run_python

EVERY_BYTE = bytes(range(256))


def demo(*args: Any, code: int = 0, timeout_s: float = 110.0) -> dict[str, Any]:
    """Runs the demo on a broker of its own; the environment's must stay untouched."""
    env = {"MEMPHIS_URL": "memphis://root@127.0.0.1:1"}
    done = run_python("-m", "memphis_sync.cli", "--json", "demo", *args, env=env, timeout_s=timeout_s, check=False)
    assert done.returncode == code, done.stderr.decode(errors="replace")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def clean(report: dict[str, Any]) -> bool:
    return not (
        report["lost"] or report["duplicated"] or report["out_of_order"] or report["changed"] or report["differences"]
    )


def test_binary_lines_and_a_long_one_twice_in_a_row(tmp_path: Path) -> None:
    path = tmp_path / "binary"
    lines = [bytes([byte]) * 3 for byte in range(256) if byte != 10]
    lines += [
        EVERY_BYTE.replace(b"\n", b""),
        b"",
        b"\r",
        random.Random(7).randbytes(900_000).replace(b"\n", b"\r"),
        b"end",
    ]
    path.write_bytes(b"\n".join(lines))
    for _ in range(2):
        report = demo(path)
        assert clean(report)
        by_what = {row["what"].strip(): row for row in report["rows"]}
        assert by_what["produced by 4 threads"]["messages"] == len(lines)
        assert by_what["produced by 4 threads"]["size"] == sum(map(len, lines))
        assert sum(row["messages"] for what, row in by_what.items() if "read by" in what) > 2 * len(lines)


@pytest.mark.parametrize("content", [b"", b"\n", b"one line", b"\n\n\n"])
def test_hardly_any_input(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "small"
    path.write_bytes(content)
    report = demo(path)
    assert clean(report)
    assert {row["messages"] for row in report["rows"] if row["what"].startswith("produced")} == {
        len(content.splitlines())
    }


def test_several_files_take_every_way_and_every_partition(tmp_path: Path) -> None:
    paths = []
    for number in range(30):
        paths.append(tmp_path / f"file-{number}.txt")
        paths[-1].write_text("".join(f"line {line} of file {number}\n" for line in range(400)))
    report = demo(*paths)
    assert clean(report)
    ways = {row["what"].strip() for row in report["rows"]}
    assert {"many by key", "many in turn", "mixed", "two stations"} <= ways
    first, second = report["partitions"].values()
    assert sum(first) == 12_000
    assert len(first) == 3
    assert sum(second) > 0


def test_the_table_in_a_pipe_is_plain_text(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"a\nb\n")
    done = run_python("-m", "memphis_sync.cli", "demo", path, timeout_s=60)
    assert b"\x1b" not in done.stdout + done.stderr
    assert re.search(rb"\nall [\d,]+ arrived, in order\n\Z", done.stderr)
    text = done.stdout.decode()
    assert "duplicated" in text
    assert "lost" in text
    assert max(map(len, text.splitlines())) <= 100


def test_a_difference_is_told_and_ends_with_1(tmp_path: Path, broker: Any) -> None:
    """The comparison itself, by a demo whose reader is told that other lines went in."""
    program = """
import sys
from memphis_sync.cli import _demo_run, main

class Tampered(_demo_run._Reader):
    def __init__(self, client, script, *args):
        part = list(script.parts[0])
        part[1], part[2] = part[2], part[1]
        other = type(script).__new__(type(script))
        other.__dict__.update(script.__dict__, parts=[part, *script.parts[1:]])
        super().__init__(client, other, *args)

_demo_run._Reader = Tampered
sys.exit(main(["--json", "demo", sys.argv[1]]))
"""
    path = tmp_path / "lines"
    path.write_text("".join(f"{number}\n" for number in range(100)))
    done = run_python("-c", program, path, timeout_s=60, check=False)
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    assert report["changed"] == 4, "two lines, read by two groups"
    assert b"error: changed: " in done.stderr


def test_lines_are_cut_at_newlines_only(tmp_path: Path) -> None:
    from memphis_sync.cli._demo_lines import Script, read_lines

    path = tmp_path / "x"
    path.write_bytes(b"a\r\nb\x0b\x0c\x1c\x85\n\nlast")
    assert [line.data for line in read_lines([path])] == [b"a\r", b"b\x0b\x0c\x1c\x85", b"", b"last"]
    script = Script(read_lines([path]), 4)
    assert sum(len(numbers) for thread in range(4) for _, numbers in script.stretches(thread)) == 4
    assert os.fspath(path) == script.parts[0][0].key
