"""
The application: its routes, and the frame around each request.

The frame is the one place for what holds for all: paths, CORS, the answer to whatever was raised, the access log, and
the end of a request. Nothing that a request does ends the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import NoReturn

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from memphis_sync.errors import ClosedError, MemphisError

from . import monitoring, openapi, room
from .auth import Auth
from .consume import Consume
from .errors import Problem, message, problem_of, refused
from .exchange import EXCHANGE, Exchange
from .explicit_acks import ExplicitAcks
from .health import Health
from .metrics import Metrics, MetricsPage
from .paths import Directory, normalise
from .produce import Produce
from .sessions import Sessions
from .settings import GatewaySettings
from .streaming import Streaming
from .tokens import Tokens

log = logging.getLogger("memphis_sync.gateway")

_CLOSE = {"connection": "close"}


class Lifespan:
    """What lives as long as the application: logins and tokens; the routes get them when it starts."""

    sessions: Sessions

    def __init__(self, settings: GatewaySettings) -> None:
        self.settings = settings
        self.tokens = Tokens(settings)
        self.metrics = Metrics()
        self.directory = Directory()

    @contextlib.asynccontextmanager
    async def __call__(self, app: Starlette) -> AsyncIterator[None]:
        """Opens what needs the event loop, and ends it."""
        self.sessions = app.state.sessions = Sessions(self.settings, self.tokens)
        own = routes(self.sessions, self.settings, self.metrics)
        self.directory.know(own)
        app.router.routes.extend(own)
        if self.settings.console:
            from memphis_sync.http import console  # noqa: PLC0415  without it, nothing of it is loaded

            app.router.routes.extend(console.routes(self.sessions))
        self.metrics.know(app.router.routes)
        try:
            yield
        finally:
            await self.sessions.close()


def routes(sessions: Sessions, settings: GatewaySettings, metrics: Metrics) -> list[BaseRoute]:
    """All routes; each part of the gateway adds its own here."""
    auth = Auth(sessions, settings)
    produce = Produce(sessions, settings)
    consume = Consume(sessions, settings)
    streaming = Streaming(sessions, settings)
    acks = ExplicitAcks(sessions, settings)
    health = Health(sessions, settings)
    return [
        Route("/stations/{station}/consume", acks.consume, methods=["POST"]),
        Route("/stations/{station}/ack", acks.ack, methods=["POST"]),
        Route("/stations/{station}/nack", acks.nack, methods=["POST"]),
        Route("/stations/{station}/produce/stream", streaming.produce, methods=["POST"]),
        Route("/stations/{station}/produce/single", produce.single, methods=["POST"]),
        Route("/stations/{station}/produce/batch", produce.batch, methods=["POST"]),
        Route("/stations/{station}/consume/batch", consume.batch, methods=["POST"]),
        Route("/auth/authenticate", auth.authenticate, methods=["POST"]),
        Route("/auth/refreshtoken", auth.refresh, methods=["POST"]),
        Route("/auth/logout", auth.logout, methods=["POST"]),
        Route("/monitoring/status", monitoring.status, methods=["GET"]),
        Route("/healthz", health.live, methods=["GET"]),
        Route("/readyz", health.ready, methods=["GET"]),
        Route("/metrics", MetricsPage(metrics, sessions).show, methods=["GET"]),
        Route("/openapi.json", openapi.document, methods=["GET"]),
        Route("/openapi", openapi.page, methods=["GET"]),
    ]


def create_app(settings: GatewaySettings) -> Starlette:
    """
    The gateway as an ASGI application, for a server of one's own.

    Raises:
        ConfigurationError: The file of keys cannot be read.
    """
    lifespan = Lifespan(settings)
    app = Starlette(
        lifespan=lifespan,
        middleware=[Middleware(Frame, lifespan=lifespan)],
        exception_handlers={HTTPException: _to_the_frame},
    )
    app.router.redirect_slashes = False  # to wherever the header Host says
    return app


def _to_the_frame(_: Request, exc: Exception) -> NoReturn:
    """Starlette would answer with a text."""
    raise exc


class Frame:
    """Around each request."""

    def __init__(self, app: ASGIApp, lifespan: Lifespan) -> None:
        self._app, self._directory = app, lifespan.directory
        self._settings, self._metrics = lifespan.settings, lifespan.metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, from its path to its line in the log."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = scope[EXCHANGE] = Exchange(scope, receive, send)
        self._metrics.begin()
        try:
            await self._serve(request, scope)
        except ClientDisconnect:
            pass  # nobody to answer
        except asyncio.CancelledError:
            raise
        except Exception as exc:
            if isinstance(exc, ClosedError):
                scope["app"].state.sessions.renew(scope)
            if request.status is None:
                await request.answer(_problem(exc, scope))
            else:  # the end of the connection is all that can be said
                log.exception("%s failed under its answer", scope["path"])
                raise
        finally:
            del scope[EXCHANGE]  # it has the scope
            Sessions.release(scope)
            room.release(scope)
            self._metrics.end(scope, request.status or 0, request.spent_s)
            if self._settings.access_log:
                request.log()

    async def _serve(self, request: Exchange, scope: Scope) -> None:
        size, names = 0, set()
        for name, value in scope["headers"]:
            size += len(name) + len(value) + 4
            names.add(name)
        if size > self._settings.header_limit:  # the protocol counts incomplete ones only: these came at once
            raise refused(431, "Request Header Fields Too Large", _CLOSE)
        if b"transfer-encoding" in names and b"content-length" in names:
            # A proxy in front may have believed the other one: what follows was smuggled past it. RFC 9112, 6.1.
            raise refused(400, "Content-Length and Transfer-Encoding exclude each other", _CLOSE)
        if scope["method"] == "OPTIONS":
            await request.preflight()
            return
        place = normalise(scope)
        endpoint = None if place is None else self._directory.find(scope, place)
        if endpoint is None:
            await self._app(scope, request.receive, request.send)
        else:
            await request.respond(await endpoint(Request(scope, request.receive, request.send)))


def _problem(exc: Exception, scope: Scope) -> Problem:
    """The answer to whatever was raised."""
    if isinstance(exc, Problem):
        return exc
    if isinstance(exc, MemphisError):
        problem = problem_of(exc)
        if problem.status == 500:
            log.warning("%s: %s", scope["path"], exc)
        return problem
    if isinstance(exc, HTTPException):
        text = f"Cannot {scope['method']} {scope['path']}" if exc.status_code == 404 else str(exc.detail)
        return refused(exc.status_code, text, exc.headers)
    log.error("a request failed", exc_info=exc)
    return message(500, "Server error")
