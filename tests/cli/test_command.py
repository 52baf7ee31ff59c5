"""The command as such: help, options, exit codes, and one clear sentence where something is missing."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from fix_process import run_python


@pytest.mark.parametrize(
    "args",
    [["--help"], ["pub", "--help"], ["sub", "--help"], ["demo", "--help"], ["broker", "--help"], ["schema", "--help"]],
)
def test_help(args: list[str]) -> None:
    done = run_python("-m", "memphis_sync.cli", *args)
    assert b"sage: memphis-sync" in done.stdout or b"sage: " in done.stdout
    assert b"password" not in b" ".join(word for word in done.stdout.split() if word.startswith(b"--"))


def test_the_installed_script_is_the_same_program() -> None:
    script = Path(sys.executable).with_name("memphis-sync")
    command = [str(script)] if script.exists() else [sys.executable, "-m", "memphis_sync.cli"]
    assert subprocess.run([*command, "--version"], stdout=subprocess.PIPE, check=True).stdout.startswith(
        b"memphis-sync"
    )


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["nonsense"], 2, b"nonsense"),
        (["pub"], 2, b"STATION"),
        (["pub", "orders", "body", "--file", "/dev/null"], 2, b"give BODY or --file, not both"),
        (["pub", "orders", "-H", "novalue"], 2, b"NAME=VALUE"),
        (["pub", "orders", "x", "-H", "kind=a", "-H", "kind=b"], 2, b"'kind' is given twice"),
        (["pub", "orders", "x", "--key", "k", "--partition", "1"], 2, b"partition"),
        (["pub", "no spaces allowed", "x"], 2, b"tation"),
        (["sub", "orders", "--count", "0"], 2, b"count"),
        (["demo", "/no/such/file"], 2, b"/no/such/file"),
    ],
)
def test_a_usage_error_is_2(memphis_sync: Any, args: list[str], code: int, said: bytes) -> None:
    done = memphis_sync(*args)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert b"Traceback" not in done.stderr


def test_no_broker_named_says_both_ways() -> None:
    done = run_python("-m", "memphis_sync.cli", "pub", "orders", "x", env={"MEMPHIS_URL": ""}, check=False)
    assert done.returncode == 2
    assert b"MEMPHIS_URL" in done.stderr


def test_no_connection_is_3_at_once(refused_address: tuple[str, int]) -> None:
    host, port = refused_address
    start = time.monotonic()
    env = {"MEMPHIS_URL": f"memphis://root:memphis@{host}:{port}"}
    done = run_python("-m", "memphis_sync.cli", "pub", "orders", "x", env=env, check=False)
    assert done.returncode == 3
    assert str(port).encode() in done.stderr
    assert done.stderr.count(b"\n") == 1, done.stderr
    assert time.monotonic() - start < 10


def test_a_password_in_the_url_draws_a_warning_and_is_not_repeated(refused_address: tuple[str, int]) -> None:
    url = "memphis://root:canary-secret@{}:{}".format(*refused_address)
    done = run_python("-m", "memphis_sync.cli", "--url", url, "pub", "orders", "x", check=False)
    assert b"MEMPHIS_URL" in done.stderr
    assert b"canary-secret" not in done.stderr


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_a_missing_extra_is_one_sentence(missing: str) -> None:
    program = (
        f"import sys; sys.modules[{missing!r}] = None; from memphis_sync.cli import main; sys.exit(main(['--help']))"
    )
    done = run_python("-c", program, check=False)
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    assert b"memphis-sync[cli]" in done.stderr


def test_the_package_imports_none_of_the_extras() -> None:
    program = (
        "import sys, memphis_sync; print(sorted({name.partition('.')[0] for name in sys.modules}"
        " & {'click', 'rich', 'pytest', 'matplotlib', 'flask'}))"
    )
    assert run_python("-c", program).stdout == b"[]\n"


def test_the_broker_command_loads_no_command_line_library() -> None:
    """It is a server: what it needs to answer is on its way up before anything else."""
    program = (
        "import sys; from memphis_sync.cli import main\n"
        "try:\n    main(['broker', '--help'])\nexcept SystemExit:\n    pass\n"
        "sys.stderr.write(str(sorted({'click', 'rich'} & set(sys.modules))))"
    )
    assert run_python("-c", program).stderr == b"[]"
