"""Arguments that are bytes or buffers, checked as Cython's signatures check them: what the cffi modules share."""

from __future__ import annotations

from typing import Any

from memphis_sync._core._cffi_core import ffi
from memphis_sync.types import Buffer


def checked_bytes(**arguments: object) -> None:
    """Arguments of type bytes and nothing else, as the twin's signatures say, with Cython's own text."""
    for name, value in arguments.items():
        if type(value) is not bytes:
            raise TypeError(f"Argument '{name}' has incorrect type (expected bytes, got {type(value).__name__})")


def view_of(data: Buffer) -> Any:
    """The bytes of any contiguous buffer, uncopied; the errors are those that the twin gets from CPython."""
    try:
        view = memoryview(data)
    except TypeError as exc:
        raise TypeError(f"a bytes-like object is required, not '{type(data).__name__}'") from exc
    if not view.c_contiguous:
        raise BufferError("memoryview: underlying buffer is not C-contiguous")
    return ffi.from_buffer("uint8_t[]", view)
