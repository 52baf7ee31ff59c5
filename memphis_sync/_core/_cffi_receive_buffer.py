"""The cffi binding of the C core: RawMessage and ReceiveBuffer. See _cffi_link for what holds for all of it."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, TypeVar, final

from memphis_sync._core._cffi_core import ffi, lib
from memphis_sync._core._cffi_link import Link
from memphis_sync._core._cffi_view import checked_bytes

if TYPE_CHECKING:
    from typing_extensions import Self  # 3.11 has it in typing

_M = TypeVar("_M", bound="RawMessage")
RECORD_SIZE: int = ffi.sizeof("struct mcore_record")


class RawMessage:
    """One received message, read from the C core's memory only as far as it is asked. Made by ReceiveBuffer.take()."""

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
            raise TypeError("a message comes from fetch() only")
        return self._record

    def _bytes(self, start: int, size: int) -> bytes:
        return bytes(self._chunk[self._at + start : self._at + start + size])

    @property
    def subject(self) -> str:
        """The subject it was stored under."""
        return self._bytes(0, self._found().subject_len).decode("utf-8", "replace")

    @property
    def reply(self) -> str:
        """Where its acknowledgement goes."""
        record = self._found()
        return self._bytes(record.subject_len, record.reply_len).decode("utf-8", "replace")

    @property
    def header_block(self) -> bytes:
        """The raw header block; empty without headers."""
        record = self._found()
        return self._bytes(record.subject_len + record.reply_len, record.header_len)

    @property
    def payload(self) -> bytes:
        """A copy of the payload."""
        record = self._found()
        return self._bytes(record.subject_len + record.reply_len + record.header_len, record.payload_len)

    @property
    def payload_len(self) -> int:
        """Length of the payload in bytes."""
        return int(self._found().payload_len)

    @property
    def age_ns(self) -> int:
        """How long ago it was received, or renewed."""
        return int(lib.mcore_now_ns() - self._found().received_ns)

    def renew(self) -> None:
        """Tells the server that it is being worked on, so that its ack time begins anew. Raises as respond()."""
        self.respond(b"+WPI")
        self._record.received_ns = lib.mcore_now_ns()

    def respond(self, body: bytes = b"") -> None:
        """Queues an acknowledgement and returns at once. ConnectionLostError when there is no connection."""
        record = self._found()
        checked_bytes(body=body)
        self._link._check()
        reply = self._bytes(record.subject_len, record.reply_len)
        self._link._raise_for(lib.mcore_link_publish(self._link._link, reply, len(reply), body, len(body)))


_numbers = itertools.count()


@final
class ReceiveBuffer:
    """
    What one subscription of the link receives.

    Args:
        link: The link.
        sid: The subscription's number.
        jetstream: Take only messages that the server itself delivers, with an ack subject, and statuses.
    """

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
        link._check()
        self._buffer = lib.mcore_receive_buffer_new(link._link, sid, jetstream)
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
        """
        Takes messages up to this number, counted since the buffer was made, and so many bytes of them at once:
        subjects, replies, headers and payloads. What is beyond is dropped and counted. At first any number, and
        RECEIVE_BUFFER_BYTES.
        """
        self.link._check()
        lib.mcore_receive_buffer_expect(self._buffer, messages, size)

    def wait(self, messages: int, statuses: int, timeout_ns: int) -> int:
        """
        Waits until so many messages or so many statuses have come since the buffer was made, or for wake().

        Returns:
            0 then, -13 after *timeout_ns*, -11 when the connection ended.
        """
        self.link._check()
        lib.mcore_link_push(self.link._link)
        return int(lib.mcore_receive_buffer_wait(self._buffer, messages, statuses, timeout_ns))

    def wake(self) -> None:
        """Ends a wait() of another thread, or the next one. From any thread."""
        self.link._check()
        lib.mcore_receive_buffer_wake(self._buffer)

    @property
    def is_closed(self) -> bool:
        """Whether its connection has ended: nothing more comes."""
        self.link._check()
        return bool(lib.mcore_receive_buffer_is_closed(self._buffer))

    def take(self, kind: type[_M], owner: object) -> tuple[list[_M], list[tuple[int, str, bytes]]]:
        """
        All that has come: ``(messages, statuses)``, instances of *kind* and ``(status, subject, block)`` tuples.
        ``dropped`` is up to date after it.
        """
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
