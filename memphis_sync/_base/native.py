"""
The interpreter's own locks, threads, sockets and selectors, whether or not gevent has replaced them.

The client's threads are the interpreter's, and so is all that they stand on: a lock of gevent's would make a hub in a
thread that has none. Most is looked up once, so that what is replaced later stays what it was.

Source: ``get_original()`` of gevent 23 to 26, which gives what was not replaced too.
"""

from __future__ import annotations

import importlib
import sys
import threading
from typing import TYPE_CHECKING, Any, Callable, Optional

if TYPE_CHECKING:
    import select
    import selectors
    import socket


def _original(module: str, name: str) -> Any:
    gevent = sys.modules.get("gevent.monkey")
    return getattr(importlib.import_module(module), name) if gevent is None else gevent.get_original(module, name)


Lock: Callable[[], threading.Lock] = _original("_thread", "allocate_lock")
RLock: Callable[[], threading.RLock] = _original("_thread", "RLock")
Local: type[threading.local] = _original("_thread", "_local")
get_ident: Callable[[], int] = _original("_thread", "get_ident")
start_new_thread: Callable[..., int] = _original("_thread", "start_new_thread")
sleep: Callable[[float], None] = _original("time", "sleep")
Selector: Callable[[], selectors.BaseSelector] = _original("selectors", "DefaultSelector")
_raw_socketpair: Callable[[], tuple[socket.socket, socket.socket]] = _original("_socket", "socketpair")


def poll() -> select.poll:
    """As select.poll(), which eventlet removes."""
    made: select.poll = _original("select", "poll")()
    return made


# What a program has put into the module socket by itself is used, as for a proxy or a cache of names.
def new_socket(family: int = -1, kind: int = -1, protocol: int = -1, fileno: Optional[int] = None) -> socket.socket:
    """As socket.socket()."""
    made: socket.socket = _original("socket", "socket")(family, kind, protocol, fileno)
    return made


def getaddrinfo(host: str, port: int, *, type: int, flags: int = 0) -> list[Any]:  # noqa: A002  as in socket
    """As socket.getaddrinfo()."""
    ask = _original("socket", "getaddrinfo")
    is_own = getattr(ask, "__globals__", None) is vars(sys.modules["socket"])
    # For a str the interpreter loads its tables of characters, megabytes that each fork would pay for.
    name = host.encode() if is_own and host.isascii() else host
    found: list[Any] = ask(name, port, type=type, flags=flags)
    return found


def socketpair() -> tuple[socket.socket, socket.socket]:
    """Two sockets that are connected with each other."""
    one, other = _raw_socketpair()
    return new_socket(fileno=one.detach()), new_socket(fileno=other.detach())
