"""
A consumer's membership in its group, over the control link: it subscribes to resent dead letters, and asks whether the
group still exists.
"""

from __future__ import annotations

import contextlib
import functools
import time
import weakref
from typing import TYPE_CHECKING, Callable, Optional

from memphis_sync._base.logs import Log
from memphis_sync._base.threads import handing_over
from memphis_sync._consuming.give_back import report_untouched
from memphis_sync._consuming.resent import MAX_MESSAGES, ResentQueue
from memphis_sync._consuming.source import Source
from memphis_sync._control.api import JS_S, Requests
from memphis_sync._data import DataLink, GroupPartition
from memphis_sync.errors import MemphisError, StationNotFoundError

if TYPE_CHECKING:
    from memphis_sync._control import Subscription

log = Log("memphis_sync.consume")

_LOOK_S = 2.0  # for the question whether a group is still there


class Membership:
    """
    A consumer among those of its group that get dead letters again.

    Args:
        source: The consumer.
        requests: Its client's.
        letters: Where the dead letters go.
    """

    def __init__(self, source: Source, requests: Requests, letters: ResentQueue) -> None:
        self._source = source
        self._requests = requests
        self._letters = letters
        self._unsubscribe: Optional[weakref.finalize[[Subscription], Membership]] = None

    def join(self, deadline: Optional[float]) -> None:
        """Has dead letters sent to this consumer, too; *deadline*: by ``time.monotonic()``. A failure is logged."""
        source, session = self._source, self._source.session
        hear = self._requests.hear_dead_letters
        work = functools.partial(hear, source.view, source.group_internal, self._letters.put)
        try:
            if deadline is None:
                subscription = session.call(work, JS_S, "consumer()")
            else:
                subscription = session.loop.call(work, max(deadline - time.monotonic(), 0.0), "consumer()")
        except MemphisError as exc:
            with handing_over(session.callbacks.post):  # others may wait for this consumer
                log.warning("%r gets no dead letters: %s", source, exc)  # all else works without
            return
        # Also when it is forgotten: in its queue group it would take dead letters that another member could have.
        self._unsubscribe = weakref.finalize(self, self._requests.end_subscription, subscription)
        self._unsubscribe.atexit = False

    def leave(self, deadline: float) -> None:
        """Begins to end it, by *deadline* on the monotonic clock: what is on its way goes to another member."""
        subscribed = None if self._unsubscribe is None else self._unsubscribe.detach()
        if subscribed is not None:
            session = self._source.session
            with contextlib.suppress(MemphisError):  # the client has ended, and the subscription with it
                link = session.data_link()
                session.spawn(functools.partial(self._leave, subscribed[2][0], link, deadline), is_awaited=True)

    async def _leave(self, subscription: Subscription, link: DataLink, deadline: float) -> None:
        control = self._source.session.control
        if control.is_memphis or not control.is_connected:
            return
        await report_untouched(self._source, link, [])
        await self._requests.drain_subscription(subscription, max(0.0, deadline - time.monotonic()))
        letters = self._letters.take(MAX_MESSAGES)
        if letters:
            await report_untouched(self._source, link, letters)

    def end(self) -> None:
        """Ends it at once, without a word about what is on its way."""
        if self._unsubscribe is not None:
            self._unsubscribe()


def look_for(source: Source, binding: GroupPartition, answer: Callable[[Optional[StationNotFoundError]], None]) -> None:
    """
    Asks whether a group whose pulls have no answer is still there; *answer* is called on the loop.

    It has no reference to the consumer: its pulls have this function, and who hears dead letters has its pulls, so a
    forgotten consumer could not be collected otherwise.
    """

    async def look() -> None:
        destroyed = None
        try:
            await source.session.control.js_api(f"CONSUMER.INFO.{binding.stream}.{binding.durable}", None, _LOOK_S)
        except StationNotFoundError as exc:
            destroyed = StationNotFoundError(
                f"{binding.stream}: the station or the consumer group was destroyed ({exc.description})",
                code=exc.code,
                err_code=exc.err_code,
                description=exc.description,
            )
            destroyed.__cause__ = exc
        except MemphisError as exc:
            log.debug("%r: %s", source, exc)  # nobody can tell at the moment
        finally:
            answer(destroyed)

    source.session.spawn(look)
