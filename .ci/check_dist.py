"""What is in the sdist and what is in the wheel: check_dist.py SDIST WHEEL."""

from __future__ import annotations

import sys
import tarfile
import zipfile
from pathlib import Path

PAGES = "memphis_sync/http/console/[st]*/*"  # templates and static files


def main(sdist: Path, wheel: Path) -> int:
    """Prints each thing that is missing or too much; returns the exit code."""
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    wrong = [
        f"{sdist.name} lacks {name}"
        for name in (
            *(
                path.as_posix()
                for pattern in ("csrc/*.[ch]", "memphis_sync/**/*.py*", "docs/**/*.md", "docs/images/*", PAGES)
                for path in Path().glob(pattern)
            ),
            "LICENSE",
            "README.md",
            "CONTRIBUTING.md",
            "CHANGELOG.md",
            "SECURITY.md",
            "memphis_sync/py.typed",
            "docs/conf.py",
            "setup.py",
            "pyproject.toml",
            "tests/conftest.py",
            *(path.as_posix() for kind in ("md", "rst", "py") for path in Path("docs").rglob(f"*.{kind}")),
        )
        if name not in inside and "__pycache__" not in name
    ]
    wrong += [
        f"{sdist.name} holds a build product: {name}"
        for name in inside
        if name.endswith((".so", ".pyc", "_cython.c", "_cffi_core.c"))
    ]
    wrong += [
        f"{wheel.name} lacks {name}"
        for name in (
            "memphis_sync/py.typed",
            "memphis_sync/cli/__main__.py",
            *(path.as_posix() for path in Path().glob(PAGES) if path.is_file()),
        )
        if name not in packed
    ]
    wrong += [
        f"{wheel.name} holds {name}"
        for name in packed
        if not name.startswith(("memphis_sync/", "memphis_sync-"))
        or name.endswith((".c", ".h", ".pyx", ".pxi", ".pxd"))
    ]
    if not any(name.endswith("/LICENSE") for name in packed):
        wrong.append(f"{wheel.name} lacks the licence")
    if not any(name.startswith("memphis_sync/_core/") and name.endswith((".so", ".pyd")) for name in packed):
        wrong.append(f"{wheel.name} lacks the compiled core")
    print(
        "\n".join(wrong) or f"{sdist.name}: {len(inside)} files, {wheel.name}: {len(packed)} files, as they should be"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
