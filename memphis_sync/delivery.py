"""
What a non-blocking produce returns: a Delivery, which has the shape of a ``concurrent.futures.Future``; and waiting for
many of them: wait() and as_completed(), with the shape of those in ``concurrent.futures``.

A Delivery has no state but the ticket into which the C core writes the outcome, so one that is never read costs nothing
after the call that returned it. The C core wakes a thread that waits for many with the new ones only, so a hundred
thousand deliveries cost one read each, and no thread of the client is involved.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Callable, Generic, Literal, NamedTuple, Optional, TypeVar, Union

from memphis_sync._base.completion import HidesCore
from memphis_sync._base.refusals import NotCopied
from memphis_sync._core import Ticket, WaitSet
from memphis_sync._data.outcomes import DELIVERED, OUTCOMES, PENDING, error_of, pub_ack, target_of
from memphis_sync._options.checks import check_callable, check_seconds, show
from memphis_sync._session import waiting
from memphis_sync.errors import (
    ConfigurationError,
    DeadlineError,
    ForkedError,
    MultiStationError,
    Outcome,
    ProduceError,
    SchemaError,
)
from memphis_sync.types import PubAck, PubAcks

ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION = "ALL_COMPLETED", "FIRST_COMPLETED", "FIRST_EXCEPTION"


class Delivery(HidesCore, NotCopied, Ticket):
    """
    The outcome of one message to one station, now or later. Returned by ``produce(..., nonblocking=True)``.

    Any number of threads may wait for it, and an asyncio program may await it without blocking its loop.
    """

    _instead = "pass what its result() returns, a PubAck"
    _from_core = frozenset({"message_id"})

    __slots__ = ()

    @property
    def station(self) -> str:
        """Name of the station."""
        return target_of(self).station

    @property
    def partition(self) -> int:
        """Number of the partition, 0 on a station without partitions."""
        return target_of(self).partition

    def done(self) -> bool:
        """Whether the outcome is known. In a forked child: whether it was known before the fork."""
        try:
            return bool(self.observe() != PENDING)
        except ForkedError:
            return bool(self.outcome != PENDING)

    def running(self) -> bool:
        """Whether the outcome is not known yet."""
        return not self.done()

    def cancelled(self) -> bool:
        """False: an accepted message cannot be cancelled."""
        return False

    def cancel(self) -> bool:
        """False: an accepted message cannot be cancelled."""
        return False

    def result(self, timeout: Optional[float] = None) -> PubAck:
        """
        Waits for the outcome.

        Args:
            timeout: Seconds to wait; None: until the message's own deadline.

        Returns:
            The broker's confirmation.

        Raises:
            DeadlineError: Not known within *timeout*; the message may still be stored.
            ProduceError: The message failed; ``outcome`` says whether it may be stored.
            SchemaError: It was produced before its producer was registered, and does not match the station's schema.
            OwnThreadError: Called on one of the client's own threads.
            ForkedError: It was produced before a fork, and this is the child.
        """
        error = self.exception(timeout)
        if error is not None:
            raise error
        return pub_ack(self)

    def exception(self, timeout: Optional[float] = None) -> Optional[Union[ProduceError, SchemaError]]:
        """
        Waits like result(), and returns the error that it would raise; None for a delivered message.

        Raises:
            DeadlineError: Not known within *timeout*.
            OwnThreadError, ForkedError: As result().
        """
        outcome = self.observe()
        if outcome == PENDING:
            waiting.forbid_on_own_thread("Delivery.result()")
            outcome = self.wait(None if timeout is None else time.monotonic() + timeout)
            if outcome == PENDING:
                raise DeadlineError(
                    f"{self!r} was not confirmed within {timeout} s; it is still on its way", timeout_s=timeout or 0.0
                )
        return None if outcome == DELIVERED else error_of(self)

    def add_done_callback(self, fn: Callable[[Delivery], object]) -> None:
        """
        Calls ``fn(delivery)`` once: at once when the outcome is known, otherwise later on the callbacks thread.

        Whatever it raises, SystemExit included, is logged and counted in ``stats().callback_errors``.

        Raises:
            ConfigurationError: *fn* is not a plain function: it cannot be called, or is a coroutine function.
            ForkedError: As result(). A callback that was added before the fork runs in the parent only.
        """
        check_callable("fn", fn)
        self.observe()
        if not target_of(self).link.watch(self, fn):
            target_of(self).link.callbacks.call(fn, self)

    def __await__(self) -> Generator[object, None, PubAck]:
        yield from _until_known(self)
        return self.result(0)

    def __repr__(self) -> str:
        return f"<Delivery {self.station} {OUTCOMES[self.outcome]}>"


class Deliveries(NotCopied, Mapping[str, Delivery]):
    """
    The outcomes of one message to several stations: a mapping of station to Delivery, used like a single one.

    ``result()`` and ``await`` return a mapping of station to PubAck, or raise a MultiStationError with all results.
    Two of them are equal only if they are the same object, so they can be members of a set.
    """

    _instead = "pass what its result() returns"

    __slots__ = ("_by_station", "_every")
    __hash__ = object.__hash__
    __eq__ = object.__eq__

    def __init__(self, each: list[Delivery]) -> None:
        self._every = each
        self._by_station: Optional[dict[str, Delivery]] = None  # created when it is used, which is rare

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
        return all([delivery.done() for delivery in self._each.values()])  # noqa: C419  each one counts as read

    def result(self, timeout: Optional[float] = None) -> PubAcks:
        """
        Waits for all outcomes.

        Args:
            timeout: Seconds for all together; None: until the messages' own deadlines.

        Raises:
            DeadlineError: Not all known within *timeout*.
            MultiStationError: At least one station did not confirm; ``results`` has them all.
            OwnThreadError: Called on one of the client's own threads.
        """
        error = self.exception(timeout)
        if error is not None:
            raise error
        return PubAcks({station: pub_ack(delivery) for station, delivery in self._each.items()})

    def exception(self, timeout: Optional[float] = None) -> Optional[MultiStationError]:
        """Waits like result(), and returns the error that it would raise; None when all stations confirmed."""
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
        others = deque(range(len(self._each) - 1))  # each outcome but the last removes one, atomically

        def settled(delivery: Delivery) -> None:
            try:
                others.pop()
            except IndexError:
                target_of(delivery).link.callbacks.call(fn, self)

        for delivery in self._each.values():
            delivery.add_done_callback(settled)

    def __await__(self) -> Generator[object, None, PubAcks]:
        yield from _until_known(self)
        return self.result(0)

    def __repr__(self) -> str:
        return f"<Deliveries {', '.join(repr(delivery) for delivery in self._each.values())}>"


def _until_known(awaited: Union[Delivery, Deliveries]) -> Generator[object, None, None]:
    """Waits without blocking the loop, for await."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def wake(_: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed
            loop.call_soon_threadsafe(_finish, future)

    awaited.add_done_callback(wake)
    yield from future


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


AnyDelivery = TypeVar("AnyDelivery", bound=Union[Delivery, Deliveries])


if TYPE_CHECKING:

    class DoneAndNotDone(NamedTuple, Generic[AnyDelivery]):
        """What wait() returns."""

        done: set[AnyDelivery]
        not_done: set[AnyDelivery]

else:  # Python before 3.11 has no generic named tuples

    class DoneAndNotDone(NamedTuple):
        """What wait() returns."""

        done: set
        not_done: set


def wait(
    deliveries: Iterable[AnyDelivery],
    timeout_s: Optional[float] = None,
    return_when: Literal["ALL_COMPLETED", "FIRST_COMPLETED", "FIRST_EXCEPTION"] = "ALL_COMPLETED",
) -> DoneAndNotDone[AnyDelivery]:
    """
    Waits for deliveries, of any clients.

    Args:
        deliveries: What ``produce(..., nonblocking=True)`` returned; Deliveries of several stations count as one, which
            is known when its last outcome is.
        timeout_s: Limit in seconds, 0 or more; None: until the messages' own deadlines.
        return_when: ``ALL_COMPLETED``, ``FIRST_COMPLETED`` (at least one is known) or ``FIRST_EXCEPTION`` (one has
            failed, or all are known).

    Returns:
        ``(done, not_done)``, two sets. The failures among them are not logged.

    Raises:
        ConfigurationError: A bad argument.
        OwnThreadError: Called on one of the client's own threads.
        ForkedError: A delivery belongs to the parent process.
    """
    if return_when not in (ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION):
        raise ConfigurationError(
            f"return_when is {show(return_when)}; it must be {ALL_COMPLETED!r}, {FIRST_COMPLETED!r} or "
            f"{FIRST_EXCEPTION!r}"
        )
    every, deadline = _checked(deliveries, timeout_s, "wait()")
    if return_when == ALL_COMPLETED:
        _wait_for_all(every, deadline)
    else:
        _wait_for_first(every, deadline, failed_only=return_when == FIRST_EXCEPTION)
    done = {delivery for delivery in every if delivery.done()}
    return DoneAndNotDone(done, {delivery for delivery in every if delivery not in done})


def as_completed(deliveries: Iterable[AnyDelivery], timeout_s: Optional[float] = None) -> Iterator[AnyDelivery]:
    """
    Iterates over deliveries, of any clients, in the order in which their outcomes become known.

    Args:
        deliveries: As for wait(); each is yielded once.
        timeout_s: Limit in seconds from this call to the last one, 0 or more; None: until their own deadlines.

    Returns:
        An iterator. It raises DeadlineError when it still has to wait at the limit; the other messages may still be
        stored.

    Raises:
        ConfigurationError, OwnThreadError, ForkedError: As wait().
    """
    every, deadline = _checked(deliveries, timeout_s, "as_completed()")
    return _in_order_of_completion(every, deadline, timeout_s or 0.0)


def _checked(
    deliveries: Iterable[AnyDelivery], timeout_s: Optional[float], what: str
) -> tuple[list[AnyDelivery], Optional[float]]:
    """Each delivery once, in the order given, and the deadline on the monotonic clock."""
    if timeout_s is not None:
        check_seconds("timeout_s", timeout_s)
    waiting.forbid_on_own_thread(what)
    every = list(dict.fromkeys(deliveries))
    for delivery in every:
        if not isinstance(delivery, (Delivery, Deliveries)):
            raise ConfigurationError(
                f"deliveries holds an object of type {type(delivery).__name__}; it must be what "
                "produce(..., nonblocking=True) returned"
            )
    return every, None if timeout_s is None else time.monotonic() + timeout_s


def _each(delivery: Union[Delivery, Deliveries]) -> Iterable[Delivery]:
    return (delivery,) if isinstance(delivery, Delivery) else delivery.values()


def _wait_for_all(every: list[AnyDelivery], deadline: Optional[float]) -> None:
    # Backwards: when the last one is known, most others are, and reading them is cheaper than being woken for each.
    for delivery in reversed(every):
        for single in _each(delivery):
            if single.observe() == PENDING and single.wait(deadline) == PENDING:
                return


def _has_failed(delivery: Union[Delivery, Deliveries]) -> bool:
    return any(single.observe() not in (PENDING, DELIVERED) for single in _each(delivery))


def _wait_for_first(every: list[AnyDelivery], deadline: Optional[float], *, failed_only: bool) -> None:
    for new in _as_known(every, deadline):
        if not failed_only or any(map(_has_failed, new)):
            return


def _in_order_of_completion(
    every: list[AnyDelivery], deadline: Optional[float], timeout_s: float
) -> Iterator[AnyDelivery]:
    left = len(every)
    for new in _as_known(every, deadline):
        if not new:
            raise DeadlineError(
                f"{left} of {len(every)} deliveries were not known within {timeout_s:g} s; they are still on their way",
                timeout_s=timeout_s,
            )
        left -= len(new)
        yield from new


def _as_known(every: list[AnyDelivery], deadline: Optional[float]) -> Iterator[list[AnyDelivery]]:
    """Those that are known, and then each time those that have become known; none at the deadline, and the end."""
    owners = [delivery for delivery in every for _ in _each(delivery)]
    lacks = {delivery: len(delivery) for delivery in every if isinstance(delivery, Deliveries)}
    wait_set = WaitSet(single for delivery in every for single in _each(delivery))
    left = len(every)
    while left:
        places, new = wait_set.wait(deadline), []
        for place in places:
            owner = owners[place]
            if isinstance(owner, Deliveries):
                lacks[owner] -= 1
                if lacks[owner]:
                    continue
            new.append(owner)
        left -= len(new)
        if new or not places:
            yield new
        if not places:
            return
