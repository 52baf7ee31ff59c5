"""A TCP proxy on loopback that misbehaves on demand: cut, stall, half-close, slow, or deaf from the start."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Callable

import pytest


class Proxy:
    """
    Forwards one loopback port to another; each of its verbs acts on every connection it holds.

    ``stall()`` stops reading in both directions, so that the peers' buffers fill up; ``go_on()`` ends that.
    ``chunk`` and ``pause_s`` cut the stream into pieces of that many bytes with a pause between (0: as it comes).
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.chunk = 0
        self.pause_s = 0.0
        self.accepted = 0
        self._flowing = threading.Event()
        self._flowing.set()
        self._lock = threading.Lock()  # guards _pairs and _listener
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listener = self._listen(0)
        self.host, self.port = self._listener.getsockname()
        self._threads: list[threading.Thread] = []
        self._spawn(self._accept, self._listener)

    def _listen(self, port: int) -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(64)
        return listener

    def _spawn(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, name="test-proxy", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:  # the listener was closed
                return
            self.accepted += 1
            try:
                far = socket.create_connection(self.target, 5)
            except OSError:  # the server behind is away: so are we
                near.close()
                continue
            for sock in (near, far):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._pairs.append((near, far))
            self._spawn(self._pump, near, far)
            self._spawn(self._pump, far, near)

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while True:
                self._flowing.wait()
                data = source.recv(65536)
                self._flowing.wait()
                if not data:
                    break
                for piece in self._pieces(data):
                    sink.sendall(piece)
                    if self.pause_s:
                        time.sleep(self.pause_s)
            sink.shutdown(socket.SHUT_WR)
        except OSError:  # cut on either side
            for sock in (source, sink):
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def _pieces(self, data: bytes) -> Iterator[bytes]:
        size = self.chunk or len(data)
        return (data[i : i + size] for i in range(0, len(data), size))

    def cut(self) -> int:
        """Ends every connection with a reset; new ones are taken. Returns how many there were."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for sock in pair:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
                sock.close()
        return len(pairs)

    def half_close(self) -> None:
        """The server's side says it will send no more; the other direction stays open."""
        with self._lock:
            for near, _ in self._pairs:
                with contextlib.suppress(OSError):
                    near.shutdown(socket.SHUT_WR)

    def stall(self) -> None:
        """Nothing passes any more; connections stay open."""
        self._flowing.clear()

    def go_on(self) -> None:
        """What stall() held back passes."""
        self._flowing.set()

    def down(self) -> None:
        """Cuts everything and refuses new connections, until up()."""
        self._close_listener()
        self.cut()

    def up(self) -> None:
        """Listens again on the same port."""
        self._listener = self._listen(self.port)
        self._spawn(self._accept, self._listener)

    def _close_listener(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept(), which close() alone does not
        self._listener.close()

    def close(self) -> None:
        """Ends everything, threads included."""
        self._flowing.set()
        self.down()
        for thread in self._threads:
            thread.join(5)


@pytest.fixture
def proxy_to() -> Iterator[Callable[[str, int], Proxy]]:
    """``proxy_to(host, port)`` gives a running ``Proxy`` in front of that address."""
    proxies: list[Proxy] = []

    def make(host: str, port: int) -> Proxy:
        proxies.append(Proxy((host, port)))
        return proxies[-1]

    yield make
    for proxy in proxies:
        proxy.close()


@pytest.fixture
def deaf_address() -> Iterator[tuple[str, int]]:
    """An address that takes connections into its backlog and never answers: a connect succeeds, then hangs."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(8)
    yield listener.getsockname()
    listener.close()


@pytest.fixture
def refused_address() -> tuple[str, int]:
    """An address where nothing listens: bound once, so that it was free, and closed again."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        host, port = sock.getsockname()
    return host, port
