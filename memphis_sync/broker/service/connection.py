"""The service's connection: the hardened nats-py client, whose complaints are few, and which says when it has ended."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable
from typing import Any, Callable, Optional
from urllib.parse import urlsplit

from memphis_sync._nats import HardenedClient, ServerSaidError

log = logging.getLogger("memphis_sync.broker")

PENDING_BYTES = 32 * 1024 * 1024  # of requests on one subject that wait to be served; what comes on top is dropped
_LOG_S = 1.0  # between two lines about errors of the connection
_PAUSE_S = 0.1  # between two tries: requests wait meanwhile


class ServiceConnection(HardenedClient):
    """
    A connection that comes back by itself.

    Args:
        servers: ``host:port`` or URL of each.
    """

    def __init__(self, servers: Optional[list[str]] = None) -> None:
        super().__init__([_address(server) for server in servers or []], self._wait)
        self._logged_at = -_LOG_S
        self._not_logged = 0
        self._has_tried = False

    async def _wait(self) -> None:
        """No pause before the very first try."""
        if self._has_tried:
            await asyncio.sleep(_PAUSE_S * random.uniform(0.5, 1.0))  # noqa: S311  spreading, not a secret
        self._has_tried = True

    async def on_error(self, exc: Exception) -> None:
        """nats-py's error callback."""
        who = "" if isinstance(exc, ServerSaidError) else "NATS connection: "
        self.complain(f"{who}{exc or type(exc).__name__}")

    def complain(self, text: str) -> None:
        """A line in the log, at most one in _LOG_S: a stranger could cause any number of them."""
        now = time.monotonic()
        if now - self._logged_at < _LOG_S:
            self._not_logged += 1
            return
        more = f" (and {self._not_logged} lines before it that are not shown)" if self._not_logged else ""
        self._logged_at, self._not_logged = now, 0
        log.warning("%s%s", text, more)


async def open_connection(
    servers: list[str], *, closed_cb: Callable[[], Awaitable[None]], **options: Any
) -> ServiceConnection:
    """A connection that comes back by itself; arguments are those of ``nats.connect()``."""
    connection = ServiceConnection(servers)
    await connection.connect(servers, error_cb=connection.on_error, closed_cb=closed_cb, **options)
    return connection


def _address(server: str) -> str:
    parts = urlsplit(server if "://" in server else f"nats://{server}")
    return f"{parts.hostname}:{parts.port or 4222}"
