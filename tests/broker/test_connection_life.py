"""The control plane's own connection: whatever a server says is an outage; only a repeated verdict ends the process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Callable

import pytest
from control_client import ControlClient
from fix_door import INFO, comes_late, keeps_saying, passes, refuses, says

from memphis_sync._protocol.server_errors import REFUSALS
from memphis_sync.broker import BrokerOptions, BrokerProcess
from memphis_sync.broker.server.nats_server import NatsServer

if TYPE_CHECKING:
    from fix_door import Door

WORDS = [
    "Authentication Timeout",
    "Stale Connection",
    "maximum connections exceeded",
    "Server Shutdown",
    "no such word",
]
ODD = {
    "late": comes_late(to_server_s=30.0),
    "closes": says(),
    "deep greeting": says(b'INFO {"a":' + b"[" * 20_000 + b"\r\n"),
    "max_payload is a text": says(b'INFO {"max_payload":"x"}\r\n'),
    "not NATS": says(b"HTTP/1.1 503 Service Unavailable\r\n\r\n"),
    "PING for ever": keeps_saying(INFO, b"PING\r\n"),
    **{word: refuses(word) for word in WORDS},
    "a verdict, less often than it takes": refuses("Authorization Violation"),
}


@pytest.fixture
def served(
    tmp_path: Path, until: Any, door_to: Callable[[str, int], Door]
) -> Iterator[tuple[SimpleNamespace, Door, BrokerProcess]]:
    """A nats-server, a door in front of it, and a control plane that comes through the door."""
    server = NatsServer(BrokerOptions(port=0), tmp_path / "nats")
    server.prepare()
    server.spawn()
    until(server.is_up)
    door = door_to("127.0.0.1", server.port)
    process = BrokerProcess(BrokerOptions(nats=f"nats://root:memphis@127.0.0.1:{door.port}"), timeout_s=30)
    try:
        process.start()
        yield SimpleNamespace(host="127.0.0.1", port=server.port, token=None, password="memphis"), door, process
    finally:
        process.stop()
        server.stop()


def answers(server: Any) -> bool:
    with ControlClient(server) as control:
        try:
            return bool(control.raw("$memphis_station_destructions", b"{"))
        except Exception:
            return False


@pytest.mark.slow
def test_whatever_the_server_says_the_control_plane_comes_back(served, until) -> None:
    server, door, process = served
    for kind, treatment in ODD.items():
        seen = door.visits
        door.treatments.extend([treatment] * (REFUSALS - 1))
        door.cut()
        until(lambda seen=seen: door.visits >= seen + REFUSALS, 60)
        assert until(lambda: answers(server), 60), kind
    assert process._child.poll() is None
    assert "Traceback" not in process.output()


def test_a_control_plane_that_is_refused_for_good_ends_with_an_error(served, until) -> None:
    """So that whoever supervises it starts it again; alive and deaf it would be left alone."""
    _, door, process = served
    seen = door.visits
    door.usual = refuses("Authorization Violation")
    door.cut()
    assert until(lambda: process._child.poll() is not None, 60)
    assert process._child.returncode == 1
    assert door.visits - seen >= REFUSALS
    said = process.output()
    assert "memphis-sync broker: the NATS server can no longer be used" in said
    assert "Authorization Violation" in said
    door.usual = passes
    process.start()
    assert process._child.poll() is None
