"""
TLS without IO: one ``ssl.SSLObject`` between two memory BIOs. The owner of the socket transfers the records.

The lock of a Tls guards the SSLObject and its BIOs. It is held for one piece at most and never over a call that may
block, so a reader and a writer on two threads do not starve each other.
"""

from __future__ import annotations

import socket
import ssl
from typing import NamedTuple

from memphis_sync._base.primitives import Lock

RECORD_BYTES = 16384  # the largest record of TLS; one read gives one record


class Tls:
    """
    Plain bytes to records and back; no IO.

    Args:
        context: The client's.
        host: For the check of the certificate, and so that the server can choose one (SNI).
    """

    def __init__(self, context: ssl.SSLContext, host: str) -> None:
        self._lock = Lock()
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        # Behind a % stands the interface of a link-local IPv6 address, which no certificate names.
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host.partition("%")[0])
        self.is_ended = False

    def negotiate(self) -> bool:
        """The handshake's next step; whether it is done. If not, take() and put() come first. Raises ssl.SSLError."""
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    @property
    def version(self) -> str:
        """As ``TLSv1.3``, after the handshake."""
        return self._object.version() or "TLS"

    @property
    def expires(self) -> str:
        """When the peer's certificate ends, as OpenSSL writes it; "" when it was not checked."""
        return str((self._object.getpeercert() or {}).get("notAfter", ""))

    def put(self, records: bytes) -> None:
        """What has come from the peer."""
        with self._lock:
            self._incoming.write(records)

    def take(self) -> bytes:
        """What has to go to the peer."""
        with self._lock:
            return self._outgoing.read()

    def encrypt(self, data: memoryview) -> bytes:
        """The records for *data*, and whatever else was waiting to go out."""
        with self._lock:
            while data:
                data = data[self._object.write(data) :]
            return self._outgoing.read()

    def decrypt(self) -> bytes:
        """All that can be read; ``is_ended`` afterwards if the peer said that there is no more. Raises ssl.SSLError."""
        pieces: list[bytes] = []
        with self._lock:
            try:
                while piece := self._object.read(RECORD_BYTES):
                    pieces.append(piece)
                self.is_ended = True
            except ssl.SSLWantReadError:
                pass
        return b"".join(pieces)

    @property
    def has_own_words(self) -> bool:
        """Whether TLS itself has something for the peer that no encrypt() has taken along yet."""
        return self._outgoing.pending > 0


class Stream(NamedTuple):
    """A connected socket under TLS."""

    sock: socket.socket
    tls: Tls
