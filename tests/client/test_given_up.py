"""A connection of the control link that is given up: it ends at once, and no socket waits for the garbage collector."""

from __future__ import annotations

import functools
import gc
import socket
import threading
from typing import TYPE_CHECKING, Callable

import pytest

import memphis_sync
from memphis_sync import ConnectError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fix_proxy import Proxy
    from fix_tls import Authority

    from memphis_sync import Memphis
    from memphis_sync.broker import BrokerProcess
    from memphis_sync.types import LinkEvent


@pytest.fixture
def uncollected() -> Iterator[None]:
    """What the test leaves open stays open: the garbage collector does not run."""
    gc.disable()
    yield
    gc.enable()


def ends(sock: socket.socket, limit_s: float) -> bool:
    """Whether the peer of *sock* ends the connection in time, in order or with a reset."""
    sock.settimeout(limit_s)
    try:
        while sock.recv(65536):
            continue
    except socket.timeout:
        return False
    except ConnectionError:
        return True
    return True


def test_an_attempt_whose_handshake_fails_is_closed_at_once(uncollected: None) -> None:
    ended: list[bool] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.sendall(b"220 mail ready\r\n")
                ended.append(ends(sock, 5))

        thread = threading.Thread(target=greet, name="test-greeter", daemon=True)
        thread.start()
        with pytest.raises(ConnectError):
            memphis_sync.connect("127.0.0.1", "root", password="x", port=listener.getsockname()[1], timeout_ms=1000)
        thread.join(6)
    assert ended == [True]


@pytest.fixture(params=["plain", "tls"])
def reached(
    request: pytest.FixtureRequest,
    broker: BrokerProcess,
    tls_broker: BrokerProcess,
    authority: Authority,
    proxy_to: Callable[[str, int], Proxy],
) -> tuple[Proxy, Callable[..., Memphis]]:
    """A proxy, and ``connect(**options)`` to the broker behind it."""
    target, options = (tls_broker, {"ca_file": authority.file}) if request.param == "tls" else (broker, {})
    proxy = proxy_to(target.host, target.port)
    return proxy, functools.partial(
        memphis_sync.connect, proxy.host, target.username, password=target.password, port=proxy.port, **options
    )


def test_a_silent_peer_is_left_without_its_goodbye(reached, until) -> None:
    """Two PINGs without an answer are the end of a connection, also where TLS has a last word for each side."""
    proxy, connect = reached
    lost: list[LinkEvent] = []
    back: list[LinkEvent] = []
    with connect(ping_interval_s=0.3, reconnect_interval_ms=20, on_disconnect=lost.append, on_reconnect=back.append):
        proxy.stall()
        until(lambda: "control" in [event.link for event in lost], 5)
        proxy.cut()
        proxy.go_on()
        until(lambda: "control" in [event.link for event in back], 5)


def test_closing_beside_a_silent_peer_leaves_no_socket(reached, uncollected: None) -> None:
    proxy, connect = reached
    client = connect()
    near = [pair.near for pair in proxy.pairs]
    assert near
    proxy.stall()
    client.close(timeout_s=0.1)
    for sock in near:
        assert ends(sock, 2)
