"""What a client has for those who observe it once it is open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable

from memphis_sync._options.checks import check_callable, check_observers, check_seconds
from memphis_sync._session.ticks import Tick
from memphis_sync.observer import Observer
from memphis_sync.types import Stats

if TYPE_CHECKING:
    from memphis_sync._session import Session

LEAST_INTERVAL_S = 0.01


class Observable:
    """Base of the client: more observers, and its counters every so often."""

    if TYPE_CHECKING:

        @property
        def _session(self) -> Session: ...

    def add_observer(self, observer: Observer) -> None:
        """
        Adds an observer, as one of ``connect(observers=[...])``. It is told of producers and consumers that are made
        from then on, and of outages.

        Raises:
            ConfigurationError: It has not the methods of a memphis_sync.Observer.
            UsageError, ClosedError: The client is not connected, or was closed.
        """
        (checked,) = check_observers("observer", [observer])
        self._session.checked().options.observing.add(checked)

    def watch_stats(self, function: Callable[[Stats], object], interval_s: float = 5.0) -> None:
        """
        Calls ``function(stats)`` now, every so often, and a last time when the client is closed. So whoever adds the
        differences up has everything, but for what a killed process had in its last interval.

            memphis.watch_stats(lambda stats: print(stats.queued, "messages wait"))

        Args:
            function: Called on the callbacks thread, with what stats() returns. In a forked child that uses the client
                it is called for that process as well, whose counters begin at 0.
            interval_s: Seconds between two calls, from 0.01.

        Raises:
            ConfigurationError: An argument is not allowed.
            UsageError, ClosedError: The client is not connected, or was closed.
        """
        check_callable("function", function, parameters="stats")
        tick = Tick(function, check_seconds("interval_s", interval_s, least=LEAST_INTERVAL_S))
        session = self._session.checked()
        session.connect()  # in a forked child it may not be yet
        session.options.observing.ticks.append(tick)
        session.loop.post(tick.begin, session)
