"""A plain NATS connection for tests of the control plane: it asks, waits for one reply, and looks into JetStream."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Coroutine
from typing import Any, Callable, Optional, TypeVar

from nats.aio.client import Client

from memphis_sync._protocol.body import Body, R, Request
from memphis_sync._protocol.requests import (
    ConsumerCreate,
    ConsumerDestroy,
    ProducerCreate,
    ProducerDestroy,
    SchemaActivate,
    SchemaAttach,
    SchemaCreate,
    SchemaDetach,
    StationCreate,
    StationDestroy,
)
from memphis_sync.broker import BrokerProcess
from memphis_sync.broker.storage.connections import open_connections

T = TypeVar("T")


def kinds(base: type[Body] = Body) -> list[type[Body]]:
    """All classes of what goes to the broker on a subject of Memphis' or our own, below *base*."""
    found = [base] if base.SUBJECT.startswith("$memphis_") else []
    below = [kind for each in base.__subclasses__() for kind in kinds(each)]
    return list(dict.fromkeys(found + below))  # some have two bases


async def _close(connection: Client) -> None:
    """Also a connection that was lost, and whose end nats-py had only begun when this loop last ran."""
    await connection.close()
    begun = asyncio.all_tasks() - {asyncio.current_task()}
    if begun:
        await asyncio.wait(begun, timeout=1)
    await asyncio.sleep(0.05)  # the transport closes itself in the loop's next rounds


class ControlClient:
    """One connection and its own event loop; a context manager."""

    def __init__(
        self, broker: BrokerProcess, *, connection_id: str = "test-id", username: str = "root", **login: Any
    ) -> None:
        self.connection_id = connection_id
        self.user = username
        self._loop = asyncio.new_event_loop()
        self._url = f"nats://{broker.host}:{broker.port}"
        if not login:
            login = {"token": broker.token} if broker.token else {"user": "root$1", "password": broker.password}
        self._login = login
        self.connection: Optional[Client] = None

    def __enter__(self):
        async def connect() -> Client:
            async def quiet(_: Exception) -> None: ...

            connection = Client()
            try:
                await connection.connect(
                    self._url,
                    name=f"{self.connection_id}::{self.user}",
                    allow_reconnect=False,
                    error_cb=quiet,
                    connect_timeout=5,
                    **self._login,
                )
            except BaseException:
                await _close(connection)
                raise
            return connection

        try:
            self.connection = self.run(connect())
        except BaseException:
            self._loop.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self.connection is not None
        self.run(_close(self.connection))
        self._loop.close()

    def run(self, coro: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(coro)

    def raw(self, subject: str, body: bytes, *, headers: Optional[dict[str, str]] = None) -> bytes:
        """One request, its reply's body."""
        assert self.connection is not None
        return self.run(self.connection.request(subject, body, timeout=10, headers=headers)).data

    def tell(self, subject: str, body: bytes) -> None:
        """Publishes what nobody answers; the server has it afterwards."""
        assert self.connection is not None
        self.run(self.connection.publish(subject, body))
        self.run(self.connection.flush())

    def listen(self, subject: str) -> Callable[[], bytes]:
        """Subscribes; a call of what it returns waits for the next body."""
        assert self.connection is not None
        subscription = self.run(self.connection.subscribe(subject))
        self.run(self.connection.flush())
        return lambda: self.run(subscription.next_msg(10)).data

    def ask(self, request: Request[Any]) -> str:
        """A request, its reply as it came; "" is the success of a plain one."""
        return self.raw(request.SUBJECT, request.encode()).decode()

    def send(self, request: Request[R]) -> R:
        """A request, its reply as the client reads it."""
        reply: R = request.REPLY.decode(self.raw(request.SUBJECT, request.encode()))
        return reply

    def station(self, name: str, **settings: Any) -> str:
        return self.ask(StationCreate(**{"name": name, "username": self.user, **settings}))

    def destroy_station(self, name: str, **settings: Any) -> str:
        return self.ask(StationDestroy(**{"station_name": name, "username": self.user, **settings}))

    def producer(self, station: str, name: str = "p", **settings: Any) -> dict[str, Any]:
        fields = {"name": name, "station_name": station, "connection_id": self.connection_id, "username": self.user}
        reply: dict[str, Any] = json.loads(self.ask(ProducerCreate(**{**fields, **settings})))
        return reply

    def destroy_producer(self, station: str, name: str = "p", **settings: Any) -> str:
        fields = {"name": name, "station_name": station, "connection_id": self.connection_id, "username": self.user}
        return self.ask(ProducerDestroy(**{**fields, **settings}))

    def consumer(self, station: str, name: str = "c", **settings: Any) -> str:
        fields = {"name": name, "station_name": station, "connection_id": self.connection_id, "username": self.user}
        return self.ask(ConsumerCreate(**{**fields, **settings}))

    def destroy_consumer(self, station: str, name: str = "c", **settings: Any) -> str:
        fields = {"name": name, "station_name": station, "connection_id": self.connection_id, "username": self.user}
        return self.ask(ConsumerDestroy(**{**fields, **settings}))

    def schema(self, name: str, kind: str, content: str) -> str:
        """Creates a schema or a version; "" is success."""
        request = SchemaCreate(name=name, type=kind, created_by_username=self.user, schema_content=content)
        return self.send(request).error

    def attach(self, name: str, station: str) -> str:
        return self.ask(SchemaAttach(name=name, station_name=station, username=self.user))

    def detach(self, station: str) -> str:
        return self.ask(SchemaDetach(station_name=station, username=self.user))

    def activate(self, name: str, version: int = 0) -> dict[str, Any]:
        request = SchemaActivate(name=name, version_number=version, username=self.user)
        reply: dict[str, Any] = json.loads(self.ask(request))
        return reply

    def jetstream(self, operation: str, body: Optional[dict[str, Any]] = None) -> dict[str, Any]:
        """One request to JetStream's API."""
        reply: dict[str, Any] = json.loads(self.raw(f"$JS.API.{operation}", json.dumps(body).encode() if body else b""))
        return reply

    def stream(self, stream: str) -> dict[str, Any]:
        """A stream's configuration; fails when there is none."""
        reply = self.jetstream(f"STREAM.INFO.{stream}")
        assert "error" not in reply, reply
        config: dict[str, Any] = reply["config"]
        return config

    def durable(self, stream: str, durable: str) -> Optional[dict[str, Any]]:
        """A durable's information; None when there is none."""
        reply = self.jetstream(f"CONSUMER.INFO.{stream}.{durable}")
        return None if "error" in reply else reply

    def wait_until_gone(self, connection_id: str) -> None:
        """Waits until the server has noticed that a connection was closed."""
        deadline = time.monotonic() + 10
        while connection_id in (self.run(open_connections(self.connection)) or ()):
            assert time.monotonic() < deadline, f"{connection_id} is still connected"

    def publish(self, subject: str, body: bytes) -> dict[str, Any]:
        """Publishes into a stream and gives the server's ack."""
        reply: dict[str, Any] = json.loads(self.raw(subject, body))
        return reply
