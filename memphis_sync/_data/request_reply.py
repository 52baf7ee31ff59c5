"""
Requests over the data link, as a confirmed ack needs them. Each waiting thread uses its own subscription, and returns
it for the next.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from memphis_sync._core import RECEIVE_BUFFER_BYTES, RawMessage, encode_pub, encode_sub, encode_unsub
from memphis_sync._core._codes import Error
from memphis_sync.errors import ConnectionLostError, DeadlineError

if TYPE_CHECKING:
    from memphis_sync._core import ReceiveBuffer
    from memphis_sync._data.connection import DataLink


class Reply(NamedTuple):
    """What a request was answered with: a status of the server's own, 503 for instance, or 0; and the payload."""

    status: int
    payload: bytes


class _Place:
    """A subscription whose requests were all answered."""

    def __init__(self, link: DataLink) -> None:
        self.buffer: ReceiveBuffer = link.new_receive_buffer()
        self.subject = b"_INBOX.%s.%d.r" % (link.core.token, self.buffer.sid)
        self.opening = encode_sub(self.subject, self.buffer.sid)
        self.messages = 0  # taken so far, as the buffer counts
        self.statuses = 0


class Replies:
    """
    Requests of one data link, from any number of threads.

    Args:
        link: The data link.
    """

    def __init__(self, link: DataLink) -> None:
        self._link = link
        self._idle: deque[_Place] = deque()  # as many as ever waited at once

    def request(self, subject: bytes, payload: bytes, timeout_s: float) -> Reply:
        """
        Publishes and waits for the first answer.

        Raises:
            DeadlineError: None came in time; the broker may have the request.
            ConnectionLostError: There was no connection in time, or it ended meanwhile, with the same doubt.
            ClosedError, ForkedError: The client was closed, or belongs to the parent process.
        """
        deadline = time.monotonic() + timeout_s
        if not self._link.wait_up(deadline):
            raise ConnectionLostError("the data link has no connection; the request was not sent")
        place = self._place()
        try:
            reply = self._ask(place, subject, payload, deadline, timeout_s)
        except BaseException:
            with contextlib.suppress(ConnectionLostError):  # a late answer must not be taken for that of the next one
                self._link.core.control(encode_unsub(place.buffer.sid))
            raise
        self._idle.append(place)
        return reply

    def _place(self) -> _Place:
        while True:
            try:
                place = self._idle.pop()
            except IndexError:
                return _Place(self._link)
            if not place.buffer.is_closed:
                return place

    def _ask(self, place: _Place, subject: bytes, payload: bytes, deadline: float, timeout_s: float) -> Reply:
        place.buffer.expect(place.messages + 1, RECEIVE_BUFFER_BYTES)  # whatever else is sent there is no answer
        self._link.core.write(place.opening + encode_pub(subject, payload, place.subject))
        place.opening = b""
        result = place.buffer.wait(place.messages + 1, place.statuses + 1, deadline)
        if result == Error.CLOSED:
            raise ConnectionLostError("the data link lost its connection before the answer came")
        if result == Error.TIMEOUT:
            raise DeadlineError(f"no answer within {timeout_s:g} s", timeout_s=timeout_s)
        messages, statuses = place.buffer.take(RawMessage, None)
        place.messages += len(messages)
        place.statuses += len(statuses)
        return Reply(statuses[0][0], b"") if statuses else Reply(0, messages[0].payload)
