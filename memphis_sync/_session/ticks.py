"""
Functions that are called with a client's counters every so often, and at its close.

They belong to the client: in each process that uses it the session's loop has the timer, and its callbacks thread calls
them.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Callable, NamedTuple

from memphis_sync.types import Stats

if TYPE_CHECKING:
    from memphis_sync._session.session import Session


class Tick(NamedTuple):
    """One of them."""

    function: Callable[[Stats], object]
    interval_s: float

    def begin(self, session: Session) -> None:
        """Calls it now, and from now on; on the loop."""
        if not session.is_ending:
            self.call(session)
            asyncio.get_running_loop().call_later(self.interval_s, self.begin, session)

    def call(self, session: Session) -> None:
        """Has it called with the counters as they are."""
        session.callbacks.post(self.function, session.stats())


def begin_all(session: Session) -> None:
    """The client is connected in this process; on the loop."""
    for tick in session.options.observing.ticks:
        tick.begin(session)


def call_all(session: Session) -> None:
    """For the last time: the client is closed."""
    for tick in session.options.observing.ticks:
        tick.call(session)
