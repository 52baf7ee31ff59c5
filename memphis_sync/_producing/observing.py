"""
The way of a message when somebody observes it: what the observers are told, and when.

A producer of a client without observers does not come here. With them each message goes one by one through Observed,
but those of produce_many() are announced together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Optional, Union

from memphis_sync._base.observers import Observers, Tokens, Watcher
from memphis_sync._core import Ticket
from memphis_sync._data.outcomes import DELIVERED, error_of, pub_ack, target_of
from memphis_sync.delivery import Deliveries, Delivery
from memphis_sync.errors import ForkedError, MultiStationError
from memphis_sync.headers import Outgoing
from memphis_sync.types import PubAcks

if TYPE_CHECKING:
    from memphis_sync._producing.sender import Sender
    from memphis_sync.bulk import BulkResult


_IS_WAITING = 8  # among the arguments of take()


class Told:
    """
    One produce that observers were told of.

    Args:
        observers: Of the client.
        stations: Of the producer.
        count: How many messages.
        headers: They may add to them.
    """

    __slots__ = ("_observers", "_of_each", "_stations")

    def __init__(self, observers: Observers, stations: Sequence[str], count: int, headers: Outgoing) -> None:
        self._observers = observers
        self._stations = stations
        self._of_each = observers.producing(stations, count, headers)

    def settled(self, outcome: object) -> None:
        """It has ended for all stations."""
        for station, tokens in zip(self._stations, self._of_each):
            if tokens:
                self._observers.settled(tokens, self._part(outcome, station))

    def _part(self, outcome: object, station: str) -> object:
        if isinstance(outcome, PubAcks):
            return outcome[station]
        return outcome.results.get(station, outcome) if isinstance(outcome, MultiStationError) else outcome

    def result(self, result: BulkResult) -> None:
        """produce_many() has ended; each station hears of its own part, but of the duplicates of all."""
        others = [{other for other in self._stations if other != station} for station in self._stations]
        alone = sum(each.station in self._stations for each in result.failed)
        accepted = (result.delivered + alone) // len(self._stations)
        for tokens, away in zip(self._of_each, others):
            failed = tuple(each for each in result.failed if each.station not in away)
            lost = sum(each.station in self._stations for each in failed)
            self._observers.settled(tokens, replace(result, delivered=accepted - lost, failed=failed))

    def follow(self, deliveries: Union[Delivery, Deliveries, Sequence[Delivery]]) -> None:
        """It was accepted: the observers that want to know hear how it ends."""
        if not any(self._of_each):
            return
        each = [deliveries] if isinstance(deliveries, Delivery) else deliveries
        for delivery, tokens in zip(each.values() if isinstance(each, Deliveries) else each, self._of_each):
            if tokens:
                settling = _Settling(self._observers, tokens)
                if not target_of(delivery).link.watch(delivery, settling):
                    settling(delivery)


class _Settling(Watcher):
    """Tells observers how one message to one station has ended."""

    __slots__ = ("_observers", "_tokens")

    def __init__(self, observers: Observers, tokens: Tokens) -> None:
        self._observers = observers
        self._tokens = tokens

    def __call__(self, ticket: Ticket) -> None:
        outcome = pub_ack(ticket) if ticket.outcome == DELIVERED else error_of(ticket)
        self._observers.settled(self._tokens, outcome)


def length_of(iterable: Iterable[Any]) -> int:
    """How many messages it has; 0 when that shows only at its end."""
    try:
        return len(iterable) if isinstance(iterable, Sized) else 0
    except Exception:  # noqa: BLE001  of the program's; what is wrong with it shows when it is read
        return 0


class Observed:
    """
    Sends the messages of one producer; in place of its sender, whose methods these are.

    Args:
        sender: The producer's.
        observers: Of the client.
    """

    def __init__(self, sender: Sender, observers: Observers) -> None:
        self._sender = sender
        self._observers = observers

    @property
    def direct(self) -> Observed:
        """The short way is closed, as long as there is an observer."""
        return self

    def take(self, *arguments: Any) -> Any:
        """As RoundRobin.take()."""
        if not (self._observers and (arguments[_IS_WAITING] or not self._observers.is_only_blocking)):
            return self._sender.direct.take(*arguments)
        if self._sender.is_inherited:
            raise ForkedError("the producer was made before a fork")
        return None

    def take_from(
        self, iterator: Iterator[Any], into: list[Any], limit: int, lines: bytes
    ) -> Optional[tuple[Any, ...]]:
        """As RoundRobin.take_from()."""
        if not self._observers or self._observers.is_only_blocking:
            return self._sender.take_from(iterator, into, limit, lines)
        item = next(iterator, self)
        return () if item is self else (item,)

    def send(
        self,
        message: Any,
        ack_wait_sec: float,
        nonblocking: bool,
        headers: Optional[Mapping[str, str]],
        *others: Any,
    ) -> Any:
        """As Sender.send()."""
        if not self._observers or (nonblocking and self._observers.is_only_blocking):
            return self._sender.send(message, ack_wait_sec, nonblocking, headers, *others)
        outgoing = Outgoing(headers, nonblocking=nonblocking)
        told = Told(self._observers, self._sender.stations, 1, outgoing)
        try:
            sent = self._sender.send(message, ack_wait_sec, nonblocking, outgoing, *others)
        except BaseException as exc:
            told.settled(exc)
            raise
        if nonblocking:
            told.follow(sent)
        else:
            told.settled(sent)
        return sent
