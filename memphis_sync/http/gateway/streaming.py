"""
``POST /stations/{station}/produce/stream``: a message a line, and a result a line while the body is still coming.

Rules:
* Memory is constant. A body is read only as fast as the outbox takes its messages; a full one stops the reading, and
  fails nothing. Results that the client does not read yet wait in a file: many clients send all before they read, and
  both sides would wait for each other otherwise.
* Results come in the order of the lines, each once the broker has stored the message. A line that is wrong has a result
  that says so, and the stream goes on; an error of the whole stream is the result of its line and the last one.
* A client that goes away ends the reading. What was accepted until then is settled, with nobody to tell.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from collections.abc import Awaitable
from typing import Any, Callable, Optional, Union

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

import memphis_sync
from memphis_sync.errors import (
    BufferFullError,
    ClosedError,
    ConfigurationError,
    HeaderError,
    MemphisError,
    PayloadTooLargeError,
    SchemaError,
    StationNotFoundError,
)

from .bodies import content_type, unsupported
from .errors import as_json, details_of, refused, status_of
from .headers import message_headers
from .produce import ProduceOptions, produce_options
from .sessions import Sessions
from .settings import GatewaySettings

JSON_LINES = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"})
BATCH = 512  # lines that are settled together: waking the loop costs more than sending
BATCHES = 16  # that wait for the broker at once
PAUSE_S = 300.0  # between two parts of a body, or for a client that does not read
SPOOL_MEMORY = 1 << 20  # bytes of results in memory; beyond that they wait in a file
SPOOL_BYTES = 1 << 28  # and there so many, before the body has to wait
SEND_BYTES = 1 << 16
FULL_PAUSE_S = 0.005  # between two looks at a full outbox
# Of the line alone; any other error is one of the whole stream.
OF_THE_LINE = (SchemaError, HeaderError, PayloadTooLargeError, ConfigurationError)

Pending = Union[bytes, "tuple[int, memphis_sync.Delivery]"]  # a result, or a line's number and what it will be


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


# It only checks: numbers stay the text that they are.
_JSON = json.JSONDecoder(parse_constant=_refuse_constant, parse_int=str, parse_float=str)


def json_fault(line: bytes) -> str:
    """Why a line is not JSON; "" when it is."""
    try:
        _JSON.decode(line.decode())
    except UnicodeDecodeError as exc:
        return f"it is not UTF-8 (byte {exc.start})"
    except RecursionError:
        return "it is nested too deeply"
    except ValueError as exc:
        return str(exc)
    return ""


class Lines:
    """
    Cuts a body into lines, in bounded memory.

    Args:
        limit: Largest line in bytes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0  # of the line so far, also of what was dropped

    def feed(self, data: bytes) -> list[Optional[bytes]]:
        """The lines that have ended; None for one that was too long."""
        first, *rest = data.split(b"\n")
        self._keep(first)
        if not rest:
            return []
        last = rest.pop()
        found = [self._line(), *(line if len(line) <= self._limit else None for line in rest)]
        self._keep(last)
        return found

    def end(self) -> list[Optional[bytes]]:
        """The last line, when it has no line end."""
        return [self._line()] if self._size else []

    def _keep(self, part: bytes) -> None:
        self._size += len(part)
        if self._size <= self._limit:
            self._parts.append(part)
        else:
            self._parts.clear()

    def _line(self) -> Optional[bytes]:
        line = b"".join(self._parts) if self._size <= self._limit else None
        self._parts.clear()
        self._size = 0
        return line


class Spool:
    """Results until the client reads them: in memory, and beyond that in a file."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(SPOOL_MEMORY)  # noqa: SIM115  close() is called
        self._begin = self._end = 0
        self._changed = asyncio.Event()
        self._has_ended = False

    async def put(self, data: bytes) -> None:
        """Adds some; waits while there are too many."""
        while self._end > SPOOL_BYTES:
            await self._change()
        self._file.seek(self._end)
        self._file.write(data)
        self._end += len(data)
        self._changed.set()

    async def get(self) -> bytes:
        """The next of them; b"" at the end."""
        while self._begin == self._end:
            if self._has_ended:
                return b""
            await self._change()
        self._file.seek(self._begin)
        data = self._file.read(SEND_BYTES)
        self._begin += len(data)
        if self._begin == self._end:
            self._file.seek(0)
            self._file.truncate()
            self._begin = self._end = 0
        self._changed.set()
        return data

    def end(self) -> None:
        """There are no more to come."""
        self._has_ended = True
        self._changed.set()

    def close(self) -> None:
        """Drops what was not read."""
        self._file.close()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()


class Stream(Response):
    """
    One stream, as the answer to its request.

    Args:
        producer: Of the station.
        options: What the request says about how to produce.
        headers: Of each message.
        limit: Largest line in bytes.
        is_json: Whether each line must be JSON.
        on_broken: Called when the producer cannot be used any more.
    """

    def __init__(
        self,
        producer: memphis_sync.Producer,
        options: ProduceOptions,
        headers: memphis_sync.Headers,
        limit: int,
        *,
        is_json: bool,
        on_broken: Callable[[], object],
    ) -> None:
        super().__init__(None, 200, {"cache-control": "no-store", "x-accel-buffering": "no"}, "application/x-ndjson")
        del self.headers["content-length"]
        self._producer, self._options, self._message_headers = producer, options, headers
        self._limit, self._is_json = limit, is_json
        self._lines = Lines(limit)
        self._number = 0
        self._batch: list[Pending] = []
        self._settling: asyncio.Queue[Optional[list[Pending]]] = asyncio.Queue(BATCHES)
        self._spool = Spool()
        self._on_broken = on_broken
        self.sent = self.failed = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Reads, settles and writes at the same time, until all three are done."""
        first = asyncio.ensure_future(receive())
        await asyncio.sleep(0)  # it has asked for the body: a client may wait for 100 Continue, which comes no later
        work = [asyncio.ensure_future(self._read(first, receive)), asyncio.ensure_future(self._settle())]
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            while data := await self._spool.get():
                event = {"type": "http.response.body", "body": data, "more_body": True}
                await asyncio.wait_for(send(event), PAUSE_S)
            await send({"type": "http.response.body", "body": b""})
            await asyncio.gather(*work)
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
            self._spool.close()

    # ---- the body ---------------------------------------------------------------------------------------------------

    async def _read(self, coming: Awaitable[Message], receive: Receive) -> None:
        try:
            more = True
            while more:
                try:
                    event = await asyncio.wait_for(coming, PAUSE_S)
                except asyncio.TimeoutError:
                    self._batch.append(self._failure(408, f"nothing came for {PAUSE_S:g} s; the stream ends here"))
                    return
                if event["type"] == "http.disconnect":
                    return
                more = event.get("more_body", False)
                lines = self._lines.feed(event.get("body", b""))
                if not more:
                    lines += self._lines.end()
                if not await self._take(lines):
                    return
                if more:
                    coming = receive()
        finally:
            await self._hand_over()
            await self._settling.put(None)

    async def _take(self, lines: list[Optional[bytes]]) -> bool:
        """Produces lines; False when the stream has to end."""
        for line in lines:
            self._number += 1
            if line is None:
                text = f"the line has more than {self._limit} bytes"
                self._batch.append(self._failure(413, text, outcome="not_sent"))
                continue
            body = line[:-1] if line.endswith(b"\r") else line
            if not body or body.isspace():
                continue
            fault = json_fault(body) if self._is_json else ""
            if fault:
                self._batch.append(self._failure(400, f"the line is not JSON: {fault}", outcome="not_sent"))
            elif not await self._produce(body):
                return False
            if len(self._batch) >= BATCH:
                await self._hand_over()
        await self._hand_over()
        return True

    async def _produce(self, body: bytes) -> bool:
        options, number = self._options, self._number
        message_id = None if options.message_id is None else f"{options.message_id}-{number}"
        while True:
            try:
                delivery = self._producer.produce(
                    body, headers=self._message_headers, nonblocking=True, **options.arguments(None, message_id)
                )
            except BufferFullError:
                await self._hand_over()
                await asyncio.sleep(FULL_PAUSE_S)
            except MemphisError as exc:
                self._batch.append(self._error(exc, number))
                return isinstance(exc, OF_THE_LINE)
            else:
                self._batch.append((number, delivery))
                return True

    async def _hand_over(self) -> None:
        if self._batch:
            batch, self._batch = self._batch, []
            await self._settling.put(batch)

    # ---- the results ------------------------------------------------------------------------------------------------

    async def _settle(self) -> None:
        try:
            while (batch := await self._settling.get()) is not None:
                await self._spool.put(await self._results(batch))
        finally:
            self._spool.end()

    async def _results(self, batch: list[Pending]) -> bytes:
        found = []
        for pending in (batch[-1], *batch):  # the last one first: most often all others are known when it is
            if not isinstance(pending, bytes) and not pending[1].done():
                await _known(pending[1])
        for pending in batch:
            if isinstance(pending, bytes):
                found.append(pending)
                continue
            number, delivery = pending
            try:
                ack = delivery.result(0)
            except MemphisError as exc:
                found.append(self._error(exc, number))
                continue
            self.sent += 1
            found.append(
                b'{"duplicate":%s,"error":null,"line":%d,"partition":%d,"seq":%d,"success":true}\n'
                % (b"true" if ack.duplicate else b"false", number, ack.partition, ack.sequence)
            )
        return b"".join(found)

    def _error(self, exc: MemphisError, number: int) -> bytes:
        if isinstance(exc, (StationNotFoundError, ClosedError)):
            self._on_broken()
        return self._failure(status_of(exc), number=number, **details_of(exc))

    def _failure(self, status: int, error: str, *, number: Optional[int] = None, **more: Any) -> bytes:
        self.failed += 1
        line = self._number if number is None else number
        return as_json({"error": error, "line": line, "status": status, "success": False, **more}) + b"\n"


async def _known(delivery: memphis_sync.Delivery) -> None:
    with contextlib.suppress(MemphisError):  # its result says so
        await delivery


class Streaming:
    """The route."""

    def __init__(self, sessions: Sessions, settings: GatewaySettings) -> None:
        self._sessions, self._settings = sessions, settings

    async def produce(self, request: Request) -> Response:
        """POST /stations/{station}/produce/stream."""
        session = await self._sessions.of(request)
        kind = content_type(request)
        is_json = kind in JSON_LINES
        if not is_json and not kind.startswith("text/"):
            raise unsupported(request, "application/x-ndjson, or text for lines that are not JSON")
        encodings = request.headers.get("content-encoding", "identity").strip().lower()
        if encodings != "identity":
            raise refused(415, f"content encoding {encodings[:40]!r} is not supported here; send the lines as they are")
        options = produce_options(request)
        if not options.waits:
            raise refused(400, "ack is 'none'; a result says that its message is stored, so it must be 'all' here")
        headers = message_headers(request)
        headers["Content-Type"] = "application/json" if is_json else "text/plain"
        producer = await session.producer(request.path_params["station"])
        return Stream(
            producer,
            options,
            headers,
            self._settings.body_limit,
            is_json=is_json,
            on_broken=lambda: session.forget_producer(producer),
        )
