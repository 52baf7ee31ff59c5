"""
One subscription of a consumer, and the pull requests whose replies it receives.

The subscription stays for as long as every request under it ends by itself. A request that is no longer wanted cannot
be taken back one by one: then the whole subscription is ended (UNSUB), and the server finds nobody for the rest. A
server that is just delivering counts what it finds nobody for as delivered, and delivers it once more, out of its
order. So a subscription is ended only while its requests wait for messages, not while they bring some; and not at all
when their time is over, for the server ends them itself then.

Everybody who may publish can send to a subscription that he has seen. So nothing is taken from it but what the server
itself delivers, and no more than the requests may bring: as many messages as they ask for, and no more bytes than they
say. The server ends a request whose next message would be too many bytes, and the next request goes on from there: a
fetch then has fewer messages than it asked for.
Source: JetStream pull consumers, max_bytes (ADR-13 and ADR-37 of the NATS architecture notes).
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Generic, NamedTuple, Optional, TypeVar

from memphis_sync._base.logs import Log
from memphis_sync._core import RECEIVE_BUFFER_BYTES, RawMessage, encode_pub, encode_sub, encode_unsub

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memphis_sync._data.connection import DataLink

logger = Log("memphis_sync.link")
_M = TypeVar("_M", bound=RawMessage)

# nats-server closes a connection for which 64 MiB wait to be written, as they may for a reader that is behind.
ASKED_BYTES = RECEIVE_BUFFER_BYTES * 7 // 8
ROOM = 8192  # for subjects and headers of the server's own: a message of the largest size still fits
TOO_MANY_BYTES = "message size exceeds maxbytes"  # of 409
WARN_EVERY_S = 1.0
CROSSING_S = 2.0  # how long messages may come behind the end of their request; later the broker delivers them again
_PENDING = re.compile(rb"\r\nNats-Pending-Messages: *(\d{1,9})\r\n")


class GroupPartition(NamedTuple):
    """One partition of a consumer group: its number, its stream and the group's durable on it."""

    partition: int
    stream: str
    durable: str


class Ending(NamedTuple):
    """The server has ended a request: whose, its status and its text."""

    binding: GroupPartition
    status: int
    text: str


def pending_behind(message: RawMessage) -> int:
    """
    How many more messages the partition had for the group when it delivered this one. They stand in its ack subject:
    the ninth token, or the eleventh on a server with a domain.
    """
    tokens = message.reply.split(".")
    pending = tokens[10 if len(tokens) > 10 else 8] if len(tokens) > 8 else ""
    return int(pending) if pending.isdecimal() else 0


class PullSubscription(Generic[_M]):
    """
    A subscription with at most one open request for each partition.

    Args:
        link: The data link.
        kind: What to make of a message, a subclass of RawMessage.
        owner: What the messages carry as ``owner``.
        due: When a partition owes an answer, by ``time.monotonic()``; kept up to date here.
        partitions: How many it asks, at most.
    """

    def __init__(self, link: DataLink, kind: type[_M], owner: object, due: dict[str, float], partitions: int) -> None:
        self._core = link.core
        self._kind = kind
        self._owner = owner
        self._due = due
        self.buffer = link.new_receive_buffer(jetstream=True)
        self._subject = b"_INBOX.%s.%d." % (link.core.token, self.buffer.sid)
        self._opening = encode_sub(self._subject + b"*", self.buffer.sid)  # goes out with the first request
        self._asked = 0
        self._partitions = partitions
        self._max_bytes = max(ASKED_BYTES // partitions, link.max_payload + ROOM)  # of a request
        self._dropped = 0
        self._warned_at = 0.0
        # By stream: the binding, the request's number, how many messages it asked for, and when the server ends it.
        self._open: dict[str, tuple[GroupPartition, str, int, float]] = {}
        self._missing: dict[str, int] = {}  # by stream: how many messages its request may still bring
        # Streams whose open request is no hindrance: it was made ahead, or waits for nothing and so ends by itself. To
        # end that one would be to end it while it brings messages.
        self._staying: set[str] = set()
        self._crossing: dict[str, float] = {}  # by stream: until when messages may come whose request has ended
        self._brought_at = 0.0  # when the last messages were taken
        self._messages = 0  # taken so far, as the buffer counts
        self._statuses = 0

    # ---- asking -----------------------------------------------------------------------------------------------------

    def ask(self, shares: dict[GroupPartition, int], expires_s: Optional[float], *, ahead: bool = False) -> None:
        """
        Asks partitions without an open request for so many messages each.

        Args:
            expires_s: How long the server waits for messages that are not there; None: not at all.
            ahead: For the next fetch.

        Raises:
            ConnectionLostError: There is no connection.
        """
        how = b'"no_wait":true' if expires_s is None else b'"expires":%d' % max(int(expires_s * 1e9), 1_000_000)
        due = time.monotonic() + (expires_s or 0.0)
        frames = [self._opening]
        for binding, share in shares.items():
            self._asked += 1
            number = b"%d" % self._asked
            subject = f"$JS.API.CONSUMER.MSG.NEXT.{binding.stream}.{binding.durable}".encode()
            body = b'{"batch":%d,"max_bytes":%d,%s}' % (share, self._max_bytes, how)
            frames.append(encode_pub(subject, body, self._subject + number))
            self._open[binding.stream] = binding, number.decode(), share, due
            self._missing[binding.stream] = share
            if ahead or expires_s is None:
                self._staying.add(binding.stream)
            self._due.setdefault(binding.stream, due)
        self.buffer.expect(self._messages + sum(self._missing.values()), self._max_bytes * self._partitions)
        self._core.write(b"".join(frames))
        self._opening = b""

    def is_asked(self, binding: GroupPartition) -> bool:
        """Whether the partition has an open request."""
        return binding.stream in self._open

    def missing(self, bindings: Iterable[GroupPartition]) -> int:
        """How many messages the open requests of these partitions may still bring."""
        return sum(self._missing.get(binding.stream, 0) for binding in bindings)

    @property
    def is_quiet(self) -> bool:
        """Whether no request is open but those that may stay for the next fetch."""
        return len(self._open) == len(self._staying)

    def is_ending(self, bindings: Iterable[GroupPartition]) -> bool:
        """Whether a request is open whose time is over, or one that only the last fetch was after: its end is near."""
        now = time.monotonic()
        return any(
            binding.stream not in self._staying or self._open[binding.stream][3] <= now
            for binding in bindings
            if binding.stream in self._open
        )

    @property
    def is_empty(self) -> bool:
        """Whether no request is open at all."""
        return not self._open

    def is_idle(self, for_s: float) -> bool:
        """Whether the open requests have brought nothing for so long."""
        return time.monotonic() - self._brought_at > for_s

    # ---- taking -----------------------------------------------------------------------------------------------------

    def wait(self, enough: int, timeout_s: float) -> int:
        """Waits for *enough* messages that were not taken yet, or one ending. Returns as ReceiveBuffer.wait()."""
        return self.buffer.wait(self._messages + enough, self._statuses + 1, time.monotonic() + timeout_s)

    def take(self) -> tuple[list[_M], list[Ending]]:
        """What has come."""
        messages, statuses = self.buffer.take(self._kind, self._owner)
        if messages:
            self._messages += len(messages)
            self._brought_at = time.monotonic()
            self._count(messages)
        if self.buffer.dropped != self._dropped:
            self._warn()
        if self._crossing:
            now = time.monotonic()
            for stream in [stream for stream, until in self._crossing.items() if until <= now]:
                self._close(stream)
        return messages, [ending for status in statuses if (ending := self._end(*status)) is not None]

    def _warn(self) -> None:
        now = time.monotonic()
        if now - self._warned_at < WARN_EVERY_S:
            return
        self._warned_at = now
        dropped, self._dropped = self.buffer.dropped - self._dropped, self.buffer.dropped
        logger.warning("%r: %d messages were dropped that it had not asked for", self._owner, dropped)

    def _count(self, messages: list[_M]) -> None:
        if len(messages) == sum(self._missing.values()):  # as most often under load: no need to look at each
            for stream in self._missing:
                self._due.pop(stream, None)
            self._missing.clear()
            self._open.clear()
            self._staying.clear()
            self._crossing.clear()
            return
        if len(self._missing) == 1:
            counts = {next(iter(self._missing)): len(messages)}
        else:
            counts = {}
            for message in messages:
                stream = message.subject.rpartition(".")[0]
                counts[stream] = counts.get(stream, 0) + 1
        for stream, count in counts.items():
            self._due.pop(stream, None)
            left = self._missing.get(stream, 0) - count
            if left > 0:
                self._missing[stream] = left
            else:
                self._close(stream)

    def _end(self, status: int, subject: str, block: bytes) -> Optional[Ending]:
        self._statuses += 1
        number = subject.rpartition(".")[2]
        for stream, (binding, current, share, _) in self._open.items():
            if current == number:
                text = block.split(b"\r\n", 1)[0][12:].strip().decode("utf-8", "replace")
                if text.lower() == TOO_MANY_BYTES and self._missing[stream] == share:
                    # The next one alone is too large: it was stored under another limit than the server has now.
                    self._max_bytes = max(ASKED_BYTES, self._max_bytes) + ROOM
                self._due.pop(stream, None)
                if self._is_crossing(stream, block):
                    return None
                self._close(stream)
                return Ending(binding, status, text)
        return None  # of a request that has got all it asked for

    def _is_crossing(self, stream: str, block: bytes) -> bool:
        """
        Whether messages of an ended request are still to come: a group with replicas sends them when most of its
        servers have them, and the end at once. How many the request did not bring stands in the end.
        """
        unserved = _PENDING.search(block)
        coming = 0 if unserved is None else self._missing[stream] - int(unserved[1])
        if coming <= 0:
            return False
        self._missing[stream] = coming
        self._crossing[stream] = time.monotonic() + CROSSING_S
        return True

    def _close(self, stream: str) -> None:
        self._open.pop(stream, None)
        self._missing.pop(stream, None)
        self._crossing.pop(stream, None)
        self._staying.discard(stream)

    # ---- ending -----------------------------------------------------------------------------------------------------

    def withdraw(self) -> int:
        """
        Ends the subscription. What crosses with that can still be taken.

        Returns:
            The number of the PING behind it: once its PONG is there nothing more comes.

        Raises:
            ConnectionLostError: There is no connection, and so no subscription any more.
        """
        now = time.monotonic()
        for stream in self._open:
            if self._due.get(stream, 0.0) > now:
                del self._due[stream]  # it was not late, and now no answer will come; a late one stays late
        self._core.control(encode_unsub(self.buffer.sid))
        return self._core.ping()
