"""What was produced by the ``memory://`` clients of this process, for tests to look at."""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional, Protocol, Union, overload

from memphis_sync._base import native
from memphis_sync._core import fork_generation

if TYPE_CHECKING:
    import threading


@dataclass(frozen=True)
class Sent:
    """
    A message as a station would hold it.

    Attributes:
        station: Its name.
        data: The payload.
        headers: The program's own.
        msg_id: The id that the message carries: its own, or one that the client gave it; None without one.
        partition_key: As given to produce().
    """

    station: str
    data: bytes
    headers: dict[str, str]
    msg_id: Optional[str]
    partition_key: Optional[str]

    def json(self) -> Any:
        """
        The payload as a JSON value.

        Raises:
            ValueError: It is not JSON.
        """
        return json.loads(self.data)

    def __repr__(self) -> str:
        return f"<Sent {self.station} {len(self.data)} bytes>"


class Link(Protocol):
    """What a list of sent messages asks of the links that feed it."""

    def settle(self) -> None:
        """Waits until what was accepted so far is recorded, or has failed."""


class SentMessages(Sequence[Sent]):
    """
    The messages in the order in which they were recorded. A look at it waits first until everything that was accepted
    so far is there, so a test needs no flush() after ``nonblocking=True``.

    It is one list for all ``memory://`` clients of a process. A forked child has a copy of its own.
    """

    __hash__ = None  # type: ignore[assignment]  # it changes, like a list

    def __init__(self) -> None:
        self._messages: list[Sent] = []
        self._last: dict[str, int] = {}  # the sequence of the last message of each stream
        self._ids: dict[tuple[str, str], int] = {}  # the sequence of each message id in each stream
        self._links: weakref.WeakSet[Link] = weakref.WeakSet()
        # By generation: a fork may come while another thread holds it. Never held across IO.
        self._locks: dict[int, threading.Lock] = {}

    @property
    def _lock(self) -> threading.Lock:
        return self._locks.setdefault(fork_generation(), native.Lock())

    def _join(self, link: Link) -> None:
        """Has every look wait for *link*."""
        self._links.add(link)

    def _leave(self, link: Link) -> None:
        """No look waits for *link* any more."""
        self._links.discard(link)

    def _record(self, stream: str, message: Sent) -> tuple[int, bool]:
        """Stores a message. Returns its sequence, and whether the stream had its id before, which stores nothing."""
        with self._lock:
            sequence = self._last.get(stream, 0) + 1
            if message.msg_id is not None:
                known = self._ids.setdefault((stream, message.msg_id), sequence)
                if known != sequence:
                    return known, True
            self._last[stream] = sequence
            self._messages.append(message)
            return sequence, False

    def clear(self) -> None:
        """Forgets all messages and their ids."""
        self._settled()
        with self._lock:
            for each in (self._messages, self._last, self._ids):
                each.clear()

    def _settled(self) -> list[Sent]:
        for link in list(self._links):
            link.settle()
        return self._messages

    @overload
    def __getitem__(self, index: int) -> Sent: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sent]: ...

    def __getitem__(self, index: Union[int, slice]) -> Union[Sent, list[Sent]]:
        return self._settled()[index]

    def __len__(self) -> int:
        return len(self._settled())

    def __iter__(self) -> Iterator[Sent]:
        return iter(self._settled())

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, Sequence) else NotImplemented

    def __repr__(self) -> str:
        return f"<{len(self._messages)} sent messages: {self._messages}>"


sent = SentMessages()
