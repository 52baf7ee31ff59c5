"""
What a non-blocking produce returns: a Delivery, which has the shape of a ``concurrent.futures.Future``.

A Delivery has no state of its own. Its memory is the ticket that the C core writes the outcome into, so one that nobody
looks at costs nothing after the call that made it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import deque
from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Optional, Union

from memphis_sync._base.logs import Log
from memphis_sync._base.refusals import NotCopied
from memphis_sync._core import Ticket
from memphis_sync._session import waiting
from memphis_sync.errors import (
    AckTimeoutError,
    DeadlineError,
    MemphisError,
    MultiStationError,
    Outcome,
    ProduceError,
    RejectedError,
    SchemaError,
    StationGoneError,
    _rebuild,
)
from memphis_sync.options import check_callable
from memphis_sync.types import PubAck, PubAcks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memphis_sync._data import DataLink

logger = Log("memphis_sync.produce")

SLICE_NS = 200_000_000  # waits are cut so that Ctrl-C is served
_SEVERAL = 2
_NO_RESPONDERS_CODE = 503
_new_tuple = tuple.__new__
PENDING, DELIVERED, REFUSED, NO_RESPONDERS, EXPIRED, ABANDONED, UNKNOWN, UNSENT = range(8)
_OUTCOMES = ("pending", "delivered", "refused", "no responders", "expired", "abandoned", "unknown", "unsent")


class Target(NamedTuple):
    """Where a route leads, for the reader of its tickets."""

    station: str
    partition: int
    stream: str
    link: DataLink
    of_partitions: int = 0  # how many the station has
    of_stations: int = 1  # how many the producer has
    reason: Optional[tuple[type[MemphisError], tuple[Any, ...], dict[str, Any]]] = None  # parts of an error: why unsent


class Delivery(NotCopied, Ticket):
    """
    The outcome of one message to one station, now or later. Made by ``produce(..., nonblocking=True)``.

    May be waited for by any number of threads, and awaited in an asyncio program without blocking its loop.
    """

    _instead = "hand on what its result() returns, a PubAck"

    __slots__ = ()

    @property
    def station(self) -> str:
        """Name of the station."""
        return _target(self).station

    @property
    def partition(self) -> int:
        """Number of the partition, 0 on a station without partitions."""
        return _target(self).partition

    def done(self) -> bool:
        """Whether the outcome is known."""
        return bool(self.look() != PENDING)

    def running(self) -> bool:
        """Whether the outcome is not known yet; a message cannot be taken back."""
        return not self.done()

    def cancelled(self) -> bool:
        """False: a message that was accepted cannot be taken back."""
        return False

    def cancel(self) -> bool:
        """False: a message that was accepted cannot be taken back."""
        return False

    def result(self, timeout: Optional[float] = None) -> PubAck:
        """
        Waits for the outcome.

        Args:
            timeout: Seconds to wait; None: until the message's own deadline has decided.

        Returns:
            The broker's confirmation.

        Raises:
            DeadlineError: Not known within *timeout*; the message is still on its way.
            ProduceError: It ended otherwise; ``outcome`` says whether it may be stored.
            SchemaError: It was produced before its producer was registered, and does not match the station's schema.
            OwnThreadError: Called on one of the client's own threads.
        """
        error = self.exception(timeout)
        if error is not None:
            raise error
        return pub_ack(self)

    def exception(self, timeout: Optional[float] = None) -> Optional[Union[ProduceError, SchemaError]]:
        """
        Waits as result() does; returns the error that it would raise, None for a delivered message.

        Raises:
            DeadlineError: Not known within *timeout*.
            OwnThreadError: Called on one of the client's own threads.
        """
        outcome = self.look()
        if outcome == PENDING:
            waiting.forbid_on_own_thread("Delivery.result()")
            deadline = None if timeout is None else time.monotonic() + timeout
            while outcome == PENDING:
                left = SLICE_NS if deadline is None else int((deadline - time.monotonic()) * 1e9)
                outcome = self.wait(min(max(left, 0), SLICE_NS))
                if left <= 0 and outcome == PENDING:
                    raise DeadlineError(
                        f"{self!r} was not confirmed within {timeout} s; it is still on its way",
                        timeout_s=timeout or 0.0,
                    )
        return None if outcome == DELIVERED else error_of(self)

    def add_done_callback(self, fn: Callable[[Delivery], object]) -> None:
        """
        Calls ``fn(delivery)`` once: on the callbacks thread when the outcome comes later, here when it is known.

        Whatever it raises, SystemExit included, is logged, and counted in ``stats().callback_errors``.

        Raises:
            ConfigurationError: *fn* is not a plain function: it cannot be called, or is a coroutine function.
        """
        check_callable("fn", fn)
        self.look()
        if not _target(self).link.watch(self, fn):
            _target(self).link.call_back(fn, self)

    def __await__(self) -> Generator[Any, None, PubAck]:
        yield from _until_known(self)
        return self.result(0)

    def __repr__(self) -> str:
        return f"<Delivery {self.station} {_OUTCOMES[self.outcome]}>"


class Deliveries(NotCopied, Mapping[str, Delivery]):
    """
    The outcomes of one message to several stations: a mapping of station to Delivery, used like a single one.

    ``result()`` is the mapping of station to PubAck, or a MultiStationError that holds successes and failures, and so
    is what ``await`` gives. Two of them are equal only if they are the same object, so they can be members of a set.
    """

    _instead = "hand on what its result() returns"

    __slots__ = ("_by_station", "_every")
    __hash__ = object.__hash__
    __eq__ = object.__eq__

    def __init__(self, each: list[Delivery]) -> None:
        self._every = each
        self._by_station: Optional[dict[str, Delivery]] = None  # made when somebody looks: most often nobody does

    @property
    def _each(self) -> dict[str, Delivery]:
        if self._by_station is None:
            self._by_station = {delivery.station: delivery for delivery in self._every}
        return self._by_station

    def __getitem__(self, station: str) -> Delivery:
        return self._each[station]

    def __iter__(self) -> Iterator[str]:
        return iter(self._each)

    def __len__(self) -> int:
        return len(self._each)

    def done(self) -> bool:
        """Whether every outcome is known."""
        return all([delivery.done() for delivery in self._each.values()])  # noqa: C419  each one counts as looked at

    def result(self, timeout: Optional[float] = None) -> dict[str, PubAck]:
        """
        Waits for all outcomes.

        Args:
            timeout: Seconds for all together; None: until the messages' own deadlines have decided.

        Raises:
            DeadlineError: Not all known within *timeout*.
            MultiStationError: At least one station did not confirm; ``results`` has them all.
        """
        error = self.exception(timeout)
        if error is not None:
            raise error
        return PubAcks({station: pub_ack(delivery) for station, delivery in self._each.items()})

    def exception(self, timeout: Optional[float] = None) -> Optional[MultiStationError]:
        """Waits as result() does; returns the error that it would raise, None when all confirmed."""
        deadline = None if timeout is None else time.monotonic() + timeout
        results: dict[str, Union[PubAck, ProduceError, SchemaError]] = {}
        for station, delivery in self._each.items():
            error = delivery.exception(None if deadline is None else max(deadline - time.monotonic(), 0.0))
            results[station] = pub_ack(delivery) if error is None else error
        failed = {station: error for station, error in results.items() if not isinstance(error, PubAck)}
        if not failed:
            return None
        outcomes = {error.outcome for error in failed.values()}
        outcome: Outcome = outcomes.pop() if len(outcomes) == 1 else "unknown"
        text = "; ".join(f"{station}: {error}" for station, error in failed.items())
        return MultiStationError(
            f"{len(failed)} of {len(results)} stations did not confirm: {text}", outcome=outcome, results=results
        )

    def add_done_callback(self, fn: Callable[[Deliveries], object]) -> None:
        """Calls ``fn(deliveries)`` once when the last outcome is known; see Delivery.add_done_callback."""
        check_callable("fn", fn)
        others = deque(range(len(self._each) - 1))  # each outcome but the last takes one off, in one step

        def settled(delivery: Delivery) -> None:
            try:
                others.pop()
            except IndexError:
                _target(delivery).link.call_back(fn, self)

        for delivery in self._each.values():
            delivery.add_done_callback(settled)

    def __await__(self) -> Generator[Any, None, dict[str, PubAck]]:
        yield from _until_known(self)
        return self.result(0)

    def __repr__(self) -> str:
        return f"<Deliveries {', '.join(repr(delivery) for delivery in self._each.values())}>"


def _until_known(awaited: Union[Delivery, Deliveries]) -> Generator[Any, None, None]:
    """What await runs, without blocking the loop."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def wake(_: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed, and nobody waits any more
            loop.call_soon_threadsafe(_finish, future)

    awaited.add_done_callback(wake)
    yield from future


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _target(ticket: Ticket) -> Target:
    target: Target = ticket.route.target
    return target


def pub_ack(ticket: Ticket) -> PubAck:
    """The confirmation of a delivered message."""
    station, partition, stream, *_ = ticket.route.target
    # A named tuple's own __new__ is a Python function, which would take longer than all else here.
    return _new_tuple(PubAck, (station, partition, ticket.sequence, ticket.duplicate, stream))


def reason_of(ticket: Ticket) -> MemphisError:
    """Why a message is unsent: the error of its producer's registration, or of the message itself."""
    reason = _target(ticket).reason
    assert reason is not None, "it is unsent"
    return _rebuild(*reason)


def error_of(ticket: Ticket) -> Union[ProduceError, SchemaError]:
    """The error that a settled message ended with."""
    target = _target(ticket)
    station, partition = target.station, target.partition
    where = f"station {station!r}" if partition == 0 else f"station {station!r}, partition {partition}"
    message_id: Optional[str] = ticket.message_id
    outcome = ticket.outcome
    if outcome == UNSENT:
        reason = reason_of(ticket)
        if isinstance(reason, (ProduceError, SchemaError)):
            return reason
        error = ProduceError(f"the message was never sent to {where}: {reason}", message_id=message_id)
        error.__cause__ = reason
        return error
    if outcome == REFUSED:
        text = _unescaped(ticket.text)
        return RejectedError(
            f"{where} refused the message: {text} (code {ticket.code}, err_code {ticket.err_code})",
            message_id=message_id,
            code=ticket.code,
            err_code=ticket.err_code,
            description=text,
        )
    if outcome == NO_RESPONDERS:
        return StationGoneError(
            f"{where} does not answer: it was destroyed, or never existed. The message is not stored",
            message_id=message_id,
            code=ticket.code,
            description="no responders",
        )
    sent: Outcome = "unknown" if ticket.was_written else "not_sent"
    fate = f"it may be stored; {advice(ticket)}" if ticket.was_written else "it was never sent"
    if not target.stream:
        fate += ", for its producer was not registered by then"
    if outcome == UNKNOWN:
        what = (
            "does not answer"
            if ticket.code == _NO_RESPONDERS_CODE
            else f"refused the message ({_unescaped(ticket.text)}; code {ticket.code}, err_code {ticket.err_code})"
        )
        return ProduceError(
            f"{where} {what}, but the message had been sent before, and that was not answered: {fate}",
            outcome=sent,
            message_id=message_id,
        )
    if outcome == EXPIRED:
        return AckTimeoutError(
            f"{where} did not confirm the message before its deadline; {fate}", outcome=sent, message_id=message_id
        )
    return ProduceError(
        f"the client ended before {where} confirmed the message; {fate}", outcome=sent, message_id=message_id
    )


def advice(ticket: Ticket) -> str:
    """What to do with a message that may be stored, so that it is stored once."""
    target, message_id = _target(ticket), ticket.message_id
    if not message_id:
        return "without a message id, producing it again may store it twice"
    # The partition of a key or of an automatic id does not follow from the id.
    number = "" if target.of_partitions < _SEVERAL else f", producer_partition_number={target.partition} and no key"
    alone = "" if target.of_stations < _SEVERAL else f" to station {target.station!r} alone,"
    return f"produce it again{alone} with msg_id={message_id!r}{number}, to store it once"


def _unescaped(text: str) -> str:
    """JSON's escapes undone; the core hands over the string as it stood between its quotes."""
    if "\\" not in text:
        return text
    try:
        return str(json.loads(f'"{text}"'))
    except ValueError:
        return text
