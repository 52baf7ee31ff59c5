"""
The control plane: answers the ``$memphis_*`` requests on one NATS connection.

Rules:
* Every request gets exactly one reply, whatever it holds: an unforeseen error is logged and told to the client.
* Requests are served side by side, at most MAX_AT_ONCE of them; more wait in the connection's buffer.
* Every request ends within LONGEST_S: what waits for something that does not come must not hold a slot for ever. What
  was begun is finished by the next request for it, or by the recovery.
* While the server is away, and until the recovery has seen what it lost, requests wait.
* Several copies share the requests through Memphis' queue groups.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
import uuid
from collections.abc import Awaitable
from typing import Any, Callable, Optional

from nats.aio.msg import Msg
from nats.errors import Error as NatsError, TimeoutError as NatsTimeoutError
from nats.js.errors import APIError

from memphis_sync._protocol import subjects
from memphis_sync._protocol.control import GoJsonError, ProducerReply, SchemaActivateReply
from memphis_sync._protocol.names import NameRuleError
from memphis_sync._protocol.streams import SettingError
from memphis_sync.broker.options import BrokerError, BrokerOptions
from memphis_sync.broker.request_error import RequestError
from memphis_sync.broker.service.connection import PENDING_BYTES, ServiceConnection
from memphis_sync.broker.service.consumers import Consumers
from memphis_sync.broker.service.dead_letter_ingest import DeadLetterIngest
from memphis_sync.broker.service.dead_letters import DeadLetters
from memphis_sync.broker.service.notifications import Notifications
from memphis_sync.broker.service.producers import Producers
from memphis_sync.broker.service.recovery import Recovery
from memphis_sync.broker.service.schemas import Schemas
from memphis_sync.broker.service.stations import Stations
from memphis_sync.broker.service.users import Users
from memphis_sync.broker.storage.dead_letters import DeadLetterStore
from memphis_sync.broker.storage.expiry import Expiry
from memphis_sync.broker.storage.jetstream_api import JetStreamApi, JetStreamError, is_no_room
from memphis_sync.broker.storage.leases import Leases
from memphis_sync.broker.storage.tables import State
from memphis_sync.errors import ConnectError

log = logging.getLogger("memphis_sync.broker")

MAX_AT_ONCE = 256
LONGEST_S = 20.0  # what clients wait for a creation; then they ask again
_MAX_TEXT = 4096  # of an error text: a name of megabytes isn't sent back
_CONNECT_S = 5

Handler = Callable[[bytes], Awaitable[Any]]
ErrorBody = Callable[[str], bytes]


def _plain(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _json_error(text: str) -> bytes:
    return json.dumps({"error": text}, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _producer_error(text: str) -> bytes:
    return ProducerReply(error=text).encode()


def _activation_error(text: str) -> bytes:
    return SchemaActivateReply(error=text).encode()


class Service:
    """
    One copy of the control plane.

    Args:
        options: The broker's options.
        url: The NATS server, or several separated by commas.
        login: Arguments of ``nats.connect()`` that log in.
        trouble: Says what is wrong with the server's disk, for error texts; "" when nothing is.
    """

    def __init__(
        self, options: BrokerOptions, url: str, login: dict[str, Any], trouble: Callable[[], str] = lambda: ""
    ) -> None:
        self._options = options
        self._url = url
        self._login = login
        self._trouble = trouble
        self._id = str(uuid.uuid4())
        self._connection = ServiceConnection()
        self._slots = asyncio.Semaphore(MAX_AT_ONCE)
        self._running: set[asyncio.Task[None]] = set()
        self._upkeep: list[asyncio.Task[None]] = []
        self._recovery: Optional[Recovery] = None
        self._is_whole: asyncio.Event
        self._ingest: Optional[DeadLetterIngest] = None
        self._is_stopping = False
        self._ended: asyncio.Future[str]

    async def wait_ended(self) -> str:
        """Waits until the connection to the NATS server has ended for good; why it has. For a started service."""
        return await asyncio.shield(self._ended)

    async def start(self) -> None:
        """
        Connects, opens the state, subscribes; when it returns, requests are answered.

        Raises:
            BrokerError: The server can't be reached, refuses the login, or has no JetStream.
        """
        self._is_whole = asyncio.Event()  # here: Python 3.9 binds it to the loop
        self._ended = asyncio.get_running_loop().create_future()
        self._connection = await self._connect()
        try:
            await JetStreamApi(self._connection).request("INFO")
            state, store, self._ingest = await self._open_state()
        except (JetStreamError, NatsError) as exc:
            raise BrokerError(f"JetStream on the NATS server cannot be used: {exc}") from exc
        handlers, recovery = self._handlers(state, store, self._ingest)
        self._recovery = recovery
        await self._restore()
        await recovery.start()
        for subject, (handler, error_body) in handlers.items():
            await self._connection.subscribe(
                subject,
                queue=subjects.queue_group(subject),
                cb=self._dispatcher(subject, handler, error_body),
                pending_bytes_limit=PENDING_BYTES,
            )
        notify = self._dispatcher(subjects.NOTIFICATIONS, Notifications().take, _plain)
        await self._connection.subscribe(subjects.NOTIFICATIONS, queue="memphis_notifications_group", cb=notify)
        await self._connection.flush()
        for upkeep in (Expiry(self._connection, state).run(), recovery.run()):
            self._upkeep.append(asyncio.create_task(upkeep))

    async def stop(self) -> None:
        """Answers what has been taken, then closes."""
        self._is_stopping = True
        for task in self._upkeep:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=2.0)
        if self._ingest is not None:
            await self._ingest.stop()
        with contextlib.suppress(NatsError):  # the server may be gone by now
            await self._connection.close()

    async def _connect(self) -> ServiceConnection:
        """A wrong address or login is told at once; a connection that was lost later comes back by itself."""
        servers = self._url.split(",")
        connection = ServiceConnection()
        try:
            await connection.open(
                time.monotonic() + _CONNECT_S,
                servers=servers,
                name=f"{self._id}::memphis-sync broker",
                connect_timeout=_CONNECT_S,
                max_reconnect_attempts=-1,
                reconnect_time_wait=0.1,
                error_cb=connection.on_error,
                disconnected_cb=self._on_lost,
                reconnected_cb=self._on_back,
                closed_cb=self._on_closed,
                **self._login,
            )
        except (ConnectError, NatsError, ValueError) as exc:
            raise BrokerError(f"the NATS server cannot be used: {exc}") from exc
        return connection

    async def _on_closed(self) -> None:
        """nats-py will not connect again: without a word from here the process would live on, and hear nothing."""
        if not self._is_stopping and not self._ended.done():
            refusal = self._connection.refusal
            self._ended.set_result(f"it refused the login ({refusal})" if refusal else "the connection was closed")

    async def _open_state(self) -> tuple[State, DeadLetterStore, DeadLetterIngest]:
        """What is remembered from before; from now on dead letters are taken as they come."""
        options = self._options
        store = DeadLetterStore(self._connection, options.replicas, options.dls_retention_hours * 3600)
        state, _ = await asyncio.gather(State.open(self._connection.jetstream(), options.replicas), store.open())
        ingest = DeadLetterIngest(self._connection, state, store, options.replicas)
        await ingest.start()
        return state, store, ingest

    def _handlers(
        self, state: State, store: DeadLetterStore, ingest: DeadLetterIngest
    ) -> tuple[dict[str, tuple[Handler, ErrorBody]], Recovery]:
        api = JetStreamApi(self._connection)
        users = Users(self._options.usernames)
        leases = Leases(self._connection, self._id)
        stations = Stations(self._connection, api, state, users, leases, store)
        producers = Producers(state, stations, users)
        schemas = Schemas(self._connection, state, stations)
        consumers = Consumers(self._connection, api, state, stations, users, leases, ingest)
        dead_letters = DeadLetters(self._connection, state, users, store)
        recovery = Recovery(self._connection, api, state, stations, consumers)
        handlers: dict[str, tuple[Handler, ErrorBody]] = {
            subjects.STATION_CREATE: (stations.create, _plain),
            subjects.STATION_DESTROY: (stations.destroy, _plain),
            subjects.PRODUCER_CREATE: (producers.create, _producer_error),
            subjects.PRODUCER_DESTROY: (producers.destroy, _plain),
            subjects.CONSUMER_CREATE: (consumers.create, _plain),
            subjects.CONSUMER_DESTROY: (consumers.destroy, _plain),
            subjects.SCHEMA_CREATE: (schemas.create, _json_error),
            subjects.SCHEMA_ATTACH: (schemas.attach, _plain),
            subjects.SCHEMA_DETACH: (schemas.detach, _plain),
            subjects.SCHEMA_ACTIVATE: (schemas.activate, _activation_error),
            subjects.DEAD_LETTER_REPORT: (ingest.report, _plain),
            subjects.GIVEN_BACK: (ingest.given_back, _plain),
            subjects.OWED: (ingest.owed, _json_error),
            subjects.DEAD_LETTER_LIST: (dead_letters.list_page, _json_error),
            subjects.DEAD_LETTER_DATA: (dead_letters.data_piece, _json_error),
            subjects.DEAD_LETTER_RESEND: (dead_letters.resend, _json_error),
            subjects.DEAD_LETTER_DROP: (dead_letters.drop, _json_error),
        }
        return handlers, recovery

    def _dispatcher(self, subject: str, handler: Handler, error_body: ErrorBody) -> Callable[[Msg], Awaitable[None]]:
        """What a subscription calls: takes a slot, then serves the request beside the others."""

        async def dispatch(message: Msg) -> None:
            await self._slots.acquire()
            task = asyncio.create_task(self._serve(subject, handler, error_body, message))
            self._running.add(task)
            task.add_done_callback(self._done)

        return dispatch

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._slots.release()

    async def _handle(self, handler: Handler, body: bytes) -> Any:
        await self._is_whole.wait()
        return await handler(body)

    async def _serve(self, subject: str, handler: Handler, error_body: ErrorBody, message: Msg) -> None:
        reply: Optional[bytes]
        try:
            result = await asyncio.wait_for(self._handle(handler, message.data), LONGEST_S)
            reply = b"" if result is None else result.encode()
        except Exception as exc:  # noqa: BLE001  each becomes an answer
            reply = error_body(self._error_text(subject, exc)[:_MAX_TEXT])
        if not message.reply:
            return
        try:
            await self._connection.publish(message.reply, reply)
        except (NatsError, ValueError) as exc:  # closed meanwhile, or a reply subject that nothing can be sent to
            self._connection.complain(f"a reply on {subject} could not be sent: {exc}")

    def _error_text(self, subject: str, exc: Exception) -> str:
        """What the client is told; official ones ask again when they read "timeout"."""
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

    async def _on_lost(self) -> None:
        self._is_whole.clear()
        log.info("the connection to the NATS server is gone")

    async def _on_back(self) -> None:
        log.info("connected to the NATS server again")
        self._upkeep = [task for task in self._upkeep if not task.done()]
        self._upkeep.append(asyncio.create_task(self._restore()))

    async def _restore(self) -> None:
        """Makes again what the server has lost; requests wait for it, but not for what cannot be restored now."""
        try:
            if self._recovery is not None:
                await self._recovery.sweep()
        finally:
            self._is_whole.set()
        if self._ingest is not None:
            self._ingest.make_good()
