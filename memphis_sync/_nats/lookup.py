"""
Looking up the addresses of a host, which blocks for as long as a resolver likes: on a daemon thread of its own.

Not in the executor of an event loop: the interpreter waits for its threads at exit, and does so even in a child that
was forked from C, where they do not exist; and no executor takes work once the interpreter has begun to end.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Hashable
from typing import Any, Callable, Union

from memphis_sync._base import native
from memphis_sync._base.threads import Latch, start_thread
from memphis_sync._core import fork_generation


class Lookup:
    """
    One question, whose answer any number of tries may wait for.

    Attributes:
        found: What ``socket.getaddrinfo()`` gave, or its error; None while it is under way.
        is_over: Set once there is an answer.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._wakes: list[Callable[[], object]] = []
        self.found: Union[list[Any], Exception, None] = None
        self.is_over = Latch()

    def run(self) -> None:
        """Asks, here and now."""
        try:
            self.found = native.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as exc:
            self.found = exc
        self.is_over.set()
        for wake in self._wakes:
            wake()

    def then(self, wake: Callable[[], object]) -> None:
        """Has *wake* called once there is an answer, on any thread, perhaps twice."""
        self._wakes.append(wake)
        if self.is_over.is_set():
            wake()


_under_way: dict[Hashable, Lookup] = {}  # each step on it is atomic


def look_up(host: str, port: int) -> Lookup:
    """
    Begins to look up a host, or joins who does so already: a resolver that is silent gets one thread, however many
    tries follow each other.
    """
    key = (fork_generation(), host, port)
    made = Lookup(host, port)
    lookup = _under_way.setdefault(key, made)
    if lookup is not made:
        return lookup

    def run() -> None:
        try:
            made.run()
        finally:
            _under_way.pop(key, None)

    try:
        with contextlib.suppress(RuntimeError):
            start_thread("memphis-lookup", run)
            return made
    except BaseException:  # of a signal handler, and the thread may not exist
        _under_way.pop(key, None)
        raise
    run()  # the interpreter ends and starts no thread any more
    return made
