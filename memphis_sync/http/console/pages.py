"""
What all pages share: templates, who is logged in, how a change is protected, how an error is told.

A page is a function of a ``Visit``; a change is one of a ``Visit`` and its ``Form``. Whatever it raises becomes a page
with the same frame, in words. It calls the public client in the gateway's threads, and nothing else of the broker's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Optional, TypeVar
from urllib.parse import quote, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from memphis_sync.errors import MemphisError, ServerError, StationNotFoundError
from memphis_sync.http.gateway.errors import Problem, status_of

from . import showing
from .assets import Assets
from .live import Live
from .logins import Login, Logins
from .protection import LOGIN_COOKIE, Form, cookie_of, read_form, require_same_origin, require_token, set_cookie

if TYPE_CHECKING:
    import memphis_sync
    from memphis_sync.http.gateway.sessions import Sessions

log = logging.getLogger("memphis_sync.gateway")

TEMPLATES = Path(__file__).parent / "templates"
T = TypeVar("T")
Handler = Callable[[Request], Awaitable[Response]]
_TITLES = {
    400: "That cannot be done",
    403: "Refused",
    404: "Not found",
    405: "Not this way",
    409: "The broker refused",
    413: "Too much at once",
    415: "Not a form",
    429: "Too many attempts",
    503: "The broker cannot be reached",
    504: "The broker did not answer in time",
}


@dataclass
class Visit:
    """
    A request of somebody who is logged in.

    Attributes:
        console: The console.
        request: The request.
        login: Whose it is.
    """

    console: Console
    request: Request
    login: Login

    @property
    def client(self) -> memphis_sync.Memphis:
        """The user's client; what blocks belongs into call()."""
        return self.login.session.client

    @property
    def base(self) -> str:
        """What the paths of all pages begin with."""
        return base_of(self.request)

    def is_in(self) -> bool:
        """Whether the login goes on; asking keeps it from being idle."""
        return self.console.logins.find(cookie_of(self.request, LOGIN_COOKIE)) is self.login

    async def call(self, function: Callable[..., T], *args: Any, **options: Any) -> T:
        """Runs a call that blocks in one of the gateway's threads."""
        return await self.login.session.call(function, *args, **options)

    def show(self, template: str, status: int = 200, **values: Any) -> Response:
        """A page."""
        return self.console.render(self.request, template, status, login=self.login, **values)

    def go(self, *parts: str, **query: Any) -> Response:
        """To another page, after a change: reloading that changes nothing."""
        return RedirectResponse(link(self.base, *parts, **query), 303)

    def number(self, name: str, otherwise: int) -> int:
        """
        A whole number of the query.

        Raises:
            HTTPException: 400.
        """
        return whole_number(name, self.request.query_params.get(name, ""), otherwise)


def whole_number(name: str, text: str, otherwise: int) -> int:
    """A whole number from 0 to 2**63 - 1; *otherwise* for no text. HTTPException, 400, for anything else."""
    text = text.strip()
    if not text:
        return otherwise
    if not (text.isascii() and text.isdigit() and len(text) < 20) or int(text) > 2**63 - 1:
        raise HTTPException(400, f"{name} is {showing.visible(text[:40])!r}; it must be a whole number, 0 or more.")
    return int(text)


def base_of(request: Request) -> str:
    """What the paths of all pages begin with: where the console is mounted, behind a proxy's own prefix."""
    base: str = request.scope.get("root_path", "").rstrip("/")
    return base


def link(base: str, *parts: str, **query: Any) -> str:
    """The path of a page; nothing in a part can be a separator."""
    path = "/".join((base, *(quote(part, safe="") for part in parts)))
    given = {name: value for name, value in query.items() if value not in (None, "")}
    return f"{path}?{urlencode(given)}" if given else path


class Console:
    """
    The console's state, and its frame around pages.

    Args:
        sessions: The gateway's.
    """

    def __init__(self, sessions: Sessions) -> None:
        self.sessions = sessions
        self.assets = Assets()
        self.live = Live()
        self.logins = Logins(self._on_end)
        self._environment = Environment(
            loader=FileSystemLoader(TEMPLATES),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        for name in ("visible", "number", "size", "moment", "span", "rate", "preview", "retention"):
            self._environment.filters[name] = getattr(showing, name)
        for template in self._environment.list_templates():  # a mistake in one shows at the start
            self._environment.get_template(template)

    def _on_end(self, login: Login) -> None:
        self.sessions.revoke(login.session)
        self.live.wake(login)

    def close(self) -> None:
        """Ends live numbers, so that the gateway's end does not wait for pages that are open."""
        self.live.close()

    # ---- answers ----------------------------------------------------------------------------------------------------

    def render(
        self, request: Request, template: str, status: int = 200, *, login: Optional[Login] = None, **values: Any
    ) -> Response:
        """Fills in a template. A lone surrogate, which UTF-8 cannot have, becomes an escape."""
        base = base_of(request)
        text = self._environment.get_template(template).render(
            base=base,
            link=lambda *parts, **query: link(base, *parts, **query),
            asset=lambda name: self.assets.url(base, name),
            login=login,
            notices=[] if login is None else login.take_notices(),
            **{"live": None, **values},
        )
        return Response(text.encode("utf-8", "backslashreplace"), status, media_type="text/html; charset=utf-8")

    def failed(
        self,
        request: Request,
        status: int,
        text: str,
        login: Optional[Login] = None,
        headers: Optional[Mapping[str, str]] = None,
    ) -> Response:
        """The page of an error."""
        title = _TITLES.get(status, "Something went wrong")
        response = self.render(request, "error.html", status, login=login, title=title, text=text, section="")
        response.headers.update(headers or {})
        return response

    # ---- requests ---------------------------------------------------------------------------------------------------

    def page(self, show: Callable[[Visit], Awaitable[Response]]) -> Handler:
        """The handler of a page that changes nothing."""

        async def handle(request: Request) -> Response:
            return await self._visit(request, show)

        return handle

    def change(self, make: Callable[[Visit, Form], Awaitable[Response]]) -> Handler:
        """The handler of a form that changes something."""

        async def protected(visit: Visit) -> Response:
            form = await read_form(visit.request)
            require_token(form, visit.login.csrf)
            return await make(visit, form)

        async def handle(request: Request) -> Response:
            require_same_origin(request)
            return await self._visit(request, protected)

        return handle

    async def _visit(self, request: Request, serve: Callable[[Visit], Awaitable[Response]]) -> Response:
        cookie = cookie_of(request, LOGIN_COOKIE)
        login = self.logins.find(cookie)
        if login is None:
            return self._to_login(request)
        try:
            await self.sessions.use(login.session, request)
            return await serve(Visit(self, request, login))
        except Problem as exc:
            if exc.status == 401:
                self.logins.end(cookie)
                return self._to_login(request)
            return self.failed(request, exc.status, str(exc.body.get("error", "")), login, exc.headers)
        except MemphisError as exc:
            return self.failed(request, status_for(exc), str(exc), login)
        except HTTPException as exc:
            return self.failed(request, exc.status_code, exc.detail, login, exc.headers)
        except Exception as exc:  # noqa: BLE001  a mistake of ours is a page as well
            return await self.broken(request, exc)

    def _to_login(self, request: Request) -> Response:
        response = RedirectResponse(link(base_of(request), "login"), 303)
        if cookie_of(request, LOGIN_COOKIE) is not None:
            set_cookie(request, response, LOGIN_COOKIE, None)
        return response

    async def not_a_page(self, request: Request, exc: Exception) -> Response:
        """The handler of what the routes refuse: an unknown path, another method, a foreign site."""
        assert isinstance(exc, HTTPException)
        login = self.logins.find(cookie_of(request, LOGIN_COOKIE))
        text = exc.detail
        if exc.status_code == 404:
            text = "There is no such page."
        elif exc.status_code == 405:
            text = "This address does not take that kind of request."
        return self.failed(request, exc.status_code, text, login, exc.headers)

    async def broken(self, request: Request, exc: Exception) -> Response:
        """The handler of a mistake of ours: the log has it, the page says no more than that."""
        log.error("the console could not show %s", request.url.path, exc_info=exc)
        return self.failed(request, 500, "The console has made a mistake. The gateway's log says which one.")


def status_for(error: MemphisError) -> int:
    """The status of a page about an error: that of the API, but for what the broker refused in so many words."""
    if isinstance(error, ServerError) and not isinstance(error, StationNotFoundError):
        return error.code if error.code in (403, 503) else 409
    return status_of(error)


async def gather(*calls: Awaitable[Any]) -> Sequence[Any]:
    """Several calls side by side; an error of the client stands in the place of its result."""
    found = await asyncio.gather(*calls, return_exceptions=True)
    for each in found:
        if isinstance(each, BaseException) and not isinstance(each, MemphisError):
            raise each
    return found
