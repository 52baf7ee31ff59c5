"""
How requests are served: one table from the class of a request to its handler; the rest follows from the class.

Rules:
* Every request gets exactly one reply, whatever it contains: an unexpected error is logged and reported to the client.
* Requests are served side by side, at most MAX_AT_ONCE of them; more wait in the connection's buffer.
* Every request ends within LONGEST_S: one that waits for what never comes must not hold a slot for ever. What it has
  begun is finished by the next request for it, or by the recovery.
* Several copies share the requests through Memphis' queue groups.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any, Callable, Optional

from nats.aio.msg import Msg
from nats.errors import Error as NatsError, TimeoutError as NatsTimeoutError
from nats.js.errors import APIError

from memphis_sync._protocol.body import Reply, Request
from memphis_sync._protocol.go_json import GoJsonError
from memphis_sync._protocol.names import NameRuleError
from memphis_sync._protocol.streams import SettingError
from memphis_sync.broker.request_error import RequestError
from memphis_sync.broker.service.connection import PENDING_BYTES, ServiceConnection
from memphis_sync.broker.storage.jetstream_api import JetStreamError, is_no_room

log = logging.getLogger("memphis_sync.broker")

MAX_AT_ONCE = 256
LONGEST_S = 20.0  # what clients wait for a creation; then they ask again
_MAX_TEXT = 4096  # of an error text: a name of megabytes isn't sent back

Kind = type[Request[Any]]
Handler = Callable[[Any], Awaitable[Optional[Reply]]]  # None stands for an empty reply
Routes = dict[Kind, Handler]


class Router:
    """
    Serves requests; create it on the loop.

    Args:
        trouble: Returns what is wrong with the server's disk, for error texts; "" when nothing is.

    Attributes:
        is_open: Requests wait until it is set.
    """

    def __init__(self, trouble: Callable[[], str]) -> None:
        self.is_open = asyncio.Event()
        self._connection: ServiceConnection
        self._trouble = trouble
        self._slots = asyncio.Semaphore(MAX_AT_ONCE)
        self._running: set[asyncio.Task[None]] = set()

    async def listen(self, connection: ServiceConnection, routes: Routes) -> None:
        """Subscribes to the requests of a table; they come once the server has read that."""
        self._connection = connection
        for kind, handler in routes.items():
            await connection.subscribe(
                kind.SUBJECT,
                queue=kind.queue_group(),
                cb=self._dispatcher(kind, handler),
                pending_bytes_limit=PENDING_BYTES,
            )

    async def finish(self, timeout_s: float) -> None:
        """Waits until the requests that were received are answered."""
        if self._running:
            await asyncio.wait(self._running, timeout=timeout_s)

    def _dispatcher(self, kind: Kind, handler: Handler) -> Callable[[Msg], Awaitable[None]]:
        """What a subscription calls: takes a slot, then serves the request beside the others."""

        async def dispatch(message: Msg) -> None:
            await self._slots.acquire()
            task = asyncio.create_task(self._serve(kind, handler, message))
            self._running.add(task)
            task.add_done_callback(self._done)

        return dispatch

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._slots.release()

    async def _answer(self, kind: Kind, handler: Handler, body: bytes) -> Optional[Reply]:
        await self.is_open.wait()
        return await handler(kind.decode(body))

    async def _serve(self, kind: Kind, handler: Handler, message: Msg) -> None:
        try:
            reply = await asyncio.wait_for(self._answer(kind, handler, message.data), LONGEST_S) or kind.REPLY()
        except Exception as exc:  # noqa: BLE001  each becomes an answer
            reply = kind.REPLY(error=self._error_text(kind.SUBJECT, exc)[:_MAX_TEXT])
        if not message.reply:
            return
        try:
            await self._connection.publish(message.reply, reply.encode())
        except (NatsError, ValueError) as exc:  # closed meanwhile, or a reply subject that nothing can be sent to
            self._connection.complain(f"a reply on {kind.SUBJECT} could not be sent: {exc}")

    def _error_text(self, subject: str, exc: Exception) -> str:
        """The error text for the client; official clients ask again when they read "timeout"."""
        if isinstance(exc, (GoJsonError, RequestError, NameRuleError, SettingError)):
            return str(exc)
        trouble = self._trouble()
        if is_no_room(exc):
            text = f"{exc.description} ({exc.err_code})" if isinstance(exc, APIError) else str(exc)
            trouble = trouble or "the NATS server's store has reached its limit: consume or remove messages"
        elif isinstance(exc, JetStreamError):
            text = str(exc)
        elif isinstance(exc, NatsTimeoutError):
            text = "timeout: the NATS server did not answer; ask again"
        elif isinstance(exc, asyncio.TimeoutError):
            log.warning("a request on %s was not served within %g s", subject, LONGEST_S)
            text = f"timeout: the broker did not serve this request within {LONGEST_S:g} s; ask again"
        else:
            log.error("a request on %s could not be served", subject, exc_info=exc)
            text = f"the broker could not serve this request: {type(exc).__name__}"
        return f"{text}; {trouble}" if trouble else text
