"""
nats-py's client, made safe against what other clients can send to it, and against attempts that fail.

nats-py stops reading for good (no error, no reconnect until a PING has no answer) at a message whose headers are
shorter than ``NATS/1.0``, or whose status or reply subject is no UTF-8: one such message on a subject of updates would
silence every client of a broker for half a minute. Such a message comes without its headers here, or not at all.

nats-py also drops the connection of an attempt that fails during its handshake without closing it, so that the socket
stays open until the garbage collector finds it; and before it leaves a connection it waits for the peer's goodbye,
under TLS half a minute when the peer is silent (for ever before Python 3.11). Here a connection that is given up ends
at once.

Source: ``_process_headers``, ``_build_message``, ``_process_connect_init``, ``_attempt_reconnect`` and ``_transport``
of ``nats/aio/client.py`` in nats-py 2.16, which are not its public interface; tests/client/test_hostile_messages.py and
tests/client/test_given_up.py fail when a release changes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

from nats.aio.client import Client

from memphis_sync._logs import Log

if TYPE_CHECKING:
    from nats.aio.msg import Msg

log = Log("memphis_sync")


class SoundClient(Client):
    """A nats-py client that no message can silence, and that leaves nothing of a connection which it gives up."""

    def abort(self) -> None:
        """Ends the connection at once, if there is one: without what is not sent yet, and without a goodbye."""
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()
            writer.close()  # before Python 3.11 a transport under TLS forgets that it was aborted

    async def _process_connect_init(self) -> None:
        try:
            await super()._process_connect_init()
        except BaseException:
            self.abort()
            raise

    async def _attempt_reconnect(self) -> None:
        self.abort()
        await super()._attempt_reconnect()

    async def _process_headers(self, headers: bytes) -> Optional[dict[str, str]]:
        try:
            found: Optional[dict[str, str]] = await super()._process_headers(headers)
        except (IndexError, ValueError):
            return None
        return found

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: Optional[dict[str, str]]
    ) -> Optional[Msg]:
        try:
            message: Msg = super()._build_message(sid, subject, reply, data, headers)
        except UnicodeDecodeError:
            log.debug("a message whose subjects are no text was dropped")
            return None
        return message
