"""A connection whose handshake is done, as nats-py reads and writes it."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import TYPE_CHECKING

from nats.aio.transport import TcpTransport

from memphis_sync._nats.handshake import end

if TYPE_CHECKING:
    from memphis_sync._nats.handshake import Connected


class ConnectedTransport(TcpTransport):
    """
    TCP, and TLS if the handshake has agreed on it: asyncio's streams carry the records, and know nothing of them.

    Args:
        connected: What the handshake gave.

    Attributes:
        sock: The socket, which asyncio owns.
    """

    def __init__(self, connected: Connected) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # nats-py's transports have no types
        self.sock = connected.sock
        self._tls = connected.tls
        self._rest = connected.rest

    @classmethod
    async def of(cls, connected: Connected) -> ConnectedTransport:
        """Takes the socket over."""
        made = cls(connected)
        try:
            made._io_reader, made._io_writer = await asyncio.open_connection(sock=connected.sock)
        except BaseException:
            connected.close()
            raise
        if connected.first:
            made.write(connected.first)
        return made

    def abort(self) -> None:
        """Ends the connection at once: without what is not sent yet, and without a goodbye."""
        assert self._io_writer is not None
        end(self.sock)
        self._io_writer.transport.abort()

    def close(self) -> None:
        """Ends the connection once all is sent. The peer sees that at once, though forked children have the socket."""
        assert self._io_writer is not None
        with contextlib.suppress(OSError, RuntimeError):  # it has ended
            self._io_writer.write_eof()
        self._io_writer.close()

    def write(self, payload: bytes) -> None:
        """Sends soon."""
        assert self._io_writer is not None
        if self._tls is not None:
            try:
                payload = self._tls.encrypt(memoryview(payload))
            except ssl.SSLError:  # after records that were broken; who reads them has the words for it
                self.abort()
                return
        self._io_writer.write(payload)

    def writelines(self, payload: list[bytes]) -> None:
        """Sends soon, as one piece."""
        self.write(b"".join(payload))

    async def read(self, buffer_size: int) -> bytes:
        """What has come, b"" at the end. Raises OSError, and so ssl.SSLError."""
        assert self._io_reader is not None
        rest, self._rest = self._rest, b""
        while not rest:
            data = await self._io_reader.read(buffer_size)
            if self._tls is None or not data:
                return data
            self._tls.put(data)
            rest = self._tls.decrypt()
            if self._tls.has_own_words:
                self.write(b"")
            if self._tls.is_ended:
                break
        return rest

    def at_eof(self) -> bool:
        """Whether nothing more comes."""
        assert self._io_reader is not None
        return not self._rest and (self._io_reader.at_eof() or (self._tls is not None and self._tls.is_ended))
