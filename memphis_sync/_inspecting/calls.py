"""The public calls that look at something: arguments checked, then asked on the client's loop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Union

from memphis_sync._inspecting import peek as peeking, registry, stations as of_stations
from memphis_sync._inspecting.asking import run
from memphis_sync.errors import ConfigurationError

if TYPE_CHECKING:
    from memphis_sync._options.inspecting import (
        ConnectionsArguments,
        InspectArguments,
        PeekArguments,
        ReplayArguments,
        SchemaVersionArguments,
        StationsArguments,
    )
    from memphis_sync.client import Memphis
    from memphis_sync.info import ConnectionInfo, Listing, PeekedMessage, PeekedMessages, SchemaSummary, StationInfo
    from memphis_sync.types import SchemaInfo

_PORTION = 500  # messages of a replay that are held in memory
_PORTION_BYTES = 4 * 2**20


def stations(client: Memphis, given: StationsArguments) -> Listing[StationInfo]:
    """All stations."""
    given = given.checked()
    groups = given.with_groups
    return run(client, "stations()", given.timeout_s, lambda asking: of_stations.stations(asking, with_groups=groups))


def station_info(client: Memphis, name: str, given: InspectArguments) -> StationInfo:
    """One station with its groups."""
    return run(client, "info()", given.checked().timeout_s, lambda asking: of_stations.station(asking, name))


def peek(client: Memphis, name: str, given: PeekArguments) -> PeekedMessages:
    """Messages of a station, without consuming them."""
    given = given.checked()
    _check_start(given, "the newest")
    return run(client, "peek()", given.timeout_s, lambda asking: peeking.peek(asking, name, given))


def replay(client: Memphis, name: str, given: ReplayArguments) -> Iterator[PeekedMessage]:
    """All messages of a station, without consuming them."""
    given = given.checked()
    _check_start(given, "the oldest")
    client._session.check()
    return _replayed(client, name, given)


def _replayed(client: Memphis, name: str, given: ReplayArguments) -> Iterator[PeekedMessage]:
    limit_s = given.timeout_s
    partitions = run(client, "replay()", limit_s, lambda asking: peeking.opened(asking, name, given, is_back=False))
    while True:
        found = run(
            client, "replay()", limit_s, lambda asking: peeking.portion(partitions, _PORTION, _PORTION_BYTES, asking)
        )
        if not found:
            return
        yield from found


def _check_start(given: Union[PeekArguments, ReplayArguments], else_from: str) -> None:
    if given.from_sequence is not None and given.from_time is not None:
        raise ConfigurationError(f"from_sequence and from_time are both given; give one, or neither for {else_from}")


def schemas(client: Memphis, given: InspectArguments) -> Listing[SchemaSummary]:
    """All schemas."""
    return run(client, "schemas()", given.checked().timeout_s, registry.schemas)


def schema(client: Memphis, given: SchemaVersionArguments) -> SchemaInfo:
    """A version of a schema."""
    given = given.checked()
    name, version = given.schema_name, given.version or 0
    return run(client, "schema()", given.timeout_s, lambda asking: registry.schema(asking, name, version))


def connections(client: Memphis, given: ConnectionsArguments) -> Listing[ConnectionInfo]:
    """The clients with producers and consumers."""
    given = given.checked()
    name = given.station_name
    return run(client, "connections()", given.timeout_s, lambda asking: registry.connections(asking, name))
