"""
Memory for answers with messages.

An answer is kept until its client has read it, and a client may read slowly, or ask again and again and read nothing.
So answers have a size, which counts the bytes as they are sent: a payload may become six times as long as JSON. And
those of one user, and of all, that are under way have a sum: beyond it a request waits for its turn before it fetches,
and is refused when that takes long.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any, Callable

import memphis_sync
from memphis_sync.errors import MemphisError

from .errors import Problem, busy

if TYPE_CHECKING:
    from .sessions import UserSession

MOST_BYTES = 8 * 1024 * 1024  # of an answer, beyond its first message: it ends early then
USER_BYTES = 64 * 1024 * 1024  # of the answers under way of one user
ALL_BYTES = 512 * 1024 * 1024
WAIT_S = 5.0  # for one's turn
MOST_GROWTH, ROW_BYTES = 6, 1024  # \\u003c for <; names, headers
KEPT = "memphis_sync.room"  # in a request's scope


class Room:
    """What the answers under way of one gateway take. It belongs to the event loop."""

    def __init__(self) -> None:
        self._used: Counter[Hashable] = Counter()
        self._changed = asyncio.Event()  # another one after each change

    async def wait(self, who: Hashable) -> None:
        """
        Waits until there is room for another answer of a user.

        Raises:
            Problem: 503, it takes too long.
        """
        deadline = time.monotonic() + WAIT_S
        while not self._has_room(who):
            try:
                await asyncio.wait_for(self._changed.wait(), max(deadline - time.monotonic(), 0.0))
            except asyncio.TimeoutError:
                raise busy("answers of earlier requests are not read yet; read them, and ask again") from None

    def _has_room(self, who: Hashable) -> bool:
        return self._used[who] + MOST_BYTES <= USER_BYTES and sum(self._used.values()) + MOST_BYTES <= ALL_BYTES

    async def use(self, scope: Any, who: Hashable, size: int, *, waits: bool) -> None:
        """Counts more bytes of a request's answer, until release(); Problem, 503, as wait()."""
        if waits:
            await self.wait(who)
        scope.setdefault(KEPT, []).append((self, who, size))
        self._used[who] += size

    def _give(self, who: Hashable, size: int) -> None:
        self._used[who] -= size
        if not self._used[who]:
            del self._used[who]
        self._changed.set()
        self._changed = asyncio.Event()


def release(scope: Any) -> None:
    """The end of a request: its answer is read, or nobody reads it any more."""
    for room, who, size in scope.pop(KEPT, ()):
        room._give(who, size)


class Rows:
    """
    The messages of one answer, each with its row.

    Args:
        session: Whose answer it is.
        scope: Of its request.
        show: Makes rows of messages; called in a thread, since megabytes would hold up the loop.
    """

    def __init__(self, session: UserSession, scope: Any, show: Callable[[list[Any]], list[bytes]]) -> None:
        self.messages: list[memphis_sync.Message] = []
        self._rows: list[bytes] = []
        self._session, self._scope, self._show = session, scope, show
        self._left, self._largest = MOST_BYTES, 0

    async def portion(self, left: int) -> int:
        """
        How many messages to ask for next: one, which says how large they are, then as many as there is room for.

        Args:
            left: How many are wanted still.

        Returns:
            0 when the answer is full, as one more like the largest would not fit.

        Raises:
            Problem: 503, the user's answers have no room.
        """
        if not self.messages:
            await self._session.room.wait(self._session.user.key)
            return min(left, 1)
        return min(left, max(self._left, 0) // self._largest)

    async def add(self, messages: Sequence[memphis_sync.Message]) -> None:
        """
        Adds messages, if any.

        Raises:
            Problem: 503, there is no room any more, and they are given back.
        """
        room, who, is_first = self._session.room, self._session.user.key, not self.messages
        most = sum(MOST_GROWTH * len(message) + ROW_BYTES for message in messages)
        try:
            await room.use(self._scope, who, most, waits=is_first and bool(messages))
        except Problem:
            give_back(messages)
            raise
        rows = await self._session.call(self._show, list(messages))
        sizes = [*map(len, rows)]
        await room.use(self._scope, who, sum(sizes) - most, waits=False)
        self._left -= sum(sizes[is_first:])
        self._largest = max(self._largest, *sizes)
        self.messages += messages
        self._rows += rows

    def joined(self) -> bytes:
        """The rows, with commas in between."""
        return b",".join(self._rows)


def give_back(messages: Sequence[memphis_sync.Message]) -> None:
    """Has the group get messages again, at once."""
    for message in messages:
        with contextlib.suppress(MemphisError):  # it gets them again after their ack time
            message.nack()
