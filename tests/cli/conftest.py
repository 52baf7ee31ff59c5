"""How the command is run here: in a child, as a shell would, with the session's broker in its environment."""

from __future__ import annotations

import subprocess
from typing import Any, Callable, Optional

import pytest
from fix_process import run_python

Command = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def memphis_sync(broker: Any) -> Command:
    """``memphis_sync("pub", "orders", input=b"...")``; the exit code is the caller's business."""

    def run(*args: str, input: Optional[bytes] = None, timeout_s: float = 60.0) -> subprocess.CompletedProcess[bytes]:  # noqa: A002
        env = {"MEMPHIS_URL": broker.url}
        return run_python("-m", "memphis_sync.cli", *args, input=input, env=env, timeout_s=timeout_s, check=False)

    return run
