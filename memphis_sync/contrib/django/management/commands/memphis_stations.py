"""``manage.py memphis_stations``: makes the stations that the settings list, and compares them."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from memphis_sync import ConfigurationError, MemphisError
from memphis_sync.contrib._stations import compare
from memphis_sync.contrib.django import _config
from memphis_sync.contrib.django._clients import clients


class Command(BaseCommand):
    """Also the gate of a deployment, with --check."""

    help = (
        "Creates the stations that STATIONS lists in settings.MEMPHIS, and prints what is different about those that "
        "exist: these are left as they are."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Its options."""
        parser.add_argument(
            "--check", action="store_true", help="create nothing; exit 1 if a station is missing or different"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Goes through all aliases."""
        bad = total = 0
        for name in _config.aliases():
            try:
                stations = _config.alias(name).stations
                total += len(stations)
                for station in compare(clients[name], stations, creates=not options["check"]) if stations else ():
                    bad += not station.is_as_told
                    for text in station.texts:
                        self.stdout.write(f"{station.name}: {text}")
            except ConfigurationError as exc:
                raise CommandError(str(exc)) from exc
            except MemphisError as exc:
                raise CommandError(f"{name}: {exc}") from exc
        if not total:
            self.stdout.write("settings.MEMPHIS lists no STATIONS")
        if options["check"] and bad:
            raise CommandError(f"{bad} of {total} stations are missing or different")
