"""
``/stations/{station}/consume/batch``: messages of a group, acknowledged before they are answered.

At most once, as in Memphis' own gateway: who loses the answer loses its messages. So they are acknowledged at the last
moment, and given back to the group when nobody waits for the answer any more; a gateway that ends in between has not
acknowledged, and the group gets them again. Who must not lose any consumes with acknowledgements of its own.
"""

from __future__ import annotations

import base64
import contextlib
import time
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

import memphis_sync
from memphis_sync.errors import ConnectionLostError, HeaderError, MemphisError

from .errors import as_json, details_of, problem_of, refused
from .fields import Fields, FieldsError, read_fields
from .metrics import count
from .produce import GONE
from .room import Rows, give_back
from .sessions import ACK_TIME_MS, GROUP_SUFFIX, MAX_DELIVERIES, NAME, Sessions
from .settings import GatewaySettings

Encoding = Literal["auto", "text", "base64"]

DEFAULT_SIZE, MOST = 10, 5000
DEFAULT_WAIT_MS, LEAST_WAIT_MS, MOST_WAIT_MS = 5000, 100, 600_000
SLICE_S = 1.0  # how soon one learns that nobody waits any more, or that the gateway ends
LEAST_LIMIT_S = 5.0  # for the registration, however short the wait for messages
HOLD_S = ACK_TIME_MS / 1000 / 2  # an unfinished batch waits no longer for more: its messages' ack time runs


@dataclass(frozen=True)
class Wanted:
    """
    What a request asks for.

    Attributes:
        name: The consumer.
        group: The group, as it is called at the broker.
        size: How many messages at most.
        wait_s: How long to wait for them.
        encoding: How a payload is written: as text, as base64, or what fits.
    """

    name: str
    group: str
    size: int
    wait_s: float
    encoding: Encoding


def wanted(fields: Fields) -> Wanted:
    """
    What a request asks for.

    Raises:
        FieldsError: A field has another type.
        Problem: 400, a value is not allowed.
    """
    name, group = fields.text("consumer_name"), fields.text("consumer_group")
    size = fields.number("batch_size") or DEFAULT_SIZE
    wait_ms = fields.number("batch_max_wait_time_ms") or DEFAULT_WAIT_MS
    encoding = fields.text("encoding") or "auto"
    if not name:
        raise refused(400, "Consumer name is required")
    if not 1 <= size <= MOST:
        raise refused(400, f"Batch size can not be greater than {MOST} or less than 1")
    if wait_ms > MOST_WAIT_MS:
        raise refused(400, f"batch_max_wait_time_ms is {wait_ms}; it must be {MOST_WAIT_MS} or less")
    if encoding not in ("auto", "text", "base64"):
        raise refused(400, f"encoding is {encoding[:40]!r}; it must be auto, text or base64")
    return Wanted(
        name,
        f"{group}{GROUP_SUFFIX}" if group else NAME,
        size,
        max(wait_ms, LEAST_WAIT_MS) / 1000,
        cast("Encoding", encoding),
    )


class Consume:
    """The route that consumes."""

    def __init__(self, sessions: Sessions, settings: GatewaySettings) -> None:
        self._sessions, self._settings = sessions, settings

    async def batch(self, request: Request) -> Response:
        """POST /stations/{station}/consume/batch: up to so many messages, waited for, as a JSON array."""
        session = await self._sessions.of(request)
        try:
            asked = wanted(await read_fields(request, self._settings))
        except FieldsError as exc:
            raise refused(400, f"Invalid request body: {exc}") from None
        try:
            consumer = await session.consumer(
                request.path_params["station"],
                asked.name,
                asked.group,
                limit_s=max(asked.wait_s, LEAST_LIMIT_S),
                max_msg_deliveries=MAX_DELIVERIES,
                max_ack_time_ms=ACK_TIME_MS,
            )
            rows = Rows(session, request.scope, partial(_shown, asked.encoding))
            try:
                await self._fetch(rows, consumer, asked, request)
            except GONE:
                session.forget_consumer(consumer)
                raise
        except MemphisError as exc:
            problem = problem_of(exc)
            if problem.status == 500:  # the broker has refused, and Memphis' own gateway says 400 then
                raise refused(400, details_of(exc)["error"]) from exc
            raise
        messages = rows.messages
        count(request.scope, "consumed", len(messages))
        body = b"[%s]" % rows.joined()
        if await request.is_disconnected():
            give_back(messages)
            raise ClientDisconnect
        for message in messages:
            with contextlib.suppress(ConnectionLostError):  # the group gets it again, which is better than never
                message.ack()
        return Response(body, media_type="application/json")

    async def _fetch(self, rows: Rows, consumer: memphis_sync.Consumer, asked: Wanted, request: Request) -> None:
        """Messages of all partitions, until there are enough or the time is over."""
        found = rows.messages
        deadline = time.monotonic() + asked.wait_s
        left_s = asked.wait_s
        while left_s > 0 and not self._sessions.is_ending and (most := await rows.portion(asked.size - len(found))):
            try:
                new = await self._sessions.wait(consumer.fetch, most, timeout_s=min(left_s, SLICE_S))
            except MemphisError:
                if found:
                    break  # the next request hears of it
                raise
            if new:
                if not found:
                    deadline = min(deadline, time.monotonic() + HOLD_S)
                await rows.add(new)
            left_s = deadline - time.monotonic()
            if await request.is_disconnected():
                give_back(found)
                raise ClientDisconnect


def _shown(encoding: Encoding, messages: list[memphis_sync.Message]) -> list[bytes]:
    return [as_json(as_row(message, encoding)) for message in messages]


def as_row(message: memphis_sync.Message, encoding: Encoding) -> dict[str, Any]:
    """
    A message as it is answered: ``message`` and ``headers``, as in Memphis' own gateway, and ``encoding`` if it is
    base64.
    """
    try:
        headers = message.headers
    except HeaderError:  # any program may have sent it
        headers = {}
    data = bytes(message.data)
    if encoding != "base64":
        try:
            return {"headers": headers, "message": data.decode(errors="strict" if encoding == "auto" else "replace")}
        except UnicodeDecodeError:
            pass
    return {"encoding": "base64", "headers": headers, "message": base64.b64encode(data).decode("ascii")}
