"""
produce_on_commit(): a message about rows goes out after the commit of these rows.

It may be lost between the two: when the process is killed there, and when the client cannot take the message at that
moment. The second is logged and counted, and ``on_delivery`` gets it. What must not be lost belongs in the table outbox
(memphis_sync.contrib.django.outbox).
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from typing import Any, Callable, NoReturn, Optional, Union

from django.db import close_old_connections, transaction

import memphis_sync
from memphis_sync import (
    ConfigurationError,
    Memphis,
    MemphisError,
    ProduceError,
    SchemaError,
    UsageError,
)
from memphis_sync.contrib._settings import did_you_mean
from memphis_sync.contrib.django import _config
from memphis_sync.contrib.django._clients import clients
from memphis_sync.contrib.django._config import DEFAULT
from memphis_sync.contrib.django._warning import log, meant
from memphis_sync.types import Payload

# What encode_message() checks; the rest of produce()'s keywords is checked by produce() itself.
CHECKED = ("headers", "msg_id", "producer_partition_key", "producer_partition_number")
OWN = ("station_name", "message", "nonblocking", "async_produce", "on_delivery")
KEYWORDS = frozenset(inspect.signature(Memphis.produce).parameters) - {"self", "unexpected", *OWN}
OnDelivery = Callable[[Any], object]


class NotAccepted:
    """
    What ``on_delivery`` gets for a message that the client did not take after the commit; it reads like a Delivery.

    Attributes:
        station: Name of the station.
        partition: 0: none was chosen.
        message_id: As it was given; None without one.
    """

    partition = 0

    def __init__(self, station: str, message_id: Optional[str], error: MemphisError) -> None:
        self.station = station
        self.message_id = message_id
        self._error = error

    def done(self) -> bool:
        """True."""
        return True

    def running(self) -> bool:
        """False."""
        return False

    def exception(self, timeout: Optional[float] = None) -> Union[ProduceError, SchemaError]:
        """Why it was not taken; what is neither a ProduceError nor a SchemaError is the cause of a ProduceError."""
        if isinstance(self._error, (ProduceError, SchemaError)):
            return self._error
        error = ProduceError(str(self._error), outcome="not_sent", message_id=self.message_id)
        error.__cause__ = self._error
        return error

    def result(self, timeout: Optional[float] = None) -> NoReturn:
        """Raises what exception() returns."""
        raise self.exception()

    def add_done_callback(self, fn: OnDelivery) -> None:
        """Calls it at once."""
        fn(self)

    def __repr__(self) -> str:
        return f"<NotAccepted {self.station}: {type(self._error).__name__}>"


def checked_keywords(function: str, given: dict[str, Any], known: frozenset[str]) -> None:
    """Raises a TypeError with the nearest name for a keyword that is not known."""
    for name in given:
        if name not in known:
            hint = did_you_mean(name, known)
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}; {hint}")


def produce_on_commit(
    station: str,
    message: Payload,
    *,
    using: Optional[str] = None,
    alias: str = DEFAULT,
    on_delivery: Optional[OnDelivery] = None,
    **produce_kwargs: Any,
) -> None:
    """
    Produces a message after the commit of the current transaction, without blocking; outside of one at once. It can be
    lost: by a crash between the commit and the produce, and when the broker cannot be reached or the queue is full at
    that moment. The latter is logged, counted in ``clients.lost_after_commit`` and given to *on_delivery*, and the
    caller sees no error, for the rows are saved. What must not be lost goes through the table outbox.

        with transaction.atomic():
            order.save()
            produce_on_commit("orders", {"id": order.pk}, producer_partition_key=str(order.customer_id))

    The message is written now, and checked if the client knows the station's schema by now: a bad one is an error here,
    where the transaction can still be rolled back. A rollback, also of a savepoint around the call, drops it.

    Args:
        station: One station.
        message: As of produce().
        using: The database whose commit it waits for; by default that of ``default``.
        alias: The client, by its name in ``settings.MEMPHIS``.
        on_delivery: Called once with the Delivery, on the callbacks thread, between two ``close_old_connections()``;
            or, when the client did not take the message, with one that reads like it, on this thread.
        produce_kwargs: As of Memphis.produce(): headers, msg_id, producer_partition_key and so on. ``producer_name`` is
            by default the client's name.

    Raises:
        ConfigurationError, HeaderError, SchemaError: The message, an argument or the alias is wrong.
        TypeError: There is no such keyword; the text has the nearest one.
        django.db.transaction.TransactionManagementError: Autocommit is off, so Django runs nothing after a commit.
    """
    checked_keywords("produce_on_commit", produce_kwargs, KEYWORDS)
    settings = _config.alias(alias)
    client = clients.opened(alias)
    encoded = memphis_sync.encode_message(
        station,
        message,
        client=client,
        json_default=settings.arguments.get("json_default"),
        **{name: value for name, value in produce_kwargs.items() if name in CHECKED},
    )
    body: Payload = encoded.payload
    if encoded.schema is None and isinstance(message, (dict, list)):
        body = _copied(message, encoded.payload)  # the schema, if there is one, may want to write it by itself
    name = produce_kwargs.pop("producer_name", None) or (settings.plan.name if settings.plan else "memphis-sync")
    _check_rest(station, name, produce_kwargs)
    wrapped = _wrapped(on_delivery)
    headers = produce_kwargs.get("headers")
    if headers is not None:
        produce_kwargs["headers"] = dict(headers)

    def produce() -> None:
        try:
            with meant():
                clients[alias].produce(station, name, body, nonblocking=True, on_delivery=wrapped, **produce_kwargs)
        except MemphisError as exc:
            clients.lost_after_commit += 1
            log.error("a message to %s was not accepted after the commit, and is lost: %s", station, exc)
            if wrapped is not None:
                _told(wrapped, NotAccepted(station, produce_kwargs.get("msg_id"), exc))

    transaction.on_commit(produce, using=using, robust=True)


def _check_rest(station: str, name: str, options: dict[str, Any]) -> None:
    """What is left to check: a client without a connection does so before it says that it has none."""
    rest = {name: value for name, value in options.items() if name not in CHECKED}
    if "ack_wait_sec" in rest:
        rest["ack_timeout_s"] = rest.pop("ack_wait_sec")
    with contextlib.suppress(UsageError):
        Memphis().producer(station, name, **rest)


def _copied(message: Any, payload: bytes) -> Any:
    try:
        return copy.deepcopy(message)
    except Exception:  # noqa: BLE001  of objects that json_default knows
        return payload


def _wrapped(on_delivery: Optional[OnDelivery]) -> Optional[OnDelivery]:
    """The same between two close_old_connections(): the callbacks thread serves no request that would do so."""
    if on_delivery is None:
        return None
    if not callable(on_delivery):
        raise ConfigurationError(f"on_delivery is of type {type(on_delivery).__name__}; it must be callable or None")
    if inspect.iscoroutinefunction(on_delivery):
        raise ConfigurationError(
            "on_delivery is a coroutine function, which a call does not run; give a plain function"
        )

    def call(delivery: Any) -> None:
        close_old_connections()
        try:
            on_delivery(delivery)
        finally:
            close_old_connections()

    return call


def _told(on_delivery: OnDelivery, outcome: NotAccepted) -> None:
    try:
        on_delivery(outcome)
    except Exception:  # noqa: BLE001  the rows are saved
        log.exception("on_delivery raised")
