"""
Pulls messages for a consumer group from all its partitions within one deadline.

A fetch asks each partition without waiting first, sharing the batch among them. If nothing was there it asks all of
them once more and waits for the first message. It returns as soon as it has something. Requests that are still open
then are withdrawn; a message that crosses with the withdrawal is kept and is the first of the next fetch, so no
delivery is wasted. When the time of a fetch is over, so is that of its requests: the server ends them, and the next
fetch waits for that. With ``ahead`` the requests stay open, and new ones follow, so that the next fetch finds its
messages here.

Source: protocol reference 5.3, 6.5, 12.5.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from typing import TYPE_CHECKING, Callable, Generic, Optional, TypeVar

from memphis_sync._base.logs import Log
from memphis_sync._base.threads import Section, handing_over
from memphis_sync._core import RawMessage, ReceiveBuffer
from memphis_sync._core._codes import Error
from memphis_sync._data.group_watch import NOTHING_THERE, GroupWatch, LookFor
from memphis_sync._data.pull_subscription import Ending, GroupPartition, PullSubscription, pending_behind
from memphis_sync._data.surplus import Fetch, Surplus
from memphis_sync.errors import ConnectionLostError, DeadlineError, ForkedError, MemphisError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memphis_sync._data.connection import DataLink

logger = Log("memphis_sync.link")
_M = TypeVar("_M", bound=RawMessage)

CHECK_S = 0.2  # how often a fetch that waits looks whether the broker is silent
NAP_S = 0.05  # how often a wait that wake() does not end asks whether it is over
REST_S = 0.2  # how long rest() waits for a fetch to end
POLL_S = 2.0  # the longest that one request waits at the server: a group that is gone is noticed soon after it
LATE_S = 0.08  # how much longer than its time a fetch waits for answers: one round trip, however short its time is
PORTION_S = 0.002  # how long a first message waits for others that are known to follow it
IDLE_S = 0.05  # requests that have brought nothing for so long are waiting for messages
CLOSE_S = 1.0  # how long the end waits for messages on their way, to give them back


def never() -> bool:
    """For a fetch that nothing cuts short."""
    return False


class PullConsumer(Generic[_M]):
    """
    The fetches of one consumer, one after the other.

    Args:
        link: The data link.
        bindings: The group's partitions.
        kind: What to make of a message, a subclass of RawMessage.
        owner: What the messages carry as ``owner``.
        ack_time_s: How long the broker waits for an answer to a message.
        look_for: Called with a binding whose pulls have no answer, and with what is to be called with the answer: a
            StationNotFoundError when the group is gone, else None. Must not wait; raises ClosedError at most.

    Attributes:
        answered_at: When the broker last said what a partition holds, be it nothing; by ``time.monotonic()``.
    """

    def __init__(
        self,
        link: DataLink,
        bindings: Sequence[GroupPartition],
        kind: type[_M],
        owner: object,
        *,
        ack_time_s: float,
        look_for: LookFor,
    ) -> None:
        self._link = link
        self._bindings = tuple(bindings)
        self._kind = kind
        self._owner = owner
        self._lock = Section("a fetch of this consumer")  # who holds it fetches; it guards all that follows
        self._subscription: Optional[PullSubscription[_M]] = None
        self._surplus: Surplus[_M] = Surplus(link, owner, len(self._bindings), ack_time_s)
        self.fresh = self._surplus.fresh
        # Withdrawn, each with the number of the PING behind its UNSUB, and when that was written.
        self._retired: deque[tuple[PullSubscription[_M], int, float]] = deque()
        self._first = 0
        self._watch = GroupWatch(look_for, self.wake)
        self.answered_at = 0.0

    def fetch(
        self,
        batch: int,
        wait_s: float,
        partition: Optional[int] = None,
        *,
        ahead: bool = False,
        outage_s: float = float("inf"),
        is_over: Callable[[], bool] = never,
    ) -> list[_M]:
        """
        Up to *batch* messages; waits at most *wait_s* for the first one.

        Args:
            partition: Only this one; None looks at all, beginning with another one each time.
            ahead: Ask for the next *batch* before returning.
            outage_s: How much of *wait_s* it waits for a connection, when there is none.
            is_over: Asked while waiting, and after each wake(); True ends the wait.

        Returns:
            The messages of a partition in its order; empty when none came in time.

        Raises:
            StationNotFoundError: The station or the group is gone.
            ConnectionLostError: There is no connection, and none came back in time.
            DeadlineError: The broker has not answered a pull for 5 s, whichever fetch made it; raised once each 5 s.
        """
        deadline = time.monotonic() + wait_s
        lock = self._lock.begin()
        try:
            while not lock.acquire(timeout=min(NAP_S, max(deadline - time.monotonic(), 0))):
                if time.monotonic() >= deadline or is_over():
                    return []
            try:
                return self._fetch(Fetch(self._chosen(partition), batch, deadline, ahead, outage_s, is_over))
            except BaseException:
                self._withdraw()
                raise
        finally:
            try:  # noqa: SIM105  suppress() is Python code: an interrupt in it would leave this locked
                lock.release()
            except RuntimeError:  # it was not acquired
                pass

    def _fetch(self, fetch: Fetch) -> list[_M]:
        if fetch.is_over():
            return []
        until = max(fetch.deadline, time.monotonic() + LATE_S)
        while not self._take_retired(min(until, time.monotonic() + NAP_S)):
            found = self._surplus.take(fetch)
            if not found:
                self._check_silence(fetch.chosen)
            if found or fetch.is_over() or time.monotonic() >= until:
                return found
        return self._read(fetch)

    def wake(self) -> None:
        """Makes a fetch that waits ask its *is_over*. From any thread."""
        subscription = self._subscription
        if subscription is not None:
            subscription.buffer.wake()

    def rest(self, *, is_idle: bool = False) -> None:
        """
        Asks for nothing ahead any more; what has come stays for the next fetch.

        Args:
            is_idle: The partitions had nothing more; else what is being delivered is let come.
        """
        if self._lock.is_mine:
            return  # a fetch that was interrupted, and decides itself
        lock = self._lock.begin()
        try:
            if not lock.acquire(timeout=REST_S):
                return  # somebody is fetching, and decides
            subscription = self._subscription
            if subscription is not None and not subscription.is_empty:
                self._surplus += subscription.take()[0]
                self._withdraw(always=is_idle or subscription.is_idle(IDLE_S))
        except ForkedError as exc:  # the end of a generator that the child of a fork has inherited
            with handing_over(self._link.callbacks.post):
                logger.debug("%r: %s", self._owner, exc)
        finally:
            try:  # noqa: SIM105  as in fetch()
                lock.release()
            except RuntimeError:
                pass

    @property
    def holds(self) -> int:
        """How many messages were received and wait for a fetch."""
        return len(self._surplus)

    @property
    def is_expecting(self) -> bool:
        """Whether messages are here or may be on their way; from any thread."""
        subscription = self._subscription
        return bool(self._surplus or self._retired) or (subscription is not None and not subscription.is_empty)

    def take_untouched(self, deadline: float) -> list[_M]:
        """
        Asks for nothing any more, and takes what was received and not handed out, to be given back to the group.

        Args:
            deadline: By ``time.monotonic()``; what is on its way then is left to a later call.
        """
        if self._lock.is_mine:
            return []  # a fetch that was interrupted takes care of what comes
        lock = self._lock.begin()
        try:
            if not lock.acquire(timeout=max(0.0, min(CLOSE_S, deadline - time.monotonic()))):
                return []  # so does one that is under way
            subscription = self._subscription
            if subscription is not None and not subscription.is_idle(IDLE_S):
                self._let_come(min(deadline, time.monotonic() + CLOSE_S))
            self._withdraw(always=True)
            if not self._link.is_up():
                return []  # the broker delivers them again when their ack time is over
            self._take_retired(min(deadline, time.monotonic() + CLOSE_S))
            surplus = self._surplus[:]
            self._surplus.clear()
            return self.fresh(surplus)
        finally:
            try:  # noqa: SIM105  as in fetch()
                lock.release()
            except RuntimeError:
                pass

    def put_back(self, messages: Sequence[_M]) -> None:
        """Keeps messages for the next fetch, before all others."""
        with self._lock.begin():
            self._surplus[:0] = messages

    def __del__(self) -> None:
        subscription = getattr(self, "_subscription", None)
        if subscription is not None:
            with contextlib.suppress(MemphisError):  # no connection, or it is the parent process's
                subscription.withdraw()  # two frames are queued; nothing is waited for

    # ---- what is here already ---------------------------------------------------------------------------------------

    def _chosen(self, partition: Optional[int]) -> list[GroupPartition]:
        if partition is not None:
            return [binding for binding in self._bindings if binding.partition == partition]
        first = self._first
        self._first = (first + 1) % len(self._bindings)
        return [*self._bindings[first:], *self._bindings[:first]]

    def _take_retired(self, deadline: float) -> bool:
        """
        What crossed with a withdrawal, once the PONG behind it has come: what is asked for later would overtake it.

        Returns:
            False: it has not come until *deadline*; then nothing else may be asked for.
        """
        while self._retired:
            subscription, number, _ = self._retired[0]
            is_over = self._is_over(subscription.buffer, number, deadline)
            self._surplus += subscription.take()[0]
            if not is_over:
                return False
            self._retired.popleft()
        return True

    def _is_over(self, buffer: ReceiveBuffer, number: int, deadline: float) -> bool:
        while True:
            left = deadline - time.monotonic()
            try:
                if self._link.core.wait_pong(number, min(deadline, time.monotonic() + NAP_S)):
                    return True
            except ConnectionLostError:
                return True
            if buffer.is_closed:
                return True
            if left <= 0:
                return False

    def _check_silence(self, chosen: list[GroupPartition]) -> None:
        """Raises when the group is gone, or the broker hangs."""
        try:
            self._watch.check(chosen, self._retired[0][2] if self._retired else float("inf"))
        except DeadlineError:
            self._withdraw(always=True)
            raise

    # ---- asking and waiting -----------------------------------------------------------------------------------------

    def _read(self, fetch: Fetch) -> list[_M]:
        while True:
            found = self._surplus.take(fetch)
            if not found and not self._wait_up(fetch):
                return []
            try:
                subscription = self._current()
                if not found:
                    self._take(subscription, fetch)
                    if not self._surplus.count_for(fetch):
                        self._take_available(subscription, fetch)
                    if not self._surplus.count_for(fetch):
                        self._await(subscription, fetch)
                    found = self._surplus.take(fetch)
                if fetch.ahead and not fetch.is_over():
                    self._ask_ahead(subscription, fetch)
                elif not subscription.is_quiet and time.monotonic() < fetch.deadline:  # else they end by themselves
                    self._withdraw()
            except ConnectionLostError:
                self._lose()
                found = found or self._surplus.take(fetch)
            if found or fetch.is_late():
                if not found:
                    self._check_silence(fetch.chosen)
                return found

    def _wait_up(self, fetch: Fetch) -> bool:
        """Waits for a connection; False when the fetch was ended meanwhile."""
        until = min(fetch.deadline, time.monotonic() + fetch.outage_s)
        while not self._link.wait_up(min(until, time.monotonic() + NAP_S)):
            if fetch.is_over():
                return False
            if time.monotonic() >= until:
                raise ConnectionLostError("the data link has no connection; messages stay with the broker")
        return True

    def _current(self) -> PullSubscription[_M]:
        """The subscription of this connection."""
        subscription = self._subscription
        if subscription is not None and subscription.buffer.is_closed:
            self._lose()
            subscription = None
        if subscription is None:
            subscription = self._subscription = PullSubscription(
                self._link, self._kind, self._owner, self._watch.due, len(self._bindings)
            )
        return subscription

    def _lose(self) -> None:
        """The connection has ended, and with it all requests; what had come is kept."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            self._surplus += subscription.take()[0]
        self._watch.due.clear()

    def _take(self, subscription: PullSubscription[_M], fetch: Fetch) -> list[Ending]:
        """Moves what has come to the surplus; raises when a partition was ended for a reason that lasts."""
        messages, endings = subscription.take()
        self._surplus += messages
        if messages or any(ending.status in NOTHING_THERE for ending in endings):
            self.answered_at = time.monotonic()
        if endings and not self._surplus.count_for(fetch):  # else the next fetch meets it, with nothing to hand out
            for ending in endings:
                self._watch.judge(ending, fetch.deadline)
        return endings

    def _take_available(self, subscription: PullSubscription[_M], fetch: Fetch) -> None:
        """What the partitions hold now."""
        # An answer takes a round trip, however short the wait is.
        deadline = max(fetch.deadline, time.monotonic() + LATE_S)
        self._let_end(subscription, fetch, deadline)
        here = self._surplus.count_for(fetch)
        asked = [] if here else [binding for binding in fetch.chosen if not subscription.is_asked(binding)]
        while asked and here < fetch.batch and (not here or time.monotonic() < deadline):
            shares = _shares(asked, fetch.batch - here)
            subscription.ask(shares, None)
            ended: set[GroupPartition] = set()
            while any(subscription.is_asked(binding) for binding in shares):
                left = deadline - time.monotonic()
                if left <= 0 or fetch.is_over():
                    return
                has_come = self._wait(subscription, subscription.missing(shares), left)
                ended.update(ending.binding for ending in self._take(subscription, fetch))
                if not has_come and not self._surplus.count_for(fetch):
                    self._check_silence(fetch.chosen)
            asked = [binding for binding in asked if binding not in ended]
            here = self._surplus.count_for(fetch)

    def _let_end(self, subscription: PullSubscription[_M], fetch: Fetch, deadline: float) -> None:
        """Waits for the end of what the fetch before has asked for: a message that comes with it is the first one."""
        while subscription.is_ending(fetch.chosen) and not self._surplus.count_for(fetch):
            left = deadline - time.monotonic()
            if left <= 0 or fetch.is_over():
                return
            has_come = self._wait(subscription, 1, left)
            self._take(subscription, fetch)
            if not has_come and not self._surplus.count_for(fetch):
                self._check_silence(fetch.chosen)

    def _await(self, subscription: PullSubscription[_M], fetch: Fetch) -> None:
        """The first that comes."""
        chosen = fetch.chosen
        # Just one, unless the rest is wanted as well: nothing, or little, is withdrawn then, and so given out in vain.
        share = max(1, fetch.batch // len(chosen)) if fetch.ahead else 1
        while not self._surplus.count_for(fetch) and not fetch.is_late():
            left = max(fetch.deadline - time.monotonic(), 0.0)
            unasked = [binding for binding in chosen if not subscription.is_asked(binding)]
            if unasked:
                subscription.ask(dict.fromkeys(unasked, share), min(left, POLL_S), ahead=fetch.ahead)
            self._wait(subscription, 1, left)
            self._take(subscription, fetch)
            here = self._surplus.count_for(fetch)
            if not here:
                self._check_silence(chosen)
            elif fetch.ahead and here < fetch.batch // 2 and pending_behind(self._surplus[-1]):
                # More is on its way: fewer and larger portions cost less. With nothing behind it, it is not held up.
                self._wait(subscription, min(fetch.batch // 2, here + subscription.missing(chosen)) - here, PORTION_S)
                self._take(subscription, fetch)

    def _wait(self, subscription: PullSubscription[_M], enough: int, timeout_s: float) -> bool:
        """Waits for a slice of the time; False after it. Raises ConnectionLostError at the connection's end."""
        result = subscription.wait(enough, min(timeout_s, CHECK_S))
        if result == Error.CLOSED:
            raise ConnectionLostError("the data link lost its connection during a pull")
        return result == Error.OK

    def _ask_ahead(self, subscription: PullSubscription[_M], fetch: Fetch) -> None:
        room = fetch.batch - len(self._surplus) - subscription.missing(self._bindings)
        unasked = [binding for binding in fetch.chosen if not subscription.is_asked(binding)]
        if unasked and room > 0:
            subscription.ask(_shares(unasked, room), POLL_S, ahead=True)

    def _let_come(self, deadline: float) -> None:
        """Waits for the end of what is being delivered."""
        subscription = self._subscription
        while subscription is not None and not subscription.is_empty and time.monotonic() < deadline:
            result = subscription.wait(1, IDLE_S)
            messages, _ = subscription.take()
            self._surplus += messages
            if result == Error.CLOSED or not messages:
                return

    def _withdraw(self, *, always: bool = False) -> None:
        """
        Takes back what is asked for, if that is not for the next fetch only; what is on its way already is taken by a
        later fetch.
        """
        subscription = self._subscription
        if subscription is not None and (always or not subscription.is_quiet):
            self._subscription = None
            try:
                self._retired.append((subscription, subscription.withdraw(), time.monotonic()))
            except ConnectionLostError:
                self._surplus += subscription.take()[0]


def _shares(bindings: list[GroupPartition], batch: int) -> dict[GroupPartition, int]:
    """The batch, divided among the partitions; the first ones get the rest, and some get none when it is small."""
    each, rest = divmod(batch, len(bindings))
    shares = {binding: each + (1 if i < rest else 0) for i, binding in enumerate(bindings)}
    return {binding: share for binding, share in shares.items() if share > 0}
