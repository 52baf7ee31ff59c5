"""
The cffi binding of the C core: checks types, calls, wraps.

This is sections 1 to 5, the twin of _frames.pxi, name by name, and so are _cffi_link, _cffi_route,
_cffi_outbox_file and _cffi_receive_buffer of the .pxi files of these names. What each name does is written in
__init__.pyi and outbox_file.pyi, the stubs of both. What they share beyond names (error classes and texts, events,
limits) is in _translate and _event.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterable
from typing import Any, Optional, final

from memphis_sync._core._cffi_core import ffi, lib
from memphis_sync._core._cffi_link import Link
from memphis_sync._core._cffi_outbox_file import OutboxFile, adopt, outbox_file_size, recovered, sync_file, use_file
from memphis_sync._core._cffi_receive_buffer import RawMessage, ReceiveBuffer
from memphis_sync._core._cffi_route import FanOut, RoundRobin, Route, Ticket, WaitSet, count_delivered
from memphis_sync._core._cffi_view import checked_bytes, view_of, wait_as_greenlets
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

IMPL = "cffi"
RECEIVE_BUFFER_BYTES: int = lib.MCORE_RECEIVE_BUFFER_BYTES
PING = b"PING\r\n"
PONG = b"PONG\r\n"

MAX_CONTROL_LINE: int = lib.MCORE_MAX_CONTROL_LINE
FIRST_HEADERS = 16  # as HEADERS_ON_STACK of the twin


def murmur3_x86_32(data: Buffer, seed: int = 0) -> int:
    checked = checked_number("seed", seed, 0, MAX_U32)
    with view_of(data) as view:
        return int(lib.mcore_murmur3_x86_32(view, len(view), checked))


def watch_forks() -> None:
    if lib.mcore_fork_watch() != lib.MCORE_OK:
        raise MemoryError("no memory to watch for forks")


def fork_generation() -> int:
    return int(lib.mcore_fork_generation())


def ring_bell() -> None:
    lib.mcore_bell_ring()


def bell_count() -> int:
    return int(lib.mcore_bell_count())


def wait_bell(seen: int, timeout_ns: int) -> int:
    return int(lib.mcore_bell_wait(seen, timeout_ns))


_kept_forever: list[object] = []  # PyPy runs no destructors at the end of the process


def keep_forever(thing: object) -> None:
    _kept_forever.append(thing)
    if platform.python_implementation() == "CPython":
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def encode_connect(json: bytes) -> bytes:
    checked_bytes(json=json)
    out = ffi.new("uint8_t[]", lib.mcore_connect_size(len(json)))
    if lib.mcore_connect_write(out, len(out), json, len(json)) < 0:
        raise connect_error()
    return bytes(ffi.buffer(out))


def encode_sub(subject: bytes, sid: int, queue: bytes = b"") -> bytes:
    checked_bytes(subject=subject, queue=queue)
    number = checked_number("sid", sid, 0, MAX_U64)
    out = ffi.new("uint8_t[]", lib.mcore_sub_size(len(subject), len(queue), number))
    if lib.mcore_sub_write(out, len(out), subject, len(subject), queue, len(queue), number) < 0:
        raise frame_error(subject, "queue", queue)
    return bytes(ffi.buffer(out))


def encode_unsub(sid: int, max_msgs: int = 0) -> bytes:
    number = checked_number("sid", sid, 0, MAX_U64)
    limit = checked_number("max_msgs", max_msgs, 0, MAX_U64)
    out = ffi.new("uint8_t[]", lib.mcore_unsub_size(number, limit))
    lib.mcore_unsub_write(out, len(out), number, limit)
    return bytes(ffi.buffer(out))


def encode_pub(subject: bytes, payload: bytes, reply: bytes = b"") -> bytes:
    checked_bytes(subject=subject, payload=payload, reply=reply)
    out = ffi.new("uint8_t[]", lib.mcore_pub_size(len(subject), len(reply), len(payload)))
    if lib.mcore_pub_write(out, len(out), subject, len(subject), reply, len(reply), payload, len(payload)) < 0:
        raise frame_error(subject, "reply", reply)
    return bytes(ffi.buffer(out))


def encode_header(name: bytes, value: bytes) -> bytes:
    checked_bytes(name=name, value=value)
    out = ffi.new("uint8_t[]", lib.mcore_header_size(len(name), len(value)))
    if lib.mcore_header_write(out, len(out), name, len(name), value, len(value)) < 0:
        raise header_error(name, value)
    return bytes(ffi.buffer(out))


def encode_headers(pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"".join([b"NATS/1.0\r\n", *[encode_header(name, value) for name, value in pairs], b"\r\n"])


def _text(block: bytes, span: Any) -> str:
    return block[span.off : span.off + span.len].decode("utf-8", "surrogateescape")


def parse_headers(block: bytes) -> tuple[int, str, list[tuple[str, str]]]:
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
    def __init__(self, max_payload: int = DEFAULT_MAX_PAYLOAD, max_control_line: int = MAX_CONTROL_LINE) -> None:
        self._limit = checked_number("max_payload", max_payload, 1, MAX_SIZE)
        self._parser = ffi.new("struct mcore_parser *")
        lib.mcore_parser_init(
            self._parser, checked_number("max_control_line", max_control_line, 1, MAX_SIZE), self._limit
        )
        self._events = ffi.new("struct mcore_event[]", MAX_EVENTS)
        self._consumed = ffi.new("size_t *")
        self.reset()

    @property
    def buffered(self) -> int:
        return len(self._tail)

    @property
    def failure(self) -> Optional[RemoteProtocolError]:
        return self._failed

    def reset(self) -> None:
        lib.mcore_parser_reset(self._parser)
        self._tail = bytearray()
        self._failed: Optional[RemoteProtocolError] = None
        self._raised = False

    def feed(self, data: Buffer) -> list[Event]:
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
