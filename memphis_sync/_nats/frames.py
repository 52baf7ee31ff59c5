"""
Reads what a server sends with the C core's parser, and calls nats-py's client as nats-py's own parser does.

So the words of a line mean the same on both links and in the broker: only a blank, a tab and the line's end part them.
nats-py's parser takes any blank of any alphabet for the end of a word, so that a vertical tab in somebody's reply
subject breaks the connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nats.errors import ProtocolError
from nats.protocol.parser import Parser

from memphis_sync import _core
from memphis_sync._protocol.info import MAX_MAX_PAYLOAD, parse_info

if TYPE_CHECKING:
    from nats.aio.client import Client

_MAX_LINE = 1024 * 1024  # servers have 4096 as default; a delivered line is a little longer than the one sent


class Frames(Parser):
    """A HardenedClient's parser. Whatever is wrong with a frame is a ProtocolError: the connection is made anew."""

    def __init__(self, client: Client) -> None:
        self._client = client
        super().__init__(client)

    def reset(self) -> None:
        """For a new connection."""
        super().reset()
        self._frames = _core.Parser(MAX_MAX_PAYLOAD, _MAX_LINE)

    async def parse(self, data: bytes = b"") -> None:
        """Takes what was read."""
        frames = self._frames
        try:
            for event in frames.feed(data):
                await self._take(event)
                if self._frames is not frames:
                    return  # the connection was given up at this frame
            if frames.failure is not None:
                raise frames.failure
        except (ProtocolError, OSError):
            raise
        except Exception as exc:  # else nats-py would log it and stop reading, without a word to anybody
            raise ProtocolError(f"nats: malformed frame: {exc}") from exc

    async def _take(self, event: _core.Event) -> None:
        kind, client = event.kind, self._client
        if kind in ("MSG", "HMSG"):
            await client._process_msg(event.sid, event.subject, event.reply, event.payload, event.headers)
        elif kind == "PING":
            await client._process_ping()
        elif kind == "PONG":
            await client._process_pong()
        elif kind == "-ERR":
            await client._process_err(event.payload.decode("utf-8", "replace"))
        elif kind == "INFO":
            await client._process_info(parse_info(event.payload).fields)
