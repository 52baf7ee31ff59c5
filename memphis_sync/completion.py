"""
Waiting for many deliveries: wait() and as_completed(), with the shape of those in ``concurrent.futures``.

The C core wakes the waiting thread with what is new, so a hundred thousand deliveries cost no more than looking at each
once, and no thread of the client's takes part.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Generic, Literal, NamedTuple, Optional, TypeVar, Union

from memphis_sync._core import Group
from memphis_sync._session import waiting
from memphis_sync.delivery import DELIVERED, PENDING, SLICE_NS, Deliveries, Delivery
from memphis_sync.errors import ConfigurationError, DeadlineError
from memphis_sync.options import check_seconds, show

ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION = "ALL_COMPLETED", "FIRST_COMPLETED", "FIRST_EXCEPTION"
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
        deliveries: What ``produce(..., nonblocking=True)`` returned; one of several stations counts as one, which is
            known when its last outcome is.
        timeout_s: Limit in seconds; None: until the messages' own deadlines have decided.
        return_when: ``ALL_COMPLETED``, ``FIRST_COMPLETED`` (at least one is known) or ``FIRST_EXCEPTION`` (one has
            failed, or all are known).

    Returns:
        ``(done, not_done)``, two sets. All of them count as looked at, so their failures are not logged.

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
        timeout_s: Limit in seconds from this call to the last one; None: until their own deadlines have decided.

    Returns:
        An iterator. While it has to wait, it raises DeadlineError at the limit; what it did not yield is still on its
        way.

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


def _slice_ns(deadline: Optional[float]) -> int:
    """How long to wait at once, so that Ctrl-C is served; 0 at the deadline."""
    return SLICE_NS if deadline is None else min(SLICE_NS, max(int((deadline - time.monotonic()) * 1e9), 0))


def _each(delivery: Union[Delivery, Deliveries]) -> Iterable[Delivery]:
    return (delivery,) if isinstance(delivery, Delivery) else delivery.values()


def _wait_for_all(every: list[AnyDelivery], deadline: Optional[float]) -> None:
    # From the last one on: when that is known, most others are, and looking is cheaper than being woken for each.
    for delivery in reversed(every):
        for single in _each(delivery):
            while single.look() == PENDING:
                left_ns = _slice_ns(deadline)
                if left_ns == 0:
                    return
                single.wait(left_ns)


def _has_failed(delivery: Union[Delivery, Deliveries]) -> bool:
    return any(single.look() not in (PENDING, DELIVERED) for single in _each(delivery))


def _wait_for_first(every: list[AnyDelivery], deadline: Optional[float], *, failed_only: bool) -> None:
    known = [delivery for delivery in every if delivery.done()]
    if len(known) == len(every) or (any(map(_has_failed, known)) if failed_only else known):
        return
    watch = _Watch([delivery for delivery in every if not delivery.done()])
    while watch.left:
        left_ns = _slice_ns(deadline)
        new = watch.wait(left_ns)
        if left_ns == 0 or (any(map(_has_failed, new)) if failed_only else new):
            return


def _in_order_of_completion(
    every: list[AnyDelivery], deadline: Optional[float], timeout_s: float
) -> Iterator[AnyDelivery]:
    watch = _Watch(every)
    while watch.left:
        left_ns = _slice_ns(deadline)
        new = watch.wait(left_ns)
        if not new and left_ns == 0:
            raise DeadlineError(
                f"{watch.left} of {len(every)} deliveries were not known within {timeout_s:g} s; they are still on "
                "their way",
                timeout_s=timeout_s,
            )
        yield from new


class _Watch(Generic[AnyDelivery]):
    """The deliveries of one call, and how many outcomes each still lacks."""

    def __init__(self, every: list[AnyDelivery]) -> None:
        self._owners = [delivery for delivery in every for _ in _each(delivery)]
        self._lacks = {delivery: len(delivery) for delivery in every if isinstance(delivery, Deliveries)}
        self._group = Group(single for delivery in every for single in _each(delivery))
        self.left = len(every)

    def wait(self, timeout_ns: int) -> list[AnyDelivery]:
        """Those that have become known; none after *timeout_ns*."""
        new = []
        for place in self._group.wait(timeout_ns):
            owner = self._owners[place]
            if isinstance(owner, Deliveries):
                self._lacks[owner] -= 1
                if self._lacks[owner]:
                    continue
            new.append(owner)
        self.left -= len(new)
        return new
