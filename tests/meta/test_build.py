"""What somebody sees whose machine cannot compile the core."""

from __future__ import annotations

from pathlib import Path

from fix_process import run_python

ROOT = Path(__file__).parents[2]


def test_a_missing_compiler_is_one_clear_sentence(tmp_path: Path) -> None:
    child = run_python(
        "setup.py",
        "build_ext",
        f"--build-lib={tmp_path}",
        f"--build-temp={tmp_path}",
        env={"CC": "no-such-compiler", "MEMPHIS_SYNC_BUILD": "cffi"},
        cwd=ROOT,
        check=False,
        timeout_s=60,
    )
    assert child.returncode == 1
    lines = child.stderr.decode().strip().splitlines()
    assert lines[-1].startswith(
        "memphis-sync is compiled when it is installed, which takes a C compiler (no-such-compiler"
    )
    assert "Traceback" not in child.stderr.decode()
