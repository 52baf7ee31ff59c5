"""
The C core, through whichever of its two bindings fits this interpreter; nothing else imports either of them.

MEMPHIS_SYNC_IMPL=cython|cffi forces one, and then its failed import is an ImportError with the cause. Without it
CPython tries Cython, then cffi, and PyPy the reverse; when both fail, one ImportError lists both attempts.
"""

from __future__ import annotations

import importlib
import os
import platform
from types import ModuleType

from memphis_sync._base import interpreters

_VARIABLE = "MEMPHIS_SYNC_IMPL"
_BINDINGS = ("cython", "cffi")


_ELSEWHERE = (
    "memphis_sync is used in another interpreter of this process already, and its compiled core can be loaded into one "
    f"of them only; {interpreters.INSTEAD}"
)


def _load(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"{__name__}._{name}")
    except ImportError as exc:
        if "Interpreter change detected" in str(exc):  # Cython's words
            raise ImportError(_ELSEWHERE) from exc
        raise


def _forced(name: str) -> ModuleType:
    if name not in _BINDINGS:
        raise ImportError(f"{_VARIABLE} is {name!r}; it must be one of {', '.join(_BINDINGS)}")
    try:
        return _load(name)
    except ImportError as exc:
        raise ImportError(f"{_VARIABLE} asks for {name!r}, which cannot be imported: {exc}") from exc


def _choose() -> ModuleType:
    """The binding to use; the rules are the module's docstring."""
    if interpreters.is_isolated():  # not tried: the interpreter's own words do not say what to do
        raise ImportError(
            "memphis_sync cannot be used in an isolated subinterpreter: its compiled core can be loaded into "
            f"interpreters that share one GIL only, and its clients need daemon threads; {interpreters.INSTEAD}"
        )
    wanted = os.environ.get(_VARIABLE)
    if wanted:
        return _forced(wanted)
    order = _BINDINGS[::-1] if platform.python_implementation() == "PyPy" else _BINDINGS
    attempts = []
    for name in order:
        try:
            return _load(name)
        except ImportError as exc:
            attempts.append(f"{name}: {exc}")
    if any(_ELSEWHERE in attempt for attempt in attempts):
        raise ImportError(f"{_ELSEWHERE}. Or install cffi, whose binding can be loaded into several")
    raise ImportError(
        f"memphis_sync has no compiled core for this interpreter; tried {'; '.join(attempts)}. "
        "Installing it again (pip install --force-reinstall memphis-sync) compiles it, which takes a C compiler."
    )


_binding = _choose()

IMPL = _binding.IMPL
RECEIVE_BUFFER_BYTES = _binding.RECEIVE_BUFFER_BYTES
PING = _binding.PING
PONG = _binding.PONG
Event = _binding.Event
Parser = _binding.Parser
murmur3_x86_32 = _binding.murmur3_x86_32
watch_forks = _binding.watch_forks
fork_generation = _binding.fork_generation
ring_bell = _binding.ring_bell
bell_count = _binding.bell_count
wait_bell = _binding.wait_bell
wait_as_greenlets = _binding.wait_as_greenlets
keep_forever = _binding.keep_forever
count_delivered = _binding.count_delivered
encode_connect = _binding.encode_connect
encode_sub = _binding.encode_sub
encode_unsub = _binding.encode_unsub
encode_pub = _binding.encode_pub
encode_header = _binding.encode_header
encode_headers = _binding.encode_headers
parse_headers = _binding.parse_headers
Link = _binding.Link
Route = _binding.Route
RoundRobin = _binding.RoundRobin
FanOut = _binding.FanOut
Ticket = _binding.Ticket
WaitSet = _binding.WaitSet
RawMessage = _binding.RawMessage
ReceiveBuffer = _binding.ReceiveBuffer
