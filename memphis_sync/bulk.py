"""
produce_many(): its items, results and errors, and the loop that sends them.

The loop holds no more messages than the outbox: settled ones are removed from the front while new ones are added.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Optional, TypeVar, Union

from memphis_sync._base.in_notebook import InNotebook
from memphis_sync._core import count_delivered
from memphis_sync._data.outcomes import DELIVERED, PENDING, advice, error_of
from memphis_sync._producing.observing import Told, length_of
from memphis_sync._producing.sender import DEFAULT_ACK_WAIT_S, Sender
from memphis_sync._protocol.payload import not_utf8
from memphis_sync.delivery import Deliveries, Delivery
from memphis_sync.errors import (
    BufferFullError,
    ConfigurationError,
    DeadlineError,
    MemphisError,
    Outcome,
    ProduceError,
    SchemaError,
    TransportError,
    UsageError,
)
from memphis_sync.headers import Outgoing, encode_user_headers
from memphis_sync.types import Payload

_LONG_S = 86_400.0  # for space: messages leave the outbox at their own deadline at the latest
SWEEP_EVERY = 256  # settled messages are counted after so many; after each it would cost more than sending
_WINDOWS = 3  # times max_in_flight wait at most: more is no faster, and their time runs while they wait in the outbox


@dataclass(frozen=True)
class Item:
    """
    A message of produce_many() with more than a payload.

    Attributes:
        payload: As for produce().
        key: Partition key.
        partition: Partition number; -1: by key or message id, and without both in turn.
        headers: Text to text.
        msg_id: Message id.
    """

    payload: Payload
    key: Optional[str] = None
    partition: int = -1
    headers: Optional[Mapping[str, str]] = None
    msg_id: Optional[str] = None


@dataclass(frozen=True)
class Failure:
    """
    A message of produce_many() that was not confirmed.

    Attributes:
        index: Its index in the iterable, from 0.
        station: The station; all stations, separated by commas, when it was sent to none, because it did not match a
            schema or could not be sent at all.
        error: The error; with a SchemaError it was not accepted. What an item's own methods raised is its
            ``__cause__``.
    """

    index: int
    station: str
    error: Union[ProduceError, SchemaError]


@dataclass(frozen=True)
class BulkResult(InNotebook):
    """
    The outcome of produce_many(); with several stations a message counts once for each.

    Attributes:
        delivered: How many the broker has confirmed, including duplicates.
        duplicates: How many of these it already had under the same message id.
        failed: All others, in the order of the iterable.
        seconds: Time from the first message to the last confirmation.
    """

    delivered: int
    duplicates: int
    failed: tuple[Failure, ...]
    seconds: float


class BulkError(ProduceError):
    """
    A message of produce_many() failed.

    Attributes:
        result: What became of all accepted messages.
    """

    def __init__(self, message: str = "", *, outcome: Outcome = "unknown", result: Optional[BulkResult] = None) -> None:
        super().__init__(message, outcome=outcome)
        self.result = result


class BulkDeadlineError(BulkError, DeadlineError):
    """produce_many() did not finish in time; messages without a confirmation are among the failures."""

    def __init__(
        self,
        message: str = "",
        *,
        outcome: Outcome = "unknown",
        result: Optional[BulkResult] = None,
        timeout_s: float = 0.0,
    ) -> None:
        BulkError.__init__(self, message, outcome=outcome, result=result)
        self.timeout_s = timeout_s


class BulkSchemaError(BulkError, SchemaError):
    """A message of produce_many() does not match its station's schema."""

    def __init__(
        self,
        message: str = "",
        *,
        outcome: Outcome = "not_sent",
        result: Optional[BulkResult] = None,
        path: str = "",
        reason: str = "",
    ) -> None:
        BulkError.__init__(self, message, outcome=outcome, result=result)
        self.path = path
        self.reason = reason


class BulkItemError(BulkError, ConfigurationError):
    """An item of produce_many() cannot be sent at all: its type, size, a header or an option is wrong."""


class _Stretch(NamedTuple):
    """Messages that were accepted one after the other: the first index, the step between indexes, the deliveries."""

    first: int
    step: int
    tickets: list[Delivery]


class Bulk:
    """One run of produce_many()."""

    def __init__(self, sender: Sender, timeout_s: Optional[float], *, stop_at_failure: bool) -> None:
        self._sender = sender
        self._has_default = sender.json_writer.default is not None
        self._core = sender.link.core
        self._most = _WINDOWS * sender.link.max_in_flight
        self._timeout_s = timeout_s
        self._stop_at_failure = stop_at_failure
        self._pending: deque[_Stretch] = deque()
        self._at = 0  # so many of the first stretch are counted off
        self._delivered = 0
        self._duplicates = 0
        self._failed: list[Failure] = []
        self._bad: set[int] = set()  # of items that could not be sent at all
        self._started = time.monotonic()
        self._deadline = None if timeout_s is None else self._started + timeout_s
        self._outgoing: Optional[Outgoing] = None
        self._lines = b""

    def run(self, iterable: Iterable[Any]) -> BulkResult:
        """Takes everything, then waits for everything."""
        observers = self._sender.observers
        if not observers:
            return self._run(iterable)
        self._outgoing = outgoing = Outgoing()
        told = Told(observers, self._sender.stations, length_of(iterable), outgoing)
        self._lines = encode_user_headers(outgoing)
        try:
            result = self._run(iterable)
        except BaseException as exc:
            told.settled(exc)
            raise
        told.result(result)
        return result

    def _run(self, iterable: Iterable[Any]) -> BulkResult:
        stopped: Optional[Exception] = None
        try:
            self._take(iterable)
        except Exception as exc:  # noqa: BLE001  raised again below, once all that was taken is settled
            stopped = exc
        self._settle()
        result = BulkResult(
            self._delivered,
            self._duplicates,
            tuple(sorted(self._failed, key=lambda failure: failure.index)),
            time.monotonic() - self._started,
        )
        late_s = self._timeout_s if self._is_late() else None
        is_stop = isinstance(stopped, _Stop)
        return concluded(
            result, None if is_stop else stopped, self._bad, late_s, raises=self._stop_at_failure, is_cut=is_stop
        )

    def _take(self, iterable: Iterable[Any]) -> None:
        turn = self._sender.round_robins[0]  # of several stations it takes nothing; their fan-out does
        iterator = iter(iterable)
        index = swept = 0
        while True:
            tickets: list[Delivery] = []
            try:
                rest = turn.take_from(iterator, tickets, SWEEP_EVERY, self._lines)
            finally:
                if tickets:
                    self._pending.append(_Stretch(index, 1, tickets))
                    index += len(tickets)
            if rest:
                self._take_one(index, rest[0])
                index += 1
            elif rest is not None:
                return
            if index - swept >= SWEEP_EVERY:
                swept = index
                self._sender.wait_below(self._most, self._deadline)
                self._sweep()
                if self._is_late() or (self._failed and self._stop_at_failure):
                    raise _Stop

    def _take_one(self, index: int, item: Any) -> None:
        """A message that has options or takes a look at its schema, or there was no room for it."""
        try:
            sent = self._send(item)
        except (_Stop, UsageError, TransportError, MemoryError):
            raise  # not of this item: none of them could be sent
        except SchemaError as exc:
            self._refuse(index, exc)
        except ProduceError as exc:
            self._bad.add(index)
            self._refuse(index, exc)
        except Exception as exc:  # noqa: BLE001  of a bad argument, or of the item's own methods
            error = ProduceError(str(exc) if isinstance(exc, MemphisError) else f"{type(exc).__name__}: {exc}")
            error.__cause__ = exc
            self._bad.add(index)
            self._refuse(index, error)
        else:
            deliveries = list(sent.values()) if isinstance(sent, Deliveries) else [sent]
            self._pending.append(_Stretch(index, 0, deliveries))

    def _refuse(self, index: int, error: Union[ProduceError, SchemaError]) -> None:
        self._failed.append(Failure(index, ", ".join(self._sender.stations), error))
        if self._stop_at_failure:
            raise _Stop from None

    def _send(self, item: Any) -> Union[Delivery, Deliveries]:
        sender = self._sender
        options: tuple[Any, Any, None, Any, int, None] = None, None, None, None, -1, None
        if isinstance(item, Item):
            options = item.headers, item.msg_id, None, item.key, item.partition, None
            item = item.payload
        if self._outgoing:
            options = self._outgoing.beside(options[0]), *options[1:]
        room_s = None
        if self._has_default and isinstance(item, (dict, list)):
            # Written once only, for json_default may have used an iterator up: it waits for room with what was written.
            room_s = _LONG_S if self._deadline is None else max(self._deadline - time.monotonic(), 0.0)
        while True:
            try:
                sent: Union[Delivery, Deliveries, None] = sender.direct.take(item, DEFAULT_ACK_WAIT_S, *options)
                if sent is None:
                    sent = sender.send(item, DEFAULT_ACK_WAIT_S, True, *options, room_s, syncs=False)
                return sent
            except UnicodeEncodeError as exc:
                raise not_utf8(exc) from exc
            except BufferFullError:
                self._sweep()
                if self._is_late():
                    raise _Stop from None
                size = len(item) if isinstance(item, (bytes, bytearray, str)) else 65536
                self._core.wait_room(min(size + 1024, int(self._core.stats()["max_bytes"]) // 2), self._deadline)

    def _sweep(self) -> None:
        """Counts off what is settled at the front."""
        pending = self._pending
        while pending:
            first, step, tickets = pending[0]
            at, duplicates = count_delivered(tickets, self._at)
            self._delivered += at - self._at
            self._duplicates += duplicates
            self._at = at
            if at == len(tickets):
                pending.popleft()
                self._at = 0
                continue
            outcome = tickets[at].observe()
            if outcome == PENDING:
                return
            if outcome != DELIVERED:  # else it was delivered just now
                self._fail(first + step * at, tickets[at], error_of(tickets[at]))
                self._at += 1

    def _fail(self, index: int, delivery: Delivery, error: Union[ProduceError, SchemaError]) -> None:
        self._failed.append(Failure(index, delivery.station, error))

    def _settle(self) -> None:
        self._core.push()
        self._sweep()
        while self._pending and not self._is_late():
            # The last of a stretch, most often settled after all others of it: each wait costs a thread change.
            tickets = self._pending[0].tickets
            (tickets[-1] if tickets[-1].observe() == PENDING else tickets[self._at]).wait(self._deadline)
            self._sweep()
        while self._pending:
            first, step, tickets = self._pending[0]
            error = ProduceError(
                f"not confirmed within {self._timeout_s} s; it is still on its way: {advice(tickets[self._at])}",
                outcome="unknown",
                message_id=tickets[self._at].message_id,
            )
            self._fail(first + step * self._at, tickets[self._at], error)
            self._at += 1
            self._sweep()

    def _is_late(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline


R = TypeVar("R", bound=BulkResult)


def concluded(
    result: R,
    stopped: Optional[Exception],
    bad: Collection[int],
    late_s: Optional[float],
    *,
    raises: bool,
    is_cut: bool,
) -> R:
    """
    How a produce_many() ends.

    Args:
        result: What became of the messages.
        stopped: What the iterable, or the client, raised.
        bad: Indexes of items that could not be sent at all.
        late_s: The limit, when it has passed.
        raises: Whether a failure is raised.
        is_cut: Whether there may be more messages in the iterable.
    """
    failed = result.failed
    if stopped is not None:
        _explain(stopped, result)
        raise stopped
    if late_s is not None and (failed or is_cut):
        raise BulkDeadlineError(
            f"{len(failed)} messages were not confirmed within {late_s} s", result=result, timeout_s=late_s
        )
    if failed and raises:
        first = failed[0]
        text = f"message {first.index} failed, and {len(failed) - 1} more; {result.delivered} are stored: {first.error}"
        if isinstance(first.error, SchemaError):
            raise BulkSchemaError(
                text, result=result, path=first.error.path, reason=first.error.reason
            ) from first.error
        kind = BulkItemError if first.index in bad else BulkError
        raise kind(text, outcome=first.error.outcome, result=result) from first.error
    return result


class _Stop(Exception):  # noqa: N818  control flow inside this module
    """Ends the taking; what happened is in the counts."""


def check_iterable(iterable: object) -> None:
    """
    Refuses what can be iterated over, but does not yield messages.

    Raises:
        ConfigurationError: The text says what to write instead.
    """
    kind = type(iterable).__name__
    if isinstance(iterable, str):
        instead = "for one message produce(text), for its lines produce_many(text.splitlines())"
    elif isinstance(iterable, (bytes, bytearray, memoryview)):
        instead = "for one message produce(data), for several produce_many([data, ...])"
    elif isinstance(iterable, Item):
        instead = "produce_many([item])"
    elif isinstance(iterable, Mapping):
        instead = "for one message produce(message), for its values produce_many(mapping.values())"
    elif callable(getattr(iterable, "itertuples", None)) and callable(getattr(iterable, "to_dict", None)):
        instead = 'for a message each row produce_many(frame.to_dict("records"))'
    elif callable(getattr(iterable, "SerializeToString", None)):
        instead = "produce_many([message])"
    elif not hasattr(iterable, "__iter__") and not hasattr(iterable, "__getitem__"):
        instead = "produce_many([message, ...])"
    else:
        return
    raise ConfigurationError(f"iterable is of type {kind}, which does not yield messages; {instead}")


def _explain(error: Exception, result: BulkResult) -> None:
    """Makes what happened before an error that is not the client's reachable from it."""
    with contextlib.suppress(AttributeError, TypeError):  # it has slots of its own
        error.result = result  # type: ignore[attr-defined]
    note = getattr(error, "add_note", None)  # Python 3.11 shows it below the traceback
    if note is not None:
        note(f"produce_many(): {result.delivered} messages before it are stored, {len(result.failed)} failed")
