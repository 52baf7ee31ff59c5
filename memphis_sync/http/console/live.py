"""
Live numbers by server-sent events.

Rules:
* One poller for each user and topic, shared by all pages of that user; it ends soon after its last page was closed.
* A reader gets the newest figures, never a queue of older ones: a slow one misses some, and holds no memory. One that
  takes nothing is cut off by the connection, as from any answer.
* A poll that takes long is followed by a pause that is longer: looking costs the broker a tenth of a connection's time.
* All streams end with the login, and when the gateway ends, which would wait for them otherwise. A browser asks for a
  stream again by itself, but for one whose login has ended: that it is told.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Mapping
from typing import TYPE_CHECKING, Callable, NamedTuple, Optional

from starlette.responses import Response

from memphis_sync.errors import MemphisError
from memphis_sync.http.gateway.errors import Problem

from . import showing
from .samples import Rates, Sample, total

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from .logins import Login

PAUSE_S = 2.0
BUSY_FACTOR = 9  # times as long as the poll took
LINGER_S = 20.0  # a poller without pages goes on: the next page has its curve
KEPT = 90  # samples of a curve: three minutes
MOST_READERS = 32  # pages of one user
MOST_POLLERS = 256

Key = tuple[int, str, str]  # account, user, topic
Poll = Callable[[], Awaitable[Sample]]
Values = Callable[[Sample, Mapping[str, Rates]], Mapping[str, str]]


class Topic(NamedTuple):
    """
    What a page looks at.

    Attributes:
        name: The same for all pages that look at the same.
        poll: Asks the broker.
        values: What a page shows of that.
    """

    name: str
    poll: Poll
    values: Values


class _Poller:
    """Asks again and again while somebody looks, and keeps the newest answer."""

    def __init__(self, topic: Topic, forget: Callable[[], object]) -> None:
        self.topic = topic
        self.readers = 0
        self.update = b""
        self.changed = asyncio.Event()  # another one after each update
        self._forget = forget
        self._last: Optional[Sample] = None
        self._curves: dict[str, deque[float]] = {"in": deque(maxlen=KEPT), "out": deque(maxlen=KEPT)}
        self._unread_since = time.monotonic()
        self.task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        try:
            while self.readers or time.monotonic() - self._unread_since < LINGER_S:
                began = time.monotonic()
                values, problem = await self._poll()
                self.publish(values, problem)
                took = 0.0 if problem else time.monotonic() - began  # a failure has waited, and cost nobody anything
                await asyncio.sleep(max(PAUSE_S, BUSY_FACTOR * took))
        finally:
            self._forget()
            self.wake()

    async def _poll(self) -> tuple[Mapping[str, str], str]:
        try:
            sample = await self.topic.poll()
        except Problem as exc:
            return {}, showing.visible(exc.body.get("error") or exc.body.get("message") or exc)
        except MemphisError as exc:
            return {}, f"No newer figures: {showing.visible(exc)}"
        rates = sample.rates_since(self._last)
        self._last = sample
        if rates:
            every = total(rates.values())
            self._curves["in"].append(round(every.stored, 2))
            self._curves["out"].append(round(every.delivered, 2))
        return self.topic.values(sample, rates), ""

    def publish(self, values: Mapping[str, str], problem: str) -> None:
        """Keeps an answer, and wakes the readers."""
        body = {
            "values": values,
            "series": {name: list(each) for name, each in self._curves.items()},
            "problem": problem,
        }
        self.update = b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"
        self.wake()

    def wake(self) -> None:
        """Has the readers look."""
        self.changed.set()
        self.changed = asyncio.Event()

    def leave(self) -> None:
        """A reader goes."""
        self.readers -= 1
        self._unread_since = time.monotonic()


class Live:
    """All pollers. It belongs to the event loop."""

    def __init__(self) -> None:
        self._pollers: dict[Key, _Poller] = {}
        self._is_closed = False

    def room_for(self, login: Login) -> bool:
        """Whether one more page of this user may look."""
        own = [poller.readers for key, poller in self._pollers.items() if key[:2] == login.who]
        return max(sum(own), len(own)) < MOST_READERS and len(self._pollers) < MOST_POLLERS

    async def updates(self, login: Login, topic: Topic, is_in: Callable[[], bool]) -> AsyncGenerator[bytes, None]:
        """
        The events of one page, until its login or the gateway ends.

        Args:
            login: Whose page it is.
            topic: What it looks at.
            is_in: Whether the login goes on; a page that is looked at keeps it from being idle.
        """
        key = (*login.who, topic.name)
        poller = self._pollers.get(key)
        if poller is None:
            poller = self._pollers[key] = _Poller(topic, lambda: self._pollers.pop(key, None))
        poller.topic = topic  # with the client of a page that is there: the first one's may be closed
        poller.readers += 1
        try:
            changed = poller.changed
            if poller.update:
                yield poller.update
            while not self._is_closed and not poller.task.done():
                await changed.wait()
                changed = poller.changed
                if not is_in():
                    yield b"event: out\ndata:\n\n"
                    return
                if not self._is_closed:
                    yield poller.update
        finally:
            poller.leave()

    def close(self) -> None:
        """Ends all of it."""
        self._is_closed = True
        for poller in list(self._pollers.values()):
            poller.task.cancel()
            poller.wake()

    def wake(self, login: Login) -> None:
        """Has the pages of a user see that a login has ended."""
        for key, poller in self._pollers.items():
            if key[:2] == login.who:
                poller.wake()

    def __len__(self) -> int:
        return len(self._pollers)


class EventStream(Response):
    """
    Server-sent events: ends when the browser goes, or is cut off.

    Args:
        updates: The events.
    """

    media_type = "text/event-stream"

    def __init__(self, updates: AsyncGenerator[bytes, None]) -> None:
        super().__init__()
        del self.headers["content-length"]
        self.headers["X-Accel-Buffering"] = "no"  # a proxy would keep them back until there are many
        self._updates = updates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves a request."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        sending = asyncio.ensure_future(self._send(send))
        leaving = asyncio.ensure_future(_until_gone(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            for task in (sending, leaving):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, OSError):
                    await task

    async def _send(self, send: Send) -> None:
        try:
            async for update in self._updates:
                event = {"type": "http.response.body", "body": update, "more_body": True}
                await send(event)
        finally:
            await self._updates.aclose()
        await send({"type": "http.response.body", "body": b""})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
