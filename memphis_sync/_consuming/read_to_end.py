"""
Decides when a reader has reached the end of a station.

The end is what each partition held when the reading began. It is reached when the group has been given all of that, or
what is left of it, and nothing of it is on its way any more: neither to this reader nor to a member that may have died
with it, whose messages come again after their ack time. What the group gave back and is to have again belongs to it.
What the broker says of the group decides, and never a silence.
"""

from __future__ import annotations

import functools
import time
from collections import Counter, deque
from collections.abc import Sequence

from memphis_sync._base import waits
from memphis_sync._consuming.resent import ResentMessage
from memphis_sync._consuming.source import Source
from memphis_sync._control.dead_letters import count_owed
from memphis_sync._control.groups import GroupProgress, group_progress, last_sequences
from memphis_sync._data import GroupPartition
from memphis_sync.errors import ConnectionLostError, DeadlineError, ServerError
from memphis_sync.message import Message, parse_ack_subject

ASK_S = 5.0  # for what the broker says of partitions and group
_MAX_OPEN = 100_000  # messages without an answer that are kept in mind as such; more are only counted
_ASK_EVERY_S = 0.25  # while messages come
_PAUSE_S = 0.2  # until the broker is asked again after an outage
_SHORT_S = 0.1  # the least time for a question
_NO_RESPONDERS = 503
_SLACK_S = 2.0  # how much later than its ack time a message may come again, and behind another one that did


class ReadToEnd:
    """
    One reading to the end, from its beginning.

    Args:
        source: The consumer.
        bindings: The partitions that are read.
        ack_time_s: The group's.
        timeout_s: How long nothing may come while there is more.

    Raises:
        MemphisError: The broker did not say what the partitions hold.
    """

    def __init__(self, source: Source, bindings: Sequence[GroupPartition], ack_time_s: float, timeout_s: float) -> None:
        self._source = source
        self._session = session = source.session
        self._ack_time_s = ack_time_s
        self._timeout_s = timeout_s
        ask_s = min(ASK_S, timeout_s)
        work = functools.partial(last_sequences, session.control, [binding.stream for binding in bindings], ask_s)
        last = session.call(work, ask_s, "read_all()")
        self._last = {binding: last[binding.stream] for binding in bindings if last[binding.stream]}
        self._open: deque[Message] = deque()
        self._open_owed: list[ResentMessage] = []
        self._counted: Counter[str] = Counter()  # by stream: those without an answer that are no more in _open
        self._came_at = time.monotonic()
        self._given = -1
        self._ask_at = self._came_at + _ASK_EVERY_S
        self.is_near = False  # only what is on its way is missing
        self._others_until = float("inf")  # how long what is with other members is waited for
        self._again_at = float("-inf")  # when a message came that had been delivered before
        self._owed = -1
        self._owed_until = 0.0  # the same for what the group is owed

    def hand_out(self, message: Message) -> None:
        """A message goes to the program."""
        if isinstance(message, ResentMessage):
            if message.is_owed:
                self._open_owed = [each for each in self._open_owed if not each.is_answered] + [message]
            return
        if self.is_near and message.delivered > 1:
            self._again_at = time.monotonic()
        while self._open and self._open[0].is_answered:
            self._open.popleft()
        self._open.append(message)
        if len(self._open) > _MAX_OPEN:
            self._counted[_stream(self._open.popleft())] += 1

    def is_reached_meanwhile(self) -> bool:
        """The same as is_reached(), when all that had come has been handed out: so it ends while more arrives."""
        self._came_at = now = time.monotonic()
        if now < self._ask_at:
            return False
        self._ask_at = now + _ASK_EVERY_S
        return self.is_reached()

    def check_time(self, what: str) -> None:
        """
        Raises when nothing has come for too long.

        Raises:
            DeadlineError: The limit was reached; the text has *what*.
        """
        silent_s = time.monotonic() - self._came_at
        if silent_s >= self._timeout_s:
            raise DeadlineError(
                f"not read to the end: {what}, and nothing has arrived for {silent_s:.1f} s", timeout_s=self._timeout_s
            )

    def is_reached(self) -> bool:
        """
        Whether this is the end; asked when nothing was there.

        Raises:
            DeadlineError: The broker holds more, or cannot be asked, and nothing has come for too long.
            MemphisError: A partition is gone, or the client was closed.
        """
        ask_s = max(_SHORT_S, min(ASK_S, self._came_at + self._timeout_s - time.monotonic()))
        try:
            progress, owed = self._session.call(lambda: self._ask(ask_s), ask_s, "read_all()")
        except (ConnectionLostError, DeadlineError) as exc:
            self.check_time(str(exc))
            waits.sleep(_PAUSE_S)
            return False
        given = sum(each.delivered for each in progress.values())
        if given != self._given:  # also to other members of the group
            self._given = given
            self._came_at = time.monotonic()
        behind = [
            binding
            for binding, last in self._last.items()
            if progress[binding.stream].pending and progress[binding.stream].delivered < last
        ]
        if behind:
            held = sum(progress[binding.stream].pending for binding in behind)
            self.check_time(f"the broker holds {held} more messages")
            return False
        self.is_near = True
        own = Counter(_stream(message) for message in self._open if not message.is_answered) + self._counted
        is_with_others = any(
            progress[binding.stream].acked < last and progress[binding.stream].unanswered > own[binding.stream]
            for binding, last in self._last.items()
        )
        now = time.monotonic()
        self._others_until = min(self._others_until, now + self._ack_time_s + _SLACK_S)
        if owed != self._owed:
            self._owed = owed
            self._owed_until = now + self._ack_time_s + _SLACK_S
        is_owed_more = owed > sum(not message.is_answered for message in self._open_owed)
        others_until = max(self._others_until, self._again_at + _SLACK_S)
        return (not is_with_others or now >= others_until) and (not is_owed_more or now >= self._owed_until)

    async def _ask(self, timeout_s: float) -> tuple[dict[str, GroupProgress], int]:
        """How far the group is in each partition, and then how many it is owed: they leave the one for the other."""
        deadline = time.monotonic() + timeout_s
        source, control = self._source, self._session.control
        pairs = [(binding.stream, binding.durable) for binding in self._last]
        progress = await group_progress(control, pairs, timeout_s)
        if not pairs or control.is_memphis:
            return progress, 0
        left_s = max(0.001, deadline - time.monotonic())
        try:
            return progress, await count_owed(control, source.view.internal, source.consumer_group, left_s)
        except ServerError as exc:
            if exc.code != _NO_RESPONDERS:
                raise
            raise ConnectionLostError(f"the broker, which knows what is redelivered, cannot be reached: {exc}") from exc


def _stream(message: Message) -> str:
    return parse_ack_subject(message.reply).stream
