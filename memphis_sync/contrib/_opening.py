"""
One client for each process, opened at its first use, so after a server has forked, and shared by all threads.

Who waited for an attempt that failed gets its error: with the broker away each request waits for one attempt, however
many there are. The end of the process drains the client; nothing closes it before.
"""

from __future__ import annotations

import copy
import os
import threading
from typing import Any, Callable, Optional

import memphis_sync
from memphis_sync import Memphis, MemphisError


class Arguments(dict[str, Any]):
    """Arguments of connect(); its repr, which error pages show, holds no values."""

    def __repr__(self) -> str:
        return f"<arguments {', '.join(self)}>"


class SharedClient:
    """
    Where the client is kept.

    Attributes:
        client: None until it is opened.
        arguments: What it was opened with.
    """

    def __init__(self) -> None:
        self.client: Optional[Memphis] = None
        self.arguments: Optional[Arguments] = None
        self._attempts = 0  # how many have ended
        self._error: Optional[MemphisError] = None  # how the last one ended
        self._locks: dict[int, threading.RLock] = {}  # by process: a fork copies a lock in whatever state it is

    @property
    def lock(self) -> threading.RLock:
        """Held while it is opened or closed."""
        return self._locks.setdefault(os.getpid(), threading.RLock())

    def get(self, read: Callable[[], Arguments]) -> Memphis:
        """
        The client; the first call opens it.

        Args:
            read: Gives the arguments of connect().

        Raises:
            ConfigurationError, ConnectError, AuthenticationError: As memphis_sync.connect(); the next call tries again.
        """
        return self.client or self._open(read, self._attempts)

    def _open(self, read: Callable[[], Arguments], seen: int) -> Memphis:
        """Opens it unless another thread has done so, or has failed to since *seen* attempts."""
        with self.lock:
            if self.client is None and self._attempts == seen:
                arguments = read()
                self._error = None
                try:
                    client = memphis_sync.connect(**arguments)
                except MemphisError as exc:
                    self._error = exc
                else:
                    client._is_shared = True
                    self.client, self.arguments = client, arguments
                self._attempts += 1
            if self.client is not None:
                return self.client
            error = self._error
        assert error is not None
        # A copy for each thread, without connect()'s frames: they hold its arguments, and error pages show variables.
        raise copy.copy(error)

    def close(self, timeout_s: float = 5.0) -> None:
        """Closes the client if it is open; the next use opens another one."""
        with self.lock:
            client, self.client = self.client, None
            if client is not None:
                client.close(timeout_s)
