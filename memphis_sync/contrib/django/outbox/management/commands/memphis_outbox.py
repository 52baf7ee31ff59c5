"""``manage.py memphis_outbox``: sends the table outbox to the broker."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DEFAULT_DB_ALIAS, Error, connections
from django.utils import timezone

from memphis_sync.contrib._settings import did_you_mean
from memphis_sync.contrib.django._warning import log
from memphis_sync.contrib.django.outbox._relay import Place, Relay
from memphis_sync.contrib.django.outbox.models import OutboxMessage

LATE_S = 60.0  # a row that waits longer than that is reported by --status
SLICE_S = 0.1  # of a pause, after which a signal is looked for


class Command(BaseCommand):
    """The relay: one process is enough, a second one waits for it and takes over when it dies."""

    help = (
        "Sends the messages of the table outbox in the order of their inserts, and deletes those that the broker has "
        "confirmed. Runs until SIGTERM or Ctrl-C, after which it ends the batch that it sends; a second one ends it at "
        "once, and what was not deleted is sent again."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Its options."""
        parser.add_argument("--batch", type=int, default=500, help="rows that are sent at once, at most (500)")
        parser.add_argument("--interval", type=float, default=0.5, help="seconds between two looks at an empty table")
        parser.add_argument(
            "--once", action="store_true", help="end when all is sent; exit 1 if something could not be"
        )
        parser.add_argument(
            "--status", action="store_true", help="only tell what waits; exit 1 if that is for more than 60 seconds"
        )
        parser.add_argument("--database", default=DEFAULT_DB_ALIAS, help="the database whose table it is (default)")

    def handle(self, *args: Any, **options: Any) -> None:
        """Runs it."""
        batch, interval_s, database = options["batch"], options["interval"], options["database"]
        if not 1 <= batch <= 100_000:
            raise CommandError(f"--batch is {batch}; it must be from 1 to 100000")
        if not (interval_s >= 0 and math.isfinite(interval_s)):
            raise CommandError(f"--interval is {interval_s:g}; it must be a number of seconds, 0 or more")
        if database not in connections:
            raise CommandError(f"--database is {database!r}; {did_you_mean(database, list(connections))}")
        relay = Relay(database, batch)
        if options["status"]:
            self._tell(relay)
        else:
            self._run(relay, interval_s, once=options["once"])

    def _tell(self, relay: Relay) -> None:
        pending = relay.pending()
        oldest = pending.order_by("id").values_list("created_at", flat=True).first()
        failed = OutboxMessage.objects.using(relay.database).exclude(failed_at=None).count()
        age_s = 0.0 if oldest is None else max((timezone.now() - oldest).total_seconds(), 0.0)
        self.stdout.write(f"{pending.count()} pending, {failed} failed, the oldest waits for {age_s:.1f} s")
        if age_s > LATE_S:
            sys.exit(1)

    def _run(self, relay: Relay, interval_s: float, *, once: bool) -> None:
        with _stop_signals() as told:
            while not told:
                try:
                    is_done = _round(relay, told)
                except Error as exc:
                    if once:
                        raise
                    log.warning("outbox: the database failed: %s", exc)
                    connections[relay.database].close()
                else:
                    if once and not is_done:
                        raise CommandError(
                            f"{relay.pending().count()} messages could not be sent; they wait in the table"
                        )
                    if once:
                        return
                _pause(interval_s, told)


def _round(relay: Relay, told: list[int]) -> bool:
    """Passes over the table until its end; returns whether nothing that it found waits any more."""
    is_done, stuck = True, frozenset[Place]()
    while not told:
        done = relay.step(stuck)
        is_done = is_done and done.found == done.sent + done.failed
        is_end = done.found < relay.batch
        if is_end or not (done.sent + done.failed or done.stuck):
            break
        stuck |= done.stuck  # what waits for a broker or station that is away holds up nobody else
    return is_done


@contextlib.contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Gives a list that gets the first SIGTERM or Ctrl-C; the second one ends the process at once."""
    told: list[int] = []

    def tell(number: int, _: Any) -> None:
        if told:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        told.append(number)

    before = {number: signal.signal(number, tell) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _pause(seconds: float, told: list[int]) -> None:
    until = time.monotonic() + seconds
    while not told and (left_s := until - time.monotonic()) > 0:
        time.sleep(min(left_s, SLICE_S))
