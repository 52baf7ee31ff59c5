"""
TLS for the data link: the two loops that carry bytes between its socket and the C core.

Rules
* Each thread makes a system call before it takes the lock of the Tls again, so neither starves the other.
* Only the sender writes to the socket (before the link runs: the handshake), so records go out in the order in which
  they were made. What TLS itself wants to say while the reader reads, a new key say, is left to the sender.
* What ``Link.next`` gave is in the sender's hands until ``written()``, and the C core keeps socket and Tls alive for so
  long: ``detach()`` waits for it, and has shut the socket down, so that nobody waits for a dead peer.
"""

from __future__ import annotations

import errno
import select
import socket
import ssl
from typing import Callable, Optional

from memphis_sync._base.native import poll
from memphis_sync._core import Link
from memphis_sync._core._codes import LinkEnd, Next
from memphis_sync._nats.tls import Stream

READ_BYTES = 256 * 1024
PIECE_BYTES = 256 * 1024  # a tenth of a millisecond of encryption
END_TLS = 6  # our own, beside LinkEnd: text says what was wrong with the records
MAX_POLL_NS = 50_000_000  # poll() is not woken by an earlier deadline that comes, as in the C core
FOREVER_NS = 2**62
# The socket stays blocking for the reader, which then needs one system call for each read.
SEND_FLAGS = getattr(socket, "MSG_DONTWAIT", 0) | getattr(socket, "MSG_NOSIGNAL", 0)


def send_loop(core: Link, current: Callable[[], Optional[Stream]]) -> bool:
    """
    As ``Link.send_loop``, for the sender thread.

    Args:
        current: The stream of the connection that is attached.
    """
    while True:
        kind, data = core.next(FOREVER_NS)
        if kind != Next.BYTES:
            if kind in {Next.STOPPED, Next.UNSEEN}:
                return kind == Next.UNSEEN
            continue
        stream = current()
        assert stream is not None
        size, error = len(data), errno.EPROTO
        try:
            with data:
                for start in range(0, max(size, 1), PIECE_BYTES):
                    _send_all(core, stream, stream.tls.encrypt(data[start : start + PIECE_BYTES]))
            error = 0
        except OSError as exc:  # of the socket or of TLS; the reader meets it as well and has the words for it
            error = _errno(exc)
        finally:
            core.written(size if error == 0 else 0, error)


def _send_all(core: Link, stream: Stream, records: bytes) -> None:
    rest = memoryview(records)
    while rest:
        try:
            rest = rest[stream.sock.send(rest, SEND_FLAGS) :]
        except BlockingIOError:
            poller = poll()
            poller.register(stream.sock, select.POLLOUT)
            # Deadlines and a silent peer are the sender's business also while the socket is full.
            poller.poll(min(core.run_timers(), MAX_POLL_NS) // 1_000_000 + 1)


def read_loop(core: Link, stream: Stream) -> tuple[int, int, str]:
    """As ``Link.read_loop``, for the reader thread."""
    sock, tls = stream
    end = core.feed(b"")
    while end is None:
        try:
            data = tls.decrypt()
            if not data and not tls.is_ended:
                records = sock.recv(READ_BYTES)
                tls.put(records)
                if records:
                    continue
        except ssl.SSLError as exc:
            end = core.ended(errno.EPROTO)
            is_tls = end[0] == LinkEnd.ERRNO and end[1] == errno.EPROTO
            return (END_TLS, end[1], exc.reason or str(exc)) if is_tls else end
        except OSError as exc:
            return core.ended(_errno(exc))
        if tls.has_own_words:
            core.wake()
        end = core.feed(data) if data else core.ended(0)
    return end


def _errno(exc: OSError) -> int:
    """An SSLError has a number too, but one of OpenSSL's."""
    return errno.EPROTO if isinstance(exc, ssl.SSLError) else exc.errno or errno.EIO
