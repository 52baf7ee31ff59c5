"""
Pulling messages for a consumer group: all its partitions within one deadline.

A fetch asks each partition without waiting first, sharing the batch among them. If nothing was there it asks all of
them once more and waits for the first message. It returns as soon as it has something. Requests that are still open
then are withdrawn; a message that crosses with the withdrawal is kept and is the first of the next fetch, so no
delivery is wasted. With ``ahead`` the requests stay open, and new ones follow, so that the next fetch finds its
messages here.

What waits here for a fetch uses up its ack time. The ack time of a message that has waited for long begins anew when it
is handed out (+WPI); one whose time is nearly over is not handed out at all, for the broker delivers it again.

A Memphis broker never answers a pull for a group that is gone. So each request has a time by which an answer is due,
and when it does not come the group is looked for over the control link.

Source: Memphis protocol reference 5.3, 6.5, 12.5.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Callable, Optional, TypeVar

from memphis_sync._codec import Inbox, RawMessage
from memphis_sync._link.mailbox import Binding, Ending, Mailbox
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

    from memphis_sync._link.link import DataLink

logger = logging.getLogger("memphis_sync.link")
_M = TypeVar("_M", bound=RawMessage)

SLICE_S = 0.2  # Ctrl-C is served at least this often
POLL_S = 2.0  # the longest that one request waits at the server: a group that is gone is noticed soon after it
LATE_S = 0.25  # how much later than its expiry the server may end a pull
LOOK_AFTER_S = 1.0  # an answer that is so late makes the group be looked for, and again after each LOOK_EVERY_S
LOOK_EVERY_S = 2.0
ELECTION_S = 0.1  # pause until a group without a leader is asked again
SILENCE_S = 5.0  # a broker that has a group and answers no pull for so long hangs
CLOSE_S = 1.0  # how long close() waits for messages on their way, to give them back
RENEW_AT, DROP_AT = 0.1, 0.8  # shares of the ack time: see this module's text
_CLOSED = -11  # MCORE_E_CLOSED
_NOTHING_THERE = (404, 408)
_NO_RESPONDERS = 503
_PASSING = ("leadership change", "server shutdown")  # of 409: the next pull may well be served


def never() -> bool:
    """For a fetch that nothing cuts short."""
    return False


class PullSession:
    """
    The fetches of one consumer, one after the other.

    Args:
        link: The data link.
        bindings: The group's partitions.
        kind: What to make of a message, a subclass of RawMessage.
        owner: What the messages carry as ``owner``.
        ack_time_s: How long the broker waits for an answer to a message.
        look_for: Called with a binding whose pulls have no answer; raises StationNotFoundError when the group is gone,
            and nothing else.
    """

    def __init__(
        self,
        link: DataLink,
        bindings: Sequence[Binding],
        kind: type[RawMessage],
        owner: object,
        *,
        ack_time_s: float,
        look_for: Callable[[Binding], object],
    ) -> None:
        self._link = link
        self._bindings = tuple(bindings)
        self._kind = kind
        self._owner = owner
        self._ack_time_ns = ack_time_s * 1e9
        self._look_for = look_for
        self._lock = threading.Lock()  # who holds it fetches; it guards all that follows
        self._mailbox: Optional[Mailbox] = None
        self._surplus: list[RawMessage] = []  # received, not handed out
        self._retired: deque[tuple[Mailbox, int]] = deque()  # withdrawn, with the number of the PING behind the UNSUB
        self._first = 0
        self._due: dict[str, float] = {}  # by stream: since when an answer to a pull is owed
        self._look_at = 0.0

    def fetch(
        self,
        batch: int,
        wait_s: float,
        partition: Optional[int] = None,
        *,
        ahead: bool = False,
        is_over: Callable[[], bool] = never,
    ) -> list[RawMessage]:
        """
        Up to *batch* messages; waits at most *wait_s* for the first one.

        Args:
            partition: Only this one; None looks at all, beginning with another one each time.
            ahead: Ask for the next *batch* before returning.
            is_over: Asked while waiting, and after each wake(); True ends the wait.

        Returns:
            The messages of a partition in its order; empty when none came in time.

        Raises:
            StationNotFoundError: The station or the group is gone.
            ConnectionLostError: There is no connection, and none came back in time.
            DeadlineError: The broker has not answered a pull for 5 s.
        """
        deadline = time.monotonic() + wait_s
        while not self._lock.acquire(timeout=min(SLICE_S, max(deadline - time.monotonic(), 0))):
            if time.monotonic() >= deadline or is_over():
                return []
        try:
            chosen = self._chosen(partition)
            if self._take_retired(max(deadline, time.monotonic() + LATE_S)):
                found = self._read(chosen, batch, deadline, ahead, is_over)
            else:
                found = self._from_surplus(chosen, batch)
                if not found:
                    self._check_silence(chosen)
            return found
        except BaseException:
            self._withdraw()
            raise
        finally:
            self._lock.release()

    def wake(self) -> None:
        """Makes a fetch that waits ask its *is_over*. From any thread."""
        mailbox = self._mailbox
        if mailbox is not None:
            mailbox.inbox.wake()

    def rest(self) -> None:
        """Asks for nothing ahead any more; what has come stays for the next fetch."""
        if self._lock.acquire(timeout=SLICE_S):  # else somebody is fetching, and decides himself
            try:
                self._withdraw()
            except ForkedError as exc:  # the end of a generator that the child of a fork has inherited
                logger.debug("%r: %s", self._owner, exc)
            finally:
                self._lock.release()

    def close(self) -> None:
        """Gives what was received and not handed out back to the group, for another member at once."""
        if not self._lock.acquire(timeout=CLOSE_S):
            return  # a fetch is under way and takes care of what comes
        try:
            self._withdraw(always=True)
            if not self._link.is_up():
                return  # the broker delivers them again when their ack time is over
            self._take_retired(time.monotonic() + CLOSE_S)
            surplus, self._surplus = self._surplus, []
            with contextlib.suppress(ConnectionLostError):  # as above
                for message in surplus:
                    message.respond(b"-NAK")
        finally:
            self._lock.release()

    def __del__(self) -> None:
        mailbox = getattr(self, "_mailbox", None)
        if mailbox is not None:
            with contextlib.suppress(MemphisError):  # no connection, or it is the parent process's
                mailbox.withdraw()  # two frames are queued; nothing is waited for

    # ---- what is here already ---------------------------------------------------------------------------------------

    def _chosen(self, partition: Optional[int]) -> list[Binding]:
        if partition is not None:
            return [binding for binding in self._bindings if binding.partition == partition]
        first = self._first
        self._first = (first + 1) % len(self._bindings)
        return [*self._bindings[first:], *self._bindings[:first]]

    def _from_surplus(self, chosen: list[Binding], batch: int) -> list[RawMessage]:
        surplus = self._surplus
        if len(chosen) == len(self._bindings):
            taken = surplus[:batch]
            self._surplus = surplus[batch:]
        else:
            wanted = {binding.stream for binding in chosen}
            taken, self._surplus = [], []
            for message in surplus:
                fits = len(taken) < batch and message.subject.rpartition(".")[0] in wanted
                (taken if fits else self._surplus).append(message)
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
            logger.debug("%r: %d messages were kept for too long", self._owner, len(messages) - len(kept))
        return kept

    def _take_retired(self, deadline: float) -> bool:
        """
        What crossed with a withdrawal, once the PONG behind it has come: what is asked for later would overtake it.

        Returns:
            False: it has not come until *deadline*; then nothing else may be asked for.
        """
        while self._retired:
            mailbox, number = self._retired[0]
            is_over = self._is_over(mailbox.inbox, number, deadline)
            self._surplus += mailbox.take()[0]
            if not is_over:
                return False
            self._retired.popleft()
        return True

    def _is_over(self, inbox: Inbox, number: int, deadline: float) -> bool:
        while True:
            left = deadline - time.monotonic()
            try:
                if self._link.core.wait_pong(number, int(min(max(left, 0), SLICE_S) * 1e9)):
                    return True
            except ConnectionLostError:
                return True
            if inbox.is_closed:
                return True
            if left <= 0:
                return False

    # ---- asking and waiting -----------------------------------------------------------------------------------------

    def _read(
        self, chosen: list[Binding], batch: int, deadline: float, ahead: bool, is_over: Callable[[], bool]
    ) -> list[RawMessage]:
        while True:
            found = self._from_surplus(chosen, batch)
            if not found:
                while not self._link.wait_up(min(deadline, time.monotonic() + SLICE_S)):
                    if is_over():
                        return []
                    if time.monotonic() >= deadline:
                        raise ConnectionLostError("the data link has no connection; messages stay with the broker")
            try:
                mailbox = self._current()
                if not found:
                    self._take(mailbox)
                    if not self._surplus and not ahead:
                        self._take_available(mailbox, chosen, batch, deadline)
                    if not self._surplus:
                        self._await(mailbox, chosen, batch, deadline, ahead, is_over)
                    found = self._from_surplus(chosen, batch)
                if ahead and not is_over():
                    self._ask_ahead(mailbox, chosen, batch)
                elif not mailbox.is_quiet:
                    self._withdraw()
            except ConnectionLostError:
                self._lose()
                if not found and self._surplus:
                    found = self._from_surplus(chosen, batch)
            if found or time.monotonic() >= deadline or is_over():
                if not found:
                    self._check_silence(chosen)
                return found

    def _current(self) -> Mailbox:
        """The mailbox of this connection."""
        mailbox = self._mailbox
        if mailbox is not None and mailbox.inbox.is_closed:
            self._lose()
            mailbox = None
        if mailbox is None:
            mailbox = self._mailbox = Mailbox(self._link, self._kind, self._owner, self._due)
        return mailbox

    def _lose(self) -> None:
        """The connection has ended, and with it all requests; what had come is kept."""
        mailbox, self._mailbox = self._mailbox, None
        if mailbox is not None:
            self._surplus += mailbox.take()[0]
        self._due.clear()

    def _take(self, mailbox: Mailbox) -> list[Ending]:
        """Moves what has come to the surplus; raises when a partition was ended for a reason that lasts."""
        messages, endings = mailbox.take()
        self._surplus += messages
        if not self._surplus:  # else an error that lasts is met again by the next fetch, with nothing to hand out
            for ending in endings:
                self._judge(ending)
        return endings

    def _take_available(self, mailbox: Mailbox, chosen: list[Binding], batch: int, deadline: float) -> None:
        """What the partitions hold now."""
        asked = [binding for binding in chosen if not mailbox.is_asked(binding)]
        deadline = max(deadline, time.monotonic() + LATE_S)  # an answer takes a round trip, however short the wait is
        while asked and len(self._surplus) < batch and (not self._surplus or time.monotonic() < deadline):
            shares = _shares(asked, batch - len(self._surplus))
            mailbox.ask(shares, None)
            ended: set[Binding] = set()
            while any(mailbox.is_asked(binding) for binding in shares):
                left = deadline - time.monotonic()
                if left <= 0:
                    return
                self._wait(mailbox, mailbox.missing(shares), left)
                ended.update(ending.binding for ending in self._take(mailbox))
            asked = [binding for binding in asked if binding not in ended]

    def _await(
        self,
        mailbox: Mailbox,
        chosen: list[Binding],
        batch: int,
        deadline: float,
        ahead: bool,
        is_over: Callable[[], bool],
    ) -> None:
        """The first that comes, with whatever comes along."""
        # Of one partition just one is asked for: nothing is withdrawn then, so the server gives out nothing in vain.
        share = 1 if len(chosen) == 1 and not ahead else max(1, batch // len(chosen))
        while not self._surplus and not is_over():
            left = deadline - time.monotonic()
            if left <= 0:
                break
            unasked = [binding for binding in chosen if not mailbox.is_asked(binding)]
            if unasked:
                mailbox.ask(dict.fromkeys(unasked, share), min(left, POLL_S))
            self._wait(mailbox, 1, left)
            self._take(mailbox)
            if not self._surplus:
                self._check_silence(chosen)

    def _wait(self, mailbox: Mailbox, enough: int, timeout_s: float) -> None:
        """Waits for a slice of the time; raises ConnectionLostError at the connection's end."""
        if mailbox.wait(enough, min(timeout_s, SLICE_S)) == _CLOSED:
            raise ConnectionLostError("the data link lost its connection during a pull")

    def _ask_ahead(self, mailbox: Mailbox, chosen: list[Binding], batch: int) -> None:
        room = batch - len(self._surplus) - mailbox.missing(self._bindings)
        unasked = [binding for binding in chosen if not mailbox.is_asked(binding)]
        if unasked and room > 0:
            mailbox.ask(_shares(unasked, room), POLL_S)

    def _withdraw(self, *, always: bool = False) -> None:
        """Takes back what is asked for; what is on its way already is taken by a later fetch."""
        mailbox = self._mailbox
        if mailbox is not None and (always or not mailbox.is_quiet):
            self._mailbox = None
            try:
                self._retired.append((mailbox, mailbox.withdraw()))
            except ConnectionLostError:
                self._surplus += mailbox.take()[0]

    # ---- a group that is gone ---------------------------------------------------------------------------------------

    def _judge(self, ending: Ending) -> None:
        """Raises when the server ended a request because something is wrong."""
        binding, status, text = ending
        if status in _NOTHING_THERE or text.lower() in _PASSING:
            return
        if status == _NO_RESPONDERS:
            self._look_for(binding)
            time.sleep(ELECTION_S)  # it is there: its leader is being elected
            return
        if "deleted" in text.lower():
            raise StationNotFoundError(
                f"{binding.stream}: the station or the consumer group is gone ({text})", code=status, description=text
            )
        raise ServerError(f"{binding.stream}: the broker ended the pull ({text})", code=status, description=text)

    def _check_silence(self, chosen: list[Binding]) -> None:
        """Looks for a group whose answers are late, and raises when it is gone, or the broker hangs."""
        now = time.monotonic()
        for binding in chosen:
            silent_s = now - self._due.get(binding.stream, now)
            if silent_s > LOOK_AFTER_S and now >= self._look_at:
                self._look_at = now + LOOK_EVERY_S
                self._look_for(binding)
            if silent_s > SILENCE_S:
                self._due.clear()
                raise DeadlineError(
                    f"the broker has not answered a pull for {silent_s:.1f} s: it hangs, or the station or the "
                    "consumer group is gone",
                    timeout_s=SILENCE_S,
                )


def _shares(bindings: list[Binding], batch: int) -> dict[Binding, int]:
    """The batch, divided among the partitions; the first ones get the rest, and some get none when it is small."""
    each, rest = divmod(batch, len(bindings))
    shares = {binding: each + (1 if i < rest else 0) for i, binding in enumerate(bindings)}
    return {binding: share for binding, share in shares.items() if share > 0}
