"""
Sends what is in the table, and deletes what the broker has confirmed.

Rules
* In the order of the ids, and no row is passed over because another relay has it: that would break the order. Where the
  database locks rows, the second relay waits for the first one's commit; with SQLite it waits for a lock beside the
  database's file, since a transaction of that length would keep the whole project from writing.
* What is not confirmed stays, and is sent again under its message id: the broker drops the second copy. Copies of an
  earlier pass that are still on their way are waited for first.
* A message that is refused for good gets ``failed_at``, and the others pass.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from django.db import connections, transaction
from django.utils import timezone

from memphis_sync import (
    BulkDeadlineError,
    BulkResult,
    ConfigurationError,
    HeaderError,
    Item,
    Memphis,
    MemphisError,
    PayloadTooLargeError,
    Producer,
    RejectedError,
    SchemaError,
    StationGoneError,
)
from memphis_sync.contrib.django import _config
from memphis_sync.contrib.django._clients import clients
from memphis_sync.contrib.django._warning import log, meant
from memphis_sync.contrib.django.outbox.models import OutboxMessage

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

TIMEOUT_S = 10.0  # for a batch to one station
AT_ONCE = 500  # ids in one statement; SQLite took 999 for long
_TEMPORARILY = 503  # the broker's status for what it may take later


Place = tuple[str, str]  # alias and station


class Pass(NamedTuple):
    """
    What one pass over the table did.

    Attributes:
        found: How many rows it has looked at.
        sent: How many of them the broker has confirmed.
        failed: How many it has refused for good.
        stuck: Where none of them got to.
    """

    found: int
    sent: int
    failed: int
    stuck: frozenset[Place]


class Relay:
    """
    Sends the messages of one database.

    Args:
        database: Its name in ``settings.DATABASES``.
        batch: How many rows it looks at in one pass, at most.
    """

    def __init__(self, database: str, batch: int) -> None:
        self.database = database
        self.batch = batch
        self._producers: dict[Place, Producer] = {}

    def pending(self) -> Any:
        """The rows that wait, as a query."""
        return OutboxMessage.objects.using(self.database).filter(failed_at=None)

    def step(self, stuck: Collection[Place] = ()) -> Pass:
        """
        One pass.

        Args:
            stuck: Whose rows it leaves out.

        Raises:
            django.db.Error: Of the database. What was sent is sent again by the next pass, and not stored again.
        """
        with self._lock() as query:
            for alias, station in stuck:
                query = query.exclude(alias=alias, station=station)  # noqa: PLW2901  a query is narrowed step by step
            rows = list(query.order_by("id")[: self.batch])
            sent, failed = self._send(rows)
            with transaction.atomic(using=self.database):
                for at in range(0, len(sent), AT_ONCE):
                    OutboxMessage.objects.using(self.database).filter(pk__in=sent[at : at + AT_ONCE]).delete()
                for pk, error in failed.items():
                    own = OutboxMessage.objects.using(self.database).filter(pk=pk)
                    own.update(failed_at=timezone.now(), error=error)
        done = {*sent, *failed}
        moved = {(row.alias, row.station) for row in rows if row.pk in done}
        return Pass(len(rows), len(sent), len(failed), frozenset((row.alias, row.station) for row in rows) - moved)

    @contextlib.contextmanager
    def _lock(self) -> Iterator[Any]:
        """Keeps other relays away while rows are sent; gives the query of the rows."""
        connection = connections[self.database]
        if connection.features.has_select_for_update:
            with transaction.atomic(using=self.database):
                yield self.pending().select_for_update()
        else:
            name = str(connection.settings_dict["NAME"])
            is_file = not connection.is_in_memory_db() and not name.startswith("file:")
            with _file_lock(f"{name}-outbox.lock" if is_file else ""):
                yield self.pending()

    def _send(self, rows: list[Any]) -> tuple[list[int], dict[int, str]]:
        """Sends rows; returns the keys of those that are stored, and the errors of those that never will be."""
        by_station: dict[Place, list[Any]] = {}
        for row in rows:
            by_station.setdefault((row.alias, row.station), []).append(row)
        sent: list[int] = []
        failed: dict[int, str] = {}
        for (alias, station), group in by_station.items():
            result = self._produce(alias, station, group)
            accepted = result.delivered + len(result.failed)  # the first ones: there is one station
            errors = {failure.index: failure.error for failure in result.failed}
            sent += [row.pk for index, row in enumerate(group[:accepted]) if index not in errors]
            final = {index: error for index, error in errors.items() if is_final(error)}
            failed.update({group[index].pk: str(error) for index, error in final.items()})
            for index, error in final.items():
                log.error("outbox: message %s to %s is refused for good: %s", group[index].msg_id, station, error)
            if len(errors) > len(final):
                log.warning("outbox: %d messages to %s are not confirmed, and wait", len(errors) - len(final), station)
        return sent, failed

    def _produce(self, alias: str, station: str, rows: list[Any]) -> BulkResult:
        items = [
            Item(
                bytes(row.payload),
                key=row.partition_key,
                partition=row.partition_number,
                headers=row.headers or None,
                msg_id=row.msg_id,
            )
            for row in rows
        ]
        try:
            client = clients[alias]
            if client.flush(TIMEOUT_S):
                log.warning("outbox: messages to %s that were sent before are not confirmed yet", station)
                return _NOTHING
            with meant():
                return self._producer(client, alias, station).produce_many(
                    items, timeout_s=TIMEOUT_S, on_error="collect"
                )
        except BulkDeadlineError as exc:
            log.warning("outbox: %s: %s", station, exc)
            return exc.result or _NOTHING
        except MemphisError as exc:
            log.warning("outbox: nothing was sent to %s: %s", station, exc)
            self._producers.pop((alias, station), None)
            result: BulkResult = getattr(exc, "result", None) or _NOTHING
            return result

    def _producer(self, client: Memphis, alias: str, station: str) -> Producer:
        producer = self._producers.get((alias, station))
        if producer is None:
            plan = _config.alias(alias).plan
            name = "memphis-sync" if plan is None else plan.name
            producer = self._producers[alias, station] = client.producer(station, name)
        return producer


_NOTHING = BulkResult(0, 0, (), 0.0)


def is_final(error: MemphisError) -> bool:
    """Whether sending the message again would end in the same way."""
    if isinstance(error, StationGoneError):
        return False  # it may be created again
    if isinstance(error, RejectedError):
        return error.code != _TEMPORARILY
    never = (ConfigurationError, HeaderError, PayloadTooLargeError, SchemaError)
    return isinstance(error, never) or isinstance(error.__cause__, never)


@contextlib.contextmanager
def _file_lock(path: str) -> Iterator[None]:
    """Waits for a lock that other relays hold; "" for none. It ends with the process, however that ends."""
    if not path or fcntl is None:
        yield
        return
    with open(path, "ab") as file:  # noqa: PTH123  a path as the settings have it
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
