"""``manage.py memphis_consume shop.handlers.on_order``: runs one handler in this process."""

from __future__ import annotations

import contextlib
import math
import signal
from collections.abc import Iterator
from typing import Any, Optional

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import close_old_connections
from django.utils import autoreload

import memphis_sync
from memphis_sync import ConfigurationError, Handler, Memphis, Message, TransportError
from memphis_sync.contrib.django import _config
from memphis_sync.contrib.django._clients import clients


class Command(BaseCommand):
    """One handler a process; a supervisor runs as many processes as are wanted, and starts them again."""

    help = (
        "Runs a handler, a function marked with @memphis_sync.handler(STATION, group=GROUP), for each message of its "
        "station. SIGTERM or Ctrl-C: the current message is finished and acknowledged, then it ends with exit code "
        "0; a second one ends it at once, and the message is delivered again."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Its options."""
        parser.add_argument("handler", metavar="PATH", help="of the function, as in shop.handlers.on_order")
        parser.add_argument("--batch-size", type=int, help="messages that are fetched at once, at most (the handler's)")
        parser.add_argument("--max-messages", type=int, help="end after so many messages")
        parser.add_argument(
            "--idle-exit", type=float, metavar="SECONDS", help="end when nothing has arrived for so long"
        )
        parser.add_argument("--autoreload", action="store_true", help="start again when the code changes; for a laptop")

    def handle(self, *args: Any, **options: Any) -> None:
        """Checks everything before the first IO, then runs it."""
        _check_whole("--batch-size", options["batch_size"], Memphis.MAX_BATCH_SIZE)
        _check_whole("--max-messages", options["max_messages"], None)
        idle_s = options["idle_exit"]
        if idle_s is not None and not (idle_s > 0 and math.isfinite(idle_s)):
            raise CommandError(f"--idle-exit is {idle_s:g}; it must be a number of seconds, above 0")
        if options["autoreload"]:
            autoreload.run_with_reloader(self._run, options, ())
        else:
            self._run(options, (signal.SIGTERM, signal.SIGINT))

    def _run(self, options: dict[str, Any], stop_signals: tuple[int, ...]) -> None:
        try:
            handler = memphis_sync.load_handler(options["handler"])
            _check_alias(handler)
        except ConfigurationError as exc:
            raise CommandError(str(exc)) from exc
        try:
            client = clients[handler.alias]
        except TransportError as exc:
            raise CommandError(str(exc)) from exc
        try:
            count = memphis_sync.run_handler(
                client,
                handler,
                around=_own_connections,
                batch_size=options["batch_size"],
                max_messages=options["max_messages"],
                idle_exit_s=options["idle_exit"],
                stop_signals=stop_signals,
            )
        finally:
            clients.close_all()
        self.stderr.write(f"{count} message{'' if count == 1 else 's'} of {handler.station_name} handled")


def _check_whole(option: str, value: Optional[int], most: Optional[int]) -> None:
    if value is not None and not (value >= 1 and (most is None or value <= most)):
        limits = "1 or more" if most is None else f"from 1 to {most}"
        raise CommandError(f"{option} is {value}; it must be {limits}")


def _check_alias(handler: Handler) -> None:
    try:
        _config.alias(handler.alias)
    except ConfigurationError as exc:
        raise ConfigurationError(f"{handler.path}: {exc}") from exc


@contextlib.contextmanager
def _own_connections(_: Message) -> Iterator[None]:
    """A database connection that is too old, or that the server has closed, is not met by a message."""
    close_old_connections()
    try:
        yield
    finally:
        close_old_connections()
