"""What is asked to look at something: JetStream, with the user's own rights, and our broker; by one deadline."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Callable, Optional, TypeVar

from memphis_sync._control.api import NO_RESPONDERS
from memphis_sync._control.error_mapping import not_allowed
from memphis_sync._memory import refuse
from memphis_sync._protocol.body import R, Request
from memphis_sync._protocol.inspection import PageRequest
from memphis_sync.errors import DeadlineError, MemphisError, RemoteProtocolError, ServerError, StationNotFoundError

if TYPE_CHECKING:
    from memphis_sync._session import Session
    from memphis_sync.client import Memphis

_AT_ONCE = 64  # questions on their way at the same time
_ALL_THE_SAME_S = 1.0
T = TypeVar("T")


class Asking:
    """
    The questions of one call.

    Args:
        session: Whose links are used.
        timeout_s: For all of them, in seconds.
    """

    def __init__(self, session: Session, timeout_s: float) -> None:
        self._session = session
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self._slots = asyncio.Semaphore(_AT_ONCE)

    @property
    def is_memphis(self) -> bool:
        """Whether the broker is a Memphis broker, and has not our own requests."""
        return self._session.control.is_memphis

    @property
    def _left_s(self) -> float:
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise DeadlineError(
                f"the broker did not answer everything within {self._timeout_s:g} s", timeout_s=self._timeout_s
            )
        return left_s

    async def js(self, call: str, body: Optional[dict[str, Any]] = None) -> dict[str, Any]:
        """
        JetStream's answer; see ControlLink.js_api().

        Raises:
            ServerError: Also when the user is not allowed to ask this (code 403).
        """
        async with self._slots:
            work = self._session.control.js_api(call, body, self._left_s)
            return await self._unless_refused(work, f"$JS.API.{call}")

    async def js_or_none(self, call: str) -> Optional[dict[str, Any]]:
        """The same; None when there is no such stream."""
        try:
            return await self.js(call)
        except StationNotFoundError:
            return None

    async def pages(self, call: str, rows_of: str) -> list[Any]:
        """A list that JetStream sends in pages; *rows_of* names the list in each."""
        found: list[Any] = []
        while True:
            reply = await self.js(call, {"offset": len(found)})
            page = reply.get(rows_of) or []
            found += page
            if not page or len(found) >= int(reply.get("total", 0)):
                return found

    async def ours(self, request: Request[R], about: str) -> R:
        """
        Our broker's answer.

        Raises:
            ServerError: This is a Memphis broker (code 503): the text has what it offers instead.
        """
        if self.is_memphis:
            raise ServerError(request.INSTEAD, code=NO_RESPONDERS)
        work = self._session.requests.ask(request, about=about, timeout_s=self._left_s)
        return await self._unless_refused(work, request.SUBJECT)

    async def rows(self, request: PageRequest[Any], about: str) -> list[Any]:
        """The rows of our broker's answer, page by page. Raises as ours()."""
        found: list[Any] = []
        while True:
            page = await self.ours(request, about)
            found += page.rows
            if not page.after:
                return found
            request = dataclasses.replace(request, after=page.after)

    async def _unless_refused(self, work: Coroutine[Any, Any, T], subject: str) -> T:
        """
        What *work* returns. A Memphis broker does not answer what a user may not ask, and complains on the connection
        without saying what about; a server that says it is understood by ControlLink.request().
        """
        asking, complaint = asyncio.ensure_future(work), self._session.control.next_complaint()
        try:
            while True:
                both: set[asyncio.Future[Any]] = {asking, complaint}
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                if asking.done():
                    return asking.result()
                text, complaint = complaint.result()
                if '"' not in text and not await _is_done(asking):
                    raise not_allowed(subject, text)
        finally:
            asking.cancel()


async def _is_done(asking: asyncio.Future[Any]) -> bool:
    """Whether there is an answer all the same: the complaint was about something else."""
    return bool((await asyncio.wait({asking}, timeout=_ALL_THE_SAME_S))[0])


def run(client: Memphis, what: str, timeout_s: float, work: Callable[[Asking], Coroutine[Any, Any, T]]) -> T:
    """
    Runs a call's questions on the client's loop.

    Args:
        client: Whose links are used.
        what: The public call.
        timeout_s: For all of it, in seconds.
        work: What to ask, and what to make of it.

    Raises:
        RemoteProtocolError: An answer is not what it must be.
        UsageError: There is no broker (``memory://``).
    """
    session = client._session.checked()
    if session.options.is_memory:
        refuse(f"{what} has nothing to look at")

    async def ask() -> T:
        try:
            return await work(Asking(session, timeout_s))
        except MemphisError:  # some are ValueErrors
            raise
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            raise RemoteProtocolError(f"{what}: an answer of the broker cannot be read: {exc!r}") from exc

    return session.call(ask, timeout_s, what)
