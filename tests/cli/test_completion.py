"""memphis-sync completion: the shell's script, and what it then asks the command."""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

import pytest
from fix_process import run_python


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_its_script(shell: str) -> None:
    done = run_python("-m", "memphis_sync.cli", "completion", shell)
    assert b"_MEMPHIS_SYNC_COMPLETE" in done.stdout
    assert b"memphis-sync" in done.stdout


def test_the_script_of_bash_is_one() -> None:
    bash = shutil.which("bash")
    assert bash is not None
    script = run_python("-m", "memphis_sync.cli", "completion", "bash").stdout
    subprocess.run([bash, "-n"], input=script, check=True, timeout=60)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("memphis-sync p", {"peek", "ping", "pub"}),
        ("memphis-sync station c", {"create"}),
        ("memphis-sync sub --c", {"--count", "--create"}),
        ("memphis-sync pub --split n", {"none", "nul"}),
        ("memphis-sync completion z", {"zsh"}),
        ("memphis-sync broker --re", {"--ready-file", "--replicas"}),
        ("memphis-sync gateway --jw", {"--jwt-keys-file"}),
    ],
)
def test_words_are_completed(words: str, expected: set[str]) -> None:
    env: dict[str, Any] = {
        "_MEMPHIS_SYNC_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    program = "import sys; sys.argv = ['memphis-sync']; from memphis_sync.cli import main; sys.exit(main())"
    done = run_python("-c", program, env=env)
    assert {line.partition(",")[2] for line in done.stdout.decode().split()} == expected
