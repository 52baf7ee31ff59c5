"""
Notifications of SDKs (``$memphis_notifications``): lines in the log, since this broker has no Slack integration.

SDKs send one for each message that fails its schema, if they are configured to; a burst of them is one line.
"""

from __future__ import annotations

from memphis_sync._protocol.requests import Notification
from memphis_sync.broker.service.connection import SparseLog
from memphis_sync.broker.service.routing import Routes

_SHOWN = 200  # characters of each text


class Notifications:
    """The handler."""

    def __init__(self) -> None:
        self.routes: Routes = {Notification: self.take}
        self._log = SparseLog()

    async def take(self, request: Notification) -> None:
        """Logs one notification, unless another one has just been logged."""
        # repr: keeps line ends and control characters of a client's text out of the log.
        self._log.add(f"a client notifies: {request.title[:_SHOWN]!r}, {request.msg[:_SHOWN]!r}")
