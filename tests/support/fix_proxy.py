"""A TCP proxy on loopback that misbehaves on demand: cut, stall, half-close, slow, mute, or deaf from the start."""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any, Callable, Optional

import pytest

# What no fault touches: the flow that a spared connection has.
_ALWAYS = threading.Event()
_ALWAYS.set()


class Pair:
    """One connection through the proxy: the client's socket, the server's, and whether faults pass it by."""

    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        self.near = near
        self.far = far
        self.is_spared = False
        self.is_ended = False  # by us; what its pumps still read goes nowhere
        self._pumps = 2
        self._lock = threading.Lock()  # guards _pumps

    def end(self, *, reset: bool) -> None:
        """
        Ends it, with a reset or with what was forwarded still delivered.

        The sockets stay open until both pumps have left them: a number that is given out again while a pump is on its
        way into recv() would make it read from another connection.
        """
        self.is_ended = True
        for sock in (self.near, self.far):
            if reset:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def pump_left(self) -> None:
        """One of the two pumps is done."""
        with self._lock:
            self._pumps -= 1
            is_last = self._pumps == 0
        if is_last:
            self.close()

    def close(self) -> None:
        """Gives both sockets back."""
        self.near.close()
        self.far.close()


def listen_at(port: int) -> socket.socket:
    """
    A listener on the loopback, on a free port for 0. A port that was free before may be the near end of somebody's
    outgoing connection for a moment, so another look is worth its time.
    """
    deadline = time.monotonic() + 10
    while True:
        try:
            return socket.create_server(("127.0.0.1", port), backlog=64)
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE or time.monotonic() >= deadline:
                raise
            time.sleep(0.05)


class Proxy:
    """
    Forwards one loopback port to another; each of its verbs acts on every connection it holds, spared ones aside.

    ``stall()`` stops reading in both directions, so that the peers' buffers fill up; ``go_on()`` ends that.
    ``chunk`` and ``pause_s`` cut the stream into pieces of that many bytes with a pause between (0: as it comes).
    ``drop_answers`` throws away what the server says. ``alter`` is given what passes, with the connection and whether
    it goes to the server, and returns what is to pass instead.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.chunk = 0
        self.pause_s = 0.0
        self.drop_answers = False
        self.alter: Optional[Callable[[Pair, bool, bytes], bytes]] = None
        self.accepted = 0
        self._flowing = threading.Event()
        self._flowing.set()
        self._lock = threading.Lock()  # guards pairs, _fuse and _listener
        self.pairs: list[Pair] = []
        self._fuse: Optional[tuple[bool, int]] = None  # towards the server?, bytes that still pass
        self._listener = listen_at(0)
        self.host, self.port = self._listener.getsockname()
        self._threads: list[threading.Thread] = []
        self._spawn(self._accept, self._listener)

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
            pair = Pair(near, far)
            with self._lock:
                is_late = listener.fileno() < 0  # down() came between: it does not see this one any more
                if not is_late:
                    self.pairs.append(pair)
            if is_late:
                pair.end(reset=True)
                pair.close()
                return
            self._spawn(self._pump, pair, near, far)
            self._spawn(self._pump, pair, far, near)

    def _pump(self, pair: Pair, source: socket.socket, sink: socket.socket) -> None:
        try:
            while True:
                self._flow(pair).wait()
                data = source.recv(65536)
                self._flow(pair).wait()
                if not data or pair.is_ended:  # a pump that is late must not count against the next fault
                    break
                if pair.is_spared:
                    sink.sendall(data)
                elif not (self.drop_answers and source is pair.far):
                    self._forward(pair, sink, data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:  # cut on either side
            for sock in (source, sink):
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        finally:
            pair.pump_left()

    def _flow(self, pair: Pair) -> threading.Event:
        return _ALWAYS if pair.is_spared else self._flowing

    def _forward(self, pair: Pair, sink: socket.socket, data: bytes) -> None:
        burns = False
        if self.alter is not None:
            data = self.alter(pair, sink is pair.far, data)
        with self._lock:
            if self._fuse is not None and self._fuse[0] == (sink is pair.far):
                left = self._fuse[1]
                burns = len(data) > left
                data = data[:left]
                self._fuse = None if burns else (self._fuse[0], left - len(data))
        for piece in self._pieces(data):
            sink.sendall(piece)
            if self.pause_s:
                time.sleep(self.pause_s)
        if burns:
            with self._lock:
                if pair in self.pairs:
                    self.pairs.remove(pair)
            pair.end(reset=False)

    def _pieces(self, data: bytes) -> Iterator[bytes]:
        size = self.chunk or len(data)
        return (data[i : i + size] for i in range(0, len(data), size or 1))

    def spare(self) -> None:
        """The connections that exist are left alone from now on: faults are for those that come."""
        with self._lock:
            for pair in self.pairs:
                pair.is_spared = True

    def cut(self) -> int:
        """Ends every connection with a reset; new ones are taken. Returns how many there were."""
        with self._lock:
            pairs = [pair for pair in self.pairs if not pair.is_spared]
            self.pairs = [pair for pair in self.pairs if pair.is_spared]
        for pair in pairs:
            pair.end(reset=True)
        return len(pairs)

    def cut_after(self, count: int, *, to_server: bool) -> None:
        """Lets so many more bytes pass in one direction, whatever connection they are on, then ends that connection."""
        with self._lock:
            self._fuse = (to_server, count)

    def half_close(self) -> None:
        """The server's side says it will send no more; the other direction stays open."""
        with self._lock:
            for pair in self.pairs:
                if not pair.is_spared:
                    with contextlib.suppress(OSError):
                        pair.near.shutdown(socket.SHUT_WR)

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
        self._listener = listen_at(self.port)
        self._spawn(self._accept, self._listener)

    def _close_listener(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept(), which close() alone does not
        self._listener.close()

    def close(self) -> None:
        """Ends everything, threads included."""
        self._flowing.set()
        with self._lock:
            for pair in self.pairs:
                pair.is_spared = False
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


class AsMemphis(Proxy):
    """In front of a NATS server: its INFO is that of a Memphis broker, which no client mistakes for ours."""

    def _forward(self, pair: Any, sink: Any, data: bytes) -> None:
        if data.startswith(b"INFO {"):
            data = data.replace(b"INFO {", b'INFO {"connection_id":"1",', 1)
        super()._forward(pair, sink, data)
