"""Stations: creation, destruction, and removal of what they hold."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from memphis_sync._control.api import DESTROY_S, GONE, NO_RESPONDERS
from memphis_sync._inspecting.asking import Asking, run
from memphis_sync._inspecting.stations import check_there, station_rows, streams_of
from memphis_sync._options.arguments import StationArguments, check_name, check_retries, station_request
from memphis_sync._protocol.names import internal_name, stream_name
from memphis_sync._protocol.requests import StationDestroy
from memphis_sync.errors import ServerError

if TYPE_CHECKING:
    from memphis_sync._options.inspecting import PurgeArguments
    from memphis_sync.client import Memphis


def create(client: Memphis, given: StationArguments) -> None:
    """Creates a station, if there is none of that name; or makes sure that there is one, if it is not to be created."""
    retries, requests = given.timeout_retries, client._requests
    if given.create_station:
        request = station_request(given)
        requests.run(lambda: requests.create_station(request, retries), retries, "station()")
    else:
        requests.run(lambda: requests.require_station(given.name), retries, "station()")


def destroy(client: Memphis, name: str, timeout_retries: int) -> None:
    """Destroys a station; one that does not exist is fine."""
    name, retries = check_name("name", "Station", name), check_retries("timeout_retries", timeout_retries)
    request, about = StationDestroy(name), f"station {name!r}"
    client._requests.call("destroy()", request, per_try_s=DESTROY_S, retries=retries, about=about, fine=GONE)
    client._forget_station(internal_name(name))


def purge(client: Memphis, name: str, given: PurgeArguments) -> int:
    """Removes what a station holds; returns how many messages that were."""
    given = given.checked()

    async def work(asking: Asking) -> int:
        if asking.is_memphis:
            raise ServerError(
                "a Memphis broker purges stations in its REST API and its web console only "
                "(DELETE /api/stations/purgeStation)",
                code=NO_RESPONDERS,
            )
        streams = await streams_of(asking, name, await station_rows(asking, name))
        check_there(name, given.partition, streams)
        chosen = streams if given.partition is None else (given.partition,)
        calls = (asking.js(f"STREAM.PURGE.{stream_name(internal_name(name), number)}") for number in chosen)
        return sum(int(reply["purged"]) for reply in await asyncio.gather(*calls))

    return run(client, "purge()", given.timeout_s, work)
