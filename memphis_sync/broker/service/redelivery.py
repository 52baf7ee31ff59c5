"""
Sends messages to their group again that JetStream has delivered as often as allowed, but that are not dead letters yet:
members that ended in order gave some of these deliveries back unprocessed.

Rules:
* A group is owed as many deliveries of such a message as it gave back. They are sent as dead letters are sent again: to
  one member of the group, which acknowledges by the message's id.
* A delivery that is not acknowledged within the group's ack time counts. After the last one the message becomes a dead
  letter. One that was given back does not count, nor one whose sender was killed: it may never have reached a member.
* Only a few messages of a group are under way at once, and none while no member is connected: what waits in a member is
  given back or lost with it. A message that a member did not acknowledge is sent alone: if the next member dies of it
  as well, no other message loses a delivery.
* What is owed is stored before anything is sent, and every change names the revision that it was made from: only one of
  several copies of the service sends, and any other can replace it when it is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Awaitable
from dataclasses import replace
from typing import Callable, Optional

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from memphis_sync._protocol.dead_letter_headers import headers_size, read_headers, resent_headers
from memphis_sync._protocol.dead_letters import MAX_GIVEN_BACK, GivenBack
from memphis_sync._protocol.names import durable_name, external_name, internal_name, lower_name, stream_name
from memphis_sync.broker.request_error import RequestError
from memphis_sync.broker.service.part import BackgroundPart, Shared
from memphis_sync.broker.service.routing import Routes
from memphis_sync.broker.storage.connections import open_connection_keys
from memphis_sync.broker.storage.dead_letter_stream import STREAM
from memphis_sync.broker.storage.given_back import Owed
from memphis_sync.broker.storage.jetstream_api import JetStreamError, in_steps
from memphis_sync.broker.storage.tables import ConflictError, key_of, name_of

log = logging.getLogger("memphis_sync.broker")

_AT_ONCE = 4  # messages of a group under way, from each copy of the service
_STEPS = 16  # messages checked side by side
_LOOK_S = 0.25  # until a message under way is checked again; the copy that gets its acknowledgement does it at once
_ALONE_S = 1.0  # until a group without members is checked again
_SETTLED_S = 1.0  # a new member subscribes to what is sent again a moment after it has joined
_LEFT_S = 1.0  # how long a group gets nothing after a member has said that it leaves
_LEAVE_S = 0.5  # how long that member waits for what is being sent to it
_FAILED_S = 1.0
_TAKE_OVER_S = 5.0  # beyond the ack time, until another copy takes over what one has sent and not followed up
_LIST_S = 60.0  # until everything is listed again: another copy may have written while this one had no connection
_NS_PER_S = 1_000_000_000

_WORDS = 3  # tokens of a key

_Key = tuple[str, str, int]  # station, group, id


class Redelivery(BackgroundPart):
    """
    Sends the messages that are owed.

    Args:
        shared: What all parts share.
        keep: Makes a message a dead letter.
    """

    def __init__(self, shared: Shared, keep: Callable[[Owed], Awaitable[None]]) -> None:
        super().__init__(shared)
        self._keep = keep
        self.routes: Routes = {GivenBack: self.give_back}
        self._id = uuid.uuid4().hex
        self._due: dict[_Key, float] = {}  # when to check each, by the loop's clock
        self._under_way: set[_Key] = set()
        self._alone: set[_Key] = set()  # of those under way the ones that are sent alone
        self._sending: dict[_Key, asyncio.Future[None]] = {}  # done when the step is
        self._quiet: dict[tuple[str, str], float] = {}  # groups that get nothing now, and until when
        self._listening: dict[tuple[str, str], tuple[float, bool]] = {}  # until when to believe whether a group listens
        self._changed = asyncio.Event()
        self._subscription: Optional[Subscription] = None
        self._task: Optional[asyncio.Task[None]] = None

    async def start(self) -> None:
        """Starts with what is owed from before."""
        self._subscription = await self._connection.subscribe(f"{STREAM}.owed.>", cb=self._hear)
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Stops sending."""
        if self._subscription is not None:
            with contextlib.suppress(NatsError):
                await self._subscription.unsubscribe()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def answered(self, group: str, dead_letter_id: int) -> None:
        """A member has acknowledged a message."""
        await self._given_back.answer_owed(group, dead_letter_id)
        for key in [key for key in self._under_way if key[1:] == (group, dead_letter_id)]:
            self._has_ended(key)
            self._due.pop(key, None)
            self._look(*key[:2])

    def may_be_owed(self, station: str, group: str) -> bool:
        """Whether the group is owed any of a station's messages, as far as this copy knows."""
        return any(key[:2] == (station, group) for key in self._due)

    async def _came_back(self, station: str, group: str, dead_letter_id: int) -> None:
        """A member gives back a message that was sent again."""
        self._has_ended((station, group, dead_letter_id))
        while True:
            owed = await self._given_back.owed(station, group, dead_letter_id)
            if owed is None or not owed.sent:
                return
            try:
                await self._given_back.update_owed(replace(owed, left=owed.left + 1, sent=0.0))
            except ConflictError:
                continue
            return

    async def _leaves(self, station: str, group: str) -> None:
        """A member is about to leave: sends its group nothing for _LEFT_S, and waits for what is being sent."""
        now = asyncio.get_running_loop().time
        self._quiet = {key: until for key, until in self._quiet.items() if until > now()}
        self._quiet[station, group] = now() + _LEFT_S
        sending = [step for key, step in self._sending.items() if key[:2] == (station, group)]
        if sending:
            await asyncio.wait(sending, timeout=_LEAVE_S)

    async def give_back(self, request: GivenBack) -> None:
        """Notes what a member gives back unprocessed; answered when that is stored."""
        station = lower_name("Station", external_name(request.station_name))
        group = lower_name("Consumer", external_name(request.cg_name))
        settings = await self._required(station)
        count = len(request.sequences)
        if (
            not len(request.partitions) == len(request.deliveries) == count
            or max(count, len(request.resent)) > MAX_GIVEN_BACK
        ):
            raise RequestError(f"partitions, sequences and deliveries must be equally many, up to {MAX_GIVEN_BACK}")
        if not count or request.resent:
            await self._leaves(station, group)
        found: dict[int, list[tuple[int, int]]] = {}
        for partition, sequence, delivery in zip(request.partitions, request.sequences, request.deliveries):
            if partition not in settings.partitions or sequence < 1 or delivery < 1:
                raise RequestError(f"station {station} has no delivery {delivery} of message {sequence} in {partition}")
            found.setdefault(partition, []).append((sequence, delivery))
        await asyncio.gather(
            *(
                self._given_back.note_given_back(station, group, partition, each, is_kept=request.kept)
                for partition, each in found.items()
            ),
            *(self._came_back(station, group, dead_letter_id) for dead_letter_id in request.resent),
        )

    # ---- when to check what -----------------------------------------------------------------------------------------

    async def _hear(self, message: Msg) -> None:
        """Some copy has written an entry: it is checked now."""
        words = message.subject.split(".")[2:]
        if len(words) == _WORDS and words[2].isdecimal():  # otherwise somebody else has published it
            self._due[name_of(words[0]), name_of(words[1]), int(words[2])] = 0.0
            self._changed.set()

    def _look(self, station: str, group: str) -> None:
        """A group may get another message: its messages are checked now."""
        for key in self._due:
            if key[:2] == (station, group) and key not in self._under_way:
                self._due[key] = 0.0
        self._changed.set()

    async def _run(self) -> None:
        list_at, now = 0.0, asyncio.get_running_loop().time
        while True:
            self._changed.clear()
            try:
                if now() >= list_at:
                    list_at = now() + _LIST_S
                    await in_steps(self._renew, await self._given_back.all_owed(), _STEPS)
                due = sorted((key for key, when in self._due.items() if when <= now()), key=lambda key: key[2])
                await in_steps(self._look_at, due, _STEPS)
            except (NatsError, JetStreamError, OSError) as exc:
                log.debug("what is owed cannot be listed now: %s", exc)
                list_at = now() + _FAILED_S
            except Exception:  # the loop must go on, whatever somebody has published
                log.exception("what is owed cannot be listed now")
            wait_s = max(0.0, min(list_at, *self._due.values()) - now()) if self._due else list_at - now()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), wait_s)

    async def _renew(self, key: _Key) -> None:
        """Takes up a listed message, and keeps the stream from expiring it while it waits for a member."""
        self._due.setdefault(key, 0.0)
        owed = await self._given_back.owed(*key)
        if owed is not None:
            if owed.sent:
                self._under_way.add(key)
                if owed.is_alone:
                    self._alone.add(key)
            with contextlib.suppress(ConflictError):
                await self._given_back.renew_owed(owed)

    async def _look_at(self, key: _Key) -> None:
        try:
            pause_s = await self._step(key)
        except ConflictError:  # another copy was faster
            pause_s = _LOOK_S
        except (NatsError, JetStreamError, OSError) as exc:
            log.debug("dead letter %d of station %s cannot be sent again now: %s", key[2], key[0], exc)
            pause_s = _FAILED_S
        except Exception:
            log.exception("dead letter %d of station %s cannot be sent again now", key[2], key[0])
            pause_s = _LIST_S
        if pause_s is None:
            self._due.pop(key, None)
            self._has_ended(key)
        else:
            self._due[key] = asyncio.get_running_loop().time() + pause_s

    # ---- one message ------------------------------------------------------------------------------------------------

    async def _step(self, key: _Key) -> Optional[float]:
        """Takes the next step. Returns in how many seconds to check again; None when it is not owed any more."""
        station, group, _ = key
        if key not in self._under_way and not await self._is_listening(station, group):
            return _ALONE_S
        if key not in self._under_way and self._is_full(station, group):
            return _LOOK_S
        self._under_way.add(key)  # before the next await: other steps count it
        self._sending[key] = step = asyncio.get_running_loop().create_future()
        try:
            pause_s = await self._advance(key)
        except BaseException:
            self._has_ended(key)
            raise
        finally:
            del self._sending[key]
            step.set_result(None)
        return pause_s

    def _is_full(self, station: str, group: str) -> bool:
        """Whether no further message of a group may be under way now."""
        others = [other for other in self._under_way if other[:2] == (station, group)]
        return len(others) >= _AT_ONCE or not self._alone.isdisjoint(others)

    async def _advance(self, key: _Key) -> Optional[float]:
        owed = await self._given_back.owed(*key)
        if owed is None:
            return None
        if owed.sent:
            is_own = owed.by == self._sender
            wait_s = (await self._ack_time(owed) or 0.0) + (0.0 if is_own else _TAKE_OVER_S)
            waited_s = time.time() - owed.sent
            if 0 <= waited_s < wait_s:
                return min(wait_s - waited_s, _LOOK_S)
            if is_own and not owed.left:
                await self._keep(owed)
                await self._given_back.finish_owed(owed)
                return None
            # Another sender has died, or lost its connection: the message may never have reached a member.
            owed = replace(owed, left=owed.left + (not is_own), sent=0.0, is_alone=owed.is_alone or is_own)
            if not await self._is_listening(owed.station, owed.group):
                await self._given_back.update_owed(owed)
                self._has_ended(key)
                return _ALONE_S
        if owed.is_alone:
            if any(other[:2] == key[:2] for other in self._under_way if other != key):
                self._has_ended(key)
                return _LOOK_S
            self._alone.add(key)
        return await self._send(owed)

    def _has_ended(self, key: _Key) -> None:
        """A message is not under way any more."""
        self._under_way.discard(key)
        self._alone.discard(key)

    @property
    def _sender(self) -> str:
        """This copy on its present connection."""
        return f"{self._id}-{self._connection.client_id}"

    async def _send(self, owed: Owed) -> Optional[float]:
        stream = stream_name(internal_name(owed.station), owed.partition)
        message = await self._api.message(stream, seq=owed.sequence)
        if message is None or await self._ack_time(owed) is None:  # the message or the group was deleted
            await self._given_back.settle_owed(owed)
            return None
        headers = resent_headers(
            read_headers(message.block),
            owed.id,
            owed.group,
            partition=owed.partition,
            sequence=owed.sequence,
            time_ns=message.time_ns,
            is_owed=True,
        )
        if headers_size(headers) + len(message.payload) > self._connection.max_payload:
            await self._keep(owed)
            await self._given_back.finish_owed(owed)
            return None
        await self._given_back.update_owed(replace(owed, left=owed.left - 1, sent=time.time(), by=self._sender))
        await self._send_again(owed.station, owed.group, message.payload, headers)
        return _LOOK_S

    async def _ack_time(self, owed: Owed) -> Optional[float]:
        """The group's ack time, in seconds; None when the group does not exist."""
        stream = stream_name(internal_name(owed.station), owed.partition)
        info = await self._api.consumer_info(stream, durable_name(owed.group))
        return None if info is None else float(info["config"]["ack_wait"]) / _NS_PER_S

    async def _is_listening(self, station: str, group: str) -> bool:
        """Whether a connected member has had the time to subscribe, and no member is about to leave."""
        has_members = await self._has_members(station, group)
        return has_members and self._quiet.get((station, group), 0.0) <= asyncio.get_running_loop().time()

    async def _has_members(self, station: str, group: str) -> bool:
        now = asyncio.get_running_loop().time()
        until, is_listening = self._listening.get((station, group), (0.0, False))
        if now < until:
            return is_listening
        self._listening[station, group] = (now + _ALONE_S / 2, is_listening)  # so that other steps do not ask, too
        keys = await self._state.members.keys(f"{key_of(station)}.{key_of(group)}.>")
        open_keys = await open_connection_keys(self._connection)
        is_listening = bool(keys) and open_keys is None
        if open_keys is not None:
            for key in keys:
                if key.split(".")[2] in open_keys:
                    member = await self._state.members.get(key)
                    if member is not None and not 0 <= time.time() - member.value["created"] < _SETTLED_S:
                        is_listening = True
                        break
        self._listening[station, group] = (now + _ALONE_S / 2, is_listening)
        return is_listening
