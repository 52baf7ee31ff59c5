"""
The client's requests to the broker: each goes through ask(), with retries, and with the known faults of brokers.

Rules (they hold for Memphis 1.x; our own broker needs none of them):
* "success" for a new station is verified, because an unknown user and a missing schema are answered with it too;
* ``Station<name> already exists`` (no blank) means that another producer or consumer created the station at the same
  moment: ask once more;
* creations of producers and consumers are not idempotent, so one that got no answer is repeated once at most.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import re
import uuid
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Callable, Optional, TypeVar

from memphis_sync._base.logs import Log
from memphis_sync._control import ControlLink, Subscription
from memphis_sync._core import fork_generation
from memphis_sync._protocol import subjects
from memphis_sync._protocol.body import R, Request
from memphis_sync._protocol.names import durable_name, internal_name, stream_name
from memphis_sync._protocol.requests import (
    ConsumerCreate,
    ConsumerDestroy,
    ProducerCreate,
    ProducerDestroy,
    SchemaCreate,
    StationCreate,
)
from memphis_sync._protocol.streams import consumer_config
from memphis_sync.errors import (
    ClosedError,
    ConfigurationError,
    ConnectionLostError,
    DeadlineError,
    MemphisError,
    ServerError,
    StationNotFoundError,
)
from memphis_sync.types import StationView

if TYPE_CHECKING:
    from memphis_sync._session import Session

log = Log("memphis_sync.control")

CREATE_S = 20.0  # as the official SDKs
DESTROY_S = 5.0
JS_S = 5.0
NO_RESPONDERS = 503
GONE = "not exist"  # in the text for what is not there: to destroy it is a success
_PROTO_ASIDE = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'', re.DOTALL)  # comments and texts
_FIRST_MESSAGE = re.compile(r"\bmessage\s+([A-Za-z_]\w*)\s*\{")
_UNANSWERED = "timeout"  # in a broker's text; the official SDKs ask again for it, too
_AGAIN_S = 0.2
_VERIFY_TRIES, _VERIFY_PAUSE_S = 3, 0.1  # in a cluster a new stream may be known a moment later

T = TypeVar("T")
APP_ID = str(uuid.uuid4())  # one a process; the broker groups connections of one program by it


async def ask(
    control: ControlLink, request: Request[R], timeout_s: float, *, about: str, retries: int = 0, fine: str = ""
) -> R:
    """
    One request, repeated while it gets no answer, while the broker is starting, and while the broker itself gets no
    answer: then its text has "timeout" in it, as while a cluster elects a leader.

    Args:
        control: Where to ask.
        request: What to ask; its class says where to, and what the reply is.
        timeout_s: For each try, in seconds.
        about: What it is about, for error texts.
        retries: How often it is repeated, in all.
        fine: A refusal whose text has this in it is a success, too.

    Raises:
        StationNotFoundError, ServerError: The broker refused, or does not serve this (code 503).
        DeadlineError, ConnectionLostError, ClosedError, ConfigurationError: As ControlLink.request().
        RemoteProtocolError: The reply cannot be read.
    """
    body, is_served = request.encode(), not (request.INSTEAD and control.is_memphis)
    for attempt in range(retries + 1):
        try:
            raw = await control.request(request.SUBJECT, body, timeout_s, may_be_starting=is_served)
            reply: R = request.REPLY.decode(raw)
            if not reply.error or (fine and fine in reply.error):
                return reply
            if attempt == retries or _UNANSWERED not in reply.error.lower():
                raise server_error(reply.error, about)
            log.debug("%s: asking again: %s", request.SUBJECT, reply.error)
            await asyncio.sleep(_AGAIN_S)
        except (DeadlineError, ConnectionLostError) as exc:
            if attempt == retries:
                raise
            log.debug("%s: asking again: %s", request.SUBJECT, exc)
        except ServerError as exc:
            if exc.code != NO_RESPONDERS or is_served:
                raise
            raise ServerError(request.INSTEAD, code=exc.code) from exc
    raise AssertionError("unreachable")


def server_error(text: str, about: str) -> MemphisError:
    """The broker's error text as an error; the text itself is kept unchanged in `description`."""
    lowered = text.lower()
    is_missing = "station" in lowered and "does not exist" in lowered
    kind: type[ServerError] = StationNotFoundError if is_missing else ServerError
    return kind(f"{about}: {text}", description=text)


def last_sequence(info: dict[str, Any]) -> int:
    """The last sequence of a stream, in what JetStream says of it; 0 when it never held a message."""
    return int(info.get("state", {}).get("last_seq", 0))


def longest_s(per_try_s: float, retries: Optional[int]) -> float:
    """How long a request with its retries may take, in seconds: twice the tries, for the retry after a race."""
    return 2 * per_try_s * ((retries or 0) + 1) + 3 * JS_S


class Requests:
    """
    The requests of one client.

    Args:
        session: Its loop and links. The coroutines here belong to that loop; run() and call() are for other threads.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.username = session.options.credentials.identity
        # What a request says of who asks, by the names of its fields.
        self._own = {
            "username": self.username,
            "created_by_username": self.username,
            "connection_id": session.connection_id,
            "app_id": APP_ID,
        }
        # How many live producers a (station, name) has: the broker's destroy removes all of them at once.
        self._producers: dict[tuple[str, str], int] = {}

    @property
    def _control(self) -> ControlLink:
        return self._session.control

    def _signed(self, request: Request[R]) -> Request[R]:
        names = {item.name for item in dataclasses.fields(request)}
        return dataclasses.replace(request, **{name: own for name, own in self._own.items() if name in names})

    def run(
        self, work: Callable[[], Coroutine[Any, Any, T]], retries: int, what: str, per_try_s: float = CREATE_S
    ) -> T:
        """Runs the coroutine that *work* makes, with its retries, for the public call *what*."""
        return self._session.call(work, longest_s(per_try_s, retries), what)

    def call(self, what: str, request: Request[R], *, per_try_s: float = CREATE_S, retries: int = 0, **more: str) -> R:
        """Runs one request for the public call *what*, and returns its reply; *more* is as for ask()."""
        work = functools.partial(self.ask, request, timeout_s=per_try_s, retries=retries, **more)
        return self.run(work, retries, what, per_try_s)

    async def ask(
        self, request: Request[R], *, about: str, timeout_s: float = CREATE_S, retries: int = 0, fine: str = ""
    ) -> R:
        """The same for this client: who asks is filled in."""
        return await ask(self._control, self._signed(request), timeout_s, about=about, retries=retries, fine=fine)

    async def _register(self, request: Request[R], about: str, retries: int) -> R:
        """A creation of a producer or consumer, asked again when somebody else made the station at that moment."""
        retries = min(retries, 1)
        try:
            return await self.ask(request, about=about, retries=retries)
        except ServerError as exc:
            text = exc.description.lower()
            if not (text.startswith("station") and text.endswith("already exists")):
                raise
            log.debug("%s: the station was created by somebody else at the same moment; asking again", about)
        return await self.ask(request, about=about, retries=retries)

    # ---- stations ---------------------------------------------------------------------------------------------------

    async def create_station(self, request: StationCreate, retries: int) -> None:
        """
        Creates a station and makes sure that it is there; one that exists already is left as it is.

        Raises:
            ServerError: The broker refused, or says success although nothing was created.
        """
        await self.ask(request, about=f"station {request.name!r}", retries=retries, fine="already exist")
        await self._verify_station(request)

    async def require_station(self, name: str) -> None:
        """
        Makes sure that a station exists.

        Raises:
            StationNotFoundError: It does not.
        """
        if not await self._has_stream(internal_name(name)):
            raise StationNotFoundError(f"there is no station {name!r}; the first message to it creates it")

    async def _has_stream(self, internal: str) -> bool:
        # The first partition, then the only stream of a station from before partitions.
        for stream in (stream_name(internal, 1), internal):
            if await self._info(f"STREAM.INFO.{stream}") is not None:
                return True
        return False

    async def _info(self, call: str) -> Optional[dict[str, Any]]:
        """What JetStream says of a stream or durable; None when it is not there."""
        with contextlib.suppress(StationNotFoundError):
            return await self._control.js_api(call, None, JS_S)
        return None

    async def _verify_station(self, request: StationCreate) -> None:
        for attempt in range(_VERIFY_TRIES):
            try:
                if await self._has_stream(internal_name(request.name)):
                    return
            except DeadlineError as exc:
                log.warning("station %r cannot be verified: %s", request.name, exc)
                return
            if attempt + 1 < _VERIFY_TRIES:
                await asyncio.sleep(_VERIFY_PAUSE_S)
        raise ServerError(await self._why_no_stream(request))

    async def _why_no_stream(self, request: StationCreate) -> str:
        """
        Why a station that the broker reports as created has no stream. A producer from before partitions is asked for:
        it is always refused, and the text tells an unknown user, a missing station and one that is there apart.
        """
        name, user, answer = request.name, self.username, ""
        try:
            await self.ask(ProducerCreate("verify", name, req_version=1), about="the probe", timeout_s=JS_S)
        except MemphisError as exc:
            answer = exc.description if isinstance(exc, ServerError) else str(exc)
        if "to produce to this station" in answer:
            return (
                f"station {name!r} has lost its stream, and its messages with it: a station in memory does not survive "
                f"a restart of a Memphis broker; call client.destroy_station({name!r}), then create it again"
            )
        causes = f"the broker does not know the user {user!r}"
        if request.schema_name and not answer.startswith("User "):
            causes = f"there is no schema {request.schema_name!r}, or {causes}"
        return f"the broker reported success, but did not create station {name!r}: {causes}"

    # ---- producers --------------------------------------------------------------------------------------------------

    async def create_producers(self, stations: list[str], name: str, retries: int) -> list[StationView]:
        """
        Registers a producer on all *stations* at once.

        Raises:
            MemphisError: One of them failed; what the others registered is taken back.
        """
        results = await asyncio.gather(
            *(self._create_producer(station, name, retries) for station in stations), return_exceptions=True
        )
        made = [result for result in results if isinstance(result, StationView)]
        for result in results:
            if isinstance(result, BaseException):
                await asyncio.gather(*(self.destroy_producer(view, name, 0) for view in made), return_exceptions=True)
                raise result
        return made

    async def _create_producer(self, station: str, name: str, retries: int) -> StationView:
        internal = internal_name(station)
        entry = await self._session.stations.acquire(internal)
        try:
            before = self._session.stations.heard(entry)
            about = f"producer {name!r} of station {station!r}"
            reply = await self._register(ProducerCreate(name, station), about, retries)
            self._session.stations.learn(internal, entry, before, reply)
        except BaseException:
            await self._session.stations.release(internal)
            raise
        self._producers[station, name] = self._producers.get((station, name), 0) + 1
        return StationView(station, internal, tuple(reply.partitions or ()), entry.functions, entry.live)

    async def destroy_producer(self, view: StationView, name: str, retries: int) -> None:
        """Takes a producer's registration back; the request goes out with the last producer of its name and station."""
        key = (view.name, name)
        left = self._producers.get(key, 1) - 1
        if left > 0:
            self._producers[key] = left
        else:
            self._producers.pop(key, None)
            about = f"producer {name!r} of station {view.name!r}"
            request = ProducerDestroy(name, view.name)
            await self.ask(request, about=about, timeout_s=DESTROY_S, retries=retries, fine=GONE)
        await self._session.stations.release(view.internal)

    async def destroy_producers(self, views: tuple[StationView, ...], name: str, retries: int) -> None:
        """The same on several stations at once; the first failure is raised after all have been tried."""
        results = await asyncio.gather(
            *(self.destroy_producer(view, name, retries) for view in views), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result

    # ---- consumers --------------------------------------------------------------------------------------------------

    async def create_consumer(self, request: ConsumerCreate, retries: int) -> StationView:
        """Registers a consumer; the broker creates its group's durables first."""
        station = request.station_name
        internal = internal_name(station)
        if request.last_messages > 0:
            request = await self._with_known_start(request)
        entry = await self._session.stations.acquire(internal)
        try:
            before = self._session.stations.heard(entry)
            about = f"consumer {request.name!r} of station {station!r}"
            reply = await self._register(request, about, retries)
            self._session.stations.learn(internal, entry, before, reply)
            view = StationView(station, internal, tuple(reply.partitions or ()), entry.functions, entry.live)
            if request.last_messages > 0 and len(view.partitions) == 1:
                await self._complete_durable(view, request)
        except BaseException:
            await self._session.stations.release(internal)
            raise
        return view

    async def _with_known_start(self, request: ConsumerCreate) -> ConsumerCreate:
        """
        Memphis 1.4 forgets last_messages on a station without partitions, and begins at the start: there the place is
        computed here, once, because it cannot be changed for a group that is there already.
        """
        internal, durable = internal_name(request.station_name), durable_name(request.consumers_group or request.name)
        if await self._info(f"STREAM.INFO.{stream_name(internal, 1)}") is not None:
            return request
        info = await self._info(f"STREAM.INFO.{internal}")
        if info is None:
            return request  # it is created now, with partitions
        group = await self._info(f"CONSUMER.INFO.{internal}.{durable}")
        if group is None:
            start = last_sequence(info) - request.last_messages + 1
        else:
            start = int(group.get("config", {}).get("opt_start_seq", 1))
        return dataclasses.replace(request, start_consume_from_sequence=max(1, start), last_messages=-1)

    async def _complete_durable(self, view: StationView, request: ConsumerCreate) -> None:
        """Memphis 1.4 reports success, but creates no durable for last_messages on a station of one partition."""
        partition, group = view.partitions[0], request.consumers_group or request.name
        stream, durable = stream_name(view.internal, partition), durable_name(group)
        if await self._info(f"CONSUMER.INFO.{stream}.{durable}") is None:
            info = await self._control.js_api(f"STREAM.INFO.{stream}", None, JS_S)
            config = consumer_config(view.internal, partition, group, request, last_sequence(info))
            body = {"stream_name": stream, "config": config}
            await self._control.js_api(f"CONSUMER.DURABLE.CREATE.{stream}.{durable}", body, JS_S)

    async def hear_dead_letters(
        self, view: StationView, group_internal: str, handler: Callable[[bytes, dict[str, str]], None]
    ) -> Subscription:
        """Has the dead letters that are sent again to a group handed to *handler*, on the loop."""
        subject = subjects.dls(view.internal, group_internal)
        # The queue group of the official SDKs, memphis.js apart: one member of the consumer group gets each.
        subscription = await self._control.subscribe_with_headers(subject, handler, subject)
        await self._control.ping(JS_S)  # from now on the server knows
        return subscription

    def end_subscription(self, subscription: Subscription) -> None:
        """Ends one of the above without waiting; from any thread, also from a destructor."""
        if fork_generation() == self._session.generation:
            with contextlib.suppress(ClosedError):
                self._session.loop.post(lambda: asyncio.ensure_future(_unsubscribe(subscription)))

    async def drain_subscription(self, subscription: Subscription, timeout_s: float) -> None:
        """Ends one of the above when what is on its way has come."""
        with contextlib.suppress(Exception):  # the connection has gone, and with it the subscription
            await asyncio.wait_for(subscription.drain(), timeout_s)  # type: ignore[no-untyped-call]  # of nats-py

    async def destroy_consumer(self, view: StationView, name: str, retries: int) -> None:
        """Takes a consumer's registration back; the group ends with its last member."""
        about = f"consumer {name!r} of station {view.name!r}"
        request = ConsumerDestroy(name, view.name)
        await self.ask(request, about=about, timeout_s=DESTROY_S, retries=retries, fine=GONE)
        await self._session.stations.release(view.internal)

    # ---- schemas ----------------------------------------------------------------------------------------------------

    async def create_schema(self, request: SchemaCreate, retries: int) -> None:
        """Creates a schema; one of that name and content that exists already is fine."""
        size, limit = len(self._signed(request).encode()), self._control.max_payload
        if size > limit:
            source = len(request.schema_content.encode("utf-8", "replace"))
            raise ConfigurationError(
                f"the schema's source has {source} bytes, its request {size}, and the broker accepts {limit} in one "
                "message; nothing was sent"
            )
        if request.message_struct_name and self._control.is_memphis:
            _check_first(request.message_struct_name, request.schema_content)
        await self.ask(request, about=f"schema {request.name!r}", retries=retries, fine="already exists")


def _check_first(message_name: str, content: str) -> None:
    """A Memphis broker takes the first message of a protobuf source, whatever the request says."""
    found = _FIRST_MESSAGE.search(_PROTO_ASIDE.sub(" ", content))
    if found is None or message_name.rpartition(".")[2] != found[1]:
        first = f", which is {found[1]!r}" if found else ""
        raise ConfigurationError(
            f"message_name is {message_name!r}; a Memphis broker uses the first message of the source{first}: put "
            "that one first"
        )


async def _unsubscribe(subscription: Subscription) -> None:
    try:
        await subscription.unsubscribe()
    except Exception as exc:  # noqa: BLE001  the connection may be gone, and with it the subscription
        log.debug("unsubscribing from %s: %r", subscription.subject, exc)
