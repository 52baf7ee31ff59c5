"""JetStream's API, as requests and replies in plain JSON: the bodies must be exactly those of a Memphis broker."""

from __future__ import annotations

import asyncio
import calendar
import json
import time
from collections.abc import Awaitable, Iterable, Mapping
from typing import Any, Optional, TypeVar

from nats.aio.client import Client
from nats.errors import ConnectionClosedError, NoRespondersError, TimeoutError as NatsTimeoutError
from nats.js.errors import APIError

TIMEOUT_S = 10.0  # half of what the official clients wait for a creation
_NS_PER_S = 1_000_000_000
_PARALLEL = 32  # requests of one station or group at once: a station may have thousands of partitions

CONSUMER_NOT_FOUND = 10014
STREAM_NOT_FOUND = 10059
STREAM_EXISTS = 10058  # with another configuration
REPLICAS_WITHOUT_CLUSTER = 10074
NO_SUITABLE_PEERS = 10005
NO_ROOM = (10002, 10023, 10028, 10047)  # limits of the account, of the server, of its memory and of its store
CONSUMER_EXISTS = (10105, 10148)  # in use as another kind; exists with another configuration


class JetStreamError(Exception):
    """
    JetStream refused a request, or did not answer.

    Attributes:
        err_code: JetStream's own code; 0 when there was no answer.
    """

    def __init__(self, description: str, err_code: int = 0) -> None:
        super().__init__(f"{description} ({err_code})" if err_code else description)
        self.err_code = err_code


def is_no_room(exc: BaseException) -> bool:
    """Whether JetStream refused to store something because a limit is reached."""
    return isinstance(exc, (JetStreamError, APIError)) and exc.err_code in NO_ROOM


class JetStreamApi:
    """Requests to ``$JS.API.*`` on one connection."""

    def __init__(self, connection: Client) -> None:
        self._connection = connection
        self._slots = asyncio.Semaphore(_PARALLEL)

    async def request(self, operation: str, body: Optional[Mapping[str, Any]] = None) -> dict[str, Any]:
        """
        One request.

        Args:
            operation: What follows ``$JS.API.``.
            body: Its JSON; an empty payload when None.

        Raises:
            JetStreamError: It was refused, or not answered in TIMEOUT_S.
        """
        payload = b"" if body is None else json.dumps(body, separators=(",", ":")).encode()
        async with self._slots:
            try:
                message = await self._connection.request(f"$JS.API.{operation}", payload, timeout=TIMEOUT_S)
            except NoRespondersError as exc:
                raise JetStreamError("JetStream is not enabled on the server") from exc
            except NatsTimeoutError as exc:  # clients ask again when they read "timeout"
                raise JetStreamError(f"timeout: JetStream did not answer in {TIMEOUT_S:g} s") from exc
            except ConnectionClosedError as exc:
                raise JetStreamError("timeout: the broker is stopping") from exc
        reply: dict[str, Any] = json.loads(message.data)
        if "error" in reply:
            error = reply["error"]
            raise JetStreamError(error.get("description", "JetStream error"), error.get("err_code", 0))
        return reply

    async def ensure_stream(self, config: Mapping[str, Any]) -> None:
        """Makes a stream, or gives the one of that name the configuration."""
        try:
            await self.request(f"STREAM.CREATE.{config['name']}", config)
        except JetStreamError as exc:
            if exc.err_code != STREAM_EXISTS:
                raise
            await self.request(f"STREAM.UPDATE.{config['name']}", config)

    async def delete_stream(self, stream: str) -> None:
        """Deletes a stream; one that isn't there is no error."""
        await self._unless(STREAM_NOT_FOUND, f"STREAM.DELETE.{stream}")

    async def delete_consumer(self, stream: str, durable: str) -> None:
        """Deletes a durable; no error when it, or its stream, isn't there."""
        await self._unless(CONSUMER_NOT_FOUND, f"CONSUMER.DELETE.{stream}.{durable}")

    async def _unless(self, gone: int, operation: str) -> None:
        try:
            await self.request(operation)
        except JetStreamError as exc:
            if exc.err_code not in (gone, STREAM_NOT_FOUND):
                raise


_A = TypeVar("_A")
_B = TypeVar("_B")


async def both(first: Awaitable[_A], second: Awaitable[_B]) -> tuple[_A, _B]:
    """Awaits two things side by side; raises the first error, but only after both have ended."""
    one, two = await asyncio.gather(first, second, return_exceptions=True)
    if isinstance(one, BaseException):
        raise one
    if isinstance(two, BaseException):
        raise two
    return one, two


def first_error(results: Iterable[object]) -> Optional[BaseException]:
    """The first exception among the results of a ``gather(return_exceptions=True)``; None when all went well."""
    return next((result for result in results if isinstance(result, BaseException)), None)


def nanoseconds(text: str) -> int:
    """JetStream's time, RFC 3339 in UTC with up to nine digits, as nanoseconds since 1970."""
    whole, _, fraction = text.rstrip("Z").partition(".")
    seconds = calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S"))
    return seconds * _NS_PER_S + int(fraction.ljust(9, "0")[:9])
