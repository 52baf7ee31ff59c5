"""
What a program may have told about each message of a client: the seam for traces, metrics and the like.

``connect(observers=[...])`` takes objects with the methods of an Observer. memphis_sync.contrib.otel has one for
OpenTelemetry.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, Union

from memphis_sync.types import LinkEvent

if TYPE_CHECKING:
    from memphis_sync.bulk import BulkResult
    from memphis_sync.headers import Outgoing
    from memphis_sync.message import Message
    from memphis_sync.types import PubAck

AckKind = Literal["ack", "nack", "delay", "dead_letter"]
UNWATCHED: Final[object] = object()  # a token: see Observer.producing


class Observer(Protocol):
    """
    What observes a client. A subclass defines the methods that it needs; the others do nothing.

    They are called on whichever thread the event happens, several at a time, and hold that thread up: they must not
    wait. One that raises is logged and never called again; the message goes its way all the same. In a forked child
    the observers are the same objects.

    Example:
        class Produced(memphis_sync.Observer):
            def settled(self, token, outcome):
                print("failed" if isinstance(outcome, Exception) else "stored")
        with memphis_sync.connect("memphis://user:password@host", observers=[Produced()]) as memphis:
            memphis.produce("orders", "web", b"hello")
    """

    def for_client(self, client: str, address: str) -> Observer:
        """
        Returns what observes one client. Called once by its connect(), before anything is opened.

        Args:
            client: Its name.
            address: ``host:port`` of the first broker that it tries.
        """
        return self

    def producing(self, station: str, count: int, headers: Outgoing) -> object:
        """
        A produce begins; with several stations it is called for each.

        Args:
            station: Its name.
            count: How many messages: 1, and of produce_many() as many as its iterable has; 0 when that has no length.
            headers: What the message will have as headers, which may be added to. ``headers.nonblocking`` tells the
                two ways of produce() apart. In a produce_many() they are those of each message that has none of these
                itself. Several stations get the same.

        An observer with an attribute ``only_blocking`` that is True is not told of non-blocking messages, which then
        go their short way.

        Returns:
            What settled() is given as its token. With UNWATCHED it is not called, and a produce costs less.
        """
        return None

    def settled(self, token: Any, outcome: Union[PubAck, BulkResult, BaseException]) -> None:
        """
        It has ended: with a PubAck, a BulkResult for produce_many(), or an error. That of a non-blocking produce is
        told on the callbacks thread; the error of one that was not accepted at once.
        """
        return

    def received(self, station: str, group: str, messages: Sequence[Message], seconds: float) -> None:
        """Messages came from the broker, at least one, after a wait of so long."""
        return

    def processing(self, messages: Sequence[Message]) -> contextlib.AbstractContextManager[object]:
        """
        A context manager for the time in which a handler runs, or a block ``with message.processing():``. It gets what
        the handler raises, and cannot suppress it.
        """
        return contextlib.nullcontext()

    def acked(self, messages: Sequence[Message], kind: AckKind) -> None:
        """Messages were answered; the answers are on their way to the broker."""
        return

    def link(self, event: LinkEvent) -> None:
        """What ``on_disconnect``, ``on_reconnect`` and ``on_error`` of connect() are told, on the callbacks thread."""
        return


_default: list[Observer] = []


def add_default_observer(observer: Observer) -> None:
    """
    Each later connect() of this process has this observer too, unless it is given one of the same class.

    This is how agents, as ``opentelemetry-instrument``, observe a program that does not know of them.
    """
    if not any(each is observer for each in _default):
        _default.append(observer)


def remove_default_observer(observer: Observer) -> None:
    """The reverse; clients that are open keep it."""
    _default[:] = [each for each in _default if each is not observer]


def with_defaults(observers: Sequence[Observer]) -> tuple[Observer, ...]:
    """Those that are given, and the default ones."""
    kinds = {type(each) for each in observers}
    return (*observers, *(each for each in _default if type(each) not in kinds))


__all__ = ["UNWATCHED", "Observer", "add_default_observer", "remove_default_observer"]
