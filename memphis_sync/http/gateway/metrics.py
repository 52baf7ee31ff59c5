"""
``/metrics`` in Prometheus' text format.

All of it happens on the event loop, so a counter is a number in a dict: no lock and no library on a request's way. The
labels are bounded: routes as they are written here, known methods, statuses. Nothing names a station or a user.

Source: Prometheus, exposition formats, version 0.0.4.
"""

from __future__ import annotations

import bisect
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Scope

from memphis_sync.errors import MemphisError
from memphis_sync.types import VERSION

from .sessions import Sessions

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
OTHER = "other"  # a method or route that is none of ours
COUNTS = "memphis.counts"  # in a request's scope
OUTCOMES = ("acknowledged", "consumed", "failed", "returned", "stored")
_GAUGES = (
    ("outbox_messages", "queued", "Messages that wait in the outboxes to be sent."),
    ("outbox_in_flight", "in_flight", "Messages that are sent and not confirmed."),
    ("outbox_bytes", "queued_bytes", "Bytes of the messages that wait."),
)


def count(scope: Scope, outcome: str, messages: int) -> None:
    """What a request did: of so many messages this was the outcome, one of OUTCOMES."""
    counts = scope.setdefault(COUNTS, {})
    counts[outcome] = counts.get(outcome, 0) + messages


class _Route:
    """The requests of one route: how many, by method and status, and how long they took."""

    def __init__(self) -> None:
        self.by_status: Counter[tuple[str, int]] = Counter()
        self.buckets = [0] * (len(BOUNDS_S) + 1)
        self.seconds = 0.0


class Metrics:
    """The counters of one application."""

    def __init__(self) -> None:
        self._routes: dict[str, _Route] = {}
        self._names: dict[Any, str] = {}  # of endpoints
        self._messages = Counter(dict.fromkeys(OUTCOMES, 0))
        self._under_way = 0
        self._began_at = time.time()

    def know(self, routes: Iterable[BaseRoute]) -> None:
        """The routes whose paths are labels."""
        self._names = {route.endpoint: route.path for route in routes if isinstance(route, Route)}

    def begin(self) -> None:
        """A request has come."""
        self._under_way += 1

    def end(self, scope: Scope, status: int, seconds: float) -> None:
        """It is over; *status* is 0 when it had no answer."""
        self._under_way -= 1
        name = self._names.get(scope.get("endpoint"), OTHER)
        route = self._routes.get(name)
        if route is None:
            route = self._routes[name] = _Route()
        method = scope["method"]
        route.by_status[method if method in METHODS else OTHER, status] += 1
        route.buckets[bisect.bisect_left(BOUNDS_S, seconds)] += 1
        route.seconds += seconds
        for outcome, messages in scope.get(COUNTS, {}).items():
            self._messages[outcome] += messages

    def text(self, sessions: Sessions) -> str:
        """All of it as it is now."""
        lines = [
            *_head("info", "gauge", "The gateway."),
            f'memphis_gateway_info{{version="{VERSION}"}} 1',
            *_head("start_time_seconds", "gauge", "When it started, in seconds since 1970."),
            f"memphis_gateway_start_time_seconds {self._began_at:.3f}",
            *self._requests(),
            *_head("requests_under_way", "gauge", "Requests without their whole answer."),
            f"memphis_gateway_requests_under_way {self._under_way}",
            *_head("messages_total", "counter", "Messages, by what became of them."),
        ]
        lines += [f'memphis_gateway_messages_total{{outcome="{each}"}} {self._messages[each]}' for each in OUTCOMES]
        return "\n".join([*lines, *_of_clients(sessions), ""])

    def _requests(self) -> Iterator[str]:
        yield from _head("requests_total", "counter", "Requests, by route, method and status; status 0: no answer.")
        for name, route in sorted(self._routes.items()):
            for (method, status), number in sorted(route.by_status.items()):
                labels = f'route="{name}",method="{method}",status="{status}"'
                yield f"memphis_gateway_requests_total{{{labels}}} {number}"
        yield from _head("request_seconds", "histogram", "How long requests took, by route.")
        for name, route in sorted(self._routes.items()):
            up_to = 0
            for bound, number in zip((*BOUNDS_S, "+Inf"), route.buckets):
                up_to += number
                yield f'memphis_gateway_request_seconds_bucket{{route="{name}",le="{bound}"}} {up_to}'
            yield f'memphis_gateway_request_seconds_sum{{route="{name}"}} {route.seconds:.6f}'
            yield f'memphis_gateway_request_seconds_count{{route="{name}"}} {up_to}'


def _head(name: str, kind: str, text: str) -> Iterator[str]:
    yield f"# HELP memphis_gateway_{name} {text}"
    yield f"# TYPE memphis_gateway_{name} {kind}"


def _of_clients(sessions: Sessions) -> Iterator[str]:
    stats = []
    for client in sessions.clients():
        try:
            stats.append(client.stats())
        except MemphisError:  # it is being closed
            continue
    yield from _head("clients", "gauge", "Users that are connected to the broker.")
    yield f"memphis_gateway_clients {len(stats)}"
    yield from _head("sessions", "gauge", "Logins that are remembered.")
    yield f"memphis_gateway_sessions {len(sessions)}"
    for name, field, text in _GAUGES:
        yield from _head(name, "gauge", text)
        yield f"memphis_gateway_{name} {sum(getattr(each, field) for each in stats)}"


class MetricsPage:
    """The route."""

    def __init__(self, metrics: Metrics, sessions: Sessions) -> None:
        self._metrics, self._sessions = metrics, sessions

    async def show(self, _: Request) -> Response:
        """GET /metrics."""
        return Response(self._metrics.text(self._sessions), headers={"content-type": CONTENT_TYPE})
