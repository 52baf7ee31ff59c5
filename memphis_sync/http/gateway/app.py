"""
The application: its routes, and the frame around each request.

The frame is the one place for what holds for all: paths, CORS, the answer to whatever was raised, the access log, and
the end of a request. Nothing that a request does ends the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from typing import NoReturn, Optional
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from memphis_sync.errors import ClosedError, MemphisError
from memphis_sync.types import VERSION

from . import monitoring, openapi, room
from .auth import Auth
from .consume import Consume
from .errors import Problem, answer, message, problem_of, refused
from .explicit_acks import ExplicitAcks
from .health import Health
from .metrics import Metrics, MetricsPage
from .produce import Produce
from .sessions import Sessions
from .settings import GatewaySettings
from .streaming import Streaming
from .tokens import Tokens

log = logging.getLogger("memphis_sync.gateway")
access_log = logging.getLogger("memphis_sync.gateway.access")

API = frozenset({"auth", "monitoring", "stations"})  # paths in any case, with or without a slash at the end
_CORS = [(b"access-control-allow-origin", b"*"), (b"vary", b"Origin")]
# What a client can rely on beyond Memphis' own gateway, which has no such header; memphis_sync.http reads it.
IDENTITY = (
    b"memphis-gateway",
    f"memphis-sync/{VERSION}; idempotency-key, logout, produce-stream, explicit-acks".encode("ascii"),
)
_CLOSE = {"connection": "close"}
METHODS = "GET,POST,HEAD,PUT,DELETE,PATCH"
DRAIN_S = 5.0  # an answer before the end of a body waits for that as long, so that the client sees it
DRAIN_BYTES = 16 * 1024 * 1024
PART_BYTES = 65536  # of an answer, written at once


class Lifespan:
    """What lives as long as the application: logins and tokens; the routes get them when it starts."""

    sessions: Sessions

    def __init__(self, settings: GatewaySettings) -> None:
        self.settings = settings
        self.tokens = Tokens(settings)
        self.metrics = Metrics()

    @contextlib.asynccontextmanager
    async def __call__(self, app: Starlette) -> AsyncIterator[None]:
        """Opens what needs the event loop, and ends it."""
        self.sessions = app.state.sessions = Sessions(self.settings, self.tokens)
        app.router.routes.extend(routes(self.sessions, self.settings, self.metrics))
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
        middleware=[Middleware(Frame, settings=settings, metrics=lifespan.metrics)],
        exception_handlers={HTTPException: _to_the_frame},
    )
    app.router.redirect_slashes = False  # to wherever the header Host says
    return app


def _to_the_frame(_: Request, exc: Exception) -> NoReturn:
    """Starlette would answer with a text."""
    raise exc


class Frame:
    """Around each request."""

    def __init__(self, app: ASGIApp, settings: GatewaySettings, metrics: Metrics) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, from its path to its line in the log."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Exchange(scope, receive, send)
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
        normalise(scope)
        await self._app(scope, request.receive, request.send)


def normalise(scope: Scope) -> None:
    """
    The path as the routes have it: names of the protocol in lower case, a station's decoded once.

    Raises:
        Problem: A segment holds a slash.
    """
    segments = scope.get("raw_path", scope["path"].encode()).decode("ascii", "replace").partition("?")[0].split("/")
    if len(segments) < 2 or segments[1].lower() not in API:
        return
    if len(segments) > 2 and not segments[-1]:
        segments.pop()
    plain = [unquote(segment, errors="replace") for segment in segments]
    if segments[1].lower() != "stations":
        plain = [segment.lower() for segment in plain]
    else:
        plain = [segment if place == 2 else segment.lower() for place, segment in enumerate(plain)]
    if any("/" in segment for segment in plain):
        raise refused(400, "a segment of the path holds an encoded slash; no name has one")
    scope["path"] = "/".join(plain)


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


class Exchange:
    """One request and its answer, as the frame sees them."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._began_at = time.monotonic()
        self._is_read = False  # the whole body
        self.status: Optional[int] = None

    async def receive(self) -> Message:
        """The next part of the body."""
        event = await self._receive()
        if event["type"] == "http.request" and not event.get("more_body", False):
            self._is_read = True
        return event

    async def send(self, event: Message) -> None:
        """The answer, with the headers of CORS."""
        if event["type"] == "http.response.start":
            self.status = event["status"]
            headers = [*event.get("headers", ()), IDENTITY]
            if not any(name == b"content-security-policy" for name, _ in headers):  # a page is for this origin alone
                headers += _CORS
            event = {**event, "headers": headers}
        body = event.get("body", b"")
        for begin in range(0, len(body) - PART_BYTES, PART_BYTES):  # the server waits in between, and keeps no copy
            part = body[begin : begin + PART_BYTES]
            await self._send({"type": "http.response.body", "body": part, "more_body": True})
        if len(body) > PART_BYTES:
            event = {**event, "body": body[(len(body) - 1) // PART_BYTES * PART_BYTES :]}
        await self._send(event)

    async def preflight(self) -> None:
        """The answer to every OPTIONS."""
        asked = Request(self._scope).headers.get("access-control-request-headers")
        headers = [
            (b"access-control-allow-origin", b"*"),
            (b"access-control-allow-methods", METHODS.encode()),
            (b"vary", b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers"),
        ]
        if asked is not None:
            headers.append((b"access-control-allow-headers", asked.encode("latin-1")))
        self.status = 204
        await self._send({"type": "http.response.start", "status": 204, "headers": headers})
        await self._send({"type": "http.response.body"})

    async def answer(self, problem: Problem) -> None:
        """An answer in place of what failed; the rest of the body is read first, or the client would not see it."""
        headers = problem.headers
        if not self._is_read and not await self._drained():
            headers = {**headers, "connection": "close"}
        response = answer(problem.body, problem.status, headers)
        await response(self._scope, self.receive, self.send)

    async def _drained(self) -> bool:
        """Whether the rest of the body was read; not when the client waits for leave to send it, or it is endless."""
        headers = Request(self._scope).headers
        length = headers.get("content-length", "0")
        if "transfer-encoding" not in headers and length == "0":
            return True
        if "expect" in headers or (length.isdecimal() and int(length) > DRAIN_BYTES):
            return False
        left = DRAIN_BYTES
        deadline = time.monotonic() + DRAIN_S
        while not self._is_read and left > 0:
            try:
                event = await asyncio.wait_for(self.receive(), max(deadline - time.monotonic(), 0.001))
            except asyncio.TimeoutError:
                return False
            if event["type"] == "http.disconnect":
                return False
            left -= len(event.get("body", b""))
        return self._is_read

    @property
    def spent_s(self) -> float:
        """How long it has taken so far, in seconds."""
        return time.monotonic() - self._began_at

    def log(self) -> None:
        """One line, without the query and with nothing of the headers: neither may be in a log."""
        scope = self._scope
        path = scope.get("raw_path", b"").decode("ascii", "backslashreplace").partition("?")[0]
        spent_ms = self.spent_s * 1000
        client = (scope.get("client") or ("-",))[0]
        access_log.info("%s %.1f ms %s %s %s", self.status or "-", spent_ms, client, scope["method"], path)
