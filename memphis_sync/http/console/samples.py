"""
What changes while somebody looks: figures of all stations, or of one, as the texts that a page shows.

A rate is the difference of two samples; it needs no counter of the gateway's own, so it covers every producer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Optional

from . import showing

if TYPE_CHECKING:
    from memphis_sync.info import ConnectionInfo, StationInfo


class Place(NamedTuple):
    """How far a station is: the messages stored so far, and those delivered to its groups."""

    stored: int
    delivered: int


class Rates(NamedTuple):
    """Messages a second."""

    stored: float
    delivered: float


@dataclass(frozen=True)
class Sample:
    """
    Stations at one moment.

    Attributes:
        at: Seconds of a clock that only grows.
        stations: By name.
        connections: The clients; None where the broker does not tell, or nobody asked.
    """

    at: float
    stations: Mapping[str, StationInfo]
    connections: Optional[Sequence[ConnectionInfo]] = None

    def places(self) -> dict[str, Place]:
        """How far each station is."""
        return {
            name: Place(
                sum(each.last_sequence for each in station.partitions),
                sum(each.delivered for group in station.groups or () for each in group.partitions),
            )
            for name, station in self.stations.items()
        }

    def rates_since(self, before: Optional[Sample]) -> dict[str, Rates]:
        """The rates of all stations that were there before; a station that was created anew begins at its first."""
        if before is None or self.at <= before.at:
            return {}
        span, old = self.at - before.at, before.places()
        return {
            name: Rates(
                max(0, now.stored - old[name].stored) / span, max(0, now.delivered - old[name].delivered) / span
            )
            for name, now in self.places().items()
            if name in old
        }


def names_digest(names: Iterable[str]) -> str:
    """Tells whether a list of names is the same as before."""
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()[:16]


def total(rates: Iterable[Rates]) -> Rates:
    """The sum."""
    every = list(rates)
    return Rates(sum(each.stored for each in every), sum(each.delivered for each in every))


def overview_values(sample: Sample, rates: Mapping[str, Rates]) -> dict[str, str]:
    """The figures of the overview and of the list of stations."""
    stations = sample.stations.values()
    values = {
        "names": names_digest(sample.stations),
        "stations": showing.number(len(sample.stations)),
        "messages": showing.number(sum(each.messages for each in stations)),
        "bytes": showing.size(sum(each.bytes for each in stations)),
        **_connection_values(sample.connections),
        **_rate_values(total(rates.values()) if rates else None),
    }
    for name, station in sample.stations.items():
        values[f"messages {name}"] = showing.number(station.messages)
        values[f"bytes {name}"] = showing.size(station.bytes)
        values[f"last {name}"] = showing.moment(station.last_time)
        values[f"rate {name}"] = showing.rate(rates[name].stored) if name in rates else showing.NOT_KNOWN
    return values


def station_values(sample: Sample, rates: Mapping[str, Rates]) -> dict[str, str]:
    """The figures of one station's page."""
    (station,) = sample.stations.values()
    groups = station.groups or ()
    values = {
        "names": names_digest(group.name for group in groups),
        "messages": showing.number(station.messages),
        "bytes": showing.size(station.bytes),
        "lag": showing.number(max((group.lag for group in groups), default=0)),
        "unacknowledged": showing.number(sum(group.unacknowledged for group in groups)),
        **_rate_values(rates.get(station.name)),
    }
    for part in station.partitions:
        values[f"messages {part.number}"] = showing.number(part.messages)
        values[f"bytes {part.number}"] = showing.size(part.bytes)
        values[f"last {part.number}"] = showing.number(part.last_sequence)
    for group in groups:
        values[f"lag {group.name}"] = showing.number(group.lag)
        values[f"unacknowledged {group.name}"] = showing.number(group.unacknowledged)
        values[f"waiting {group.name}"] = showing.number(group.waiting)
    return values


def _connection_values(connections: Optional[Sequence[ConnectionInfo]]) -> dict[str, str]:
    if connections is None:
        return {"connections": "?", "producers": "?", "consumers": "?"}
    connected = [each for each in connections if each.is_connected]
    return {
        "connections": showing.number(len(connected)),
        "producers": showing.number(sum(len(each.producers) for each in connected)),
        "consumers": showing.number(sum(len(each.consumers) for each in connected)),
    }


def _rate_values(rates: Optional[Rates]) -> dict[str, str]:
    if rates is None:
        return {"rate in": showing.NOT_KNOWN, "rate out": showing.NOT_KNOWN}
    return {"rate in": showing.rate(rates.stored), "rate out": showing.rate(rates.delivered)}
