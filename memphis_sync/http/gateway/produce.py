"""
``/stations/{station}/produce``: a success is said when the broker has stored the message, not before.

What a request may say beside its body, each as a header or as a parameter of the query: the time that the broker may
take, whether to wait for it, the partition, and the message's id.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Optional

from starlette.requests import Request
from starlette.responses import Response

import memphis_sync
from memphis_sync.errors import ClosedError, StationNotFoundError

from .bodies import content_type, read, unsupported
from .errors import answer, refused
from .headers import IDS, message_headers
from .sessions import Sessions, UserSession
from .settings import GatewaySettings

DEFAULT_TIMEOUT_MS = 15_000  # as a message's of the client
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
        timeout_s: How long the broker may take.
        waits: Whether the answer waits for the broker.
        message_id: The message's id; None: the client makes one.
        key: A partition key.
        number: A partition; -1 for none.
    """

    timeout_s: float
    waits: bool
    message_id: Optional[str]
    key: Optional[str]
    number: int

    def arguments(self, began_at: float, message_id: Optional[str]) -> dict[str, Any]:
        """The arguments of produce(); *began_at* is when the request's time began, on the monotonic clock."""
        return {
            "ack_wait_sec": max(self.timeout_s - (time.monotonic() - began_at), 0.001),
            "msg_id": message_id,
            "producer_partition_key": self.key,
            "producer_partition_number": self.number,
        }


def option(request: Request, name: str) -> Optional[str]:
    """``timeout_ms``: the header ``Memphis-Timeout-Ms``, or the parameter of that name; None when neither is there."""
    value = request.headers.get(f"memphis-{name.replace('_', '-')}")
    return request.query_params.get(name) if value is None else value


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
    ack = option(request, "ack")
    if ack not in (None, "all", "none"):
        raise refused(400, f"ack is {ack[:40]!r}; it must be 'all' (wait until it is stored) or 'none'")
    ids = {value for name in IDS for value in request.headers.getlist(name)}
    if len(ids) > 1:
        raise refused(400, "Idempotency-Key and Msg-Id are the same thing; give one of them, once")
    return ProduceOptions(
        timeout_s=number_option(request, "timeout_ms", DEFAULT_TIMEOUT_MS, 1, MAX_TIMEOUT_MS) / 1000,
        waits=ack != "none",
        message_id=ids.pop() if ids else None,
        key=option(request, "partition_key"),
        number=number_option(request, "partition_number", -1, 1, 10_000),
    )


def takes_single(kind: str) -> bool:
    """Whether produce/single stores bodies of a content type."""
    return kind in _ACCEPTED or "text" in kind or kind.endswith(("+json", "+xml")) or kind.startswith("multipart/")


async def ready_producer(session: UserSession, station: str) -> memphis_sync.Producer:
    """The producer of a station; an earlier one whose station was destroyed is not used again."""
    return await session.producer(station)


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
        options = produce_options(request)
        body = await read(request, self._settings)
        producer = await session.producer(request.path_params["station"])
        try:
            delivery = producer.produce(
                body,
                headers=message_headers(request),
                nonblocking=True,
                **options.arguments(began_at, options.message_id),
            )
            if not options.waits:
                return answer({"acknowledged": False, "error": None, "success": True}, 202)
            return answer({"error": None, "success": True, **stored(await delivery)})
        except (StationNotFoundError, ClosedError):
            session.forget_producer(producer)
            raise


def stored(ack: memphis_sync.PubAck) -> dict[str, Any]:
    """What an answer says of a stored message."""
    return {"duplicate": ack.duplicate, "partition": ack.partition, "seq": ack.sequence, "stream": ack.stream}
