"""The cffi binding of the C core: RawMessage and ReceiveBuffer, the twin of _receive_buffer.pxi; see _cffi_link."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Optional, TypeVar, final

from memphis_sync._core._cffi_core import ffi, lib
from memphis_sync._core._cffi_link import Link
from memphis_sync._core._cffi_view import checked, checked_bytes, sliced
from memphis_sync._core._translate import FORKED_MESSAGE
from memphis_sync.errors import ForkedError

if TYPE_CHECKING:
    from typing_extensions import Self  # 3.11 has it in typing

_M = TypeVar("_M", bound="RawMessage")
RECORD_SIZE: int = ffi.sizeof("struct mcore_record")


class RawMessage:
    __slots__ = ("_at", "_chunk", "_link", "_record", "answer", "owner")

    _chunk: Any  # the bytes of all records of one take(), freed with the last message that points into them
    _at: int  # where this message's bytes start in it
    _record: Any
    _link: Link
    owner: Any
    answer: Any

    def __new__(cls) -> Self:
        self = super().__new__(cls)
        self._record = None
        self.owner = None
        self.answer = None
        return self

    def _found(self) -> Any:
        if self._record is None:
            raise TypeError("messages are created by fetch() only")
        return self._record

    def _bytes(self, start: int, size: int) -> bytes:
        return bytes(self._chunk[self._at + start : self._at + start + size])

    @property
    def subject(self) -> str:
        return self._bytes(0, self._found().subject_len).decode("utf-8", "replace")

    @property
    def reply(self) -> str:
        record = self._found()
        return self._bytes(record.subject_len, record.reply_len).decode("utf-8", "replace")

    @property
    def header_block(self) -> bytes:
        record = self._found()
        return self._bytes(record.subject_len + record.reply_len, record.header_len)

    @property
    def payload(self) -> bytes:
        record = self._found()
        return self._bytes(record.subject_len + record.reply_len + record.header_len, record.payload_len)

    @property
    def payload_len(self) -> int:
        return int(self._found().payload_len)

    @property
    def age_ns(self) -> int:
        return int(lib.mcore_now_ns() - self._found().received_ns)

    def renew(self) -> None:
        self.respond(b"+WPI")
        self._record.received_ns = lib.mcore_now_ns()

    def respond(self, body: bytes = b"") -> None:
        checked_bytes(body=body)
        reply = self._bytes(self._found().subject_len, self._record.reply_len)
        if not self._link._is_ours():
            raise ForkedError(FORKED_MESSAGE)
        checked(lib.mcore_link_publish(self._link._own(), reply, len(reply), body, len(body)))


_numbers = itertools.count()


@final
class ReceiveBuffer:
    __slots__ = ("_buffer", "_number", "dropped", "link", "sid")

    _buffer: Any
    _number: int
    link: Link
    sid: int
    dropped: int  # messages and statuses, as of the last take()

    def __new__(cls, link: Link, sid: int, jetstream: bool = False) -> Self:
        self = super().__new__(cls)
        self._number = next(_numbers)
        self.link = link
        self.sid = sid
        self.dropped = 0
        self._buffer = lib.mcore_receive_buffer_new(link._own(), sid, jetstream)
        if self._buffer == ffi.NULL:
            raise MemoryError("no memory for a receive buffer")
        link._receive_buffers[self._number] = self._buffer
        return self

    def __del__(self, lib: Any = lib) -> None:
        if lib.mcore_fork_generation() == self.link._generation:
            # None: the link has freed it, or it was never made.
            buffer = self.link._receive_buffers.pop(self._number, None)
            if buffer is not None:
                lib.mcore_receive_buffer_free(buffer)

    def expect(self, messages: int, size: int) -> None:
        self.link._check()
        lib.mcore_receive_buffer_expect(self._buffer, messages, size)

    def wait(self, messages: int, statuses: int, until: Optional[float]) -> int:
        lib.mcore_link_push(self.link._own())
        return sliced(until, lambda ns: lib.mcore_receive_buffer_wait(self._buffer, messages, statuses, ns))

    def wake(self) -> None:
        self.link._check()
        lib.mcore_receive_buffer_wake(self._buffer)

    @property
    def is_closed(self) -> bool:
        self.link._check()
        return bool(lib.mcore_receive_buffer_is_closed(self._buffer))

    def take(self, kind: type[_M], owner: object) -> tuple[list[_M], list[tuple[int, str, bytes]]]:
        self.link._check()
        place = ffi.new("uint8_t **")
        length = ffi.new("size_t *")
        lib.mcore_receive_buffer_take(self._buffer, place, length)
        self.dropped = lib.mcore_receive_buffer_dropped(self._buffer)
        size = length[0]
        messages: list[_M] = []
        statuses: list[tuple[int, str, bytes]] = []
        if size == 0:
            lib.mcore_free(place[0])
            return messages, statuses
        data = ffi.gc(place[0], lib.mcore_free, size)
        chunk = ffi.buffer(data, size)  # keeps `data`, and so the memory, alive
        at = 0
        while at < size:
            record = ffi.cast("struct mcore_record *", data + at)
            if record.status == 0:
                messages.append(_filled(kind.__new__(kind), self.link, owner, chunk, at, record))
            else:
                status = _filled(RawMessage(), self.link, owner, chunk, at, record)
                statuses.append((record.status, status.subject, status.header_block))
            at += record.size
        return messages, statuses


def _filled(message: _M, link: Link, owner: object, chunk: Any, at: int, record: Any) -> _M:
    message._chunk = chunk
    message._at = at + RECORD_SIZE
    message._record = record
    message._link = link
    message.owner = owner
    return message
