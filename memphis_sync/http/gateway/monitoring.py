"""``/monitoring``: whether this process answers, whatever the broker does."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from .errors import answer


async def status(_: Request) -> Response:
    """GET /monitoring/status: always the same, also when the broker is away."""
    return answer({"status": "ok"})
