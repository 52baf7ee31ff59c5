"""
Notifications of SDKs (``$memphis_notifications``): a line in the log, for there is no Slack behind this broker.

SDKs send one for each message that fails its schema, if they were told to; a burst of them is one line.
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
        # repr: line ends and control characters of a stranger's text stay out of the log.
        self._log.add(f"a client notifies: {request.title[:_SHOWN]!r}, {request.msg[:_SHOWN]!r}")
