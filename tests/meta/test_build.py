"""What somebody sees whose machine cannot compile the core."""

from __future__ import annotations

import re
from pathlib import Path

from fix_process import run_python

import memphis_sync

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


def test_the_version_is_written_in_one_place() -> None:
    """And CHANGELOG says what is in it; elsewhere it would stay behind one day."""
    written = re.escape(memphis_sync.__version__)
    files = [*ROOT.glob("*.toml"), *ROOT.glob("*.py"), *(ROOT / "memphis_sync").rglob("*.py"), ROOT / "README.md"]
    found = [path.relative_to(ROOT).as_posix() for path in files if re.search(rf"\b{written}\b", path.read_text())]
    assert found == ["memphis_sync/types.py"]
    newest = re.findall(r"^## \[(\d.*)\] - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0]
    assert newest == memphis_sync.__version__


def test_the_security_page_names_the_version_that_gets_fixes() -> None:
    minor = memphis_sync.__version__.rpartition(".")[0]
    assert f"| the newest release, today {minor} |" in (ROOT / "SECURITY.md").read_text()
