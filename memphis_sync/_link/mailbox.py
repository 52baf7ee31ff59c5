"""
One subscription of a consumer and the pull requests that are answered into it.

The subscription stays for as long as every request under it ends by itself. A request that is no longer wanted cannot
be taken back one by one: then the whole subscription is ended (UNSUB), and the server finds nobody for the rest. A
server that is just delivering counts what it finds nobody for as delivered, and delivers it once more, out of its
order. So a subscription is ended only while its requests wait for messages, not while they bring some.
Source: JetStream pull consumers (ADR-13 of the NATS architecture notes).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple, Optional

from memphis_sync._codec import RawMessage, encode_pub, encode_sub, encode_unsub

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memphis_sync._link.link import DataLink


class Binding(NamedTuple):
    """One partition of a consumer group: its number, its stream and the group's durable on it."""

    partition: int
    stream: str
    durable: str


class Ending(NamedTuple):
    """The server has ended a request: whose, its status and its text."""

    binding: Binding
    status: int
    text: str


class Mailbox:
    """
    A subscription with at most one open request for each partition.

    Args:
        link: The data link.
        kind: What to make of a message, a subclass of RawMessage.
        owner: What the messages carry as ``owner``.
        due: When a partition owes an answer, by ``time.monotonic()``; kept up to date here.
    """

    def __init__(self, link: DataLink, kind: type[RawMessage], owner: object, due: dict[str, float]) -> None:
        self._core = link.core
        self._kind = kind
        self._owner = owner
        self._due = due
        self.inbox = link.new_inbox()
        self._subject = b"_INBOX.%s.%d." % (link.core.token, self.inbox.sid)
        self._opening = encode_sub(self._subject + b"*", self.inbox.sid)  # goes out with the first request
        self._asked = 0
        self._open: dict[str, tuple[Binding, str]] = {}  # by stream: the binding and the request's number
        self._missing: dict[str, int] = {}  # by stream: how many messages its request may still bring
        self._ahead: set[str] = set()  # streams whose open request was made ahead
        self._brought_at = 0.0  # when the last messages were taken
        self._messages = 0  # taken so far, as the inbox counts
        self._statuses = 0

    # ---- asking -----------------------------------------------------------------------------------------------------

    def ask(self, shares: dict[Binding, int], expires_s: Optional[float], *, ahead: bool = False) -> None:
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
            frames.append(encode_pub(subject, b'{"batch":%d,%s}' % (share, how), self._subject + number))
            self._open[binding.stream] = binding, number.decode()
            self._missing[binding.stream] = share
            if ahead:
                self._ahead.add(binding.stream)
            self._due.setdefault(binding.stream, due)
        self._core.write(b"".join(frames))
        self._opening = b""

    def is_asked(self, binding: Binding) -> bool:
        """Whether the partition has an open request."""
        return binding.stream in self._open

    def missing(self, bindings: Iterable[Binding]) -> int:
        """How many messages the open requests of these partitions may still bring."""
        return sum(self._missing.get(binding.stream, 0) for binding in bindings)

    @property
    def is_quiet(self) -> bool:
        """Whether no request is open but those for the next fetch."""
        return len(self._open) == len(self._ahead)

    @property
    def is_empty(self) -> bool:
        """Whether no request is open at all."""
        return not self._open

    def is_idle(self, for_s: float) -> bool:
        """Whether the open requests have brought nothing for so long."""
        return time.monotonic() - self._brought_at > for_s

    # ---- taking -----------------------------------------------------------------------------------------------------

    def wait(self, enough: int, timeout_s: float) -> int:
        """Waits for *enough* messages that were not taken yet, or one ending. Returns as Inbox.wait()."""
        return self.inbox.wait(self._messages + enough, self._statuses + 1, int(timeout_s * 1e9))

    def take(self) -> tuple[list[RawMessage], list[Ending]]:
        """What has come."""
        messages, statuses = self.inbox.take(self._kind, self._owner)
        if messages:
            self._messages += len(messages)
            self._brought_at = time.monotonic()
            self._count(messages)
        return messages, [ending for status in statuses if (ending := self._end(*status)) is not None]

    def _count(self, messages: list[RawMessage]) -> None:
        if len(messages) == sum(self._missing.values()):  # as most often under load: no need to look at each
            for stream in self._missing:
                self._due.pop(stream, None)
            self._missing.clear()
            self._open.clear()
            self._ahead.clear()
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
        for stream, (binding, current) in self._open.items():
            if current == number:
                self._due.pop(stream, None)
                self._close(stream)
                return Ending(binding, status, block.split(b"\r\n", 1)[0][8:].strip().decode("utf-8", "replace"))
        return None  # of a request that has got all it asked for

    def _close(self, stream: str) -> None:
        self._open.pop(stream, None)
        self._missing.pop(stream, None)
        self._ahead.discard(stream)

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
        self._core.control(encode_unsub(self.inbox.sid))
        return self._core.ping()
