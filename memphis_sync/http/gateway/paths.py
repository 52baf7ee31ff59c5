"""Which route a path means: names of the protocol in any case, a station's decoded once; and the short way to it."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from functools import lru_cache
from typing import Any, Callable, NamedTuple, Optional
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Scope

from .errors import refused

API = frozenset({"auth", "monitoring", "stations"})  # paths in any case, with or without a slash at the end
MOST_KEPT_BYTES = 256  # of a path that is remembered: longer ones are rare
_STATION = "{station}"

Endpoint = Callable[[Request], Awaitable[Response]]


class Place(NamedTuple):
    """
    What a path means.

    Attributes:
        path: As the routes have it.
        shape: The same without the station's name.
        station: That; None where there is none.
    """

    path: str
    shape: str
    station: Optional[str]


def normalise(scope: Scope) -> Optional[Place]:
    """
    Makes the path of a request the routes' own; None for what is none of the API's.

    Raises:
        Problem: A segment holds a slash.
    """
    raw: bytes = scope.get("raw_path", scope["path"].encode())
    place = _kept_place(raw) if len(raw) <= MOST_KEPT_BYTES else _place(raw)
    if place is not None:
        scope["path"] = place.path
    return place


def _place(raw: bytes) -> Optional[Place]:
    segments = raw.decode("ascii", "replace").partition("?")[0].split("/")
    if len(segments) < 2 or segments[1].lower() not in API:
        return None
    if len(segments) > 2 and not segments[-1]:
        segments.pop()
    plain = [unquote(segment, errors="replace") for segment in segments]
    if any("/" in segment for segment in plain):
        raise refused(400, "a segment of the path holds an encoded slash; no name has one")
    if segments[1].lower() != "stations" or len(plain) < 3:
        path = "/".join(plain).lower()
        return Place(path, path, None)
    station = plain[2]
    plain = [segment if place == 2 else segment.lower() for place, segment in enumerate(plain)]
    path = "/".join(plain)
    plain[2] = _STATION
    return Place(path, "/".join(plain), station)


_kept_place = lru_cache(1024)(_place)  # those of a client are the same again and again


class Directory:
    """The routes of the API by their shapes: found at once, where a router would try one after the other."""

    def __init__(self) -> None:
        self._endpoints: dict[tuple[str, str], Endpoint] = {}

    def know(self, routes: Iterable[BaseRoute]) -> None:
        """Adds those whose paths are fixed but for the station's name."""
        for route in routes:
            if isinstance(route, Route) and route.path.replace(_STATION, "").count("{") == 0:
                self._endpoints.update({(method, route.path): route.endpoint for method in route.methods or ()})

    def find(self, scope: Scope, place: Place) -> Optional[Endpoint]:
        """What serves a request, which gets its parameters; None: the router says what is wrong with it."""
        endpoint = self._endpoints.get((scope["method"], place.shape)) if place.station != "" else None
        if endpoint is not None:
            parameters: dict[str, Any] = {} if place.station is None else {"station": place.station}
            scope["path_params"], scope["endpoint"] = parameters, endpoint
        return endpoint
