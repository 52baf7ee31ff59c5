"""
Reading a body: within a size, within a time, and decoded.

The limit holds for what is sent and for what it becomes, so a small body cannot become a large one.
"""

from __future__ import annotations

import asyncio
import sys
import time
import zlib
from collections.abc import AsyncIterator, Awaitable
from typing import Callable, Optional, TypeVar

from starlette.requests import ClientDisconnect, Request

from .errors import refused
from .exchange import EXCHANGE
from .settings import GatewaySettings

T = TypeVar("T")
MOST_ENCODINGS = 4  # one after the other
# Of one body, as pigz and bgzip write them. What is behind a stream's end is copied: with many in one piece, again and
# again the whole rest of the body.
MOST_STREAMS = 1000
PIECE = 64 * 1024
_CLOSE = {"connection": "close"}


def content_type(request: Request) -> str:
    """The content type in lower case, without its parameters; "" when there is none."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def unsupported(request: Request, allowed: str) -> Exception:
    """The answer to a content type that a route does not take."""
    found = content_type(request)
    what = f"content type {found!r} is not supported" if found else "the content type is missing"
    return refused(415, f"{what}; it must be {allowed}")


async def read(request: Request, settings: GatewaySettings, limit: Optional[int] = None) -> bytes:
    """
    The whole body, decoded.

    Args:
        request: The request.
        settings: The gateway's.
        limit: Its largest size in bytes, when that is less than of any body.

    Raises:
        Problem: 413, larger than the limit; 408, too slow; 400, broken; 415, an unknown encoding.
    """
    limit = settings.body_limit if limit is None else min(limit, settings.body_limit)
    exchange = request.scope.get(EXCHANGE)
    body = None if exchange is None else exchange.whole_body()
    if body is None:
        check_length(request, limit)
        parts, size = [], 0
        async for part in chunks(request, settings):
            size += len(part)
            if size > limit:
                raise too_large(limit)
            parts.append(part)
        body = b"".join(parts)
    elif len(body) > limit:
        raise too_large(limit)
    return decoded(request.headers.getlist("content-encoding"), body, limit)


def check_length(request: Request, limit: int) -> None:
    """Raises the Problem when a body says itself that it is too large."""
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        raise too_large(limit)


def too_large(limit: int) -> Exception:
    """The answer to a body that is larger than the limit."""
    return refused(413, f"Request Entity Too Large: a body may have {limit} bytes, encoded and decoded", _CLOSE)


async def chunks(request: Request, settings: GatewaySettings) -> AsyncIterator[bytes]:
    """
    The body as it comes, not decoded.

    Raises:
        Problem: 408, it came too slowly.
        ClientDisconnect: There is nobody to answer.
    """
    deadline = time.monotonic() + settings.body_timeout_s
    while True:
        left_s = min(settings.read_timeout_s, deadline - time.monotonic())
        try:
            event = await within(max(left_s, 0.001), request.receive())
        except asyncio.TimeoutError:
            raise refused(408, "Request Timeout: the body came too slowly", _CLOSE) from None
        if event["type"] == "http.disconnect":
            raise ClientDisconnect
        if event.get("body"):
            yield event["body"]
        if not event.get("more_body", False):
            return


if sys.version_info >= (3, 11):

    async def within(seconds: float, awaitable: Awaitable[T]) -> T:
        """What is awaited; asyncio.TimeoutError after so many seconds. Without a task, which each part would pay."""
        async with asyncio.timeout(seconds):
            return await awaitable

else:

    async def within(seconds: float, awaitable: Awaitable[T]) -> T:
        """What is awaited; asyncio.TimeoutError after so many seconds."""
        return await asyncio.wait_for(awaitable, seconds)


def decoded(encodings: list[str], body: bytes, limit: int) -> bytes:
    """
    A body without its content encodings.

    Args:
        encodings: Values of the header.
        body: As it was sent.
        limit: What it may become, in bytes.

    Raises:
        Problem: 400, it is broken; 413, larger than the limit; 415, an unknown encoding.
    """
    names = [name.strip().lower() for value in encodings for name in value.split(",") if name.strip()]
    if len(names) > MOST_ENCODINGS:
        raise refused(415, f"{len(names)} content encodings are too many; {MOST_ENCODINGS} are supported")
    for name in reversed(names):
        if name == "identity":
            continue
        decode = _DECODERS.get(name)
        if decode is None:
            known = ", ".join(sorted(set(_DECODERS)))
            raise refused(415, f"content encoding {name[:40]!r} is not supported; it must be one of {known}")
        body = decode(body, limit, name)
    return body


def _inflate(body: bytes, limit: int, name: str, window: int) -> bytes:
    """One or several streams of zlib, gzip or neither, one after the other."""
    parts, size, at = [], 0, 0
    for _ in range(MOST_STREAMS):
        stream = zlib.decompressobj(window)
        while not stream.eof:
            piece = body[at : at + PIECE]
            try:
                part = stream.decompress(piece, limit + 1 - size)
            except zlib.error as exc:
                raise broken(name) from exc
            at += len(piece)
            size += len(part)
            if size > limit or stream.unconsumed_tail:
                raise too_large(limit)
            if not piece:
                raise broken(name)
            parts.append(part)
        at -= len(stream.unused_data)
        if at == len(body):
            return b"".join(parts)
    raise refused(400, f"the body has more than {MOST_STREAMS} {name} streams, one after the other; nothing was stored")


def _gunzip(body: bytes, limit: int, name: str) -> bytes:
    return _inflate(body, limit, name, 16 + zlib.MAX_WBITS)


def _deflate(body: bytes, limit: int, name: str) -> bytes:
    """In zlib's format, as the standard says, or bare, as some clients do."""
    is_zlib = len(body) > 1 and body[0] & 0x0F == 8 and int.from_bytes(body[:2], "big") % 31 == 0  # RFC 1950, 2.2
    return _inflate(body, limit, name, zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS)


def _unbrotli(body: bytes, limit: int, name: str) -> bytes:
    import brotli  # type: ignore[import-untyped]  # noqa: PLC0415  few requests have it

    stream = brotli.Decompressor()
    parts, size = [], 0
    try:
        part = stream.process(body, output_buffer_limit=limit + 1)
        while part or not stream.can_accept_more_data():
            size += len(part)
            if size > limit:
                raise too_large(limit)
            parts.append(part)
            part = stream.process(b"", output_buffer_limit=limit + 1 - size)
    except brotli.error as exc:
        raise broken(name) from exc
    if not stream.is_finished():
        raise broken(name)
    return b"".join(parts)


def broken(name: str) -> Exception:
    """The answer to a body that does not have the encoding it says."""
    return refused(400, f"the body is not valid {name}; nothing was stored")


_DECODERS: dict[str, Callable[[bytes, int, str], bytes]] = {
    "gzip": _gunzip,
    "x-gzip": _gunzip,
    "deflate": _deflate,
    "br": _unbrotli,
}
