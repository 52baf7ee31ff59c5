"""
Reports schema failures to the broker, in the background.

A report never delays or fails the call that makes it. What cannot be sent is logged: the caller has its own error, and
the message itself.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Optional

from memphis_sync._base import primitives
from memphis_sync._base.logs import Log
from memphis_sync._control import ControlLink
from memphis_sync._control.dead_letters import tell
from memphis_sync._protocol.body import Request
from memphis_sync._protocol.requests import Notification
from memphis_sync.errors import MemphisError

if TYPE_CHECKING:
    from memphis_sync._session.event_loop import LoopThread

log = Log("memphis_sync.schema")

MAX_BYTES = 16 * 1024 * 1024  # of reports that wait; a program that produces nothing but invalid messages stays small
_AT_ONCE = 64  # reports in one round trip
_SEND_S = 20.0  # a broker that is restarted is back by then; nobody waits for it but what comes after
_BUSY_S = 0.001


class FailureReporter:
    """
    The reports of one client.

    Args:
        loop: Where they are sent from.
    """

    def __init__(self, loop: LoopThread) -> None:
        self._loop = loop
        # Guards the four below; never held across IO or another lock. The loop does not wait for it: who holds it may
        # have been interrupted by a signal handler that waits for the loop.
        self._lock = primitives.RLock()
        self._waiting: deque[tuple[Request[Any], int]] = deque()
        self._bytes = 0
        self._dropped = 0
        self._is_sending = False
        self._task: Optional[asyncio.Task[None]] = None  # on the loop

    def add(self, control: ControlLink, reports: Sequence[Request[Any]], *, is_memphis: bool) -> None:
        """
        Sends them soon; from any thread. Our broker says of a dead letter that it keeps it.

        Raises:
            ClosedError: The client is closed.
        """
        messages = [(report, len(report.encode())) for report in reports]
        size = sum(each for _, each in messages)
        with self._lock:
            if self._bytes + size > MAX_BYTES:
                self._dropped += len(messages)
                return
            self._waiting.extend(messages)
            self._bytes += size
            if self._is_sending:
                return
            self._is_sending = True
        try:
            self._loop.post(self._start, control, is_memphis)
        except MemphisError:
            with self._lock:
                self._is_sending = False
            raise

    async def drain(self) -> None:
        """Waits until what was added is sent or given up."""
        while self._task is not None and not self._task.done():
            await asyncio.wait([self._task])

    def _start(self, control: ControlLink, is_memphis: bool) -> None:
        self._task = asyncio.get_running_loop().create_task(self._send(control, is_memphis=is_memphis))

    async def _send(self, control: ControlLink, *, is_memphis: bool) -> None:
        async def send(report: Request[Any]) -> None:
            is_told = is_memphis or isinstance(report, Notification)  # nobody answers a notification
            await tell(control, report, _SEND_S, "the report of a schema failure", is_memphis=is_told)

        while True:
            while not self._lock.acquire(blocking=False):  # noqa: ASYNC110  its holders are threads
                await asyncio.sleep(_BUSY_S)
            try:
                batch = [self._waiting.popleft() for _ in range(min(_AT_ONCE, len(self._waiting)))]
                self._bytes -= sum(size for _, size in batch)
                dropped, self._dropped = self._dropped, 0
                self._is_sending = bool(batch)
            finally:
                self._lock.release()
            if dropped:
                log.warning("%d reports of schema failures were dropped: they came faster than they go", dropped)
            if not batch:
                return
            results = await asyncio.gather(*(send(report) for report, _ in batch), return_exceptions=True)
            failed = [result for result in results if isinstance(result, Exception)]
            if failed:
                log.warning("%d reports of schema failures could not be sent: %s", len(failed), failed[0])
