"""
nats-py's client, made safe against what other clients can send to it.

nats-py stops reading for good (no error, no reconnect until a PING has no answer) at a message whose headers are
shorter than ``NATS/1.0``, or whose status or reply subject is no UTF-8: one such message on a subject of updates would
silence every client of a broker for half a minute. Such a message comes without its headers here, or not at all.

Source: ``_process_headers`` and ``_build_message`` in ``nats/aio/client.py`` of nats-py 2.16, which are not its public
interface; tests/client/test_hostile_messages.py fails when a release changes them.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Optional

from nats.aio.client import Client

if TYPE_CHECKING:
    from nats.aio.msg import Msg

log = logging.getLogger("memphis_sync")


class SoundClient(Client):
    """A nats-py client that no message can silence."""

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
