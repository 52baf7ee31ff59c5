"""
Pulling messages for a consumer group: all its partitions within one deadline.

A fetch asks each partition without waiting first, sharing the batch among them. If nothing was there it asks all of
them once more and waits for the first message. It returns as soon as it has something. Requests that are still open
then are withdrawn (UNSUB); a message that crosses with the withdrawal is kept and is the first of the next fetch, so
no delivery is wasted. Source: JetStream pull consumers (ADR-13 of the NATS architecture notes), Memphis protocol
reference 5.3, 6.5.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, Optional

from memphis_sync._codec import Inbox, RawMessage, encode_pub, encode_sub, encode_unsub
from memphis_sync.errors import ConnectionLostError, DeadlineError, ServerError, StationNotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memphis_sync._link.link import DataLink

logger = logging.getLogger("memphis_sync.link")

SLICE_S = 0.2  # Ctrl-C is served at least this often
SILENCE_S = 5.0  # a broker that answers no pull for so long has lost the group, or is gone
LATE_S = 0.25  # how much later than its expiry the server may end a pull
CLOSE_S = 1.0  # how long close() waits for messages on their way, to give them back
_CLOSED = -11  # MCORE_E_CLOSED
_NEVER = 1 << 62  # more messages than ever come
_NOTHING_THERE = (404, 408)
_NO_RESPONDERS = 503


class Binding(NamedTuple):
    """One partition of a consumer group: its number, its stream and the group's durable on it."""

    partition: int
    stream: str
    durable: str


class PullSession:
    """
    The fetches of one consumer, one after the other.

    Args:
        link: The data link.
        bindings: The group's partitions.
        kind: What to make of a message, a subclass of RawMessage.
        owner: What the messages carry as ``owner``.
    """

    def __init__(self, link: DataLink, bindings: Sequence[Binding], kind: type[RawMessage], owner: object) -> None:
        self._link = link
        self._bindings = tuple(bindings)
        self._kind = kind
        self._owner = owner
        self._lock = threading.Lock()
        self._surplus: deque[RawMessage] = deque()
        self._retired: deque[tuple[Inbox, int]] = deque()  # withdrawn, with the number of the PING behind the UNSUB
        self._first = 0
        self._answered = time.monotonic()

    def fetch(self, batch: int, wait_s: float, partition: Optional[int] = None) -> list[RawMessage]:
        """
        Up to *batch* messages; waits at most *wait_s* for the first one.

        Args:
            partition: Only this one; None looks at all, beginning with another one each time.

        Returns:
            The messages of a partition in its order; empty when none came in time.

        Raises:
            StationNotFoundError: The station or the group is gone.
            ConnectionLostError: There is no connection, and none came back in time.
            DeadlineError: The broker has not answered a pull for 5 s.
        """
        deadline = time.monotonic() + wait_s
        while not self._lock.acquire(timeout=min(SLICE_S, max(deadline - time.monotonic(), 0))):
            if time.monotonic() >= deadline:
                return []
        try:
            is_complete = self._take_retired(max(deadline, time.monotonic() + LATE_S))
            found = self._from_surplus(batch, partition)
            if found:
                return found
            if not is_complete:
                self.check_silence()
                return []
            return self._fetch(self._chosen(partition), batch, deadline)
        finally:
            self._lock.release()

    def close(self) -> None:
        """Gives what was received and not handed out back to the group, for another member at once."""
        with self._lock:
            if not self._link.is_up():
                return  # the broker delivers them again when their ack time is over
            deadline = time.monotonic() + CLOSE_S
            self._take_retired(deadline)
            while self._surplus:
                self._surplus.popleft().respond(b"-NAK")

    def _chosen(self, partition: Optional[int]) -> list[Binding]:
        if partition is not None:
            return [binding for binding in self._bindings if binding.partition == partition]
        first = self._first
        self._first = (first + 1) % len(self._bindings)
        return [*self._bindings[first:], *self._bindings[:first]]

    def _from_surplus(self, batch: int, partition: Optional[int]) -> list[RawMessage]:
        wanted = None if partition is None else {b.stream for b in self._bindings if b.partition == partition}
        taken: list[RawMessage] = []
        kept: deque[RawMessage] = deque()
        for message in self._surplus:
            fits = wanted is None or message.subject.rpartition(".")[0] in wanted
            (taken if fits and len(taken) < batch else kept).append(message)
        self._surplus = kept
        return taken

    def _fetch(self, bindings: list[Binding], batch: int, deadline: float) -> list[RawMessage]:
        while True:
            if not self._link.wait_up(deadline):
                raise ConnectionLostError("the data link has no connection; messages stay with the broker")
            try:
                found = self._available(bindings, batch, deadline)
                if not found and time.monotonic() < deadline:
                    found = self._arriving(bindings, batch, deadline)
            except _LinkEnded as exc:
                found = exc.found
                if not found and time.monotonic() < deadline:
                    continue
            if len(found) > batch:
                self._surplus.extend(found[batch:])
                del found[batch:]
            return found

    def _available(self, bindings: list[Binding], batch: int, deadline: float) -> list[RawMessage]:
        """What the partitions hold now."""
        found: list[RawMessage] = []
        asked = bindings
        deadline = max(deadline, time.monotonic() + LATE_S)  # an answer takes a round trip, however short the wait is
        while asked and len(found) < batch and (not found or time.monotonic() < deadline):
            shares = _shares(asked, batch - len(found))
            pull = _Pull(self, shares, expires_s=None)
            found += pull.wait(deadline, enough=sum(shares.values()))
            full = pull.full_streams()
            if not pull.ended:
                break
            asked = [binding for binding in asked if binding not in shares or binding.stream in full]
        return found

    def _arriving(self, bindings: list[Binding], batch: int, deadline: float) -> list[RawMessage]:
        """The first that comes, with whatever comes along."""
        if len(bindings) == 1:
            return self._arriving_in_one(bindings, batch, deadline)
        share = max(1, batch // len(bindings))
        pull = _Pull(self, dict.fromkeys(bindings, share), expires_s=deadline - time.monotonic())
        return pull.wait(deadline + LATE_S, enough=1)

    def _arriving_in_one(self, bindings: list[Binding], batch: int, deadline: float) -> list[RawMessage]:
        """Asks for one, then for what is there: nothing is withdrawn, so the server gives out nothing in vain."""
        pull = _Pull(self, dict.fromkeys(bindings, 1), expires_s=deadline - time.monotonic())
        found = pull.wait(deadline + LATE_S, enough=1)
        if found and batch > 1:
            try:
                found += self._available(bindings, batch - 1, deadline)
            except _LinkEnded as exc:
                found += exc.found
            except (DeadlineError, ServerError) as exc:  # met again by the next fetch, which has nothing to hand out
                logger.debug("%r: %s", self._owner, exc)
        return found

    def retire(self, inbox: Inbox) -> None:
        """Withdraws what is still asked for; a message on its way is taken by a later fetch."""
        self._link.core.control(encode_unsub(inbox.sid))
        self._retired.append((inbox, self._link.core.ping()))

    def _take_retired(self, deadline: float) -> bool:
        """
        What crossed with a withdrawal, once the PONG behind it has come: what is asked for later would overtake it.

        Returns:
            False: it has not come until *deadline*; then nothing else may be asked for.
        """
        while self._retired:
            inbox, number = self._retired[0]
            is_over = self._is_over(inbox, number, deadline)
            messages, _statuses = inbox.take(self._kind, self._owner)
            self._surplus.extend(messages)
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
            if inbox.wait(_NEVER, _NEVER, 0) == _CLOSED:
                return True
            if left <= 0:
                return False

    def take(self, inbox: Inbox) -> tuple[list[RawMessage], list[tuple[int, str, bytes]]]:
        """What has come into *inbox*."""
        messages, statuses = inbox.take(self._kind, self._owner)
        if messages or statuses:
            self._answered = time.monotonic()
        return messages, statuses

    def check_silence(self) -> None:
        """A pull without wait is always answered by a group that exists."""
        silent_s = time.monotonic() - self._answered
        if silent_s > SILENCE_S:
            self._answered = time.monotonic()
            raise DeadlineError(
                f"the broker has not answered a pull for {silent_s:.1f} s: the station or the consumer group is gone, "
                "or the broker hangs",
                timeout_s=SILENCE_S,
            )

    def new_inbox(self) -> Inbox:
        """An inbox with a subscription number of its own on this connection."""
        return self._link.new_inbox()

    def send(self, frames: bytes) -> None:
        """Queues SUB and pull requests."""
        self._link.core.control(frames)

    @property
    def token(self) -> bytes:
        """The link's token, for reply subjects."""
        return self._link.core.token


class _LinkEnded(Exception):  # noqa: N818  control flow inside this module
    """The connection ended during a pull; what had come is in *found*."""

    def __init__(self, found: list[RawMessage]) -> None:
        super().__init__()
        self.found = found


class _Pull:
    """One subscription and the requests that answer into it."""

    def __init__(self, session: PullSession, shares: dict[Binding, int], expires_s: Optional[float]) -> None:
        self._session = session
        self._shares = shares
        self._open = {binding.stream: share for binding, share in shares.items()}
        self._full: set[str] = set()
        self._inbox = session.new_inbox()
        inbox = b"_INBOX.%s.%d" % (session.token, self._inbox.sid)
        frames = [encode_sub(inbox + b".*", self._inbox.sid)]
        for binding, share in shares.items():
            request: dict[str, object] = {"batch": share}
            if expires_s is None:
                request["no_wait"] = True
            else:
                request["expires"] = max(int(expires_s * 1e9), 1_000_000)
            subject = f"$JS.API.CONSUMER.MSG.NEXT.{binding.stream}.{binding.durable}"
            frames.append(
                encode_pub(subject.encode(), json.dumps(request).encode(), inbox + b".%d" % binding.partition)
            )
        try:
            session.send(b"".join(frames))
        except ConnectionLostError:
            raise _LinkEnded([]) from None

    def wait(self, deadline: float, enough: int) -> list[RawMessage]:
        """Messages as they come, until there are *enough*, all requests have ended, or the deadline."""
        found: list[RawMessage] = []
        seen = 0
        result = 0
        while len(found) < enough and self._open:
            left = deadline - time.monotonic()
            if left <= 0 and result != 0:
                break
            missing = min(sum(self._open.values()), enough - len(found))
            result = self._inbox.wait(len(found) + missing, seen + 1, int(min(max(left, 0), SLICE_S) * 1e9))
            messages, statuses = self._session.take(self._inbox)
            found += messages
            seen += len(statuses)
            self._count(messages)
            if result == _CLOSED:
                raise _LinkEnded(found)
            self._end(statuses, bool(found))
        if self._open and not found:
            self._session.check_silence()
        self._finish()
        return found

    @property
    def ended(self) -> bool:
        """Whether every request got all it asked for or was ended by the broker."""
        return not self._open

    def full_streams(self) -> set[str]:
        """Streams that gave all they were asked for, and so may have more."""
        return self._full

    def _count(self, messages: list[RawMessage]) -> None:
        if len(self._shares) == 1:
            counts = {next(iter(self._shares)).stream: len(messages)}
        else:
            counts = {}
            for message in messages:
                stream = message.subject.rpartition(".")[0]
                counts[stream] = counts.get(stream, 0) + 1
        for stream, count in counts.items():
            if stream not in self._open:
                continue
            self._open[stream] -= count
            if self._open[stream] <= 0:
                del self._open[stream]
                self._full.add(stream)

    def _finish(self) -> None:
        try:
            if self.ended:
                self._session.send(encode_unsub(self._inbox.sid))
            else:
                self._session.retire(self._inbox)
        except ConnectionLostError:
            pass  # the subscription ended with its connection

    def _end(self, statuses: list[tuple[int, str, bytes]], has_messages: bool) -> None:
        """Notes which requests the broker has ended; raises when it did so because something is wrong."""
        for status, subject, block in statuses:
            number = subject.rpartition(".")[2]
            stream = next((b.stream for b in self._shares if str(b.partition) == number), number)
            self._open.pop(stream, None)
            if status in _NOTHING_THERE or has_messages:
                continue  # an error that lasts is met again by the next fetch, with nothing to hand out
            self._finish()
            text = block.split(b"\r\n", 1)[0][8:].strip().decode("utf-8", "replace")
            if status == _NO_RESPONDERS or "deleted" in text.lower():
                raise StationNotFoundError(
                    f"{stream}: the station or the consumer group is gone ({text})", code=status, description=text
                )
            raise ServerError(f"{stream}: the broker ended the pull ({text})", code=status, description=text)


def _shares(bindings: list[Binding], batch: int) -> dict[Binding, int]:
    """The batch, divided among the partitions; the first ones get the rest, and some get none when it is small."""
    each, rest = divmod(batch, len(bindings))
    shares = {binding: each + (1 if i < rest else 0) for i, binding in enumerate(bindings)}
    return {binding: share for binding, share in shares.items() if share > 0}
