"""
Notifications of SDKs (``$memphis_notifications``): a line in the log, for there is no Slack behind this broker.

SDKs send one for each message that fails its schema, if they were told to; a burst of them is one line.
"""

from __future__ import annotations

import logging
import time

from memphis_sync._protocol.control import Notification

log = logging.getLogger("memphis_sync.broker")

INTERVAL_S = 1.0  # between two lines
_SHOWN = 200  # characters of each text


class Notifications:
    """The handler, and how many notifications came since the last line."""

    def __init__(self) -> None:
        self._said_at = -INTERVAL_S
        self._unsaid = 0

    async def take(self, body: bytes) -> None:
        """Logs one notification, unless another one was logged less than INTERVAL_S ago."""
        request = Notification.decode(body)
        now = time.monotonic()
        if now - self._said_at < INTERVAL_S:
            self._unsaid += 1
            return
        more = f" (and {self._unsaid} before it that are not shown)" if self._unsaid else ""
        self._said_at, self._unsaid = now, 0
        # repr: line ends and control characters of a stranger's text stay out of the log.
        log.warning("a client notifies: %r, %r%s", request.title[:_SHOWN], request.msg[:_SHOWN], more)
