"""Logging in and out. Whether a login is accepted is the broker's word; the gateway slows down who fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from memphis_sync.errors import AuthenticationError, ConfigurationError, MemphisError
from memphis_sync.http.gateway.errors import Problem, status_of
from memphis_sync.http.gateway.sessions import address_of
from memphis_sync.http.gateway.throttle import TooManyLogins

from . import showing
from .pages import Visit, base_of, link
from .protection import (
    FORM_COOKIE,
    LOGIN_COOKIE,
    Form,
    cookie_of,
    new_token,
    read_form,
    require_same_origin,
    require_token,
    set_cookie,
)

if TYPE_CHECKING:
    from .pages import Console

_MOST_CHARACTERS = 128  # of a user's name: as of any name at the broker
_WRONG = "The broker does not accept this user and password."


class Entrance:
    """The pages of those who are not logged in."""

    def __init__(self, console: Console) -> None:
        self._console = console

    async def show(self, request: Request) -> Response:
        """The form."""
        if self._console.logins.find(cookie_of(request, LOGIN_COOKIE)) is not None:
            return RedirectResponse(link(base_of(request), ""), 303)
        return self._form(request)

    async def log_in(self, request: Request) -> Response:
        """Takes the form."""
        require_same_origin(request)
        form = await read_form(request)
        require_token(form, cookie_of(request, FORM_COOKIE))
        username, password, account = (form.one(name) for name in ("username", "password", "account"))
        username = username.strip()
        account = account.strip() or "1"
        given = {"username": username[:_MOST_CHARACTERS], "account": account[:20]}
        if len(username) > _MOST_CHARACTERS:
            text = f"The name has {len(username)} characters; that of a broker's user has {_MOST_CHARACTERS} at most."
            return self._form(request, 400, text, **given)
        if not username or not password:
            return self._form(
                request, 400, "Both are needed: the name of a user of the broker, and its password.", **given
            )
        if not (account.isascii() and account.isdigit() and int(account[:19]) > 0 and len(account) < 19):
            return self._form(request, 400, "The account is a number from 1; without a cloud broker it is 1.", **given)
        try:
            session = await self._console.sessions.open(int(account), username, password, address=address_of(request))
        except AuthenticationError:
            return self._form(request, 401, _WRONG, **given)
        except (MemphisError, Problem) as exc:  # it is not the password that is wrong
            return self._not_asked(request, exc, given)
        self._console.logins.end(cookie_of(request, LOGIN_COOKIE))
        response = RedirectResponse(link(base_of(request), ""), 303)
        set_cookie(request, response, LOGIN_COOKIE, self._console.logins.add(session))
        set_cookie(request, response, FORM_COOKIE, None)
        return response

    def _not_asked(self, request: Request, exc: Exception, given: dict[str, str]) -> Response:
        if isinstance(exc, TooManyLogins):
            text = f"Too many logins have failed. The next attempt is possible in {showing.span(exc.wait_s)}."
            response = self._form(request, exc.status, text, **given)
            response.headers.update(exc.headers)
            return response
        if isinstance(exc, Problem):
            return self._form(request, exc.status, str(exc.body.get("error") or exc.body.get("message")), **given)
        assert isinstance(exc, MemphisError)
        why = str(exc) if isinstance(exc, ConfigurationError) else f"The broker cannot be asked: {exc}"
        return self._form(request, status_of(exc), why, **given)

    def _form(
        self, request: Request, status: int = 200, problem: str = "", username: str = "", account: str = "1"
    ) -> Response:
        # The page's own token, in a cookie and in the form: nobody else can log a browser in as somebody.
        token = cookie_of(request, FORM_COOKIE) or new_token()
        response = self._console.render(
            request, "login.html", status, problem=problem, username=username, account=account, token=token, section=""
        )
        set_cookie(request, response, FORM_COOKIE, token)
        return response


async def log_out(visit: Visit, _: Form) -> Response:
    """Ends the login: its cookie is worth nothing from now on."""
    visit.console.logins.end(cookie_of(visit.request, LOGIN_COOKIE))
    response = RedirectResponse(link(visit.base, "login"), 303)
    set_cookie(visit.request, response, LOGIN_COOKIE, None)
    return response
