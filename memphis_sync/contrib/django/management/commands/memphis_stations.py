"""``manage.py memphis_stations``: makes the stations that the settings list, and compares them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from memphis_sync import (
    ConfigurationError,
    Memphis,
    MemphisError,
    Retention,
    Station,
    StationInfo,
    StationNotFoundError,
)
from memphis_sync.contrib.django import _config
from memphis_sync.contrib.django._clients import clients

# Keywords of station() that say nothing about the station.
_OF_THE_CALL = {"create_station", "timeout_retries"}


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
                for station, given in stations.items():
                    total += 1
                    bad += not self._is_right(clients[name], station, given, is_check=options["check"])
            except ConfigurationError as exc:
                raise CommandError(str(exc)) from exc
            except MemphisError as exc:
                raise CommandError(f"{name}: {exc}") from exc
        if not total:
            self.stdout.write("settings.MEMPHIS lists no STATIONS")
        if options["check"] and bad:
            raise CommandError(f"{bad} of {total} stations are missing or different")

    def _is_right(self, client: Memphis, name: str, given: Mapping[str, Any], *, is_check: bool) -> bool:
        try:
            station = client.station(name, create_station=False)
        except StationNotFoundError:
            if is_check:
                self.stdout.write(f"{name}: is missing")
                return False
            client.station(name, **given)
            self.stdout.write(f"{name}: created")
            return True
        found = list(_differences(station, given))
        for each in found or ["is as the settings say"]:
            self.stdout.write(f"{name}: {each}")
        return not found


def _differences(station: Station, given: Mapping[str, Any]) -> Iterator[str]:
    """What is different, of the keywords that are given and that a broker tells."""
    info = station.info()
    actual = _told(info)
    for option, wanted in _as_stored(given).items():
        if option in actual and actual[option] != wanted:
            yield f"{option} is {_shown(actual[option])}, the settings say {_shown(wanted)}"


def _told(info: StationInfo) -> dict[str, Any]:
    told = {
        "retention_type": info.retention,
        "retention_value": info.retention_value,
        "storage_type": info.storage,
        "replicas": info.replicas,
        "idempotency_window_ms": info.idempotency_window_ms,
        "partitions_number": len(info.partitions),
        "schema_name": "" if info.schema is None else info.schema.name,
    }
    if "schema" in info.unknown:
        del told["schema_name"]
    return told


def _as_stored(given: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords as a broker keeps them."""
    stored = {option: value for option, value in given.items() if option not in _OF_THE_CALL}
    if "partitions_number" in stored:
        stored["partitions_number"] = stored["partitions_number"] or 1
    if "schema_name" in stored:
        stored["schema_name"] = stored["schema_name"].lower()
    if stored.get("retention_type") is Retention.ACK_BASED:
        stored.pop("retention_value", None)
    elif stored.get("retention_type", Retention.MAX_MESSAGE_AGE_SECONDS) is Retention.MAX_MESSAGE_AGE_SECONDS:
        age_s = stored.get("retention_value", 3600)  # station()'s default
        if "idempotency_window_ms" in stored:
            stored["idempotency_window_ms"] = min(stored["idempotency_window_ms"], age_s * 1000)
    if "replicas" in stored:
        stored["replicas"] = min((1, 3, 5), key=lambda copies: (copies < stored["replicas"], copies))
    return stored


def _shown(value: Any) -> str:
    return value.name if hasattr(value, "name") else repr(value)
