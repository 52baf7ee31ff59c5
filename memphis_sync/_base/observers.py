"""
Calls the observers of a client. What one raises is logged, and it is called no more: a message is worth more than what
is told about it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Optional

from memphis_sync._base.logs import Log
from memphis_sync.observer import UNWATCHED, AckKind, Observer
from memphis_sync.types import LinkEvent

if TYPE_CHECKING:
    from memphis_sync.headers import Outgoing
    from memphis_sync.message import Message

log = Log("memphis_sync.control")
_RAISED = object()
Tokens = list[tuple[Observer, Any]]


class Observers:
    """
    The observers of one client, in all processes that use it; false when there is none.

    Args:
        label: The client's name.
        address: Its broker's.
        given: What connect() was told.

    Attributes:
        is_only_blocking: Whether nobody wants to be told of non-blocking messages.
        ticks: Functions that are called with its counters every so often.
    """

    def __init__(self, label: str, address: str, given: Sequence[Observer]) -> None:
        self._label = label
        self._address = address
        self.ticks: list[Any] = []
        self._set(())
        for observer in given:
            self.add(observer)

    def add(self, observer: Observer) -> None:
        """One more."""
        where = self._label, self._address
        own = self._ask(observer, "for_client", *where) if hasattr(observer, "for_client") else None
        if own is not _RAISED:
            self._set((*self._each, observer if own is None else own))

    def _set(self, each: tuple[Observer, ...]) -> None:
        self._each = each
        self.is_only_blocking = all(map(_is_only_blocking, each))

    def __bool__(self) -> bool:
        return bool(self._each)

    def _ask(self, observer: Observer, method: str, *arguments: object, of: object = None) -> Any:
        """What its method, or that of something it has made, returns; _RAISED when it raised, for the last time."""
        try:
            return getattr(observer if of is None else of, method)(*arguments)
        except (Exception, SystemExit) as exc:  # noqa: BLE001  whatever its author has not thought of
            self._detach(observer, method, exc)
            return _RAISED

    def _detach(self, observer: Observer, method: str, error: BaseException) -> None:
        before = self._each
        self._set(tuple(each for each in before if each is not observer))
        if len(self._each) == len(before) and method != "for_client":
            return  # another thread was faster
        text = "%r: the observer %s raised in %s(); it is not called any more"
        told = {"memphis_client": self._label}
        log.error(text, self._label, type(observer).__qualname__, method, extra=told, exc_info=error)

    def producing(self, stations: Sequence[str], count: int, headers: Outgoing) -> list[Tokens]:
        """For each station the tokens for settled(); those that are to be told of the end."""
        found: list[Tokens] = []
        for station in stations:
            tokens: Tokens = []
            for observer in self._each:
                if headers.nonblocking and _is_only_blocking(observer):
                    continue
                token = self._ask(observer, "producing", station, count, headers)
                if token is not UNWATCHED and token is not _RAISED:
                    tokens.append((observer, token))
            found.append(tokens)
        return found

    def settled(self, tokens: Tokens, outcome: object) -> None:
        """A produce has ended."""
        for observer, token in tokens:
            if observer in self._each:
                self._ask(observer, "settled", token, outcome)

    def received(self, station: str, group: str, messages: Sequence[Message], seconds: float) -> None:
        """Messages have come."""
        for observer in self._each:
            self._ask(observer, "received", station, group, messages, seconds)

    @contextlib.contextmanager
    def processing(self, messages: Sequence[Message]) -> Iterator[None]:
        """Around what a program does with messages."""
        entered: list[tuple[Observer, Any]] = []
        for observer in self._each:
            manager = self._ask(observer, "processing", messages)
            if manager is not _RAISED and self._ask(observer, "__enter__", of=manager) is not _RAISED:
                entered.append((observer, manager))
        try:
            yield
        except BaseException as exc:
            self._leave(entered, exc)
            raise
        self._leave(entered, None)

    def _leave(self, entered: list[tuple[Observer, Any]], error: Optional[BaseException]) -> None:
        told = (None, None, None) if error is None else (type(error), error, error.__traceback__)
        for observer, manager in reversed(entered):
            self._ask(observer, "__exit__", *told, of=manager)

    def acked(self, messages: Sequence[Message], kind: AckKind) -> None:
        """Messages were answered."""
        for observer in self._each:
            self._ask(observer, "acked", messages, kind)

    def link(self, event: LinkEvent) -> None:
        """A connection was lost, is back, or has failed."""
        for observer in self._each:
            self._ask(observer, "link", event)


def _is_only_blocking(observer: Observer) -> bool:
    return bool(getattr(observer, "only_blocking", False))


class Watcher:
    """What is called with the ticket of a settled message, without counting as somebody who has asked about it."""

    __slots__ = ()
