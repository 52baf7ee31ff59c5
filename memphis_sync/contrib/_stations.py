"""The stations that settings list, and what a broker has of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from memphis_sync import Memphis, Retention, StationInfo, StationNotFoundError, Storage

_KINDS: dict[str, Any] = {"retention_type": Retention, "storage_type": Storage}
_ATTRIBUTES = {"retention_type": "retention", "storage_type": "storage"}  # where they differ from station()'s keywords


class Compared(NamedTuple):
    """
    One station of the settings.

    Attributes:
        name: Its name.
        is_as_told: Whether the broker has it, as the settings say.
        texts: What is different, or was done.
    """

    name: str
    is_as_told: bool
    texts: tuple[str, ...]


def compare(client: Memphis, stations: Mapping[str, Mapping[str, Any]], *, creates: bool) -> Iterator[Compared]:
    """
    Compares the settings with the broker, a station at a time.

    Args:
        client: Whose broker.
        stations: Keywords of station() by name. What they leave out may be anything.
        creates: Whether a station that is missing is created; one that differs is left as it is.

    Raises:
        MemphisError: As station() and Station.info().
    """
    for name, options in stations.items():
        try:
            info = client.station(name, create_station=False).info()
        except StationNotFoundError:
            if creates:
                client.station(name, **options)
            yield Compared(name, creates, ("created" if creates else "is missing",))
        else:
            found = tuple(_differences(options, info))
            yield Compared(name, not found, found or ("is as the settings say",))


def _differences(options: Mapping[str, Any], info: StationInfo) -> Iterator[str]:
    for option, value in _wanted(options).items():
        if option == "schema_name":
            if "schema" in info.unknown:
                continue  # a Memphis broker does not tell it
            present: Any = "" if info.schema is None else info.schema.name
        else:
            present = getattr(info, _ATTRIBUTES.get(option, option), value)
        if present != value:
            yield f"{option} is {_shown(present)}, the settings say {_shown(value)}"


def _wanted(options: Mapping[str, Any]) -> dict[str, Any]:
    """What a station with these keywords looks like; the broker rounds some, and tells nothing of others."""
    wanted = {**options}
    for option, kind in _KINDS.items():
        if isinstance(wanted.get(option), str):
            wanted[option] = next(each for each in kind if wanted[option] in (each.value, each.name))
    if "partitions_number" in wanted:
        wanted["partitions_number"] = wanted["partitions_number"] or 1
    if wanted.get("retention_type") is Retention.ACK_BASED:
        wanted.pop("retention_value", None)
    if "replicas" in wanted:
        wanted["replicas"] = next(number for number in (1, 3, 5) if number >= wanted["replicas"])
    by_age = wanted.get("retention_type", Retention.MAX_MESSAGE_AGE_SECONDS) is Retention.MAX_MESSAGE_AGE_SECONDS
    if by_age and "idempotency_window_ms" in wanted:
        longest = 1000 * wanted.get("retention_value", 3600)  # station()'s default
        wanted["idempotency_window_ms"] = min(wanted["idempotency_window_ms"], longest)
    if "schema_name" in wanted:
        wanted["schema_name"] = wanted["schema_name"].lower()
    return wanted


def _shown(value: Any) -> str:
    return str(value.name) if hasattr(value, "name") else repr(value)
