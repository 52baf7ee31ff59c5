"""
``/stations/{station}/produce``: a success is said when the broker has stored the message, not before.

What a request may say beside its body, each as a header or as a parameter of the query: the time that the broker may
take, whether to wait for it, the partition, and the message's id.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Optional, Union

from starlette.requests import Request
from starlette.responses import Response

import memphis_sync
from memphis_sync.errors import ClosedError, MemphisError, StationNotFoundError

from .bodies import content_type, read, unsupported
from .errors import AGAIN, Answer, Problem, answer, as_json, details_of, refused, status_of
from .headers import IDS, OWN_PREFIX, as_text, message_headers
from .json_array import NotAnArrayError, beside, elements
from .metrics import count
from .sessions import Sessions, UserSession
from .settings import GatewaySettings

Result = Union[memphis_sync.PubAck, MemphisError, None]

_BOOLS = ("false", "true")
GONE = (StationNotFoundError, ClosedError)  # the next request registers its producer, or consumer, again
MOST_ELEMENTS = 50_000  # of a batch
TURN, FEWER = 1000, 16  # messages of a batch at once; that many times the size of a large body
# A message that may be stored matters most to its sender, then one that may be sent again, then one that may not.
_WORST_FIRST = (504, 503, 500)
MAX_TIMEOUT_MS = 3_600_000
SINGLE_TYPES = "text, JSON, XML, protobuf, a form, or application/octet-stream"
_ACCEPTED = frozenset(
    {
        "application/json",
        "application/octet-stream",
        "application/protobuf",
        "application/vnd.google.protobuf",
        "application/x-protobuf",
        "application/x-www-form-urlencoded",
        "application/xml",
    }
)


@dataclass(frozen=True)
class ProduceOptions:
    """
    What a request says about how to produce.

    Attributes:
        timeout_s: How long the request may take; None: as long as a message of the client, from when it is sent.
        waits: Whether the answer waits for the broker.
        message_id: The message's id; None: the client makes one.
        key: A partition key.
        number: A partition; -1 for none.
    """

    timeout_s: Optional[float]
    waits: bool
    message_id: Optional[str]
    key: Optional[str]
    number: int

    def arguments(self, began_at: Optional[float], message_id: Optional[str]) -> dict[str, Any]:
        """
        The arguments of produce().

        Args:
            began_at: When the request's time began, on the monotonic clock; None: with each message.
            message_id: The message's own.
        """
        found: dict[str, Any] = {}
        if self.timeout_s is not None:
            spent_s = 0.0 if began_at is None else time.monotonic() - began_at
            found["ack_wait_sec"] = max(self.timeout_s - spent_s, 0.001)
        if message_id is not None:
            found["msg_id"] = message_id
        if self.key is not None:
            found["producer_partition_key"] = self.key
        if self.number != -1:
            found["producer_partition_number"] = self.number
        return found


def option(request: Request, name: str) -> Optional[str]:
    """``timeout_ms``: the header ``Memphis-Timeout-Ms``, or the parameter of that name; None when neither is there."""
    value = request.headers.get(f"memphis-{name.replace('_', '-')}")
    return request.query_params.get(name) if value is None else as_text(value.encode("latin-1"))


def number_option(request: Request, name: str, default: int, least: int, most: int) -> int:
    """The same as a number; a Problem, 400, when it is not one or out of its bounds."""
    text = option(request, name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal()) or len(text) > 18 or not least <= int(text) <= most:
        raise refused(400, f"{name} is {text[:40]!r}; it must be a number from {least} to {most}")
    return int(text)


def produce_options(request: Request) -> ProduceOptions:
    """
    What a request says about how to produce.

    Raises:
        Problem: 400, a value is not allowed, or two of them contradict each other.
    """
    if not request.scope["query_string"] and not any(map(_is_option, request.scope["headers"])):
        return _DEFAULTS  # most requests say nothing, and each look at a header costs
    ack = option(request, "ack")
    if ack not in (None, "all", "none"):
        raise refused(400, f"ack is {ack[:40]!r}; it must be 'all' (wait until it is stored) or 'none'")
    timeout_ms = number_option(request, "timeout_ms", 0, 1, MAX_TIMEOUT_MS)
    ids = {as_text(value.encode("latin-1")) for name in IDS for value in request.headers.getlist(name)}
    if len(ids) > 1:
        raise refused(400, "Idempotency-Key and Msg-Id are the same thing; give one of them, once")
    if "" in ids:
        raise refused(400, "Idempotency-Key is empty; leave it out, or give an id")
    return ProduceOptions(
        timeout_s=timeout_ms / 1000 if timeout_ms else None,
        waits=ack != "none",
        message_id=ids.pop() if ids else None,
        key=option(request, "partition_key"),
        number=number_option(request, "partition_number", -1, 1, 10_000),
    )


_DEFAULTS = ProduceOptions(timeout_s=None, waits=True, message_id=None, key=None, number=-1)
_IDS = frozenset(name.encode() for name in IDS)
_OWN = OWN_PREFIX.encode()


def _is_option(header: tuple[bytes, bytes]) -> bool:
    return header[0].startswith(_OWN) or header[0] in _IDS


def takes_single(kind: str) -> bool:
    """Whether produce/single stores bodies of a content type."""
    return kind in _ACCEPTED or "text" in kind or kind.endswith(("+json", "+xml")) or kind.startswith("multipart/")


class Produce:
    """The routes that produce."""

    def __init__(self, sessions: Sessions, settings: GatewaySettings) -> None:
        self._sessions, self._settings = sessions, settings

    async def single(self, request: Request) -> Response:
        """POST /stations/{station}/produce/single: the body is the message, byte for byte."""
        began_at = time.monotonic()
        session = await self._sessions.of(request)
        if not takes_single(content_type(request)):
            raise unsupported(request, SINGLE_TYPES)
        options, headers = produce_options(request), message_headers(request)
        body = await read(request, self._settings)
        async with ready(session, request, options) as producer:
            given = options.arguments(began_at, options.message_id)
            # A station's schema is checked in there.
            delivery = await beside(
                len(body), partial(producer.produce, body, headers=headers, nonblocking=True, **given)
            )
            if not options.waits:
                return answer({"acknowledged": False, "error": None, "success": True}, 202)
            ack = await delivery
            count(request.scope, "stored", 1)
            return Answer(_stored_answer(ack))

    async def batch(self, request: Request) -> Response:
        """POST /stations/{station}/produce/batch: each element of a JSON array is a message, as it was sent."""
        began_at = time.monotonic()
        session = await self._sessions.of(request)
        kind = content_type(request)
        if kind != "application/json" and not kind.endswith("+json"):
            raise unsupported(request, "JSON")
        options, headers = produce_options(request), message_headers(request)
        body = await read(request, self._settings)
        messages = await beside(len(body), _elements, body)
        if not messages:
            return answer({"error": None, "errors": [], "fail": 0, "results": [], "sent": 0, "success": True})
        producer = await session.producer(request.path_params["station"], options.timeout_s)
        results = await produce_each(producer, messages, headers, options, began_at)
        for result in results:
            if isinstance(result, GONE):
                session.forget_producer(producer)
        failed = sum(isinstance(result, MemphisError) for result in results)
        count(request.scope, "failed", failed)
        count(request.scope, "stored", len(results) - failed if options.waits else 0)
        return _batch_answer(results, options)


def _elements(body: bytes) -> list[bytes]:
    """All of them, before the first one is sent."""
    found = []
    try:
        for element in elements(body):
            found.append(element)
            if len(found) > MOST_ELEMENTS:
                raise refused(413, f"a batch may have {MOST_ELEMENTS} messages; send the others in the next one")
    except NotAnArrayError as exc:
        raise refused(400, f"the body is not a JSON array{exc}; nothing was stored") from None
    return found


@contextlib.asynccontextmanager
async def ready(
    session: UserSession, request: Request, options: ProduceOptions
) -> AsyncIterator[memphis_sync.Producer]:
    """The producer of a request's station; one whose station was destroyed is not used again."""
    producer = await session.producer(request.path_params["station"], options.timeout_s)
    try:
        yield producer
    except GONE:
        session.forget_producer(producer)
        raise


async def produce_each(
    producer: memphis_sync.Producer,
    messages: list[bytes],
    headers: memphis_sync.Headers,
    options: ProduceOptions,
    began_at: float,
) -> list[Result]:
    """
    Produces messages, and waits for the outcome of each unless the request says not to.

    Returns:
        For each its PubAck, None when nobody waits for it, or the error.
    """
    given = options.arguments(began_at, None)
    found: list[Union[memphis_sync.Delivery, MemphisError]] = []
    for begin in range(0, len(messages), TURN):
        part = messages[begin : begin + TURN]
        if not given and options.message_id is None:
            size = sum(map(len, part)) // FEWER  # what it costs is by the message, unless there is a schema to check
            found += await beside(size, partial(producer.produce_each, part, headers=headers))
        else:
            for index, message in enumerate(part, begin):
                if options.message_id is not None:
                    given["msg_id"] = f"{options.message_id}-{index}"
                try:
                    found.append(producer.produce(message, headers=headers, nonblocking=True, **given))
                except MemphisError as exc:
                    found.append(exc)
        await asyncio.sleep(0)  # other requests go on
    if not options.waits:
        return [each if isinstance(each, MemphisError) else None for each in found]
    # Backwards: when the last one is known, most others are, and reading those is cheaper than being woken for each.
    for delivery in reversed(found):
        if not isinstance(delivery, MemphisError) and not delivery.done():
            with contextlib.suppress(MemphisError):  # it is read below
                await delivery
    return [each if isinstance(each, MemphisError) else outcome_of(each) for each in found]


def outcome_of(delivery: memphis_sync.Delivery) -> Union[memphis_sync.PubAck, MemphisError]:
    """What became of a message whose outcome is known."""
    try:
        return delivery.result(0)
    except MemphisError as exc:
        return exc


def _batch_answer(results: list[Result], options: ProduceOptions) -> Response:
    """How many were stored, and what became of each; the status is that of the worst."""
    failed = [(index, each) for index, each in enumerate(results) if isinstance(each, MemphisError)]
    body: dict[str, Any] = {
        "error": None,
        "errors": [{"index": index, **details_of(error)} for index, error in failed],
        "fail": len(failed),
        "sent": len(results) - len(failed),
        "success": not failed,
    }
    if not options.waits:
        body["acknowledged"] = False
    if not failed:
        status = 200 if options.waits else 202
        return Answer(as_json(body)[:-1] + _results(results), status)
    statuses = {status_of(error) for _, error in failed}
    status = next((each for each in _WORST_FIRST if each in statuses), max(statuses))
    error = f"{len(failed)} of {len(results)} messages are not known to be stored; errors has each"
    rows = [stored(each) if isinstance(each, memphis_sync.PubAck) else None for each in results]
    raise Problem(status, {**body, "error": error, "results": rows}, AGAIN if status == 503 else None)


def _stored_answer(ack: memphis_sync.PubAck) -> bytes:
    """The answer about a message that is stored, as as_json() would write it; see _results()."""
    return (
        f'{{"duplicate":{_BOOLS[ack.duplicate]},"error":null,"partition":{ack.partition},"seq":{ack.sequence},'
        f'"stream":"{ack.stream}","success":true}}'
    ).encode("ascii")


def _results(results: list[Result]) -> bytes:
    """
    The end of an answer about messages that are all stored: what stored() says of each.

    It is put together by hand, since that of a thousand messages would take as long as sending them. The names of
    streams have letters, digits and ``_-#$`` only.
    """
    rows = (
        f'{{"duplicate":{_BOOLS[each.duplicate]},"partition":{each.partition},"seq":{each.sequence},"stream":"{each.stream}"}}'
        for each in results
        if isinstance(each, memphis_sync.PubAck)
    )
    return f',"results":[{",".join(rows)}]}}'.encode("ascii")


def stored(ack: memphis_sync.PubAck) -> dict[str, Any]:
    """What an answer says of a stored message."""
    return {"duplicate": ack.duplicate, "partition": ack.partition, "seq": ack.sequence, "stream": ack.stream}
