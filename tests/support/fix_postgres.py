"""
A real PostgreSQL in a temporary folder. Its tests carry the mark ``postgres``; a machine without it leaves them out,
and the last lines of the run say how many. ``.ci/run`` installs it where it can.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import pytest

MARK = "postgres"
# What a test's database need not survive costs time only; the socket is in its own folder, and nothing else listens.
OPTIONS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "40"}


def _found(program: str) -> Optional[str]:
    """Debian keeps the server's programs out of PATH, a folder for each version."""
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"), key=lambda path: int(path.parts[4]))
    return str(versions[-1]) if versions else shutil.which(program)


def missing() -> Optional[str]:
    """What this machine lacks; None when all is there."""
    return next((program for program in ("initdb", "pg_ctl") if _found(program) is None), None)


def _user() -> Optional[str]:
    """Who runs it: the server refuses root."""
    if os.getuid() != 0:
        return None
    return next(user.pw_name for name in ("postgres", "nobody") for user in pwd.getpwall() if user.pw_name == name)


@pytest.fixture(scope="session")
def postgres() -> Iterator[dict[str, Any]]:
    """Django's settings of a database in a server for the whole session."""
    user = _user()
    folder = Path(tempfile.mkdtemp(prefix="memphis-pg-"))  # short: a socket's path has 107 characters at most
    if user is not None:
        os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
    data = folder / "data"

    def run(program: str, *args: str) -> None:
        done = subprocess.run(
            [_found(program), *args],
            user=user,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{program} {' '.join(args)}: {done.stdout + done.stderr!r}"

    options = " ".join(f"-c {name}={value}" for name, value in OPTIONS.items())
    try:
        run("initdb", "-D", str(data), "-U", "shop", "-A", "trust", "--no-sync", "--no-locale", "-E", "UTF8")
        run(
            "pg_ctl",
            "-D",
            str(data),
            "-w",
            "-t",
            "60",
            "-l",
            str(folder / "log"),
            "-o",
            f"-k {folder} -h '' {options}",
            "start",
        )
        try:
            yield {"ENGINE": "django.db.backends.postgresql", "HOST": str(folder), "NAME": "postgres", "USER": "shop"}
        finally:
            run("pg_ctl", "-D", str(data), "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
