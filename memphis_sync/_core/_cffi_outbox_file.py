"""The cffi binding of the C core: the outbox of a Link in a file, and OutboxFile; the twin of _outbox_file.pxi."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

from memphis_sync._core._cffi_core import ffi, lib
from memphis_sync._core._cffi_view import checked, checked_bytes

if TYPE_CHECKING:
    from typing_extensions import Self  # 3.11 has it in typing

    from memphis_sync._core._cffi_link import Link

INFO = tuple(name for name, _ in ffi.typeof("struct mcore_file_info").fields)
_PARTS = ("subject", "msg_id", "headers", "payload")


def outbox_file_size(max_bytes: int, max_messages: int) -> int:
    return int(lib.mcore_outbox_file_size(max_bytes, max_messages))


@final
class OutboxFile:
    __slots__ = ("_file",)

    _file: Any

    def __new__(cls, fd: int) -> Self:
        self = super().__new__(cls)
        self._file = ffi.NULL
        self._file = lib.mcore_outbox_file_read(fd)
        if self._file == ffi.NULL:
            raise MemoryError("no memory to read an outbox file")
        return self

    def __del__(self, lib: Any = lib) -> None:  # lib as an argument: the module's globals are gone at the end
        lib.mcore_outbox_file_free(self._file)

    def __len__(self) -> int:
        return int(self.info()["messages"])

    def info(self) -> dict[str, Any]:
        info = ffi.new("struct mcore_file_info *")
        lib.mcore_outbox_file_info(self._file, info)
        found = {name: getattr(info, name) for name in INFO}
        found["boot"] = ffi.string(info.boot)
        return found

    def message(self, index: int) -> tuple[bytes, bytes, bytes, bytes, int, bool]:
        m = ffi.new("struct mcore_file_message *")
        if lib.mcore_outbox_file_message(self._file, index, m) != lib.MCORE_OK:
            raise IndexError(f"there is no message {index}")
        subject, msg_id, headers, payload = (
            ffi.buffer(getattr(m, part), getattr(m, f"{part}_len"))[:] if getattr(m, f"{part}_len") else b""
            for part in _PARTS
        )
        return subject, msg_id, headers, payload, m.accepted_s, bool(m.was_written)


def use_file(link: Link, fd: int, salt: int, boot: bytes) -> None:
    checked_bytes(boot=boot)
    checked(lib.mcore_outbox_use_file(link._box(), fd, salt, boot, len(boot)))


def sync_file(link: Link) -> int:
    return int(lib.mcore_outbox_sync(link._box()))


def adopt(link: Link, file: OutboxFile, id_name: bytes) -> int:
    checked_bytes(id_name=id_name)
    return checked(lib.mcore_outbox_adopt(link._box(), file._file, id_name, len(id_name)))


def recovered(link: Link) -> tuple[int, int]:
    left, failed = ffi.new("uint64_t *"), ffi.new("uint64_t *")
    lib.mcore_outbox_recovered(link._box(), left, failed)
    return left[0], failed[0]
