"""What the tests promise about the programs that they start."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from fix_process import run_python

SUPPORT = Path(__file__).parent.parent / "support"


@pytest.mark.parametrize("name", ["SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1"])
def test_a_program_begins_with_all_signals_though_the_suite_ignores_one(name: str) -> None:
    """As under ``nohup``, and in the background of a shell."""
    ended = run_python(
        "-c",
        f"""
import signal, subprocess, sys
sys.path.insert(0, {str(SUPPORT)!r})
signal.signal(signal.{name}, signal.SIG_IGN)
from fix_process import begin_with_all_signals
begin_with_all_signals()
program = "import os, signal, time; os.kill(os.getpid(), signal.{name}); time.sleep(50)"
child = subprocess.run([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
assert child.returncode == -signal.{name}, child.returncode
""",
        timeout_s=60,
    )
    assert ended.stderr == b""


def test_what_a_suite_ignores_does_not_end_it() -> None:
    """A suite under nohup lives on when its terminal is closed."""
    number = signal.SIGHUP.value
    run_python(
        "-c",
        f"""
import os, signal, sys
sys.path.insert(0, {str(SUPPORT)!r})
signal.signal({number}, signal.SIG_IGN)
from fix_process import begin_with_all_signals
begin_with_all_signals()
os.kill(os.getpid(), {number})
""",
        timeout_s=60,
    )
