"""
A TCP proxy in a process of its own that cuts every connection again and again.

    python bench/_proxy.py HOST PORT SECONDS

Prints the port that it listens on (loopback), then, with each cut, how many connections it ended. Ends with its stdin.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
import threading

CHUNK = 1 << 18


class Cutter:
    """Forwards to *target*; ``cut()`` resets what there is."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._lock = threading.Lock()  # guards _pairs
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            near, _ = self._listener.accept()
            try:
                pair = (near, socket.create_connection(self._target, 5))
            except OSError:  # the server is away: so are we
                near.close()
                continue
            for sock in pair:
                sock.settimeout(None)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._pairs.add(pair)
            threading.Thread(target=self._serve, args=(pair,), daemon=True).start()

    def _serve(self, pair: tuple[socket.socket, socket.socket]) -> None:
        back = threading.Thread(target=self._pump, args=pair[::-1], daemon=True)
        back.start()
        self._pump(*pair)
        back.join()
        with self._lock:
            self._pairs.discard(pair)
        for sock in pair:
            sock.close()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):  # cut
            while data := source.recv(CHUNK):
                sink.sendall(data)
        for sock in (source, sink):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def cut(self) -> int:
        """Resets every connection; returns how many there were."""
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            for sock in pair:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    sock.shutdown(socket.SHUT_RDWR)
        return len(pairs)


def main() -> None:
    """Cuts until stdin ends."""
    host, port, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    cutter = Cutter((host, port))
    print(cutter.port, flush=True)
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    while not over.wait(seconds):
        print(cutter.cut(), flush=True)


if __name__ == "__main__":
    main()
