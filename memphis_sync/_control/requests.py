"""
What the client asks of the broker: one coroutine a request, with its retries and the rules that brokers break.

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
import re
import time
import uuid
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Optional

from memphis_sync._base.logs import Log
from memphis_sync._control import ControlLink, Subscription
from memphis_sync._control.api import ask_until_kept, store
from memphis_sync._core import fork_generation
from memphis_sync._protocol import subjects
from memphis_sync._protocol.control import (
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
from memphis_sync._protocol.dead_letters import MAX_GIVEN_BACK, CountOwed, DeadLetterCountReply, GivenBack
from memphis_sync._protocol.names import durable_name, internal_name, stream_name
from memphis_sync._protocol.replies import ConsumerReply, ProducerReply, SchemaActivateReply, parse_plain_reply
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
_NO_RESPONDERS = 503
_AT_ONCE = 100  # questions on their way at the same time
_NOT_NOW = "timeout"  # how the texts of our broker begin that are no verdict
_PROTO_ASIDE = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'', re.DOTALL)  # comments and texts
_FIRST_MESSAGE = re.compile(r"\bmessage\s+([A-Za-z_]\w*)\s*\{")
_VERIFY_TRIES, _VERIFY_PAUSE_S = 3, 0.1  # in a cluster a new stream may be known a moment later

APP_ID = str(uuid.uuid4())  # one a process; the broker groups connections of one program by it


class Requests:
    """
    The requests of one client.

    Args:
        session: Its loop and links; everything here is a coroutine of that loop.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._username = session.options.credentials.identity
        self._connection_id = session.connection_id
        # How many live producers a (station, name) has: the broker's destroy removes all of them at once.
        self._producers: dict[tuple[str, str], int] = {}

    @property
    def _control(self) -> ControlLink:
        return self._session.control

    @property
    def is_memphis(self) -> bool:
        """Whether this is a Memphis broker, and not ours."""
        return self._control.is_memphis

    @property
    def username(self) -> str:
        """The user's name as requests carry it."""
        return self._username

    # ---- stations ---------------------------------------------------------------------------------------------------

    async def create_station(self, request: StationCreate, retries: int) -> None:
        """
        Creates a station and makes sure that it is there; one that exists already is left as it is.

        Raises:
            ServerError: The broker refused, or says success although nothing was created.
        """
        body = dataclasses.replace(request, username=self._username).encode()
        reply = await self._ask(subjects.STATION_CREATE, body, CREATE_S, retries)
        error = parse_plain_reply(reply)
        if error and "already exist" not in error:
            raise server_error(error, f"station {request.name!r}")
        await self._verify_station(request)

    async def require_station(self, name: str) -> None:
        """
        Makes sure that a station exists.

        Raises:
            StationNotFoundError: It does not.
        """
        if not await self._has_stream(internal_name(name)):
            raise StationNotFoundError(f"there is no station {name!r}; station() creates one")

    async def _has_stream(self, internal: str) -> bool:
        # The first partition, then the only stream of a station from before partitions.
        for stream in (stream_name(internal, 1), internal):
            with contextlib.suppress(StationNotFoundError):
                await self._control.js_api(f"STREAM.INFO.{stream}", None, JS_S)
                return True
        return False

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
        name, user = request.name, self._username
        probe = ProducerCreate(
            name="verify", station_name=name, connection_id=self._connection_id, username=user, req_version=1
        )
        try:
            answer = ProducerReply.decode(await self._ask(subjects.PRODUCER_CREATE, probe.encode(), JS_S, 0)).error
        except MemphisError as exc:
            answer = str(exc)
        if "to produce to this station" in answer:
            return (
                f"station {name!r} has lost its stream, and its messages with it: a station in memory does not survive "
                f"a restart of a Memphis broker; call client.destroy_station({name!r}), then create it again"
            )
        causes = f"the broker does not know the user {user!r}"
        if request.schema_name and not answer.startswith("User "):
            causes = f"there is no schema {request.schema_name!r}, or {causes}"
        return f"the broker reported success, but did not create station {name!r}: {causes}"

    async def destroy_station(self, name: str, retries: int) -> None:
        """Destroys a station; one that is not there is fine."""
        body = StationDestroy(station_name=name, username=self._username).encode()
        error = parse_plain_reply(await self._ask(subjects.STATION_DESTROY, body, DESTROY_S, retries))
        if error and "not exist" not in error:
            raise server_error(error, f"station {name!r}")

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
        failed = [result for result in results if isinstance(result, BaseException)]
        if not failed:
            return [result for result in results if isinstance(result, StationView)]
        made = [result for result in results if isinstance(result, StationView)]
        await asyncio.gather(*(self.destroy_producer(view, name, 0) for view in made), return_exceptions=True)
        raise failed[0]

    async def _create_producer(self, station: str, name: str, retries: int) -> StationView:
        internal = internal_name(station)
        entry = await self._session.stations.acquire(internal)
        try:
            seen = entry.schema_updates
            body = ProducerCreate(
                name=name,
                station_name=station,
                connection_id=self._connection_id,
                username=self._username,
                app_id=APP_ID,
            ).encode()

            async def ask() -> ProducerReply:
                return ProducerReply.decode(await self._ask(subjects.PRODUCER_CREATE, body, CREATE_S, min(retries, 1)))

            reply = await _again_after_race(ask, lambda reply: reply.error, station)
            if reply.error:
                raise server_error(reply.error, f"producer {name!r} of station {station!r}")
            await self._session.stations.learn(
                internal, entry, seen, reply.schema_update, reply.functions, reply.station_version
            )
            entry.live.schemaverse_to_dls = reply.schemaverse_to_dls
            self._session.stations.send_notification = reply.send_notification
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
            body = ProducerDestroy(
                name=name, station_name=view.name, username=self._username, connection_id=self._connection_id
            ).encode()
            error = parse_plain_reply(await self._ask(subjects.PRODUCER_DESTROY, body, DESTROY_S, retries))
            if error and "not exist" not in error:
                raise server_error(error, f"producer {name!r} of station {view.name!r}")
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
            seen = entry.schema_updates
            body = dataclasses.replace(
                request, connection_id=self._connection_id, username=self._username, app_id=APP_ID
            ).encode()

            async def ask() -> ConsumerReply:
                return ConsumerReply.decode(await self._ask(subjects.CONSUMER_CREATE, body, CREATE_S, min(retries, 1)))

            reply = await _again_after_race(ask, lambda reply: reply.error, station)
            if reply.error:
                raise server_error(reply.error, f"consumer {request.name!r} of station {station!r}")
            await self._session.stations.learn(internal, entry, seen, reply.schema_update, entry.functions.copy(), 0)
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
        try:
            await self._control.js_api(f"STREAM.INFO.{stream_name(internal, 1)}", None, JS_S)
        except StationNotFoundError:
            pass
        else:
            return request
        try:
            info = await self._control.js_api(f"STREAM.INFO.{internal}", None, JS_S)
        except StationNotFoundError:
            return request  # it is created now, with partitions
        try:
            group = await self._control.js_api(f"CONSUMER.INFO.{internal}.{durable}", None, JS_S)
        except StationNotFoundError:
            start = int(info.get("state", {}).get("last_seq", 0)) - request.last_messages + 1
        else:
            start = int(group.get("config", {}).get("opt_start_seq", 1))
        return dataclasses.replace(request, start_consume_from_sequence=max(1, start), last_messages=-1)

    async def _complete_durable(self, view: StationView, request: ConsumerCreate) -> None:
        """Memphis 1.4 reports success, but creates no durable for last_messages on a station of one partition."""
        partition = view.partitions[0]
        stream, durable = stream_name(view.internal, partition), durable_name(request.consumers_group or request.name)
        try:
            await self._control.js_api(f"CONSUMER.INFO.{stream}.{durable}", None, JS_S)
        except StationNotFoundError:
            info = await self._control.js_api(f"STREAM.INFO.{stream}", None, JS_S)
            config = consumer_config(
                view.internal,
                partition,
                request.consumers_group or request.name,
                max_ack_time_ms=request.max_ack_time_ms,
                max_msg_deliveries=request.max_msg_deliveries,
                last_messages=request.last_messages,
                last_sequence=int(info.get("state", {}).get("last_seq", 0)),
            )
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
        body = ConsumerDestroy(
            name=name, station_name=view.name, username=self._username, connection_id=self._connection_id
        ).encode()
        error = parse_plain_reply(await self._ask(subjects.CONSUMER_DESTROY, body, DESTROY_S, retries))
        await self._session.stations.release(view.internal)
        if error and "not exist" not in error:
            raise server_error(error, f"consumer {name!r} of station {view.name!r}")

    # ---- schemas ----------------------------------------------------------------------------------------------------

    async def create_schema(self, name: str, kind: str, content: str, message_name: str, retries: int) -> None:
        """Creates a schema; one of that name and content that exists already is fine."""
        body = SchemaCreate(
            name=name,
            type=kind,
            created_by_username=self._username,
            schema_content=content,
            message_struct_name=message_name,
        ).encode()
        limit = self._control.max_payload
        if len(body) > limit:
            size = len(content.encode("utf-8", "replace"))
            raise ConfigurationError(
                f"the schema's source takes {size} bytes, its request {len(body)}, and the broker takes {limit} in one "
                "message; nothing was sent"
            )
        if message_name and self._control.is_memphis:
            _check_first(message_name, content)
        error = parse_plain_reply(await self._ask(subjects.SCHEMA_CREATE, body, CREATE_S, retries))
        if error and "already exists" not in error:
            raise server_error(error, f"schema {name!r}")

    async def activate_schema_version(self, name: str, version: int, retries: int) -> int:
        """Makes a version of a schema the active one; 0 stands for the newest. Returns its number."""
        body = SchemaActivate(name=name, version_number=version, username=self._username).encode()
        try:
            reply = await self._ask(
                subjects.SCHEMA_ACTIVATE, body, CREATE_S, retries, may_be_starting=not self._control.is_memphis
            )
        except ServerError as exc:
            if exc.code != _NO_RESPONDERS:
                raise
            raise ServerError(
                "this broker activates schema versions through its REST interface only (PUT /api/schemas/"
                "rollBackVersion); attach the schema again afterwards, so that connected clients hear of it",
                code=exc.code,
            ) from exc
        answer = SchemaActivateReply.decode(reply)
        if answer.error:
            raise server_error(answer.error, f"schema {name!r}")
        return answer.version

    async def attach_schema(self, name: str, station: str, retries: int) -> None:
        """Makes a station take only messages of a schema."""
        body = SchemaAttach(name=name, station_name=station, username=self._username).encode()
        error = parse_plain_reply(await self._ask(subjects.SCHEMA_ATTACH, body, CREATE_S, retries))
        if error:
            raise server_error(error, f"schema {name!r} on station {station!r}")

    async def detach_schema(self, station: str, retries: int) -> None:
        """Makes a station take any message."""
        body = SchemaDetach(station_name=station, username=self._username).encode()
        error = parse_plain_reply(await self._ask(subjects.SCHEMA_DETACH, body, CREATE_S, retries))
        if error:
            raise server_error(error, f"station {station!r}")

    # ---- asking -----------------------------------------------------------------------------------------------------

    async def _ask(
        self, subject: str, body: bytes, timeout_s: float, retries: int, *, may_be_starting: bool = True
    ) -> bytes:
        """One request, repeated while it gets no answer, or while the broker is starting."""
        for attempt in range(retries + 1):
            try:
                return await self._control.request(subject, body, timeout_s, may_be_starting=may_be_starting)
            except (DeadlineError, ConnectionLostError) as exc:
                if attempt == retries:
                    raise
                log.debug("%s: asking again: %s", subject, exc)
        raise AssertionError("unreachable")


async def report_dead_letter(control: ControlLink, body: bytes, timeout_s: float, *, is_memphis: bool) -> None:
    """
    Tells the broker of a message that a consumer cannot use.

    Our broker answers once it keeps the message, and is asked until it does: a report that it gets twice is kept once.
    A Memphis broker never answers: there the report counts as done when its server has read it, and a station that
    keeps messages until they are acknowledged may lose it.

    Args:
        control: Where to ask.
        body: The report.
        timeout_s: For all of it, in seconds; outages and restarts are waited out within it.
        is_memphis: Whether this is a Memphis broker.

    Raises:
        ServerError: The broker cannot keep it.
        DeadlineError: Nobody said in time that it is kept; it may be.
        ConnectionLostError, ClosedError: As ControlLink.request().
    """
    if is_memphis:
        await control.publish(subjects.NACKED_DEAD_LETTERS, body, timeout_s)
    else:
        await ask_until_kept(control, subjects.DEAD_LETTER_REPORT, body, timeout_s, "dead_letter()", _judge_report)


def _judge_report(reply: bytes) -> str:
    error = parse_plain_reply(reply)
    if error and not error.startswith(_NOT_NOW):
        raise server_error(error, "dead_letter()")
    return error


async def acknowledge_dead_letter(control: ControlLink, body: bytes, timeout_s: float, *, is_memphis: bool) -> None:
    """
    Tells the broker that a group is done with a dead letter that was sent again.

    Arguments as report_dead_letter(); to a Memphis broker it is published, and counts as done when its server has read
    it.

    Raises:
        DeadlineError: Our broker did not say in time that it has it.
        ConnectionLostError, ClosedError: As ControlLink.request().
    """
    if is_memphis:
        await control.publish(subjects.DEAD_LETTER_ACKS, body, timeout_s)
    else:
        await store(control, subjects.DEAD_LETTER_ACKS, body, timeout_s, "ack()")


class GroupProgress(NamedTuple):
    """
    How far a consumer group is in one partition.

    Attributes:
        delivered: Highest sequence that a member was given.
        acked: All sequences up to this one are acknowledged.
        pending: How many messages no member was given yet.
        unanswered: How many were given to members and not acknowledged.
    """

    delivered: int
    acked: int
    pending: int
    unanswered: int


async def last_sequences(control: ControlLink, streams: Sequence[str], timeout_s: float) -> dict[str, int]:
    """
    The last sequence of each stream; 0 when it never held a message.

    Raises:
        StationNotFoundError: A stream is gone.
        MemphisError: Else as ControlLink.js_api().
    """
    found = await _ask_each(control, [f"STREAM.INFO.{stream}" for stream in streams], timeout_s)
    return {stream: int(info.get("state", {}).get("last_seq", 0)) for stream, info in zip(streams, found)}


async def group_progress(
    control: ControlLink, durables: Sequence[tuple[str, str]], timeout_s: float
) -> dict[str, GroupProgress]:
    """
    How far a group is, by stream; *durables* are pairs of a stream and the group's durable on it.

    Raises:
        StationNotFoundError: A stream or durable is gone.
        MemphisError: Else as ControlLink.js_api().
    """
    calls = [f"CONSUMER.INFO.{stream}.{durable}" for stream, durable in durables]
    found = await _ask_each(control, calls, timeout_s)
    return {
        stream: GroupProgress(
            int(info.get("delivered", {}).get("stream_seq", 0)),
            int(info.get("ack_floor", {}).get("stream_seq", 0)),
            int(info.get("num_pending", 0)),
            int(info.get("num_ack_pending", 0)),
        )
        for (stream, _), info in zip(durables, found)
    }


async def _ask_each(control: ControlLink, calls: Sequence[str], timeout_s: float) -> list[dict[str, Any]]:
    """JetStream's answers to several calls, some at once."""
    deadline = time.monotonic() + timeout_s
    found: list[dict[str, Any]] = []
    for at in range(0, len(calls), _AT_ONCE):
        left_s = max(0.001, deadline - time.monotonic())
        found += await asyncio.gather(*(control.js_api(call, None, left_s) for call in calls[at : at + _AT_ONCE]))
    return found


async def give_back(
    control: ControlLink,
    station: str,
    group: str,
    messages: Sequence[tuple[int, int, int]],
    resent: Sequence[int],
    timeout_s: float,
    *,
    is_kept: bool = False,
) -> None:
    """
    Tells our broker what a member gives back without having looked at it, so that it uses no delivery up. The messages
    are given back with a NAK after it: the broker must know of it before the server counts. A Memphis broker does not
    offer this, and must not be asked. With none of either the broker hears that the member leaves, and sends it nothing
    again.

    Args:
        control: Where to ask.
        station: Name of the station, in either form.
        group: Name of the consumer group.
        messages: Partition, place in the partition and number of the delivery of each.
        resent: Ids of dead letters that were sent again.
        timeout_s: For all of it, in seconds.
        is_kept: The member still has the messages, and may yet hand them to a handler.

    Raises:
        ServerError: The broker refused, or there is none that offers it (code 503).
        DeadlineError, ConnectionLostError, ClosedError: As ControlLink.request().
    """
    deadline = time.monotonic() + timeout_s
    for at in range(0, max(len(messages), len(resent), 1), MAX_GIVEN_BACK):
        end = at + MAX_GIVEN_BACK
        request = GivenBack.of(station, group, messages[at:end], resent[at:end], kept=is_kept)
        left_s = max(0.001, deadline - time.monotonic())
        error = parse_plain_reply(await control.request(subjects.GIVEN_BACK, request.encode(), left_s))
        if error:
            raise server_error(error, "giving messages back")


async def count_owed(control: ControlLink, station: str, group: str, timeout_s: float) -> int:
    """
    How many messages our broker sends to a group again that are no dead letters yet: members had them and gave them
    back. Those that a member has in hand count until it has answered. A Memphis broker must not be asked.

    Raises:
        ServerError: The broker refused.
        DeadlineError, ConnectionLostError, ClosedError: As ControlLink.request(); restarts are waited out.
    """
    body = CountOwed(station, group).encode()
    reply = DeadLetterCountReply.decode(await control.request(subjects.OWED, body, timeout_s, may_be_starting=True))
    if reply.error:
        raise server_error(reply.error, "reading to the end")
    return reply.count


def _check_first(message_name: str, content: str) -> None:
    """A Memphis broker takes the first message of a protobuf source, whatever the request says."""
    found = _FIRST_MESSAGE.search(_PROTO_ASIDE.sub(" ", content))
    if found is None or message_name.rpartition(".")[2] != found[1]:
        first = f", which is {found[1]!r}" if found else ""
        raise ConfigurationError(
            f"message_name is {message_name!r}; a Memphis broker takes the first message of the source{first}: put "
            "that one first"
        )


async def _unsubscribe(subscription: Subscription) -> None:
    try:
        await subscription.unsubscribe()
    except Exception as exc:  # noqa: BLE001  the connection may be gone, and with it the subscription
        log.debug("unsubscribing from %s: %r", subscription.subject, exc)


async def _again_after_race(ask: Callable[[], Awaitable[Any]], error_of: Callable[[Any], str], station: str) -> Any:
    """Asks, and once more when somebody else created the station at the same moment."""
    reply = await ask()
    error = error_of(reply).lower()
    if error.startswith("station") and error.endswith("already exists"):
        log.debug("station %r was created by somebody else at the same moment; asking again", station)
        reply = await ask()
    return reply


def server_error(text: str, what: str) -> MemphisError:
    """The broker's error text as an error; the text itself is kept unchanged in `description`."""
    lowered = text.lower()
    is_missing = "station" in lowered and "does not exist" in lowered
    kind: type[ServerError] = StationNotFoundError if is_missing else ServerError
    return kind(f"{what}: {text}", description=text)


def longest_s(per_try_s: float, retries: Optional[int]) -> float:
    """How long a request with its retries may take, in seconds: twice the tries, for the retry after a race."""
    return 2 * per_try_s * ((retries or 0) + 1) + 3 * JS_S
