"""The official SDK as a peer: what it writes we read, and the reverse."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

import pytest

if TYPE_CHECKING:
    from memphis_sync.broker import BrokerProcess

PEER = Path(__file__).parent / "memphis_py_peer.py"


def run_memphis_py(broker: BrokerProcess, command: str, **job: Any) -> list[dict[str, Any]]:
    """
    Runs one command of memphis_py_peer.py against a broker, in a process of its own.

    Args:
        broker: Host, port and credentials are taken from it; ``username`` and ``password`` in *job* override them.
        command: "produce", "consume" or "destroy".
        **job: What the command takes; see there.

    Returns:
        The objects that it printed.
    """
    login = {"host": broker.host, "port": broker.port, "username": broker.username, "password": broker.password}
    done = subprocess.run(
        [sys.executable, str(PEER), command],
        input=json.dumps({**login, "token": broker.token, **job}),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, f"memphis-py {command} failed:\n{done.stdout}\n{done.stderr}"
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def memphis_py(broker: BrokerProcess) -> Callable[..., list[dict[str, Any]]]:
    """``memphis_py("produce", station=..., messages=[...])`` against the session's broker."""

    def run(command: str, **job: Any) -> list[dict[str, Any]]:
        return run_memphis_py(broker, command, **job)

    return run
