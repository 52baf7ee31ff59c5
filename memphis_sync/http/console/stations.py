"""The overview, the stations, the connections, and their live numbers."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.responses import Response

from memphis_sync.errors import MemphisError

from .live import EventStream, Topic
from .pages import Visit, gather, link
from .protection import Form
from .samples import Sample, overview_values, station_values

if TYPE_CHECKING:
    import memphis_sync
    from memphis_sync.info import ConnectionInfo, StationInfo

SHOWN = 12  # stations on the overview
MOST_MEMBERS = 1000  # rows of the connections' page
MOST_COUNTED = 1000  # dead letters
ONCE = {"timeout_retries": 0}  # a person waits: 20 s and no longer


@dataclass(frozen=True)
class Member:
    """A producer or consumer with what is known of its client."""

    kind: str
    name: str
    station: str
    group: str
    since: datetime
    client: ConnectionInfo

    @property
    def is_connected(self) -> bool:
        """Whether its client is connected."""
        return self.client.is_connected


def members_of(connections: Iterable[ConnectionInfo], station: str = "") -> list[Member]:
    """All of them by station and name, or those of one station."""
    found = [
        Member(kind, each.name, each.station, each.group, each.since, client)
        for client in connections
        for kind, members in (("producer", client.producers), ("consumer", client.consumers))
        for each in members
        if station in ("", each.station)
    ]
    return sorted(found, key=lambda member: (member.station, member.kind, member.name))


# ---- overview -------------------------------------------------------------------------------------------------------


async def _sample(visit: Visit) -> tuple[Sample, list[str]]:
    """All stations with their groups, the connections, and what could not be learned. Raises as stations()."""
    client = visit.client
    stations, connections = await gather(visit.call(client.stations, with_groups=True), visit.call(client.connections))
    if isinstance(stations, MemphisError):
        raise stations
    problems = [f"Connections are not known: {connections}"] if isinstance(connections, MemphisError) else []
    known = None if problems else connections
    return Sample(time.monotonic(), {each.name: each for each in stations}, known), problems


async def overview(visit: Visit) -> Response:
    """Rates, figures, and the stations that were written to last."""
    sample, problems = await _sample(visit)
    latest = sorted(sample.stations.values(), key=_recency, reverse=True)
    return visit.show(
        "overview.html",
        live=link(visit.base, "live"),
        broker=f"Stations of {visit.console.sessions.settings.url.partition('?')[0]}",
        problems=problems,
        values=overview_values(sample, {}),
        stations=latest[:SHOWN],
        more=len(latest) if len(latest) > SHOWN else 0,
        table_title="Stations, the latest first",
    )


def _recency(station: StationInfo) -> float:
    latest = station.last_time or station.created
    return latest.timestamp() if latest else 0.0


async def stations(visit: Visit) -> Response:
    """All stations by name."""
    sample, _ = await _sample(visit)
    return visit.show(
        "stations.html",
        live=link(visit.base, "live"),
        problems=[],
        values=overview_values(sample, {}),
        stations=list(sample.stations.values()),
        more=0,
        table_title="By name",
    )


async def connections(visit: Visit) -> Response:
    """Producers and consumers of all stations."""
    every = visit.request.query_params.get("show") == "all"
    found = members_of(await visit.call(visit.client.connections))
    shown = [each for each in found if every or each.is_connected]
    return visit.show("connections.html", members=shown[:MOST_MEMBERS], total=len(shown), every=every)


async def live(visit: Visit) -> Response:
    """The live numbers of the overview, the list of stations, or one station."""
    name = visit.request.query_params.get("station", "")
    if not visit.console.live.room_for(visit.login):
        raise HTTPException(429, "Too many pages with live numbers are open.", {"Retry-After": "10"})
    topic = _station_topic(visit, name.lower()) if name else _overview_topic(visit)
    return EventStream(visit.console.live.updates(visit.login, topic, visit.is_in))


def _overview_topic(visit: Visit) -> Topic:
    async def poll() -> Sample:
        sample, _ = await _sample(visit)
        return sample

    return Topic("", poll, overview_values)


def _station_topic(visit: Visit, name: str) -> Topic:
    async def poll() -> Sample:
        station = await visit.call(_info, visit.client, name)
        return Sample(time.monotonic(), {station.name: station})

    return Topic(f"station {name}", poll, station_values)


# ---- one station ----------------------------------------------------------------------------------------------------


def handle_of(client: memphis_sync.Memphis, name: str) -> memphis_sync.Station:
    """A station that exists; it is never created by somebody who only looks. Raises as Memphis.station()."""
    return client.station(name, create_station=False)


def _info(client: memphis_sync.Memphis, name: str) -> StationInfo:
    return handle_of(client, name).info()


def _dead_letters(client: memphis_sync.Memphis, name: str) -> str:
    """How many there are, as far as one request tells."""
    found = len(client.dls(name).list(limit=MOST_COUNTED, with_data=False))
    return f"{found:,}" if found < MOST_COUNTED else f"{MOST_COUNTED:,} or more"


async def station(visit: Visit) -> Response:
    """Partitions, groups, settings, schema, producers and consumers of one station."""
    name = visit.request.path_params["name"].lower()
    client = visit.client
    info, letters, schemas, connections = await gather(
        visit.call(_info, client, name),
        visit.call(_dead_letters, client, name),
        visit.call(client.schemas),
        visit.call(client.connections, name),
    )
    if isinstance(info, MemphisError):
        raise info
    problems = {
        "Dead letters": letters,
        "Schemas": schemas,
        "Producers and consumers": connections,
    }
    return visit.show(
        "station.html",
        live=link(visit.base, "live", station=name),
        name=name,
        station=info,
        values=station_values(Sample(time.monotonic(), {info.name: info}), {}),
        dead_letters="?" if isinstance(letters, MemphisError) else letters,
        schemas=[] if isinstance(schemas, MemphisError) else schemas,
        members=None if isinstance(connections, MemphisError) else members_of(connections, name),
        problems=[f"{what} are not known: {exc}" for what, exc in problems.items() if isinstance(exc, MemphisError)],
    )


async def change_schema(visit: Visit, form: Form) -> Response:
    """Attaches a schema to a station, or detaches it."""
    name = visit.request.path_params["name"].lower()
    action, schema = form.one("action"), form.one("schema")
    if action == "attach":
        await visit.call(visit.client.enforce_schema, schema, name, **ONCE)
        visit.login.notify(f"Messages of {name} must match the schema {schema} now.")
    elif action == "detach":
        await visit.call(visit.client.detach_schema, name, **ONCE)
        visit.login.notify(f"{name} accepts every payload now.")
    else:
        raise HTTPException(400, "The form does not say what to do.")
    return visit.go("stations", name)


# ---- schemas --------------------------------------------------------------------------------------------------------


async def schemas(visit: Visit) -> Response:
    """All schemas with their versions and stations."""
    client = visit.client
    found, stations = await gather(visit.call(client.schemas), visit.call(client.stations))
    if isinstance(found, MemphisError):
        raise found
    return visit.show("schemas.html", schemas=found, stations=[] if isinstance(stations, MemphisError) else stations)


async def change_schemas(visit: Visit, form: Form) -> Response:
    """Makes a version the active one, or attaches a schema."""
    action, schema = form.one("action"), form.one("schema")
    if action == "activate":
        version = form.one("version")
        if not (version.isascii() and version.isdigit() and len(version) < 10):
            raise HTTPException(400, "The version must be a number from 1.")
        active = await visit.call(visit.client.activate_schema_version, schema, int(version), **ONCE)
        visit.login.notify(f"Version {active} of the schema {schema} is active now.")
    elif action == "attach":
        station = form.one("station")
        await visit.call(visit.client.enforce_schema, schema, station, **ONCE)
        visit.login.notify(f"Messages of {station} must match the schema {schema} now.")
    else:
        raise HTTPException(400, "The form does not say what to do.")
    return visit.go("schemas")
