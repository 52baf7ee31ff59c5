"""
How dead letters come in: JetStream's advisories, and the reports and acknowledgements of clients.

Rules:
* A work-queue stream takes all of it, so nothing is missed while no copy of the service runs, and several copies share
  the work. It is pushed to them: nobody polls, and an idle broker does nothing.
* What is taken is acknowledged when it has been dealt with. It comes again until then, so every step can be repeated.
* What can't be used is dropped with a line in the log: the bodies are clients' own, and none of them may stop the rest.
* Dead letters of one partition get their ids in the order in which they came in, as far as one copy takes them.
* What the server can't do at the moment (JetStream has no leader, the disk is full) is tried again, until the stream's
  age limit.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import math
import re
import time
from dataclasses import dataclass, replace
from typing import Any, Optional

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError, MaxPayloadError
from nats.js.errors import NoStreamResponseError

from memphis_sync._protocol import subjects
from memphis_sync._protocol.control import GoJsonError
from memphis_sync._protocol.dead_letters import (
    MAX_GIVEN_BACK,
    POISON,
    PRODUCED_BY,
    RESENT,
    SCHEMA,
    CountOwed,
    DeadLetterAck,
    DeadLetterCountReply,
    GivenBack,
    GroupGone,
    MaxDeliveries,
    NackedDeadLetter,
    SchemaDeadLetter,
    copied_headers,
    headers_size,
    payload_of,
    read_headers,
    write_headers,
)
from memphis_sync._protocol.names import (
    NameRuleError,
    durable_name,
    external_name,
    internal_name,
    lower_name,
    publish_subject,
    split_stream,
    stream_name,
)
from memphis_sync._protocol.streams import StationSettings
from memphis_sync.broker.request_error import RequestError
from memphis_sync.broker.service.missed_advisories import MissedAdvisories
from memphis_sync.broker.service.redelivery import Redelivery
from memphis_sync.broker.service.stations import READY, settings_of
from memphis_sync.broker.storage.dead_letters import DeadLetterRecord, DeadLetterStore, Owed
from memphis_sync.broker.storage.jetstream_api import STREAM_NOT_FOUND, JetStreamApi, JetStreamError, both, nanoseconds
from memphis_sync.broker.storage.locks import NamedLocks
from memphis_sync.broker.storage.tables import ConflictError, State, key_of
from memphis_sync.errors import LocalProtocolError

log = logging.getLogger("memphis_sync.broker")

STREAM = "memphis_dead_letter_intake"
_DURABLE = "broker"
_DELIVERY = "$memphis_sync_dls_intake"
_MAX_AGE_S = 24 * 60 * 60  # as Memphis' own queues of dead letters
_ACK_WAIT_S = 5  # until the work of a copy that died is given to another
_AT_ONCE = 16  # for all copies together; a report may be as large as max_payload
_BUFFER_BYTES = 1 << 30  # of the subscription; _AT_ONCE is the real bound
_FROM_QUEUE = "$JS.ACK."
_MAX_TRIES = 5  # of something that fails for a reason nobody foresaw
_MAX_PAUSE_S = 30.0
_STOP_S = 2.0
_MAX_REASON = 4096  # characters; a validator may quote the whole message
_NO_MESSAGE = 10037
_IDENTITY = re.compile(r"[0-9a-f]{32}\Z")
_UNKNOWN_PRODUCER = "unknown"
_NS_PER_S = 1_000_000_000


@dataclass(frozen=True)
class _Source:
    """A message of a station's partition that has become a dead letter of a group."""

    settings: StationSettings
    partition: int
    sequence: int
    group: str
    error: str

    @property
    def place(self) -> str:
        """What stands for the message in the store."""
        return f"{self.partition}.{self.sequence}"

    @property
    def name(self) -> str:
        """For the log."""
        return f"message {self.sequence} of station {self.settings.name}, partition {self.partition}"


class DeadLetterIngest:
    """
    Takes what comes in and keeps what is to be kept.

    Args:
        connection: The service's connection.
        state: Stations and members.
        store: Where dead letters go.
        replicas: Copies of the queue in a cluster.
    """

    def __init__(self, connection: Client, state: State, store: DeadLetterStore, replicas: int) -> None:
        self._connection = connection
        self._js = connection.jetstream()
        self._api = JetStreamApi(connection)
        self._state = state
        self._store = store
        self._replicas = replicas
        self._locks = NamedLocks()
        self._running: set[asyncio.Task[None]] = set()
        self._subscription: Optional[Subscription] = None
        self._redelivery = Redelivery(connection, state, store, self._is_due)
        self._missed = MissedAdvisories(connection, store)
        self._kinds = {
            subjects.NACKED_DEAD_LETTERS: self._nacked,
            subjects.SCHEMA_DEAD_LETTERS: self._schema,
            subjects.DEAD_LETTER_ACKS: self._ack,
            subjects.DEAD_LETTER_GROUP_GONE: self._group_gone,
        }

    async def start(self) -> None:
        """Makes queue and durable, and begins to take."""
        stream = {
            "name": STREAM,
            "subjects": [f"{subjects.MAX_DELIVERIES}.>", *self._kinds],
            "retention": "workqueue",
            "max_age": _MAX_AGE_S * _NS_PER_S,
            "discard": "old",
            "storage": "file",
            "num_replicas": self._replicas,
        }
        durable = {
            "durable_name": _DURABLE,
            "deliver_subject": _DELIVERY,
            "deliver_group": _DURABLE,
            "ack_policy": "explicit",
            "ack_wait": _ACK_WAIT_S * _NS_PER_S,
            "max_ack_pending": _AT_ONCE,
            "max_deliver": -1,
        }
        await self._api.ensure_stream(stream)
        body = {"stream_name": STREAM, "config": durable}
        await self._api.request(f"CONSUMER.DURABLE.CREATE.{STREAM}.{_DURABLE}", body)
        self._subscription = await self._connection.subscribe(
            _DELIVERY, queue=_DURABLE, cb=self._take, pending_bytes_limit=_BUFFER_BYTES
        )
        await self._redelivery.start()

    async def stop(self) -> None:
        """Takes no more, and finishes what was taken; what isn't finished comes again to another copy."""
        if self._subscription is not None:
            with contextlib.suppress(NatsError):
                await self._subscription.unsubscribe()
        await self._missed.stop()
        await self._redelivery.stop()
        if self._running:
            await asyncio.wait(self._running, timeout=_STOP_S)

    def make_good(self) -> None:
        """The server was away, as far as anybody knows; all that it had is there again. Looks for what it lost."""
        self._missed.look()

    async def forget_group(self, station: str, group: str) -> None:
        """Takes a group that is gone out of all dead letters, soon: there may be many. It is owed nothing any more."""
        await self._store.forget_given_back(station, group)
        gone = GroupGone(station, group, math.ceil(time.time() * 1000))
        await self._js.publish(subjects.DEAD_LETTER_GROUP_GONE, gone.encode())

    # ---- the queue --------------------------------------------------------------------------------------------------

    async def _take(self, message: Msg) -> None:
        task = asyncio.create_task(self._serve(message))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _serve(self, message: Msg) -> None:
        if not message.reply.startswith(_FROM_QUEUE):  # somebody published to where the queue is pushed
            return
        tries = 1
        try:
            tries = message.metadata.num_delivered
            await self._handle(message)
        except (GoJsonError, NameRuleError, RequestError, MaxPayloadError) as exc:
            log.warning("%s: dropped: %s", message.subject, str(exc)[:_MAX_REASON])
        except (NatsError, JetStreamError, OSError) as exc:
            log.warning("%s: cannot be kept now, trying again: %s", message.subject, exc)
            await self._again(message, min(_MAX_PAUSE_S, 2.0 ** min(tries, 10) / 4))
            return
        except Exception:
            log.exception("%s: try %d of %d failed", message.subject, tries, _MAX_TRIES)
            if tries < _MAX_TRIES:
                await self._again(message, 1.0)
                return
        with contextlib.suppress(NatsError):  # it comes again, and finds its work done
            await message.ack()

    @staticmethod
    async def _again(message: Msg, pause_s: float) -> None:
        with contextlib.suppress(NatsError):
            await message.nak(delay=pause_s)

    async def _handle(self, message: Msg) -> None:
        handler = self._kinds.get(message.subject)
        if handler is not None:
            await handler(message)
        else:
            await self._unacked(message)

    # ---- what comes in ----------------------------------------------------------------------------------------------

    async def _unacked(self, message: Msg) -> None:
        """A group has had a message as often as it may."""
        advisory = MaxDeliveries.decode(message.data)
        try:
            internal, partition = split_stream(advisory.stream)
        except LocalProtocolError:
            return  # a stream of somebody else's
        group = external_name(advisory.consumer)
        async with self._locks.hold(advisory.stream):
            row = await self._state.stations.get(key_of(external_name(internal))) if partition else None
            if row is not None and row.value["status"] == READY:
                source = _Source(settings_of(row), partition, advisory.stream_seq, group, "")
                if not await self._is_owed(source, advisory.deliveries):
                    await self._poison(source)

    async def _is_owed(self, source: _Source, deliveries: int) -> bool:
        """
        Whether the group gave deliveries of the message back, without having looked at it; then it gets it again.

        Args:
            source: The message.
            deliveries: How many there were.
        """
        station, group = source.settings.name, source.group
        count = await self._store.given_back(station, group, source.partition, source.sequence)
        owed = Owed.after(station, group, source.partition, source.sequence, deliveries, count)
        if not owed.left:
            return False
        letter = await self._store.find(station, source.place)
        if letter is not None and group in letter.groups:  # it has had them, and this is not the first time it is told
            return False
        await self._store.owe(owed)
        return True

    async def _is_due(self, owed: Owed) -> None:
        """The group has had what it was owed."""
        row = await self._state.stations.get(key_of(owed.station))
        if row is not None and row.value["status"] == READY:
            source = _Source(settings_of(row), owed.partition, owed.sequence, owed.group, "")
            async with self._locks.hold(stream_name(source.settings.internal, owed.partition)):
                with contextlib.suppress(RequestError):  # it is not there any more
                    await self._poison(source)

    async def given_back(self, body: bytes) -> None:
        """Notes what a member gives back without having looked at it; answered when it is written."""
        request = GivenBack.decode(body)
        station = lower_name("Station", external_name(request.station_name))
        group = lower_name("Consumer", external_name(request.cg_name))
        settings = await self._station(station)
        count = len(request.sequences)
        if (
            not len(request.partitions) == len(request.deliveries) == count
            or max(count, len(request.resent)) > MAX_GIVEN_BACK
        ):
            raise RequestError(f"partitions, sequences and deliveries are to be equally many, up to {MAX_GIVEN_BACK}")
        if not count or request.resent:
            await self._redelivery.leaves(station, group)
        found: dict[int, list[tuple[int, int]]] = {}
        for partition, sequence, delivery in zip(request.partitions, request.sequences, request.deliveries):
            if partition not in settings.partitions or sequence < 1 or delivery < 1:
                raise RequestError(f"station {station} has no delivery {delivery} of message {sequence} in {partition}")
            found.setdefault(partition, []).append((sequence, delivery))
        await asyncio.gather(
            *(
                self._store.note_given_back(station, group, partition, each, is_kept=request.kept)
                for partition, each in found.items()
            ),
            *(self._redelivery.given_back(station, group, dead_letter_id) for dead_letter_id in request.resent),
        )

    async def owed(self, body: bytes) -> DeadLetterCountReply:
        """Says how many messages come to a group again; those of which it is not decided yet count."""
        request = CountOwed.decode(body)
        station = lower_name("Station", external_name(request.station_name))
        group = lower_name("Consumer", external_name(request.cg_name))
        settings = await self._station(station)
        # First what waits to be decided: it stays there until it is written that it is owed.
        pattern = f"{subjects.MAX_DELIVERIES}.*.{durable_name(group)}"
        info = await self._api.request(f"STREAM.INFO.{STREAM}", {"subjects_filter": pattern})
        counts = info["state"].get("subjects") or {}
        waiting = sum(
            counts.get(pattern.replace("*", stream_name(settings.internal, partition)), 0)
            for partition in settings.partitions
        )
        owed = await self._store.all_owed(f"{key_of(station)}.{key_of(group)}.*")
        return DeadLetterCountReply(waiting + len(owed))

    async def _nacked(self, message: Msg) -> None:
        """A consumer says that it can't use a message."""
        await self.report(message.data)

    async def report(self, body: bytes) -> None:
        """
        Keeps a message that a consumer can't use. Names come in any form; some clients leave out the partition.

        As a request of its own it is answered when the message is kept: only then may its consumer end it, for where
        messages are kept until they are acknowledged, it is gone at once.

        Raises:
            RequestError: It is not kept, and never will be.
            JetStreamError: It cannot be kept now; the text begins with "timeout", and clients ask again.
        """
        try:
            await self._report(NackedDeadLetter.decode(body))
        except MaxPayloadError as exc:
            raise RequestError(str(exc)) from exc
        except (NatsError, JetStreamError, OSError) as exc:
            text = str(exc) or type(exc).__name__
            raise JetStreamError(
                text if text.startswith("timeout") else f"timeout: cannot be kept now: {text}"
            ) from exc

    async def _report(self, report: NackedDeadLetter) -> None:
        station = lower_name("Station", external_name(report.station_name))
        group = lower_name("Consumer", external_name(report.cg_name))
        async with self._locks.hold(stream_name(internal_name(station), max(1, report.partition))):
            settings = await self._station(station)
            partition = report.partition
            if partition == 0 and len(settings.partitions) == 1:
                partition = settings.partitions[0]
            if partition not in settings.partitions:
                raise RequestError(f"station {station} has no partition {partition}")
            source = _Source(settings, partition, report.seq, group, report.error[:_MAX_REASON])
            why_not = await self._poison(source)
            if why_not:
                raise RequestError(f"{source.name} is not kept as a dead letter: {why_not}")
            if self._redelivery.may_be_owed(station, group):
                await self._store.answer_owed_place(station, group, source.place)

    async def _schema(self, message: Msg) -> None:
        """
        A producer says that a message doesn't match its schema. It is kept whatever the station's switch: clients look
        at the switch before they send.
        """
        report = SchemaDeadLetter.decode(message.data)
        station = lower_name("Station", external_name(report.station_name))
        block = write_headers(report.headers)
        data = block + payload_of(report.data)
        meta = message.metadata
        # A report of the official clients has no identity of its own; its place in the queue is the same each time.
        identity = f"{meta.sequence.stream}-{int(meta.timestamp.timestamp() * 1_000_000)}"
        letter = DeadLetterRecord(
            id=0,
            station=station,
            type=SCHEMA,
            place=f"{SCHEMA}.{report.report_id if _IDENTITY.match(report.report_id) else identity}",
            partition=max(0, report.partition_number),
            sequence=0,
            producer=report.producer_name[:_MAX_REASON],
            groups={},
            error=report.validation_error[:_MAX_REASON],
            time_ns=time.time_ns(),
            size=len(data),
            header_bytes=len(block),
        )
        async with self._locks.hold(station):
            await self._keep(letter, data, await self._station(station))

    async def _ack(self, message: Msg) -> None:
        """A group is done with a dead letter that was sent to it again."""
        ack = DeadLetterAck.decode(message.data)
        row = await self._store.find_by_id(ack.id) if ack.id > 0 else None
        group = external_name(ack.cg_name).lower()
        await self._store.remove_group(row, group, drop_empty=True, before=math.inf)
        if ack.id > 0:
            await self._redelivery.answered(lower_name("Consumer", group), ack.id)

    async def _group_gone(self, message: Msg) -> None:
        """Dead letters of a group that is gone stay, but not as that group's."""
        gone = GroupGone.decode(message.data)
        station = lower_name("Station", gone.station_name)
        ids = await self._store.ids(station)
        for row in await self._store.rows(station, ids):
            await self._store.remove_group(row, gone.cg_name, drop_empty=False, before=gone.before_ms / 1000)

    # ---- keeping ----------------------------------------------------------------------------------------------------

    async def _station(self, name: str) -> StationSettings:
        row = await self._state.stations.get(key_of(name))
        if row is None or row.value["status"] != READY:
            raise RequestError(f"station {name} does not exist")
        return settings_of(row)

    async def _poison(self, source: _Source) -> str:
        """Keeps a message, unless its station wants none; else says why it is not to be kept."""
        settings = source.settings
        if not settings.dls_poison:
            return ""
        place, groups = source.place, {source.group: time.time()}
        letter = DeadLetterRecord(
            0, settings.name, POISON, place, source.partition, source.sequence, "", groups, source.error, 0, 0, 0
        )
        is_known, known = await both(
            self._is_known(settings.name, source.group), self._store.find(settings.name, place)
        )
        if not is_known:
            return f"nobody consumes as group {source.group}"
        if known is not None:  # the message itself may be gone by now
            with contextlib.suppress(ConflictError):
                await self._copy(await self._store.add(known, letter), settings)
                return ""
        return await self._poison_from_stream(source, letter)

    async def _poison_from_stream(self, source: _Source, letter: DeadLetterRecord) -> str:
        """Reads the message, which JetStream's advisory doesn't hold, and keeps it."""
        settings = source.settings
        message = await self._message(stream_name(settings.internal, source.partition), source.sequence)
        if message is None:
            raise RequestError(f"{source.name} is not there any more")
        block, payload = (base64.b64decode(message.get(part) or "") for part in ("hdrs", "data"))
        producer = read_headers(block).get(PRODUCED_BY, _UNKNOWN_PRODUCER)
        if producer == RESENT:
            return "it was one already"
        letter = replace(
            letter,
            producer=producer[:_MAX_REASON],
            time_ns=nanoseconds(message["time"]),
            size=len(block) + len(payload),
            header_bytes=len(block),
        )
        await self._keep(letter, block + payload, settings)
        return ""

    async def _keep(self, letter: DeadLetterRecord, data: bytes, settings: StationSettings) -> None:
        row = await self._store.put(letter, data)
        # A station that was destroyed meanwhile may have removed its dead letters before this one was there.
        station = await self._state.stations.get(key_of(settings.name))
        if station is None or station.value["status"] != READY:
            await self._store.drop(row)
        else:
            await self._copy(row, settings, data)

    async def _is_known(self, station: str, group: str) -> bool:
        """Whether applications have consumed as this group; other durables on the stream are somebody's own."""
        members = await self._state.members.keys(f"{key_of(station)}.{key_of(group)}.>")
        for key in members:
            member = await self._state.members.get(key)
            if member is not None and member.value["consumer_type"].lower() == "application":
                return True
        return False

    async def _message(self, stream: str, sequence: int) -> Optional[dict[str, Any]]:
        try:
            reply = await self._api.request(f"STREAM.MSG.GET.{stream}", {"seq": sequence})
        except JetStreamError as exc:
            if exc.err_code in (_NO_MESSAGE, STREAM_NOT_FOUND):
                return None
            raise
        message: dict[str, Any] = reply["message"]
        return message

    async def _copy(self, row: DeadLetterRecord, settings: StationSettings, data: Optional[bytes] = None) -> None:
        """Gives the dead-letter station one copy of each dead letter, whatever number of groups it has."""
        if row.is_copied or not settings.dls_station:
            return
        target = await self._state.stations.get(key_of(settings.dls_station))
        if data is None:
            data = await self._store.data(row)
        if data is None or target is None or target.value["status"] != READY:
            log.warning("dead letter %d has no copy in station %s, which is not there", row.id, settings.dls_station)
            return
        block, payload = data[: row.header_bytes], data[row.header_bytes :]
        kind = "failed_schema" if row.type == SCHEMA else "unacked"
        headers = copied_headers(read_headers(block), row.station, kind, f"memphis-dead-letter-{row.id}")
        if headers_size(headers) + len(payload) > self._connection.max_payload:
            log.warning("dead letter %d has no copy in station %s: it is too large", row.id, settings.dls_station)
        else:
            # Always the same partition for one dead letter: that is where its message id is remembered.
            goal = settings_of(target)
            subject = publish_subject(goal.internal, goal.partitions[row.id % len(goal.partitions)])
            try:
                await self._js.publish(subject, payload, headers=headers)
            except NoStreamResponseError:
                log.warning("dead letter %d has no copy in station %s, which has just gone", row.id, goal.name)
        await self._store.mark_copied(row)
