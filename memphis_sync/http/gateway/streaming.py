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
import tempfile
import time
from collections.abc import Awaitable, Sequence
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

from .bodies import content_type, unsupported, within
from .decoding import Decoding, decoding_of
from .errors import Problem, as_json, details_of, refused, status_of
from .headers import message_headers
from .json_array import beside, scanner
from .metrics import count
from .produce import FEWER, ProduceOptions, produce_options
from .sessions import Sessions
from .settings import GatewaySettings

JSON_LINES = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"})
BATCH = 512  # lines that are settled together: waking the loop costs more than sending
BATCHES = 16  # that wait for the broker at once
SLICE_S = 1.0  # how soon a stream on which nothing comes learns that the gateway ends
PAUSE_S = 300.0  # between two parts of a body, or for a client that does not read
OWN_PACE = "memphis_sync.own_pace"  # in a request's scope: its client may read later, as PAUSE_S says
SPOOL_MEMORY = 1 << 20  # bytes of results in memory; beyond that they wait in a file
SPOOL_BYTES = 1 << 28  # and there so many, before the body has to wait
SEND_BYTES = 1 << 16
FULL_PAUSE_S = 0.005  # between two looks at a full outbox
# Of the line alone; any other error is one of the whole stream.
OF_THE_LINE = (SchemaError, HeaderError, PayloadTooLargeError, ConfigurationError)

Line = tuple[int, Union[bytes, Problem]]  # its number, and its message or what is wrong with it
Outcome = Union[memphis_sync.Delivery, MemphisError, Problem]


def json_fault(line: bytes) -> str:
    """Why a line is not JSON; "" when it is."""
    try:
        text = line.decode()
        with contextlib.suppress(ValueError):  # which decode() puts into words
            if scanner(len(line)).raw_decode(text)[1] == len(text):
                return ""
        scanner(len(line)).decode(text)
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
        decoding: Of the body.
        limit: Largest line in bytes.
        is_json: Whether each line must be JSON.
        on_broken: Called when the producer cannot be used any more.
        is_ending: Whether the gateway is about to end.
    """

    def __init__(
        self,
        producer: memphis_sync.Producer,
        options: ProduceOptions,
        headers: memphis_sync.Headers,
        decoding: Decoding,
        limit: int,
        *,
        is_json: bool,
        on_broken: Callable[[], object],
        is_ending: Callable[[], bool],
    ) -> None:
        super().__init__(None, 200, {"cache-control": "no-store", "x-accel-buffering": "no"}, "application/x-ndjson")
        del self.headers["content-length"]
        self._producer, self._message_id = producer, options.message_id
        more = options.arguments(None, None)
        self._is_plain = not more and self._message_id is None
        self._arguments: dict[str, Any] = {"headers": headers, "nonblocking": True, **more}
        self._limit, self._is_json = limit, is_json
        self._decoding, self._lines = decoding, Lines(limit)
        self._number = 0
        self._batch: list[tuple[int, Outcome]] = []
        self._settling: asyncio.Queue[Optional[list[tuple[int, Outcome]]]] = asyncio.Queue(BATCHES)
        self._spool = Spool()
        self._on_broken, self._is_ending = on_broken, is_ending

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Reads, settles and writes at the same time, until all three are done."""
        scope[OWN_PACE] = True
        first = asyncio.ensure_future(receive())
        await asyncio.sleep(0)  # it has asked for the body: a client may wait for 100 Continue, which comes no later
        work = [asyncio.ensure_future(self._read(first, receive)), asyncio.ensure_future(self._settle(scope))]
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            while data := await self._spool.get():
                event = {"type": "http.response.body", "body": data, "more_body": True}
                await within(PAUSE_S, send(event))
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
            more, heard_at = True, time.monotonic()
            while more:
                if self._is_ending():
                    self._stop(503, "the gateway ends; send what is behind this line again, to the next one")
                    return
                try:
                    event = await within(SLICE_S, coming)
                except asyncio.TimeoutError:
                    if time.monotonic() - heard_at > PAUSE_S:
                        self._stop(408, f"nothing came for {PAUSE_S:g} s; the stream ends here")
                        return
                    coming = receive()
                    continue
                if event["type"] == "http.disconnect":
                    return
                more, heard_at = event.get("more_body", False), time.monotonic()
                if not await self._take_body(event.get("body", b""), is_last=not more):
                    return
                if more:
                    coming = receive()
        finally:
            await self._hand_over()
            await self._settling.put(None)

    def _stop(self, status: int, error: str) -> None:
        """The last result, which has the number of the last line that was read."""
        self._batch.append((self._number, refused(status, error)))

    async def _take_body(self, data: bytes, *, is_last: bool) -> bool:
        """Decodes a part of the body, and produces its lines; False when the stream has to end."""
        try:
            for piece in self._decoding.feed(data):
                if not await self._take(self._lines.feed(piece)):
                    return False
                await asyncio.sleep(0)  # other requests go on, also when little becomes much
            if is_last:
                self._decoding.end()
        except Problem as exc:
            self._batch.append((self._number, exc))
            return False
        return not is_last or await self._take(self._lines.end())

    async def _take(self, lines: list[Optional[bytes]]) -> bool:
        """Produces lines; False when the stream has to end."""
        for begin in range(0, len(lines), BATCH):
            found: list[Line] = []
            for line in lines[begin : begin + BATCH]:
                self._number += 1
                body = b"" if line is None else line[:-1] if line.endswith(b"\r") else line
                if line is None:
                    found.append((self._number, _bad_line(413, f"the line has more than {self._limit} bytes")))
                elif body and not body.isspace():
                    fault = await beside(len(body), json_fault, body) if self._is_json else ""
                    wrong = _bad_line(400, f"the line is not JSON: {fault}") if fault else None
                    found.append((self._number, wrong or body))
            if not await self._accept(found):
                return False
            await asyncio.sleep(0)  # other requests go on, also when no line was a message
        return True

    async def _accept(self, lines: list[Line]) -> bool:
        """Produces what is right of some lines, and hands all of them over; waits while the outbox is full."""
        goes_on = True
        while lines:
            right = [(number, body) for number, body in lines if isinstance(body, bytes)]
            size = sum(len(body) for _, body in right) // FEWER
            outcomes = iter(await beside(size, self._produce, right))
            for place, (number, body) in enumerate(lines):
                outcome = next(outcomes) if isinstance(body, bytes) else body
                if isinstance(outcome, BufferFullError):
                    await self._hand_over()
                    await asyncio.sleep(FULL_PAUSE_S)
                    lines = lines[place:]
                    break
                self._batch.append((number, outcome))
                goes_on = goes_on and (not isinstance(outcome, MemphisError) or isinstance(outcome, OF_THE_LINE))
            else:
                lines = []
        await self._hand_over()
        return goes_on

    def _produce(self, lines: list[tuple[int, bytes]]) -> Sequence[Outcome]:
        """As Producer.produce_each(), also with options."""
        if self._is_plain:
            return self._producer.produce_each([body for _, body in lines], headers=self._arguments["headers"])
        found: list[Outcome] = []
        for number, body in lines:
            message_id = None if self._message_id is None else f"{self._message_id}-{number}"
            try:
                found.append(self._producer.produce(body, msg_id=message_id, **self._arguments))
            except BufferFullError as exc:
                return found + [exc] * (len(lines) - len(found))
            except MemphisError as exc:
                found.append(exc)
        return found

    async def _hand_over(self) -> None:
        if self._batch:
            batch, self._batch = self._batch, []
            await self._settling.put(batch)

    # ---- the results ------------------------------------------------------------------------------------------------

    async def _settle(self, scope: Scope) -> None:
        try:
            while (batch := await self._settling.get()) is not None:
                results = await self._results(batch)
                stored = results.count(b'"success":true}\n')
                count(scope, "stored", stored)
                count(scope, "failed", len(batch) - stored)
                await self._spool.put(results)
        finally:
            self._spool.end()

    async def _results(self, batch: list[tuple[int, Outcome]]) -> bytes:
        found = []
        for _, outcome in (batch[-1], *batch):  # when the last one is known, most others are
            if isinstance(outcome, memphis_sync.Delivery) and not outcome.done():
                with contextlib.suppress(MemphisError):  # its result says so
                    await outcome
        for number, outcome in batch:
            try:
                if not isinstance(outcome, memphis_sync.Delivery):
                    raise outcome
                ack = outcome.result(0)
            except Problem as exc:
                found.append(_failure(number, exc.status, exc.body))
            except MemphisError as exc:
                if isinstance(exc, (StationNotFoundError, ClosedError)):
                    self._on_broken()
                found.append(_failure(number, status_of(exc), {"success": False, **details_of(exc)}))
            else:
                found.append(_STORED[ack.duplicate] % (number, ack.partition, ack.sequence))
        return b"".join(found)


_STORED = {
    is_duplicate: (
        b'{"duplicate":%s,"error":null,"line":%%d,"partition":%%d,"seq":%%d,"success":true}\n'
        % (b"true" if is_duplicate else b"false")
    )
    for is_duplicate in (False, True)
}


def _bad_line(status: int, error: str) -> Problem:
    return refused(status, error, outcome="not_sent")


def _failure(number: int, status: int, body: dict[str, Any]) -> bytes:
    return as_json({**body, "line": number, "status": status}) + b"\n"


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
        decoding = decoding_of(request.headers.getlist("content-encoding"))
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
            decoding,
            self._settings.body_limit,
            is_json=is_json,
            on_broken=lambda: session.forget_producer(producer),
            is_ending=lambda: self._sessions.is_ending,
        )
