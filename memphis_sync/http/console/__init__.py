"""
The console: pages to look at stations, their messages, groups and dead letters, served by the gateway.

It stands on the public client alone: what a page shows, a program can ask for. Nothing is loaded from elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from . import letters, messages, stations
from .entrance import Entrance, log_out
from .pages import Console
from .protection import ProtectedResponses

if TYPE_CHECKING:
    from starlette.requests import Request

    from memphis_sync.http.gateway.sessions import Sessions

PREFIX = "/console"


def routes(sessions: Sessions) -> list[BaseRoute]:
    """``/`` and all below ``/console``."""
    console = Console(sessions)
    sessions.at_end.append(console.close)
    return [
        *(Route(path, ProtectedResponses(Route(path, _to_overview)), methods=["GET"]) for path in ("/", PREFIX)),
        Mount(PREFIX, app=_application(console)),
    ]


async def _to_overview(request: Request) -> Response:
    return RedirectResponse(f"{request.scope.get('root_path', '')}{PREFIX}/", 303)


def _application(console: Console) -> Starlette:
    entrance, page, change = Entrance(console), console.page, console.change
    one = "/stations/{name}"
    app = Starlette(
        routes=[
            Route("/login", entrance.show, methods=["GET"]),
            Route("/login", entrance.log_in, methods=["POST"]),
            Route("/logout", change(log_out), methods=["POST"]),
            Route("/static/{name}", console.assets.serve, methods=["GET"]),
            Route("/", page(stations.overview), methods=["GET"]),
            Route("/live", page(stations.live), methods=["GET"]),
            Route("/connections", page(stations.connections), methods=["GET"]),
            Route("/schemas", page(stations.schemas), methods=["GET"]),
            Route("/schemas", change(stations.change_schemas), methods=["POST"]),
            Route("/stations", page(stations.stations), methods=["GET"]),
            Route(one, page(stations.station), methods=["GET"]),
            Route(f"{one}/schema", change(stations.change_schema), methods=["POST"]),
            Route(f"{one}/messages", page(messages.messages), methods=["GET"]),
            Route(f"{one}/messages/{{partition}}/{{sequence}}", page(messages.message), methods=["GET"]),
            Route(f"{one}/dead-letters", page(letters.dead_letters), methods=["GET"]),
            Route(f"{one}/dead-letters", change(letters.change), methods=["POST"]),
            Route(f"{one}/dead-letters/{{id}}", page(letters.dead_letter), methods=["GET"]),
        ],
        middleware=[Middleware(ProtectedResponses)],
        exception_handlers={HTTPException: console.not_a_page, Exception: console.broken},
    )
    app.router.redirect_slashes = False  # it would send the browser to whatever host the request has named
    return app
