"""A door in front of a broker: what each connection meets in its handshake is decided when it comes."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Callable, Optional

import pytest

INFO = b'INFO {"server_id":"X","version":"2.11.0","max_payload":1048576,"headers":true,"proto":1}\r\n'
# What a connection meets; True lets it through to the broker afterwards.
Treatment = Callable[["Visit"], bool]


class Visit:
    """One connection: ``sock`` is the client's side; ``is_open()`` says whether the door is still there."""

    def __init__(self, sock: socket.socket, door: Door) -> None:
        self.sock = sock
        self.door = door
        self.delay_to_server_s = 0.0
        self.delay_to_client_s = 0.0

    def is_open(self) -> bool:
        return not self.door.is_closing

    def stay(self, limit_s: float = 60.0) -> None:
        """Keeps the connection open, and reads what comes, until the client leaves."""
        deadline = time.monotonic() + limit_s
        self.sock.settimeout(0.1)
        while self.is_open() and time.monotonic() < deadline:
            try:
                if not self.sock.recv(65536):
                    return
            except socket.timeout:
                continue
            except OSError:
                return


def passes(_: Visit) -> bool:
    """Nothing odd."""
    return True


def says(*frames: bytes) -> Treatment:
    """Sends these instead of the broker's words, reads the login if INFO is among them, and closes."""

    def treat(visit: Visit) -> bool:
        for frame in frames:
            visit.sock.sendall(frame)
            if frame.startswith(b"INFO"):
                visit.sock.settimeout(5)
                visit.sock.recv(65536)
        return False

    return treat


def refuses(text: str) -> Treatment:
    """As a server that answers the login with ``-ERR``."""
    return says(INFO, b"-ERR '%s'\r\n" % text.encode())


def keeps_saying(greeting: bytes, frame: bytes, *, pause_s: float = 0.0) -> Treatment:
    """Greets, then sends one frame for ever, and reads what comes."""

    def treat(visit: Visit) -> bool:
        visit.sock.sendall(greeting)
        drain = threading.Thread(target=visit.stay, name="test-door", daemon=True)
        drain.start()
        with contextlib.suppress(OSError):
            while visit.is_open() and drain.is_alive():
                visit.sock.sendall(frame)
                if pause_s:
                    time.sleep(pause_s)
        drain.join(5)
        return False

    return treat


def is_silent(visit: Visit) -> bool:
    """Never says a word."""
    visit.stay()
    return False


def comes_late(to_client_s: float = 0.0, to_server_s: float = 0.0) -> Treatment:
    """The first bytes of a direction are that late."""

    def treat(visit: Visit) -> bool:
        visit.delay_to_client_s, visit.delay_to_server_s = to_client_s, to_server_s
        return True

    return treat


def held_back(delay_s: float) -> Treatment:
    """The broker hears of the connection that late."""

    def treat(visit: Visit) -> bool:
        until = time.monotonic() + delay_s
        while time.monotonic() < until and visit.is_open():
            time.sleep(0.02)
        return True

    return treat


class Door:
    """
    Forwards one loopback port to another. Each new connection gets the next of ``treatments``, then ``usual``.

    Attributes:
        visits: How many connections there were.
    """

    def __init__(self, target: tuple[str, int], at: str) -> None:
        self.target = target
        self.treatments: deque[Treatment] = deque()
        self.usual: Treatment = passes
        self.visits = 0
        self.is_closing = False
        self._lock = threading.Lock()  # guards _sockets
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(
            (at, 0), family=socket.AF_INET6 if ":" in at else socket.AF_INET, backlog=512
        )
        self.host, self.port = self._listener.getsockname()[:2]
        self._spawn(self._accept)

    def _spawn(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, name="test-door", daemon=True)
        self._threads = [*(other for other in self._threads if other.is_alive()), thread]
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.visits += 1
            with self._lock:
                self._sockets.add(sock)
            treatment = self.treatments.popleft() if self.treatments else self.usual
            self._spawn(self._serve, sock, treatment)

    def _serve(self, sock: socket.socket, treatment: Treatment) -> None:
        visit = Visit(sock, self)
        far: Optional[socket.socket] = None
        try:
            if not treatment(visit):
                return
            far = socket.create_connection(self.target, 5)
            far.settimeout(None)
            sock.settimeout(None)
            with self._lock:
                self._sockets.add(far)
            back = threading.Thread(
                target=self._pump, args=(far, sock, visit.delay_to_client_s), name="test-door", daemon=True
            )
            back.start()
            self._pump(sock, far, visit.delay_to_server_s)
            back.join()
        except OSError:  # the client has left, or the broker is away
            return
        finally:
            for each in (sock, far):
                if each is not None:
                    with self._lock:
                        self._sockets.discard(each)
                    each.close()

    def _pump(self, source: socket.socket, sink: socket.socket, delay_s: float) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                until = time.monotonic() + delay_s
                while time.monotonic() < until and not self.is_closing:
                    time.sleep(0.02)
                delay_s = 0.0
                sink.sendall(data)
        for sock in (source, sink):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Ends every connection that there is."""
        with self._lock:
            for sock in self._sockets:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Ends everything, threads included."""
        self.is_closing = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(5)


@pytest.fixture
def door_to() -> Iterator[Callable[..., Door]]:
    """``door_to(host, port)`` gives an open ``Door`` in front of that address; ``at`` is where it listens."""
    doors: list[Door] = []

    def make(host: str, port: int, at: str = "127.0.0.1") -> Door:
        doors.append(Door((host, port), at))
        return doors[-1]

    yield make
    for door in doors:
        door.close()
