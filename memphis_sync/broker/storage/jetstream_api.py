"""JetStream's API, as requests and replies in plain JSON: the bodies must be exactly those of a Memphis broker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Any, Callable, Optional, TypeVar

from nats.aio.client import Client
from nats.errors import ConnectionClosedError, NoRespondersError, TimeoutError as NatsTimeoutError
from nats.js.errors import APIError, NoStreamResponseError

from memphis_sync._protocol.stored import NO_MESSAGE, StoredMessage, stored_message

TIMEOUT_S = 10.0  # half of what the official clients wait for a creation
_PARALLEL = 32  # requests at once by one JetStreamApi: a station may have thousands of partitions

CONSUMER_NOT_FOUND = 10014
STREAM_NOT_FOUND = 10059
STREAM_EXISTS = 10058  # with another configuration
REPLICAS_WITHOUT_CLUSTER = 10074
NO_SUITABLE_PEERS = 10005
_NOT_READY = 10008  # a cluster has no leader yet
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


def is_unanswered(exc: BaseException) -> bool:
    """Whether JetStream did not answer, or says that it is not ready: perhaps it answers later."""
    if isinstance(exc, (JetStreamError, APIError)):
        return exc.err_code == _NOT_READY or str(exc).startswith("timeout")
    return isinstance(exc, (NatsTimeoutError, NoStreamResponseError))


class JetStreamApi:
    """Requests to ``$JS.API.*`` on one connection."""

    def __init__(self, connection: Client) -> None:
        self._connection = connection
        self._slots = asyncio.Semaphore(_PARALLEL)

    async def request(self, operation: str, body: Optional[Mapping[str, Any]] = None) -> dict[str, Any]:
        """
        Sends one request, and returns its reply.

        Args:
            operation: What follows ``$JS.API.``.
            body: Its JSON; an empty payload when None.

        Raises:
            JetStreamError: It was refused, or not answered within TIMEOUT_S.
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

    async def pages(self, operation: str, body: Mapping[str, Any], page_of: Callable[[Any], Any]) -> list[str]:
        """A list that JetStream sends in pages; *page_of* takes the page out of a reply."""
        found: list[str] = []
        while True:
            reply = await self.request(operation, {**body, "offset": len(found)})
            page = page_of(reply) or []
            found += page
            if not page or len(found) >= reply.get("total", 0):
                return found

    async def create_stream(self, config: Mapping[str, Any]) -> Optional[dict[str, Any]]:
        """Creates a stream; None when there is one of that name with another configuration."""
        return await self._found((STREAM_EXISTS,), f"STREAM.CREATE.{config['name']}", config)

    async def ensure_stream(self, config: Mapping[str, Any]) -> None:
        """Creates a stream, or updates the one of that name to this configuration."""
        if await self.create_stream(config) is None:
            await self.request(f"STREAM.UPDATE.{config['name']}", config)

    async def delete_stream(self, stream: str) -> None:
        """Deletes a stream; not an error when it does not exist."""
        await self._found((STREAM_NOT_FOUND,), f"STREAM.DELETE.{stream}")

    async def delete_consumer(self, stream: str, durable: str) -> None:
        """Deletes a durable; not an error when it, or its stream, does not exist."""
        await self._found((CONSUMER_NOT_FOUND, STREAM_NOT_FOUND), f"CONSUMER.DELETE.{stream}.{durable}")

    async def consumer_info(self, stream: str, durable: str) -> Optional[dict[str, Any]]:
        """What JetStream says about a durable; None when it, or its stream, does not exist."""
        return await self._found((CONSUMER_NOT_FOUND, STREAM_NOT_FOUND), f"CONSUMER.INFO.{stream}.{durable}")

    async def message(self, stream: str, **which: Any) -> Optional[StoredMessage]:
        """One message, by ``seq`` or ``last_by_subj``; None when it, or its stream, does not exist."""
        reply = await self._found((*NO_MESSAGE, STREAM_NOT_FOUND), f"STREAM.MSG.GET.{stream}", which)
        if reply is None:
            return None
        return stored_message(reply)

    async def _found(
        self, otherwise: tuple[int, ...], operation: str, body: Optional[Mapping[str, Any]] = None
    ) -> Optional[dict[str, Any]]:
        try:
            return await self.request(operation, body)
        except JetStreamError as exc:
            if exc.err_code not in otherwise:
                raise
        return None


_A = TypeVar("_A")
_B = TypeVar("_B")


async def all_of(*work: Awaitable[Any]) -> list[Any]:
    """Awaits several things side by side; raises the first error, but only after all have ended."""
    results = await asyncio.gather(*work, return_exceptions=True)
    error = first_error(results)
    if error is not None:
        raise error
    return results


async def in_steps(do: Callable[[_A], Awaitable[_B]], items: Sequence[_A], at_once: int) -> list[_B]:
    """Applies *do* to each item, *at_once* of them side by side; the results are in the same order."""
    found: list[_B] = []
    for start in range(0, len(items), at_once):
        found += await asyncio.gather(*map(do, items[start : start + at_once]))
    return found


def first_error(results: Iterable[object]) -> Optional[BaseException]:
    """The first exception among the results of a ``gather(return_exceptions=True)``; None when all went well."""
    return next((result for result in results if isinstance(result, BaseException)), None)
