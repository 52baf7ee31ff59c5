"""
The sessions of one client: one in each process that uses it.

A client that was opened before a fork works in the child. Its session stays with the parent; the first use in the child
makes another one, with threads, links, outbox and connection id of its own, which connects when it is needed.
"""

from __future__ import annotations

import weakref
from typing import Callable, Optional

from memphis_sync._options.table import ConnectOptions
from memphis_sync._session import fork, greenlets, shutdown
from memphis_sync._session.session import Session
from memphis_sync.errors import ClosedError


class SessionPerProcess:
    """
    Swaps a client's session at the first use after a fork. Without a lock: a signal handler may interrupt the swap, and
    of the threads of a child that all make one, each gets the same.

    Args:
        options: What connect() was told.
        forget_station: As of Session.
    """

    def __init__(self, options: ConnectOptions, forget_station: Callable[[str], None]) -> None:
        self._options = options
        self._forget_station = weakref.WeakMethod(forget_station)  # a client that is forgotten is collected at once
        self._session = Session(options, self._forget_station)  # the newest
        self._by_generation = {self._session.generation: self._session}

    def open(self) -> None:
        """Connects the first one. Raises as Session.open()."""
        self._session.open()

    def here(self) -> Session:
        """
        This process's session. Makes it, but does not connect it; waits for nothing.

        Raises:
            ClosedError: It was not made yet, and the client had been closed before the fork.
        """
        session = self._session
        return session if session.generation == fork.fork_generation() else self._swapped()

    def used(self) -> Optional[Session]:
        """This process's session; None in a child that has not used the client."""
        return self._by_generation.get(fork.fork_generation())

    def _swapped(self) -> Session:
        generation = fork.fork_generation()
        old = self._session
        if old.generation != generation:
            if old.is_ending:
                raise ClosedError(f"the client {old.label!r} is closed")
            fork.close_inherited()
            greenlets.prepare()
            made = Session(self._options, self._forget_station)
            if self._by_generation.setdefault(generation, made) is made:
                shutdown.register(made)
            else:
                made.drop()
        session = self._session = self._by_generation[generation]
        return session

    @property
    def description(self) -> str:
        """For the client's repr()."""
        session = self.used()
        return f"{self._options.name!r} not used since a fork" if session is None else session.description
