"""The service's connection: the hardened nats-py client, with few log lines."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import random
import ssl
import time
from typing import TYPE_CHECKING, Optional

from memphis_sync._nats import HardenedClient, ServerSaidError

if TYPE_CHECKING:
    from nats.aio.client import Srv

    from memphis_sync._nats.handshake import Login

log = logging.getLogger("memphis_sync.broker")

PENDING_BYTES = 32 * 1024 * 1024  # of requests on one subject that wait to be served; further ones are dropped
LOG_S = 1.0  # between two lines of a SparseLog
_PAUSE_S = 0.1  # between two attempts to connect: requests wait meanwhile


class SparseLog:
    """For warnings that anybody can cause, any number of them: logs at most one line in LOG_S."""

    def __init__(self) -> None:
        self._logged_at = -LOG_S
        self._not_logged = 0

    def add(self, text: str) -> None:
        """Logs a line, or counts it as one that is not shown."""
        now = time.monotonic()
        if now - self._logged_at < LOG_S:
            self._not_logged += 1
            return
        more = f" (and {self._not_logged} before it that are not shown)" if self._not_logged else ""
        self._logged_at, self._not_logged = now, 0
        log.warning("%s%s", text, more)


class ServiceConnection(HardenedClient):
    """A connection that reconnects by itself."""

    def __init__(self) -> None:
        super().__init__(self._wait)
        self._sparse_log = SparseLog()

    async def _wait(self) -> None:
        await asyncio.sleep(_PAUSE_S * random.uniform(0.5, 1.0))  # noqa: S311  spreading, not a secret

    def _login(self, server: Optional[Srv] = None) -> Login:
        """Uses TLS with a server that demands it, even if no option says so."""
        login = super()._login(server)
        return dataclasses.replace(login, any_context=ssl.create_default_context, peer="NATS server")

    async def on_error(self, exc: Exception) -> None:
        """nats-py's error callback."""
        who = "" if isinstance(exc, ServerSaidError) else "NATS connection: "
        self.complain(f"{who}{exc or type(exc).__name__}")

    def complain(self, text: str) -> None:
        """Logs a warning that anybody can cause, at the rate of a SparseLog."""
        self._sparse_log.add(text)
