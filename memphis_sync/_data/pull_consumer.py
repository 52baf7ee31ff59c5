"""
Pulling messages for a consumer group: all its partitions within one deadline.

A fetch asks each partition without waiting first, sharing the batch among them. If nothing was there it asks all of
them once more and waits for the first message. It returns as soon as it has something. Requests that are still open
then are withdrawn; a message that crosses with the withdrawal is kept and is the first of the next fetch, so no
delivery is wasted. When the time of a fetch is over, so is that of its requests: the server ends them, and the next
fetch waits for that. With ``ahead`` the requests stay open, and new ones follow, so that the next fetch finds its
messages here.

What waits here for a fetch uses up its ack time. The ack time of a message that has waited for long begins anew when it
is handed out (+WPI); one whose time is nearly over is not handed out at all, for the broker delivers it again.

A Memphis broker never answers a pull for a group that is gone. So each request has a time by which an answer is due,
and when it does not come the group is looked for over the control link.

Source: protocol reference 5.3, 6.5, 12.5.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Callable, Generic, NamedTuple, Optional, TypeVar

from memphis_sync._base.logs import Log
from memphis_sync._base.threads import Section
from memphis_sync._core import RawMessage, ReceiveBuffer
from memphis_sync._data.pull_subscription import (
    TOO_MANY_BYTES,
    Ending,
    GroupPartition,
    PullSubscription,
    pending_behind,
)
from memphis_sync.errors import (
    ConnectionLostError,
    DeadlineError,
    ForkedError,
    MemphisError,
    ServerError,
    StationNotFoundError,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memphis_sync._data.connection import DataLink

logger = Log("memphis_sync.link")
_M = TypeVar("_M", bound=RawMessage)
LookFor = Callable[[GroupPartition, Callable[[Optional[StationNotFoundError]], None]], object]

SLICE_S = 0.2  # Ctrl-C is served at least this often
NAP_S = 0.05  # the same for waits that wake() does not end
POLL_S = 2.0  # the longest that one request waits at the server: a group that is gone is noticed soon after it
LATE_S = 0.08  # how much longer than its time a fetch waits for answers: one round trip, however short its time is
LOOK_AFTER_S = 1.0  # an answer that is so late makes the group be looked for, and again after each LOOK_EVERY_S
LOOK_EVERY_S = 2.0
ELECTION_S = 0.1  # pause until a group without a leader is asked again
SILENCE_S = 5.0  # a broker that has a group and answers no pull for so long hangs
PORTION_S = 0.002  # how long a first message waits for others that are known to follow it
IDLE_S = 0.05  # requests that have brought nothing for so long are waiting for messages
CLOSE_S = 1.0  # how long the end waits for messages on their way, to give them back
RENEW_AT, DROP_AT = 0.1, 0.8  # shares of the ack time: see this module's text
_CLOSED = -11  # MCORE_E_CLOSED
_NOTHING_THERE = (404, 408)
_NO_RESPONDERS = 503
_PASSING = ("leadership change", "server shutdown", TOO_MANY_BYTES)  # of 409: the next pull may well be served


class _Fetch(NamedTuple):
    """What one fetch() is after."""

    chosen: list[GroupPartition]
    batch: int
    deadline: float
    ahead: bool
    outage_s: float
    is_over: Callable[[], bool]

    def is_late(self) -> bool:
        """Whether its time is over, or somebody has ended it."""
        return time.monotonic() >= self.deadline or self.is_over()


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
        self._ack_time_ns = ack_time_s * 1e9
        self._look_for = look_for
        self._lock = Section("a fetch of this consumer")  # who holds it fetches; it guards all that follows
        self._subscription: Optional[PullSubscription[_M]] = None
        self._surplus: list[_M] = []  # received, not handed out
        # Withdrawn, each with the number of the PING behind its UNSUB, and when that was written.
        self._retired: deque[tuple[PullSubscription[_M], int, float]] = deque()
        self._first = 0
        self._due: dict[str, float] = {}  # by stream: since when an answer to a pull is owed
        self._silent_from = 0.0  # the silence before this has been reported
        self._look_at = 0.0
        self._has_looked = threading.Event()  # no question is open; the answer comes on another thread
        self._has_looked.set()
        self._destroyed: Optional[StationNotFoundError] = None  # the answer, until a fetch raises it
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
        while not self._lock.acquire(timeout=min(SLICE_S, max(deadline - time.monotonic(), 0))):
            if time.monotonic() >= deadline or is_over():
                return []
        try:
            if is_over():
                return []
            fetch = _Fetch(self._chosen(partition), batch, deadline, ahead, outage_s, is_over)
            until = max(deadline, time.monotonic() + LATE_S)
            while not self._take_retired(min(until, time.monotonic() + NAP_S)):
                found = self._from_surplus(fetch)
                if not found:
                    self._check_silence(fetch.chosen)
                if found or is_over() or time.monotonic() >= until:
                    return found
            return self._read(fetch)
        except BaseException:
            self._withdraw()
            raise
        finally:
            self._lock.release()

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
        # Else somebody is fetching, and decides himself.
        if not self._lock.is_mine and self._lock.acquire(timeout=SLICE_S):
            try:
                subscription = self._subscription
                if subscription is not None and not subscription.is_empty:
                    self._surplus += subscription.take()[0]
                    self._withdraw(always=is_idle or subscription.is_idle(IDLE_S))
            except ForkedError as exc:  # the end of a generator that the child of a fork has inherited
                with self._link.handing_over_logs():
                    logger.debug("%r: %s", self._owner, exc)
            finally:
                self._lock.release()

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
        if self._lock.is_mine or not self._lock.acquire(timeout=max(0.0, min(CLOSE_S, deadline - time.monotonic()))):
            return []  # a fetch is under way and takes care of what comes
        try:
            subscription = self._subscription
            if subscription is not None and not subscription.is_idle(IDLE_S):
                self._let_come(min(deadline, time.monotonic() + CLOSE_S))
            self._withdraw(always=True)
            if not self._link.is_up():
                return []  # the broker delivers them again when their ack time is over
            self._take_retired(min(deadline, time.monotonic() + CLOSE_S))
            surplus, self._surplus = self._surplus, []
            return self.fresh(surplus)
        finally:
            self._lock.release()

    def put_back(self, messages: Sequence[_M]) -> None:
        """Keeps messages for the next fetch, before all others."""
        with self._lock:
            self._surplus = [*messages, *self._surplus]

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

    def _here(self, fetch: _Fetch) -> int:
        """How many messages of the surplus the fetch may have."""
        if len(fetch.chosen) == len(self._bindings):
            return len(self._surplus)
        return sum(_is_of(message, fetch.chosen) for message in self._surplus)

    def _from_surplus(self, fetch: _Fetch) -> list[_M]:
        if len(fetch.chosen) == len(self._bindings):
            taken, self._surplus = self._surplus[: fetch.batch], self._surplus[fetch.batch :]
        else:
            left: list[_M] = []
            taken = []
            for message in self._surplus:
                fits = len(taken) < fetch.batch and _is_of(message, fetch.chosen)
                (taken if fits else left).append(message)
            self._surplus = left
        return self.fresh(taken)

    def fresh(self, messages: list[_M]) -> list[_M]:
        """Those of *messages* that the broker still waits for, each with most of its ack time before it."""
        if not messages or messages[0].age_ns < self._ack_time_ns * RENEW_AT:
            return messages  # the first is the oldest, up to what crossed with a withdrawal
        kept = []
        for message in messages:
            age = message.age_ns / self._ack_time_ns
            if age >= DROP_AT:
                continue
            if age >= RENEW_AT:
                with contextlib.suppress(ConnectionLostError):
                    message.renew()
            kept.append(message)
        if len(kept) < len(messages):
            with self._link.handing_over_logs():
                logger.debug("%r: %d messages were kept for too long", self._owner, len(messages) - len(kept))
        return kept

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
                if self._link.core.wait_pong(number, int(min(max(left, 0), NAP_S) * 1e9)):
                    return True
            except ConnectionLostError:
                return True
            if buffer.is_closed:
                return True
            if left <= 0:
                return False

    # ---- asking and waiting -----------------------------------------------------------------------------------------

    def _read(self, fetch: _Fetch) -> list[_M]:
        while True:
            found = self._from_surplus(fetch)
            if not found and not self._wait_up(fetch):
                return []
            try:
                subscription = self._current()
                if not found:
                    self._take(subscription, fetch)
                    if not self._here(fetch):
                        self._take_available(subscription, fetch)
                    if not self._here(fetch):
                        self._await(subscription, fetch)
                    found = self._from_surplus(fetch)
                if fetch.ahead and not fetch.is_over():
                    self._ask_ahead(subscription, fetch)
                elif not subscription.is_quiet and time.monotonic() < fetch.deadline:  # else they end by themselves
                    self._withdraw()
            except ConnectionLostError:
                self._lose()
                found = found or self._from_surplus(fetch)
            if found or fetch.is_late():
                if not found:
                    self._check_silence(fetch.chosen)
                return found

    def _wait_up(self, fetch: _Fetch) -> bool:
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
                self._link, self._kind, self._owner, self._due, len(self._bindings)
            )
        return subscription

    def _lose(self) -> None:
        """The connection has ended, and with it all requests; what had come is kept."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            self._surplus += subscription.take()[0]
        self._due.clear()

    def _take(self, subscription: PullSubscription[_M], fetch: _Fetch) -> list[Ending]:
        """Moves what has come to the surplus; raises when a partition was ended for a reason that lasts."""
        messages, endings = subscription.take()
        self._surplus += messages
        if messages or any(ending.status in _NOTHING_THERE for ending in endings):
            self.answered_at = time.monotonic()
        if endings and not self._here(fetch):  # else it is met again by the next fetch, with nothing to hand out
            for ending in endings:
                self._judge(ending, fetch.deadline)
        return endings

    def _take_available(self, subscription: PullSubscription[_M], fetch: _Fetch) -> None:
        """What the partitions hold now."""
        # An answer takes a round trip, however short the wait is.
        deadline = max(fetch.deadline, time.monotonic() + LATE_S)
        self._let_end(subscription, fetch, deadline)
        here = self._here(fetch)
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
                if not has_come and not self._here(fetch):
                    self._check_silence(fetch.chosen)
            asked = [binding for binding in asked if binding not in ended]
            here = self._here(fetch)

    def _let_end(self, subscription: PullSubscription[_M], fetch: _Fetch, deadline: float) -> None:
        """Waits for the end of what the fetch before has asked for: a message that comes with it is the first one."""
        while subscription.is_ending(fetch.chosen) and not self._here(fetch):
            left = deadline - time.monotonic()
            if left <= 0 or fetch.is_over():
                return
            has_come = self._wait(subscription, 1, left)
            self._take(subscription, fetch)
            if not has_come and not self._here(fetch):
                self._check_silence(fetch.chosen)

    def _await(self, subscription: PullSubscription[_M], fetch: _Fetch) -> None:
        """The first that comes."""
        chosen = fetch.chosen
        # Just one, unless the rest is wanted as well: nothing, or little, is withdrawn then, and so given out in vain.
        share = max(1, fetch.batch // len(chosen)) if fetch.ahead else 1
        while not self._here(fetch) and not fetch.is_late():
            left = max(fetch.deadline - time.monotonic(), 0.0)
            unasked = [binding for binding in chosen if not subscription.is_asked(binding)]
            if unasked:
                subscription.ask(dict.fromkeys(unasked, share), min(left, POLL_S), ahead=fetch.ahead)
            self._wait(subscription, 1, left)
            self._take(subscription, fetch)
            here = self._here(fetch)
            if not here:
                self._check_silence(chosen)
            elif fetch.ahead and here < fetch.batch // 2 and pending_behind(self._surplus[-1]):
                # More is on its way: fewer and larger portions cost less. With nothing behind it, it is not held up.
                self._wait(subscription, min(fetch.batch // 2, here + subscription.missing(chosen)) - here, PORTION_S)
                self._take(subscription, fetch)

    def _wait(self, subscription: PullSubscription[_M], enough: int, timeout_s: float) -> bool:
        """Waits for a slice of the time; False after it. Raises ConnectionLostError at the connection's end."""
        result = subscription.wait(enough, min(timeout_s, SLICE_S))
        if result == _CLOSED:
            raise ConnectionLostError("the data link lost its connection during a pull")
        return result == 0

    def _ask_ahead(self, subscription: PullSubscription[_M], fetch: _Fetch) -> None:
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
            if result == _CLOSED or not messages:
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

    # ---- a group that is gone ---------------------------------------------------------------------------------------

    def _judge(self, ending: Ending, deadline: float) -> None:
        """Raises when the server ended a request because something is wrong."""
        binding, status, text = ending
        if status in _NOTHING_THERE or text.lower() in _PASSING:
            return
        if status == _NO_RESPONDERS:
            self._look(binding)
            self._has_looked.wait(max(deadline - time.monotonic(), 0.0))
            self._check_destroyed()
            # It is there, or nobody can tell in time: its leader is being elected.
            time.sleep(min(ELECTION_S, max(deadline - time.monotonic(), 0.0)))
            return
        if "deleted" in text.lower():
            raise StationNotFoundError(
                f"{binding.stream}: the station or the consumer group is gone ({text})", code=status, description=text
            )
        raise ServerError(f"{binding.stream}: the broker ended the pull ({text})", code=status, description=text)

    def _look(self, binding: GroupPartition) -> None:
        """Has the group looked for, unless that is under way."""
        if self._has_looked.is_set():
            self._has_looked.clear()
            try:
                self._look_for(binding, self._looked)
            except BaseException:
                self._has_looked.set()
                raise

    def _looked(self, destroyed: Optional[StationNotFoundError]) -> None:
        """The answer to _look(), on the thread that got it; a fetch that waits raises it at once."""
        self._destroyed = destroyed
        self._has_looked.set()
        if destroyed is not None:
            with contextlib.suppress(MemphisError):  # the child of a fork, or a client that was closed: nobody waits
                self.wake()

    def _check_destroyed(self) -> None:
        destroyed, self._destroyed = self._destroyed, None
        if destroyed is not None:
            raise destroyed

    def _check_silence(self, chosen: list[GroupPartition]) -> None:
        """Has a group looked for whose answers are late; raises when it is gone, or the broker hangs."""
        self._check_destroyed()
        now = time.monotonic()
        pong_due = self._retired[0][2] if self._retired else now
        for binding in chosen:
            silent_s = now - max(min(self._due.get(binding.stream, now), pong_due), self._silent_from)
            if silent_s > LOOK_AFTER_S and now >= self._look_at:
                self._look_at = now + LOOK_EVERY_S
                self._look(binding)
            if silent_s > SILENCE_S:
                self._due.clear()
                self._silent_from = now
                self._withdraw(always=True)
                raise DeadlineError(
                    f"the broker has not answered a pull for {silent_s:.1f} s: it hangs, or the station or the "
                    "consumer group is gone",
                    timeout_s=SILENCE_S,
                )


def _shares(bindings: list[GroupPartition], batch: int) -> dict[GroupPartition, int]:
    """The batch, divided among the partitions; the first ones get the rest, and some get none when it is small."""
    each, rest = divmod(batch, len(bindings))
    shares = {binding: each + (1 if i < rest else 0) for i, binding in enumerate(bindings)}
    return {binding: share for binding, share in shares.items() if share > 0}


def _is_of(message: RawMessage, bindings: list[GroupPartition]) -> bool:
    stream = message.subject.rpartition(".")[0]
    return any(binding.stream == stream for binding in bindings)
