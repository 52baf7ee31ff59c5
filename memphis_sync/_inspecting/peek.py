"""
Reads messages of a station without consuming them: each is asked for by its sequence, and no consumer is made.

Partitions are read side by side and merged by time. Sequences may have gaps, of any size where messages were
acknowledged out of order: a window of sequences is asked for at once, and what lies beyond a gap is searched.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from datetime import timedelta
from typing import TYPE_CHECKING, Optional, Union

from memphis_sync._inspecting.asking import Asking
from memphis_sync._inspecting.stations import check_there, station_rows, streams_of
from memphis_sync._protocol.dead_letter_headers import PRODUCED_BY, read_headers
from memphis_sync._protocol.names import internal_name, publish_subject, stream_name
from memphis_sync._protocol.stored import EPOCH, NO_MESSAGE, StoredMessage, nanoseconds, stored_message, time_of
from memphis_sync.errors import ServerError
from memphis_sync.headers import is_own
from memphis_sync.info import PeekedMessage, PeekedMessages

if TYPE_CHECKING:
    from datetime import datetime

    from memphis_sync._options.inspecting import PeekArguments, ReplayArguments

_WINDOW = 32  # messages that are asked for at once: they are held in memory, whatever their size


class _Partition:
    """
    One partition, message by message in one direction.

    Args:
        asking: Who is asked at first.
        station: The station's name.
        number: Of the partition.
        state: What JetStream says of its stream.
        is_back: From the newest to the oldest.

    Attributes:
        asking: Who is asked.
        first, last: The sequences between which messages may lie.
        best_ns: No message to come is newer than this, or older when it reads forward.
    """

    def __init__(self, asking: Asking, station: str, number: int, state: dict[str, object], *, is_back: bool) -> None:
        self.asking = asking
        self.station, self.number, self.is_back = station, number, is_back
        internal = internal_name(station)
        self._stream = stream_name(internal, number)
        self._subject = publish_subject(internal, number)
        self.first, self.last = max(1, int(str(state["first_seq"]))), int(str(state["last_seq"]))
        self.best_ns = nanoseconds(str(state["last_ts" if is_back else "first_ts"]))
        self.ready: deque[StoredMessage] = deque()

    @property
    def is_done(self) -> bool:
        """Whether nothing is left."""
        return not self.ready and self.first > self.last

    @property
    def rank(self) -> tuple[int, int, int]:
        """Which comes first when partitions are merged: by time, then partition."""
        time_ns = self.ready[0].time_ns if self.ready else self.best_ns
        return (-time_ns if self.is_back else time_ns, len(self.ready) > 0, self.number)

    async def fill(self, count: int) -> None:
        """Reads the next messages: at least one, if there is one."""
        while not self.ready and self.first <= self.last:
            await (self._fill_back(count) if self.is_back else self._fill_forward(count))

    async def _fill_back(self, count: int) -> None:
        low = max(self.first, self.last - count + 1)
        found = await self._window(low, self.last)
        self.last = low - 1
        if not found and self.first <= self.last:  # a gap
            low, newest = self.first, None
            while low <= self.last:
                middle = (low + self.last + 1) // 2
                message = await self._from(middle)
                if message is None or message.sequence > self.last:
                    self.last = middle - 1
                else:
                    low, newest = message.sequence + 1, message
            found = [newest] if newest else []
            self.last = newest.sequence - 1 if newest else 0
        self.ready.extend(reversed(found))

    async def _fill_forward(self, count: int) -> None:
        high = min(self.last, self.first + count - 1)
        found = await self._window(self.first, high)
        self.first = high + 1
        if not found and self.first <= self.last:
            message = await self._from(self.first)
            self.first = message.sequence + 1 if message else self.last + 1
            found = [message] if message else []
        self.ready.extend(found)

    async def begin_at(self, time_ns: int) -> None:
        """Begins at the first message that was stored at a time or later."""
        low, high = self.first, self.last + 1  # the sequence is among these
        while low < high:
            middle = (low + high) // 2
            message = await self._from(middle)
            if message is None or message.time_ns >= time_ns:
                high = middle
            else:
                low = message.sequence + 1
        self.first = low

    async def _window(self, first: int, last: int) -> list[StoredMessage]:
        found = await asyncio.gather(*(self._get(sequence) for sequence in range(first, last + 1)))
        return [message for message in found if message is not None and message.subject == self._subject]

    async def _from(self, sequence: int) -> Optional[StoredMessage]:
        """The first message with this sequence or a later one."""
        return await self._get(sequence, next_by_subj=self._subject)

    async def _get(self, sequence: int, **which: str) -> Optional[StoredMessage]:
        try:
            reply = await self.asking.js(f"STREAM.MSG.GET.{self._stream}", {"seq": sequence, **which})
        except ServerError as exc:
            if exc.err_code not in NO_MESSAGE:
                raise
            return None
        message = stored_message(reply)
        if message.sequence < sequence:  # a search would never end
            raise ValueError(f"message {message.sequence} for {sequence}")
        return message


async def peek(asking: Asking, name: str, given: PeekArguments) -> PeekedMessages:
    """
    Messages of a station, oldest first.

    Raises:
        StationNotFoundError: It does not exist.
        ConfigurationError: It has no such partition.
    """
    is_back = given.from_sequence is None and given.from_time is None
    partitions = await opened(asking, name, given, is_back=is_back)
    found = await portion(partitions, given.limit, given.max_bytes)
    return PeekedMessages(reversed(found) if is_back else found)


async def opened(
    asking: Asking, name: str, given: Union[PeekArguments, ReplayArguments], *, is_back: bool
) -> list[_Partition]:
    """The partitions that are to be read, each at its beginning. Raises as peek()."""
    streams = await streams_of(asking, name, await station_rows(asking, name))
    check_there(name, given.partition, streams)
    partitions = [
        _Partition(asking, name, number, info["state"], is_back=is_back)
        for number, info in streams.items()
        if given.partition in (None, number)
    ]
    if given.from_sequence is not None:
        for partition in partitions:
            partition.first = max(partition.first, given.from_sequence)
    if given.from_time is not None:
        time_ns = _ns_of(given.from_time)
        await asyncio.gather(*(partition.begin_at(time_ns) for partition in partitions))
    return partitions


async def portion(
    partitions: list[_Partition], limit: int, max_bytes: int, asking: Optional[Asking] = None
) -> list[PeekedMessage]:
    """
    The next messages of several partitions by time; a partition is read when its turn may have come.

    Args:
        partitions: As opened(); what was read of them and not returned is kept there.
        limit: How many messages, at most.
        max_bytes: It ends after the message with which so many bytes are reached.
        asking: Who is asked from now on; None: who opened them.
    """
    for partition in partitions:
        partition.asking = asking or partition.asking
    count = max(1, min(_WINDOW, -(-limit // max(1, len(partitions)))))
    heap = [(partition.rank, partition) for partition in partitions if not partition.is_done]
    heapq.heapify(heap)
    found: list[PeekedMessage] = []
    size = 0
    while heap and len(found) < limit and size < max_bytes:
        partition = heapq.heappop(heap)[1]
        if partition.ready:
            message = partition.ready.popleft()
            partition.best_ns = message.time_ns
            size += len(message.block) + len(message.payload)
            found.append(_peeked(partition.station, partition.number, message))
        else:
            await partition.fill(count)
        if not partition.is_done:
            heapq.heappush(heap, (partition.rank, partition))
    return found


def _peeked(station: str, partition: int, message: StoredMessage) -> PeekedMessage:
    headers = read_headers(message.block)
    return PeekedMessage(
        station=station,
        partition=partition,
        sequence=message.sequence,
        time=time_of(message.time_ns),
        producer=headers.get(PRODUCED_BY, ""),
        size=len(message.block) + len(message.payload),
        headers={name: value for name, value in headers.items() if not is_own(name)},
        data=message.payload,
    )


def _ns_of(time: datetime) -> int:
    return (time - EPOCH) // timedelta(microseconds=1) * 1000
