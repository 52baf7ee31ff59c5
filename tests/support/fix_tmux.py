"""
A real terminal: a window of tmux, to type into and to read. Its tests carry the mark ``tmux``; a machine without it
leaves them out, and the last lines of the run say how many. ``.ci/run`` installs it where it can.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, Optional

import pytest

MARK = "tmux"


def missing() -> Optional[str]:
    """What this machine lacks; None when all is there."""
    return None if shutil.which("tmux") else "tmux"


class Terminal:
    """
    A shell in a window of 60 columns, in a tmux server of its own.

    Args:
        folder: For its socket.
        url: Of the broker, in the shell's environment.
        until: The fixture.
    """

    def __init__(self, folder: Path, url: str, until: Callable[..., Any]) -> None:
        self._socket = str(folder / "tmux")
        self._until = until
        command = f"{shlex.quote(sys.executable)} -m memphis_sync.cli"
        self._run("-f", "/dev/null", "new-session", "-d", "-x", "60", "-y", "100", "env", "-i", *self._env(url), "sh")
        self.type(f'memphis() {{ {command} "$@"; echo code=$?; }}; clear; echo ready-$((40 + 2))')
        self.until("ready-42")

    @staticmethod
    def _env(url: str) -> list[str]:
        kept = ("PATH", "HOME", "PYTHONPATH", "MEMPHIS_SYNC_IMPL", "VIRTUAL_ENV")
        return [f"{name}={os.environ[name]}" for name in kept if name in os.environ] + [
            f"MEMPHIS_URL={url}",
            "TERM=screen-256color",
            "LANG=C.UTF-8",
        ]

    def _run(self, *args: str) -> str:
        done = subprocess.run(
            ["tmux", "-S", self._socket, *args], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def type(self, line: str) -> None:
        """Types a line and Enter."""
        self._run("send-keys", "-l", line)
        self.press("Enter")

    def press(self, key: str) -> None:
        """Presses a key, by tmux's name: ``C-c``."""
        self._run("send-keys", key)

    def screen(self, *, with_colour: bool = False) -> str:
        """What is to be seen."""
        return self._run("capture-pane", "-p", *(["-e"] if with_colour else []))

    def until(self, text: str) -> str:
        """Waits until something is to be seen; gives the screen."""
        return str(self._until(lambda: (shown := self.screen()) and text in shown and shown, 60))

    def end(self) -> None:
        """Ends the shell and all that runs in it."""
        self._run("kill-server")


@pytest.fixture
def terminal(broker: Any, tmp_path: Path, until: Any) -> Iterator[Terminal]:
    """A terminal in which ``memphis ls`` runs the command with the session's broker, and says its exit code."""
    made = Terminal(tmp_path, broker.url, until)
    yield made
    made.end()
