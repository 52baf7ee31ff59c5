"""How the command is run here: in a child, as a shell would, with the session's broker in its environment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, Callable, NamedTuple, Optional

import pytest
from fix_process import run_python


class Done(NamedTuple):
    """What a command that ran in this process left."""

    returncode: int
    stdout: bytes
    stderr: bytes


Command = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def memphis_sync(broker: Any) -> Command:
    """``memphis_sync("pub", "orders", input=b"...")``; the exit code is the caller's business."""

    def run(*args: str, input: Optional[bytes] = None, timeout_s: float = 60.0) -> subprocess.CompletedProcess[bytes]:  # noqa: A002
        env = {"MEMPHIS_URL": broker.url}
        return run_python("-m", "memphis_sync.cli", *args, input=input, env=env, timeout_s=timeout_s, check=False)

    return run


@pytest.fixture
def run_here(broker: Any, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Any:
    """``run_here("ls")``: the same in this process, which takes no interpreter's start; without a stdin."""
    from memphis_sync.cli import main

    monkeypatch.setenv("MEMPHIS_URL", broker.url)

    def run(*args: str) -> Done:
        code = main(list(args))
        return Done(code, *capfdbinary.readouterr())

    return run


@pytest.fixture
def start(broker: Any) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts the command in a process group of its own, as a shell does; it is gone after the test."""
    started: list[subprocess.Popen[bytes]] = []

    def run(*args: str, **options: Any) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(
            [sys.executable, "-m", "memphis_sync.cli", *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "MEMPHIS_URL": broker.url},
            start_new_session=True,
            **options,
        )
        started.append(child)
        return child

    yield run
    for child in started:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
