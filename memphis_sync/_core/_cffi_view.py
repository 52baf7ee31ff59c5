"""What the cffi modules share: arguments checked as Cython's signatures check them, results, and waits in slices."""

from __future__ import annotations

from typing import Any, Callable, Optional

from memphis_sync._core._cffi_core import ffi, lib
from memphis_sync._core._translate import link_error
from memphis_sync.types import Buffer

NEVER = 2**63 - 1


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


def text_of(text: Any) -> str:
    """A NUL-terminated text of the core's."""
    return bytes(ffi.string(text)).decode("utf-8", "replace")


def checked(result: int) -> int:
    """A result of the core's; a negative one is an error."""
    if result < 0:
        raise link_error(result)
    return int(result)


def _is_timeout(result: int) -> bool:
    return bool(result == lib.MCORE_E_TIMEOUT)


def sliced(until: Optional[float], wait: Callable[[int], Any], is_pending: Callable[[int], bool] = _is_timeout) -> int:
    """Calls *wait* with nanoseconds until it is not pending, or the time is over; signals are served between."""
    end = NEVER if until is None or until > 9e9 else int(until * 1e9)  # seconds: further than the clock can count
    while True:
        result = wait(_slice_of(end))
        if not is_pending(result) or lib.mcore_now_ns() >= end:
            return int(result)
        if _pause is not None:
            _pause(end)


def _slice_of(end: int) -> int:
    return 0 if _is_greenlet is not None and _is_greenlet() else int(lib.mcore_slice_until(end))


# Set by the first connect() where greenlets run; None for ever elsewhere.
_is_greenlet: Optional[Callable[[], bool]] = None
_pause: Optional[Callable[[int], object]] = None


def wait_as_greenlets(is_here: Callable[[], bool], pause_until: Callable[[int], object]) -> None:
    global _is_greenlet, _pause
    _is_greenlet, _pause = is_here, pause_until
