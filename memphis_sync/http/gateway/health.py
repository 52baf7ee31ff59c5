"""
``/healthz`` and ``/readyz``: whether this process lives, and whether requests can succeed.

The first one asks nobody, so that an outage of the broker is no reason to kill the gateway. The second one asks the
broker: its port must answer, and so must the newest client that is open. One answer holds for a second, since anybody
may ask.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Optional

from starlette.requests import Request
from starlette.responses import Response

from memphis_sync.errors import MemphisError

from .errors import answer
from .sessions import Sessions
from .settings import GatewaySettings

ASK_S = 2.0
KEPT_S = 1.0
DEFAULT_PORT = 6666
_GREETING = b"INFO "


class Health:
    """The routes."""

    def __init__(self, sessions: Sessions, settings: GatewaySettings) -> None:
        self._sessions = sessions
        self._brokers = brokers_of(settings.url)
        self._asking: Optional[asyncio.Task[str]] = None
        self._asked_at = 0.0

    async def live(self, _: Request) -> Response:
        """GET /healthz: this process answers."""
        return answer({"status": "ok"})

    async def ready(self, _: Request) -> Response:
        """GET /readyz: so does the broker."""
        now = time.monotonic()
        if self._asking is None or (self._asking.done() and now - self._asked_at > KEPT_S):
            self._asking, self._asked_at = asyncio.ensure_future(self._trouble()), now
        trouble = await asyncio.shield(self._asking)  # one who goes away does not break it off for the others
        if trouble:
            return answer({"error": trouble, "status": "not ready"}, 503, {"retry-after": "1"})
        return answer({"status": "ready"})

    async def _trouble(self) -> str:
        """Why requests cannot succeed; "" when they can."""
        found = [await _greets(host, port) for host, port in self._brokers]
        if not any(found):
            return "the broker does not answer"
        for client in self._sessions.clients()[-1:]:
            try:
                await self._sessions.call(client.ping, ASK_S)
            except MemphisError:
                return "a connection to the broker is down"
        return ""


def brokers_of(url: str) -> list[tuple[str, int]]:
    """Host and port of each broker of a URL that was checked."""
    places = []
    for part in url.partition("://")[2].partition("?")[0].strip("/").split(","):
        host, colon, port = part.rpartition(":") if not part.endswith("]") else (part, "", "")
        places.append(((host if colon else part).strip("[]"), int(port) if colon else DEFAULT_PORT))
    return places


async def _greets(host: str, port: int) -> bool:
    """Whether a broker's greeting comes, which it sends to whoever connects, before TLS and login."""

    async def greeting() -> bytes:
        reader, writer = await asyncio.open_connection(host, port)
        try:
            return await reader.readexactly(len(_GREETING))
        finally:
            writer.close()

    with contextlib.suppress(OSError, asyncio.TimeoutError, asyncio.IncompleteReadError):
        return await asyncio.wait_for(greeting(), ASK_S) == _GREETING
    return False
