"""What several requests want at once, a connection or a registration, is made once; the others wait for it."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Hashable
from functools import partial
from typing import Any, Callable, Optional, TypeVar

from .errors import busy

LIMIT_S = 15.0  # how long a request waits for a connection or a registration

T = TypeVar("T")


class SingleFlight:
    """Values by key, each made by one task while all others who want it wait; the least used one makes room."""

    def __init__(self, most: int, end: Callable[[Any], None]) -> None:
        self._most, self._end = most, end
        self._made: OrderedDict[Hashable, asyncio.Task[Any]] = OrderedDict()

    async def get(self, key: Hashable, make: Callable[[], Awaitable[T]], limit_s: float = LIMIT_S) -> T:
        """
        The value; what its making raises is raised to all who wait, and the next call tries again.

        Raises:
            Problem: 503, not made within *limit_s*; its making goes on.
        """
        task: Optional[asyncio.Task[T]] = self._made.get(key)
        if task is None:
            task = self._made[key] = asyncio.ensure_future(make())
            task.add_done_callback(partial(self._forget_failed, key))
            self._make_room()
        else:
            self._made.move_to_end(key)
            if _is_made(task):
                return task.result()
        # One who goes away does not break it off for the others.
        done, _ = await asyncio.wait([task], timeout=limit_s)
        if not done:
            raise busy("the broker has not answered in time; nothing was sent")
        return task.result()

    def peek(self, key: Hashable) -> Any:
        """The value; None when there is none yet."""
        task = self._made.get(key)
        return task.result() if task is not None and _is_made(task) else None

    def discard(self, key: Hashable, value: object) -> None:
        """Forgets a value, unless another one is in its place."""
        task = self._made.get(key)
        if task is not None and _is_made(task) and task.result() is value:
            del self._made[key]

    def _forget_failed(self, key: Hashable, task: asyncio.Task[Any]) -> None:
        if not _is_made(task) and self._made.get(key) is task:
            del self._made[key]

    def _make_room(self) -> None:
        for key in list(self._made):
            if len(self._made) <= self._most:
                return
            task = self._made[key]
            if _is_made(task):
                del self._made[key]
                self._end(task.result())


def _is_made(task: asyncio.Task[Any]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None
