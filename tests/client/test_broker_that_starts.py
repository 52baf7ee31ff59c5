"""A broker that is not there yet, or not all of it: a client that was told to wait does, and says what for."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

import pytest
from fix_door import INFO, passes, refuses, says

import memphis_sync
from memphis_sync import AuthenticationError, ConfigurationError, ConnectError, ServerError
from memphis_sync.broker import BrokerOptions, BrokerProcess
from memphis_sync.broker.server.nats_server import NatsServer

if TYPE_CHECKING:
    from fix_door import Door


@contextlib.contextmanager
def later(delay_s: float, work: Callable[[], object]) -> Iterator[None]:
    """Does *work* after a while, beside the block."""
    timer = threading.Timer(delay_s, work)
    timer.start()
    try:
        yield
    finally:
        timer.join()


@pytest.fixture
def bare_server(tmp_path: Path, until: Any) -> Iterator[NatsServer]:
    """A nats-server without a control plane."""
    server = NatsServer(BrokerOptions(port=0), tmp_path / "nats")
    server.prepare()
    server.spawn()
    until(server.is_up)
    yield server
    server.stop()


@pytest.fixture
def control_plane(bare_server: NatsServer) -> Iterator[BrokerProcess]:
    """A control plane in front of it that is not started yet."""
    process = BrokerProcess(BrokerOptions(nats=f"nats://root:memphis@127.0.0.1:{bare_server.port}"), timeout_s=30)
    yield process
    process.stop()


def url_of(server: NatsServer) -> str:
    return f"memphis://root:memphis@127.0.0.1:{server.port}"


def test_connecting_waits_for_a_broker_that_starts_later(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="memphis_sync")
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    broker = BrokerProcess(BrokerOptions(port=port, data_dir=tmp_path / "data"), timeout_s=30)
    try:
        with (
            later(1.0, broker.start),
            memphis_sync.connect(f"memphis://root:memphis@127.0.0.1:{port}/?wait_s=60&name=early") as client,
        ):
            assert client.produce("st", "p", b"x").sequence == 1
    finally:
        broker.stop()
    waits = [record for record in caplog.records if "waits up to 60 s" in record.getMessage()]
    assert len(waits) == 1
    assert "connection refused" in waits[0].getMessage()


@pytest.mark.parametrize(
    ("treatment", "words"),
    [(says(), "closed the connection"), (refuses("Authentication Timeout"), "Authentication Timeout")],
)
def test_waiting_ends_with_the_last_reason(broker, door_to, treatment, words: str) -> None:
    door: Door = door_to(broker.host, broker.port)
    door.usual = treatment
    start = time.monotonic()
    with pytest.raises(ConnectError, match=words):
        memphis_sync.connect("127.0.0.1", "root", password="memphis", port=door.port, timeout_ms=300, wait_s=1.5)
    assert 1.0 < time.monotonic() - start < 10


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
def test_waiting_for_nobody_ends(refused_address, host: str) -> None:
    start = time.monotonic()
    with pytest.raises(ConnectError, match=r"refused|unknown host"):
        memphis_sync.connect(host, "root", password="x", port=refused_address[1], wait_s=1.0)
    assert 0.4 < time.monotonic() - start < 20


def test_refused_credentials_are_not_waited_for(broker) -> None:
    start = time.monotonic()
    with pytest.raises(AuthenticationError):
        memphis_sync.connect(broker.host, "root", password="wrong", port=broker.port, wait_s=60)
    assert time.monotonic() - start < 20


def test_an_odd_greeting_is_waited_for(broker, door_to) -> None:
    """What listens first may be a proxy that knows no broker yet."""
    door = door_to(broker.host, broker.port)
    door.usual = says(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")

    def open_it() -> None:
        door.usual = passes

    with (
        later(1.0, open_it),
        memphis_sync.connect("127.0.0.1", "root", password="memphis", port=door.port, wait_s=60) as client,
    ):
        assert client.is_connected()
    assert door.visits >= 2


def test_the_wait_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, broker) -> None:
    for name, value in {"HOST": broker.host, "PORT": broker.port, "USERNAME": "root", "PASSWORD": "memphis"}.items():
        monkeypatch.setenv(f"MEMPHIS_{name}", str(value))
    monkeypatch.setenv("MEMPHIS_WAIT_S", "2.5")
    with memphis_sync.connect() as client:
        assert client._session.options.wait_s == 2.5
    monkeypatch.setenv("MEMPHIS_WAIT_S", "soon")
    with pytest.raises(ConfigurationError, match="MEMPHIS_WAIT_S is 'soon'; it must be a number of seconds"):
        memphis_sync.connect()


@pytest.mark.parametrize("value", [-1, float("nan"), "5", None, True, 1e9])
def test_a_wait_that_cannot_be_is_refused(value: object) -> None:
    with pytest.raises(ConfigurationError, match="wait_s is"):
        memphis_sync.connect("127.0.0.1", "root", password="x", wait_s=value)


# ---- a server without its control plane
# --------------------------------------------------------------------------------


def test_the_first_request_waits_for_a_control_plane_that_starts(
    bare_server: NatsServer, control_plane: BrokerProcess
) -> None:
    with memphis_sync.connect(f"{url_of(bare_server)}?wait_s=60") as client, later(1.0, control_plane.start):
        assert client.station("st").name == "st"
        assert client.produce("st", "p", b"x").sequence == 1


@pytest.mark.slow
def test_requests_wait_for_a_control_plane_that_starts_again(
    bare_server: NatsServer, control_plane: BrokerProcess
) -> None:
    """Longer than a client would wait for one that it has never heard of."""
    control_plane.start()
    with memphis_sync.connect(url_of(bare_server)) as client:
        client.station("st")
        for kind in ("station", "producer", "consumer", "schema"):
            control_plane._child.terminate()
            control_plane._child.wait(30)
            with later(6.0 if kind == "station" else 0.5, control_plane.start):
                if kind == "station":
                    client.station("st-2")
                elif kind == "producer":
                    client.producer("st", "p").produce(b"x")
                elif kind == "consumer":
                    client.consumer("st", "c")
                else:
                    client.create_schema("sc", "json", schema_content='{"type":"object"}')


@pytest.mark.slow
def test_a_nats_server_without_a_broker_is_named_within_seconds(bare_server: NatsServer) -> None:
    with memphis_sync.connect(url_of(bare_server)) as client:
        start = time.monotonic()
        with pytest.raises(ServerError, match="no Memphis broker behind it") as caught:
            client.station("st")
        assert 3 < time.monotonic() - start < 15
        assert caught.value.code == 503


def test_a_greeting_of_a_memphis_broker_says_so(broker, door_to) -> None:
    door = door_to(broker.host, broker.port)

    def treat(visit) -> bool:
        visit.sock.sendall(INFO.replace(b'"X"', b'"X","connection_id":"c"'))
        visit.sock.settimeout(5)
        visit.sock.recv(65536)
        visit.sock.sendall(b"PONG\r\n")
        visit.stay()
        return False

    door.usual = treat
    with memphis_sync.connect("127.0.0.1", "root", password="x", port=door.port) as client:
        assert client._session.control.is_memphis
    door.usual = passes
    with memphis_sync.connect("127.0.0.1", "root", password="memphis", port=door.port) as client:
        assert not client._session.control.is_memphis
