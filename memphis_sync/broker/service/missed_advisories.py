"""
Finds dead letters whose JetStream advisories were lost when nats-server was killed.

JetStream publishes once that a message has had its group's max deliveries. A nats-server that is killed at that moment
has told nobody. One that starts again drops such messages as soon as their ack time is over, before the stream that
would store the advisory is there. The message never comes again, and does not become a dead letter.

Rules:
* There are notes of what members gave back (see storage/given_back.py). They are checked once when a copy of the
  service starts, and when its connection comes back: a message whose last delivery is noted, and about which nothing
  else is written, is owed to its group, as if the advisory had come.
* But only when no advisory can come any more: the group has no unacknowledged message left in that partition, or its
  ack time is over and somebody has pulled since, which makes JetStream look for messages that had their max deliveries.
  An advisory that comes all the same finds that the message is owed.
* A delivery that JetStream itself has forgotten is left to it: the message comes again as if for the first time.
* What a member reported but kept is left out: it may have been handled, and JetStream does not say so for one message.
* Every step can be repeated, by several copies at once: what is owed is written by one of them, once.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Any, Optional

from nats.errors import Error as NatsError

from memphis_sync._protocol.names import NameRuleError, durable_name, internal_name, lower_name, stream_name
from memphis_sync.broker.service.part import BackgroundPart, Shared
from memphis_sync.broker.storage.given_back import Owed
from memphis_sync.broker.storage.jetstream_api import JetStreamError, in_steps
from memphis_sync.broker.storage.tables import ConflictError

log = logging.getLogger("memphis_sync.broker")

_AT_ONCE = 4  # lanes
_STEPS = 16  # messages of one lane that are written side by side
_LOOK_S = 1.0  # until a lane is checked again; twice as long each time
_MAX_LOOK_S = 10.0
_NS_PER_S = 1_000_000_000


@dataclass
class _Lane:
    """
    What a group gave back in one partition.

    Attributes:
        notes: The keys of its notes.
        since: When it was checked first, by the loop's clock.
        delivered: How many deliveries there had been then; -1 before.
    """

    station: str
    group: str
    partition: int
    notes: list[str] = field(repr=False)
    since: float = 0.0
    delivered: int = -1


class MissedAdvisories(BackgroundPart):
    """Looks for messages that were given back and then forgotten."""

    def __init__(self, shared: Shared) -> None:
        super().__init__(shared)
        self._task: Optional[asyncio.Task[None]] = None

    def look(self) -> None:
        """Checks the notes, in the background; starts over if it was doing that."""
        if self._task is not None:
            self._task.cancel()
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Stops looking."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        lanes: Optional[list[_Lane]] = None
        pause_s = _LOOK_S
        while lanes is None or lanes:
            try:
                if lanes is None:
                    lanes = [_Lane(*place, notes) for place, notes in (await self._given_back.notes()).items()]
                ends = await in_steps(self._look_at, lanes, _AT_ONCE)
                lanes = [lane for lane, is_done in zip(lanes, ends) if not is_done]
            except (NatsError, JetStreamError, OSError) as exc:
                log.debug("what was given back cannot be listed now: %s", exc)
            if lanes is None or lanes:
                await asyncio.sleep(pause_s)
                pause_s = min(_MAX_LOOK_S, 2 * pause_s)

    async def _look_at(self, lane: _Lane) -> bool:
        """Checks a lane; returns whether there is nothing more to do about it."""
        try:
            return await self._decide(lane)
        except NameRuleError:
            return True  # somebody else wrote that note
        except (ConflictError, NatsError, JetStreamError, OSError) as exc:
            log.debug("what group %s of station %s gave back: %s", lane.group, lane.station, exc)
        except Exception:
            log.exception("what group %s of station %s gave back cannot be looked at", lane.group, lane.station)
            return True
        return False

    async def _decide(self, lane: _Lane) -> bool:
        station, group = lower_name("Station", lane.station), lower_name("Consumer", lane.group)
        stream = stream_name(internal_name(station), lane.partition)
        info = await self._api.consumer_info(stream, durable_name(group))
        limit = 0 if info is None else int(info["config"].get("max_deliver", 0))
        if info is None or limit < 1:  # the group was deleted, or has no max deliveries
            return True
        found = await self._given_back.undecided(lane.station, lane.group, lane.partition, lane.notes, limit)
        found = {at: back for at, back in found.items() if 0 < at <= info["delivered"]["stream_seq"]}
        if not found:
            return True
        if not self._has_ended(lane, info):
            return False
        owed = [Owed.after(lane.station, lane.group, lane.partition, at, *found[at]) for at in sorted(found)]
        await in_steps(self._given_back.owe, owed, _STEPS)
        log.info(
            "%d messages that group %s of station %s gave back are sent again: their advisory was lost (partition %d)",
            len(found),
            lane.group,
            lane.station,
            lane.partition,
        )
        return True

    @staticmethod
    def _has_ended(lane: _Lane, info: dict[str, Any]) -> bool:
        """Whether JetStream will publish no more advisories about messages that it had delivered at the first check."""
        now, delivered = asyncio.get_running_loop().time(), info["delivered"]["consumer_seq"]
        if lane.delivered < 0:
            lane.since, lane.delivered = now, delivered
        if not info["num_ack_pending"]:
            return True
        is_read = delivered != lane.delivered or bool(info["num_waiting"])
        return is_read and now - lane.since > info["config"]["ack_wait"] / _NS_PER_S + _LOOK_S
