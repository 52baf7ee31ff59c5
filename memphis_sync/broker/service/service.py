"""
The control plane: answers the ``$memphis_*`` requests on one NATS connection.

Rules:
* Requests wait while the server cannot be reached, and until the recovery has checked what it lost.
* For each request the rules in routing.py hold.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from typing import Any, Callable, Optional

from nats.errors import Error as NatsError

from memphis_sync.broker.options import BrokerError, BrokerOptions
from memphis_sync.broker.service.connection import ServiceConnection
from memphis_sync.broker.service.consumers import Consumers
from memphis_sync.broker.service.dead_letter_ingest import DeadLetterIngest
from memphis_sync.broker.service.dead_letters import DeadLetters
from memphis_sync.broker.service.inspection import Inspection
from memphis_sync.broker.service.notifications import Notifications
from memphis_sync.broker.service.part import Shared
from memphis_sync.broker.service.producers import Producers
from memphis_sync.broker.service.recovery import Recovery
from memphis_sync.broker.service.routing import Router
from memphis_sync.broker.service.schemas import Schemas
from memphis_sync.broker.service.stations import Stations
from memphis_sync.broker.storage.dead_letter_stream import DeadLetterStream
from memphis_sync.broker.storage.dead_letters import DeadLetterStore
from memphis_sync.broker.storage.expiry import Expiry
from memphis_sync.broker.storage.given_back import GivenBackStore
from memphis_sync.broker.storage.jetstream_api import JetStreamApi, JetStreamError, is_unanswered
from memphis_sync.broker.storage.leases import Leases
from memphis_sync.broker.storage.tables import State
from memphis_sync.errors import ConnectError

log = logging.getLogger("memphis_sync.broker")

_CONNECT_S = 5
_FINISH_S = 2.0
_ELECTIONS_S = 60.0  # a cluster that was just started needs a few of these seconds
_LOOK_AGAIN_S = 0.5


class Service:
    """
    One copy of the control plane; create it on the loop that it runs on.

    Args:
        options: The broker's options.
        url: The NATS server, or several separated by commas.
        login: Arguments of ``nats.connect()`` that log in.
        trouble: Returns what is wrong with the server's disk, for error texts; "" when nothing is.
    """

    def __init__(
        self, options: BrokerOptions, url: str, login: dict[str, Any], trouble: Callable[[], str] = lambda: ""
    ) -> None:
        self._options = options
        self._url = url
        self._login = login
        self._id = str(uuid.uuid4())
        self._connection = ServiceConnection()
        self._upkeep: list[asyncio.Task[None]] = []
        self._recovery: Optional[Recovery] = None
        self._router = Router(trouble)
        self._ingest: Optional[DeadLetterIngest] = None
        self._is_stopping = False
        self._ended: asyncio.Future[str]

    async def wait_ended(self) -> str:
        """Waits until the connection of a started service has ended for good; returns why."""
        return await asyncio.shield(self._ended)

    async def start(self) -> None:
        """
        Connects, opens the state, subscribes; when it returns, requests are answered.

        Raises:
            BrokerError: The server can't be reached, refuses the login, or has no JetStream.
        """
        self._ended = asyncio.get_running_loop().create_future()
        self._connection = await self._connect()
        shared, self._ingest = await self._open_when_ready()
        stations = Stations(shared)
        consumers = Consumers(shared, stations, self._ingest.forget_group)
        served = (stations, consumers, Producers(shared, stations), Schemas(shared, stations), DeadLetters(shared))
        self._recovery = Recovery(shared, stations, consumers)
        await self._restore()
        await self._recovery.start()
        for part in (*served, Inspection(shared), self._ingest, Notifications()):
            await self._router.listen(self._connection, part.routes)
        await self._connection.flush()
        for upkeep in (Expiry(self._connection, shared.state).run(), self._recovery.run()):
            self._upkeep.append(asyncio.create_task(upkeep))

    async def stop(self) -> None:
        """Answers the requests that were received, then closes."""
        self._is_stopping = True
        for task in self._upkeep:
            task.cancel()
        await self._router.finish(_FINISH_S)
        if self._ingest is not None:
            await self._ingest.stop()
        with contextlib.suppress(NatsError):  # the server may have ended already
            await self._connection.close()

    async def _connect(self) -> ServiceConnection:
        """A wrong address or login is an error at once; a connection that is lost later comes back by itself."""
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
        """nats-py will not connect again: unless this ends the process, it lives on without requests."""
        if not self._is_stopping and not self._ended.done():
            refusal = self._connection.refusal
            self._ended.set_result(f"it refused the login ({refusal})" if refusal else "the connection was closed")

    async def _open_when_ready(self) -> tuple[Shared, DeadLetterIngest]:
        """Opens what is stored. While a cluster elects its leaders, JetStream does not answer, and is waited for."""
        deadline = time.monotonic() + _ELECTIONS_S
        while True:
            try:
                await JetStreamApi(self._connection).request("INFO")
                shared = await self._open()
                ingest = DeadLetterIngest(shared)  # from now on dead letters are handled as they come
                await ingest.start()
            except (JetStreamError, NatsError) as exc:
                if not is_unanswered(exc) or time.monotonic() > deadline:
                    raise BrokerError(f"JetStream on the NATS server cannot be used: {exc}") from exc
                log.info("JetStream on the NATS server does not answer yet: %s", exc)
            else:
                return shared, ingest
            await asyncio.sleep(_LOOK_AGAIN_S)

    async def _open(self) -> Shared:
        """Opens what is stored."""
        connection, replicas = self._connection, self._options.replicas
        stream = DeadLetterStream(connection, replicas, self._options.dls_retention_hours * 3600)
        state, _ = await asyncio.gather(State.open(connection.jetstream(), replicas), stream.open())
        store, users, leases = DeadLetterStore(stream), self._options.usernames, Leases(connection, self._id)
        given_back = GivenBackStore(stream, store)
        return Shared(connection, JetStreamApi(connection), state, users, leases, store, given_back, replicas)

    async def _on_lost(self) -> None:
        self._router.is_open.clear()
        log.info("the connection to the NATS server was lost")

    async def _on_back(self) -> None:
        log.info("connected to the NATS server again")
        self._upkeep = [task for task in self._upkeep if not task.done()]
        self._upkeep.append(asyncio.create_task(self._restore()))

    async def _restore(self) -> None:
        """Restores what the server has lost. Requests wait for that, but not for what cannot be restored now."""
        try:
            if self._recovery is not None:
                await self._recovery.sweep()
        finally:
            self._router.is_open.set()
        if self._ingest is not None:
            self._ingest.make_good()
