"""
The cffi binding of the C core: checks types, calls, wraps.

This is sections 1 to 5, the twin of _frames.pxi, name by name; _cffi_link, _cffi_route, _cffi_wait_set and
_cffi_receive_buffer are the twin of _link.pxi.

What the two must share beyond names (error classes and texts, events, limits) is in _translate and _event.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Optional, final

from memphis_sync._core._cffi_core import ffi, lib
from memphis_sync._core._cffi_link import Link
from memphis_sync._core._cffi_receive_buffer import RawMessage, ReceiveBuffer
from memphis_sync._core._cffi_route import FanOut, RoundRobin, Route, Ticket, count_delivered
from memphis_sync._core._cffi_view import checked_bytes, view_of
from memphis_sync._core._cffi_wait_set import WaitSet
from memphis_sync._core._event import DEFAULT_MAX_PAYLOAD, KINDS, MAX_EVENTS, Event
from memphis_sync._core._translate import (
    MAX_SIZE,
    MAX_U32,
    MAX_U64,
    SHOWN_BYTES,
    block_error,
    checked_number,
    connect_error,
    frame_error,
    header_error,
    poisoned_error,
    remote_error,
)
from memphis_sync.errors import MemphisError, RemoteProtocolError
from memphis_sync.types import Buffer

__all__ = [
    "IMPL",
    "PING",
    "PONG",
    "RECEIVE_BUFFER_BYTES",
    "Event",
    "FanOut",
    "Link",
    "Parser",
    "RawMessage",
    "ReceiveBuffer",
    "RoundRobin",
    "Route",
    "Ticket",
    "WaitSet",
    "count_delivered",
    "encode_connect",
    "encode_header",
    "encode_headers",
    "encode_hpub",
    "encode_pub",
    "encode_sub",
    "encode_unsub",
    "fork_generation",
    "murmur3_x86_32",
    "parse_headers",
    "watch_forks",
]

IMPL = "cffi"
RECEIVE_BUFFER_BYTES: int = lib.MCORE_RECEIVE_BUFFER_BYTES
PING = b"PING\r\n"
PONG = b"PONG\r\n"

MAX_CONTROL_LINE: int = lib.MCORE_MAX_CONTROL_LINE
FIRST_HEADERS = 16  # as HEADERS_ON_STACK of the twin


def murmur3_x86_32(data: Buffer, seed: int = 0) -> int:
    """
    MurmurHash3, x86 variant, 32-bit result.

    Args:
        data: Bytes to hash; any length, including none.
        seed: Unsigned 32-bit seed. Memphis partitioning uses 31.

    Returns:
        Unsigned hash, 0 <= h < 2**32. Little-endian block reads on every host.

    Raises:
        ConfigurationError: *seed* is outside 0..2**32-1.

    Source: Appleby, MurmurHash3.cpp; vectors in tests/unit/codec/vectors/murmur3.json.
    """
    checked = checked_number("seed", seed, 0, MAX_U32)
    with view_of(data) as view:
        return int(lib.mcore_murmur3_x86_32(view, len(view), checked))


def watch_forks() -> None:
    """
    Starts counting forks; idempotent.

    Raises:
        MemoryError: The system has no memory for the handler.
    """
    if lib.mcore_fork_watch() != lib.MCORE_OK:
        raise MemoryError("no memory to watch for forks")


def fork_generation() -> int:
    """How many forks lie between the process that first called watch_forks() and this one; 0 in that process."""
    return int(lib.mcore_fork_generation())


def encode_connect(json: bytes) -> bytes:
    r"""
    ``CONNECT <json>\r\n``.

    Raises:
        LocalProtocolError: *json* is empty or more than one line; the text does not show it.
    """
    checked_bytes(json=json)
    size = lib.mcore_connect_size(len(json))
    out = ffi.new("uint8_t[]", size)
    if lib.mcore_connect_write(out, size, json, len(json)) < 0:
        raise connect_error()
    return bytes(ffi.buffer(out))


def encode_sub(subject: bytes, sid: int, queue: bytes = b"") -> bytes:
    r"""
    ``SUB <subject> [queue] <sid>\r\n``.

    Raises:
        LocalProtocolError: *subject* or *queue* holds blanks or control bytes, or is not UTF-8.
        ConfigurationError: *sid* is outside 0..2**64-1.
    """
    checked_bytes(subject=subject, queue=queue)
    number = checked_number("sid", sid, 0, MAX_U64)
    size = lib.mcore_sub_size(len(subject), len(queue), number)
    out = ffi.new("uint8_t[]", size)
    code = lib.mcore_sub_write(out, size, subject, len(subject), queue, len(queue), number)
    if code < 0:
        raise frame_error(code, subject, "queue", queue)
    return bytes(ffi.buffer(out))


def encode_unsub(sid: int, max_msgs: int = 0) -> bytes:
    r"""
    ``UNSUB <sid> [max_msgs]\r\n``.

    Args:
        sid: Subscription id.
        max_msgs: Messages after which the server ends the subscription; 0 ends it at once.

    Raises:
        ConfigurationError: A number is outside 0..2**64-1.
    """
    number = checked_number("sid", sid, 0, MAX_U64)
    limit = checked_number("max_msgs", max_msgs, 0, MAX_U64)
    size = lib.mcore_unsub_size(number, limit)
    out = ffi.new("uint8_t[]", size)
    lib.mcore_unsub_write(out, size, number, limit)
    return bytes(ffi.buffer(out))


def encode_pub(subject: bytes, payload: bytes, reply: bytes = b"") -> bytes:
    r"""
    ``PUB <subject> [reply] <payload_len>\r\n<payload>\r\n``, the length in bytes.

    Raises:
        LocalProtocolError: *subject* or *reply* holds blanks or control bytes, or is not UTF-8.
    """
    checked_bytes(subject=subject, payload=payload, reply=reply)
    size = lib.mcore_pub_size(len(subject), len(reply), len(payload))
    out = ffi.new("uint8_t[]", size)
    code = lib.mcore_pub_write(out, size, subject, len(subject), reply, len(reply), payload, len(payload))
    if code < 0:
        raise frame_error(code, subject, "reply", reply)
    return bytes(ffi.buffer(out))


def encode_hpub(subject: bytes, header: bytes, payload: bytes, reply: bytes = b"") -> bytes:
    r"""
    ``HPUB <subject> [reply] <hdr_len> <total_len>\r\n<header block><payload>\r\n``, lengths in bytes.

    Args:
        subject: Where to.
        header: A whole block, as encode_headers() makes it.
        payload: What to send.
        reply: Where an answer goes; empty for none.

    Raises:
        LocalProtocolError: *subject* or *reply* holds blanks or control bytes, or is not UTF-8.
        HeaderError: *header* does not start with NATS/1.0 and end with an empty line.
    """
    checked_bytes(subject=subject, header=header, payload=payload, reply=reply)
    size = lib.mcore_hpub_size(len(subject), len(reply), len(header), len(payload))
    out = ffi.new("uint8_t[]", size)
    code = lib.mcore_hpub_write(
        out, size, subject, len(subject), reply, len(reply), header, len(header), payload, len(payload)
    )
    if code < 0:
        raise frame_error(code, subject, "reply", reply)
    return bytes(ffi.buffer(out))


def encode_header(name: bytes, value: bytes) -> bytes:
    r"""
    ``<name>: <value>\r\n``.

    Raises:
        HeaderError: The name is no printable ASCII or holds ':' or a blank; the value holds CR, LF or NUL.
    """
    checked_bytes(name=name, value=value)
    size = lib.mcore_header_size(len(name), len(value))
    out = ffi.new("uint8_t[]", size)
    if lib.mcore_header_write(out, size, name, len(name), value, len(value)) < 0:
        raise header_error(name, value)
    return bytes(ffi.buffer(out))


def encode_headers(pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    r"""
    A whole block: ``NATS/1.0\r\n``, ``<name>: <value>\r\n`` for each pair, ``\r\n``.

    Blanks around a value are not kept by those who read it.

    Raises:
        HeaderError: As encode_header().
    """
    lines = [b"NATS/1.0\r\n"]
    for name, value in pairs:
        lines.append(encode_header(name, value))
    lines.append(b"\r\n")
    return b"".join(lines)


def _text(block: bytes, span: Any) -> str:
    return block[span.off : span.off + span.len].decode("utf-8", "surrogateescape")


def parse_headers(block: bytes) -> tuple[int, str, list[tuple[str, str]]]:
    """
    Reads a whole header block.

    Returns:
        status (0 without one), description, and the headers in the order of the wire. Text is UTF-8 with
        surrogateescape; blanks around names and values are gone.

    Raises:
        HeaderError: *block* is no NATS/1.0 header block.
    """
    checked_bytes(block=block)
    status = ffi.new("int *")
    description = ffi.new("struct mcore_span *")
    found = ffi.new("struct mcore_header[]", FIRST_HEADERS)
    count = lib.mcore_headers_parse(block, len(block), status, description, found, FIRST_HEADERS)
    if count > FIRST_HEADERS:
        found = ffi.new("struct mcore_header[]", count)
        count = lib.mcore_headers_parse(block, len(block), status, description, found, count)
    if count < 0:
        raise block_error(count)
    headers = [(_text(block, found[i].name), _text(block, found[i].value)) for i in range(count)]
    return status[0], _text(block, description), headers


def _event_of(view: Any, start: int, event: Any) -> Event:
    data = ffi.buffer(view)

    def part(span: Any) -> bytes:
        return bytes(data[start + span.off : start + span.off + span.len])

    return Event(
        KINDS[event.kind],
        event.sid,
        part(event.subject),
        part(event.reply),
        part(event.headers),
        part(event.payload),
    )


@final
class Parser:
    """
    Reads the server's side of a NATS connection; knows nothing of sockets.

    One parser belongs to one stream and one thread. What it reports depends on the stream alone, not on how it was
    split: when good frames precede an offending one, feed() returns them, keeps the error in `failure`, and the next
    feed() raises it.

    Args:
        max_payload: Largest payload in bytes, headers included.
        max_control_line: Longest control line in bytes, CRLF excluded; INFO and -ERR may always have 256 KiB.

    Raises:
        ConfigurationError: A limit is below 1.
    """

    def __init__(self, max_payload: int = DEFAULT_MAX_PAYLOAD, max_control_line: int = MAX_CONTROL_LINE) -> None:
        self._limit = checked_number("max_payload", max_payload, 1, MAX_SIZE)
        self._parser = ffi.new("struct mcore_parser *")
        lib.mcore_parser_init(
            self._parser, checked_number("max_control_line", max_control_line, 1, MAX_SIZE), self._limit
        )
        self._events = ffi.new("struct mcore_event[]", MAX_EVENTS)
        self._consumed = ffi.new("size_t *")
        self._tail = bytearray()
        self._failed: Optional[RemoteProtocolError] = None
        self._raised = False

    @property
    def buffered(self) -> int:
        """Bytes of an incomplete frame that wait for the rest of it."""
        return len(self._tail)

    @property
    def failure(self) -> Optional[RemoteProtocolError]:
        """The error that ended the stream, also before feed() has raised it; None while it is sound."""
        return self._failed

    def reset(self) -> None:
        """Forgets everything but the limits: for a new stream."""
        lib.mcore_parser_reset(self._parser)
        self._tail = bytearray()
        self._failed = None
        self._raised = False

    def feed(self, data: Buffer) -> list[Event]:
        """
        Takes the next bytes of the stream; keeps the part that is no whole frame yet.

        Returns:
            The frames that are complete now, in order.

        Raises:
            RemoteProtocolError: The server broke the protocol; shows up to 64 bytes from the offending frame on.
            LocalProtocolError: The parser has raised before and was not reset.
        """
        found: list[Event] = []
        if self._failed is not None:
            raise self._refused(self._failed)
        with view_of(data) as view:
            if not self._tail:  # nothing to put in front: parse the caller's bytes where they are
                taken = self._parse(view, found)
                self._tail += ffi.buffer(view)[taken:]
            else:
                self._tail += ffi.buffer(view)
                self._parse_tail(found)
        failed = self.failure
        if failed is not None and not found:
            raise self._refused(failed)
        return found

    def _parse_tail(self, found: list[Event]) -> None:
        with ffi.from_buffer("uint8_t[]", self._tail) as view:
            taken = self._parse(view, found)
        del self._tail[:taken]

    def _parse(self, view: Any, found: list[Event]) -> int:
        """Appends the whole frames to `found` and returns how many bytes they took; sets `_failed`."""
        start = 0
        count = 1
        while count > 0:
            count = lib.mcore_parse(
                self._parser, view + start, len(view) - start, self._events, MAX_EVENTS, self._consumed
            )
            found += [_event_of(view, start, self._events[i]) for i in range(count)]
            start += self._consumed[0]
        if count < 0:
            self._failed = remote_error(count, self._limit, ffi.buffer(view)[start : start + SHOWN_BYTES])
        return start

    def _refused(self, cause: RemoteProtocolError) -> MemphisError:
        if self._raised:
            return poisoned_error(cause)
        self._raised = True
        return cause
