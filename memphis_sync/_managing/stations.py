"""Stations: creation and destruction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memphis_sync._control.api import DESTROY_S, GONE
from memphis_sync._options.arguments import StationArguments, check_name, check_retries, station_request
from memphis_sync._protocol.names import internal_name
from memphis_sync._protocol.requests import StationDestroy

if TYPE_CHECKING:
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
