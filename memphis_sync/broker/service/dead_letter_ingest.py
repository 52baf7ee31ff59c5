"""
Receives what makes and ends dead letters: JetStream's advisories, and the reports and acknowledgements of clients.

Rules:
* A work-queue stream stores all of it, so nothing is missed while no copy of the service runs, and several copies share
  the work. It is pushed to them: nobody polls, and an idle broker does nothing.
* A message is acknowledged when it has been handled. It comes again until then, so every step can be repeated.
* What cannot be used is dropped with a line in the log: clients write the bodies, and no body may stop the rest.
* Dead letters of one partition get their ids in the order in which they came in, as far as one copy handles them.
* What the server can't do at the moment (JetStream has no leader, the disk is full) is tried again, until the stream's
  age limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Awaitable
from typing import Any, Callable, Optional

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError, MaxPayloadError

from memphis_sync._protocol.body import Body
from memphis_sync._protocol.dead_letters import (
    CountOwed,
    DeadLetterAck,
    DeadLetterCountReply,
    DeadLetterReport,
    GroupGone,
    MaxDeliveries,
    NackedDeadLetter,
    SchemaDeadLetter,
    UnusableMessage,
)
from memphis_sync._protocol.go_json import GoJsonError
from memphis_sync._protocol.names import (
    NameRuleError,
    durable_name,
    external_name,
    internal_name,
    lower_name,
    split_stream,
    stream_name,
)
from memphis_sync.broker.request_error import RequestError
from memphis_sync.broker.service.dead_letter_keeper import MAX_REASON, DeadLetterKeeper, Source
from memphis_sync.broker.service.missed_advisories import MissedAdvisories
from memphis_sync.broker.service.part import BackgroundPart, Shared
from memphis_sync.broker.service.redelivery import Redelivery
from memphis_sync.broker.service.routing import Routes
from memphis_sync.broker.storage.given_back import Owed
from memphis_sync.broker.storage.jetstream_api import JetStreamError
from memphis_sync.broker.storage.tables import key_of
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
_MAX_TRIES = 5  # of a message that fails with an unexpected error
_MAX_PAUSE_S = 30.0
_STOP_S = 2.0
_NS_PER_S = 1_000_000_000


class DeadLetterIngest(BackgroundPart):
    """Handles what comes in."""

    def __init__(self, shared: Shared) -> None:
        super().__init__(shared)
        self._keeper = DeadLetterKeeper(shared)
        self._running: set[asyncio.Task[None]] = set()
        self._subscription: Optional[Subscription] = None
        self._redelivery = Redelivery(shared, self._keeper.keep_owed)
        self.routes: Routes = {
            DeadLetterReport: self.report,
            CountOwed: self.count_owed,
            **self._redelivery.routes,
        }
        self._missed = MissedAdvisories(shared)
        kinds: dict[type[Body], Callable[[Any, Msg], Awaitable[None]]] = {
            NackedDeadLetter: lambda report, _: self.report(report),
            SchemaDeadLetter: self._schema_failure,
            DeadLetterAck: self._ack,
            GroupGone: self._group_gone,
        }
        self._kinds = {kind.SUBJECT: (kind, handler) for kind, handler in kinds.items()}

    async def start(self) -> None:
        """Creates the queue and its durable, and begins to receive."""
        stream = {
            "name": STREAM,
            "subjects": [f"{MaxDeliveries.SUBJECT}.>", *self._kinds],
            "retention": "workqueue",
            "max_age": _MAX_AGE_S * _NS_PER_S,
            "discard": "old",
            "storage": "file",
            "num_replicas": self._shared.replicas,
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
        """Stops receiving, and finishes what was received; what is not finished comes again, to any copy."""
        if self._subscription is not None:
            with contextlib.suppress(NatsError):
                await self._subscription.unsubscribe()
        await self._missed.stop()
        await self._redelivery.stop()
        if self._running:
            await asyncio.wait(self._running, timeout=_STOP_S)

    def make_good(self) -> None:
        """Looks for lost advisories; call it after the start or a reconnect, when the streams are restored."""
        self._missed.look()

    async def forget_group(self, station: str, group: str) -> None:
        """Removes what a deleted group is owed now, and the group from all dead letters soon: there may be many."""
        await self._given_back.forget_given_back(station, group)
        gone = GroupGone(station, group, math.ceil(time.time() * 1000))
        await self._js.publish(gone.SUBJECT, gone.encode())

    # ---- the queue --------------------------------------------------------------------------------------------------

    async def _take(self, message: Msg) -> None:
        task = asyncio.create_task(self._serve(message))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _serve(self, message: Msg) -> None:
        if not message.reply.startswith(_FROM_QUEUE):  # somebody else published to the queue's delivery subject
            return
        tries = 1
        try:
            tries = message.metadata.num_delivered
            kind, handler = self._kinds.get(message.subject, (MaxDeliveries, self._unacked))
            await handler(kind.decode(message.data), message)
        except (GoJsonError, NameRuleError, RequestError, MaxPayloadError) as exc:
            log.warning("%s: dropped: %s", message.subject, str(exc)[:MAX_REASON])
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

    # ---- what comes in ----------------------------------------------------------------------------------------------

    async def _unacked(self, advisory: MaxDeliveries, _: Msg) -> None:
        """A message has had its group's max deliveries."""
        try:
            internal, partition = split_stream(advisory.stream)
        except LocalProtocolError:
            return  # not a station's stream
        group = external_name(advisory.consumer)
        async with self._keeper.lock(advisory.stream):
            settings = await self._ready(external_name(internal)) if partition else None
            if settings is not None:
                source = Source(settings, partition, advisory.stream_seq, group)
                if not await self._is_owed(source, advisory.deliveries):
                    await self._keeper.poison(source)

    async def _is_owed(self, source: Source, deliveries: int) -> bool:
        """
        Whether the group gave deliveries of the message back unprocessed; if so, writes that it is owed.

        Args:
            source: The message.
            deliveries: How many there were.
        """
        station, group = source.settings.name, source.group
        count = await self._given_back.given_back(station, group, source.partition, source.sequence)
        owed = Owed.after(station, group, source.partition, source.sequence, deliveries, count)
        if not owed.left:
            return False
        letter = await self._store.find(station, source.place)
        if letter is not None and group in letter.groups:  # it has had them: this advisory comes again
            return False
        await self._given_back.owe(owed)
        return True

    async def count_owed(self, request: CountOwed) -> DeadLetterCountReply:
        """Counts the messages that come to a group again, undecided ones included."""
        station = lower_name("Station", external_name(request.station_name))
        group = lower_name("Consumer", external_name(request.cg_name))
        settings = await self._required(station)
        # First those that wait to be decided: each stays in the queue until it is written that it is owed.
        pattern = f"{MaxDeliveries.SUBJECT}.*.{durable_name(group)}"
        info = await self._api.request(f"STREAM.INFO.{STREAM}", {"subjects_filter": pattern})
        counts = info["state"].get("subjects") or {}
        waiting = sum(
            counts.get(pattern.replace("*", stream_name(settings.internal, partition)), 0)
            for partition in settings.partitions
        )
        owed = await self._given_back.all_owed(f"{key_of(station)}.{key_of(group)}.*")
        return DeadLetterCountReply(waiting + len(owed))

    async def report(self, report: UnusableMessage) -> None:
        """
        Makes a dead letter of a message that a consumer cannot use. Names may be internal or external; some clients
        leave out the partition.

        A report that is a request is answered when the dead letter is stored. Only then may the consumer end the
        message: a station that keeps messages until they are acknowledged deletes it at once.

        Raises:
            RequestError: It cannot become a dead letter, now or later.
            JetStreamError: It cannot be stored now; the text begins with "timeout", and clients ask again.
        """
        try:
            await self._report(report)
        except MaxPayloadError as exc:
            raise RequestError(str(exc)) from exc
        except (NatsError, JetStreamError, OSError) as exc:
            text = str(exc) or type(exc).__name__
            raise JetStreamError(
                text if text.startswith("timeout") else f"timeout: cannot be kept now: {text}"
            ) from exc

    async def _report(self, report: UnusableMessage) -> None:
        station = lower_name("Station", external_name(report.station_name))
        group = lower_name("Consumer", external_name(report.cg_name))
        async with self._keeper.lock(stream_name(internal_name(station), max(1, report.partition))):
            settings = await self._required(station)
            partition = report.partition
            if partition == 0 and len(settings.partitions) == 1:
                partition = settings.partitions[0]
            if partition not in settings.partitions:
                raise RequestError(f"station {station} has no partition {partition}")
            source = Source(settings, partition, report.seq, group, report.error[:MAX_REASON])
            why_not = await self._keeper.poison(source)
            if why_not:
                raise RequestError(f"{source.name} is not kept as a dead letter: {why_not}")
            if self._redelivery.may_be_owed(station, group):
                await self._given_back.answer_owed_place(station, group, source.place)

    async def _schema_failure(self, report: SchemaDeadLetter, message: Msg) -> None:
        """A report of the official clients has no id of its own; its position in the queue is the same each time."""
        meta = message.metadata
        identity = f"{meta.sequence.stream}-{int(meta.timestamp.timestamp() * 1_000_000)}"
        await self._keeper.schema_failure(report, identity)

    async def _ack(self, ack: DeadLetterAck, _: Msg) -> None:
        """A group acknowledges a message that was sent to it again."""
        row = await self._store.find_by_id(ack.id) if ack.id > 0 else None
        group = external_name(ack.cg_name).lower()
        await self._store.remove_group(row, group, drop_empty=True, before=math.inf)
        if ack.id > 0:
            await self._redelivery.answered(lower_name("Consumer", group), ack.id)

    async def _group_gone(self, gone: GroupGone, _: Msg) -> None:
        """Removes a deleted group from its dead letters; they stay, even without a group."""
        station = lower_name("Station", gone.station_name)
        ids = await self._store.ids(station)
        for row in await self._store.rows(station, ids):
            await self._store.remove_group(row, gone.cg_name, drop_empty=False, before=gone.before_ms / 1000)
