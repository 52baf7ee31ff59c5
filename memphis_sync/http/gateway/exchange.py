"""One request and its answer, as the frame around all requests sees them; what is whole goes a short way."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Optional, Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from memphis_sync.types import VERSION

from .errors import Answer, Problem, answer

access_log = logging.getLogger("memphis_sync.gateway.access")

CONNECTION = "memphis_sync.connection"  # in a request's scope: its ShortWay, when this gateway's own server serves it
EXCHANGE = "memphis_sync.exchange"  # there: its Exchange
_CORS = [(b"access-control-allow-origin", b"*"), (b"vary", b"Origin")]
# What a client can rely on beyond Memphis' own gateway, which has no such header; memphis_sync.http reads it.
IDENTITY = (
    b"memphis-gateway",
    f"memphis-sync/{VERSION}; idempotency-key, logout, produce-stream, explicit-acks".encode("ascii"),
)
ALWAYS = (IDENTITY, *_CORS)  # headers of each answer but a page's
METHODS = "GET,POST,HEAD,PUT,DELETE,PATCH"
DRAIN_S = 5.0  # an answer before the end of a body waits for that as long, so that the client sees it
DRAIN_BYTES = 16 * 1024 * 1024
PART_BYTES = 65536  # of an answer, written at once


class ShortWay(Protocol):
    """A connection that takes and gives what is whole in one step; each call says whether it can."""

    def whole_body(self, scope: Scope) -> Optional[bytes]:
        """The whole body of a request, once; None when more of it comes."""

    def answer(self, scope: Scope, status: int, body: bytes) -> bool:
        """Writes a whole answer of JSON with the headers ALWAYS; False: it must go the long way."""


class Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._connection: Optional[ShortWay] = scope.pop(CONNECTION, None)
        self._began_at = time.monotonic()
        self._is_begun = self._is_read = False  # a part of the body, and all of it
        self.status: Optional[int] = None

    def whole_body(self) -> Optional[bytes]:
        """The body, when all of it is here and none of it was taken; None: receive() has it."""
        if self._connection is None or self._is_begun:
            return None
        body = self._connection.whole_body(self._scope)
        self._is_begun = self._is_read = body is not None
        return body

    async def respond(self, response: Response) -> None:
        """Sends a route's answer."""
        if self._connection is not None and type(response) is Answer:
            body = bytes(response.body)
            if len(body) <= PART_BYTES and self._connection.answer(self._scope, response.status_code, body):
                self.status = response.status_code
                return
        await response(self._scope, self.receive, self.send)

    async def receive(self) -> Message:
        """The next part of the body."""
        self._is_begun = True
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
