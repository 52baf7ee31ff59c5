"""
What keeps other sites, and other people's text, from acting in a user's name.

* Cookies are ``HttpOnly`` and ``SameSite=Strict``; under TLS also ``Secure``, and their names begin with ``__Host-``.
* A changing request must come from a page of the console: by the browser's word (``Sec-Fetch-Site``, ``Origin``), and
  by a token that only those pages have. SameSite alone is not enough: to it, every port of a host is the same site.
* No inline script or style, nothing from elsewhere, no frames, no guessing of types, nothing kept in caches.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from typing import TYPE_CHECKING, Optional
from urllib.parse import parse_qsl, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOGIN_COOKIE, FORM_COOKIE = "memphis-console", "memphis-console-form"
CSRF_FIELD = "csrf"
MAX_FORM = 256 * 1024  # bytes: some thousand ids of dead letters
_MAX_FIELDS = 5000
_FORM_S = 30.0
_NOT_FROM_HERE = (
    "This request did not come from a page of this console, so nothing was changed. "
    "Go back, reload the page and try again."
)
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    # A page says `same-origin` of itself (templates/base.html): without it, a browser sends `Origin: null` with a form.
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "X-Robots-Tag": "noindex",
}


class ProtectedResponses:
    """
    ASGI: adds the headers above to each response of an app, errors included.

    Args:
        app: The app.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves a request."""

        async def protected(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await self._app(scope, receive, protected)


def is_secure(request: Request) -> bool:
    """Whether the browser speaks TLS; what a proxy says of that can only make cookies stricter."""
    return request.url.scheme == "https" or request.headers.get("x-forwarded-proto", "").lower() == "https"


def set_cookie(request: Request, response: Response, name: str, value: Optional[str]) -> None:
    """Sets a cookie for as long as the browser runs; None removes it."""
    secure = is_secure(request)
    response.set_cookie(
        _full_name(name, secure=secure),
        value or "",
        max_age=None if value else 0,
        path="/",
        secure=secure,
        httponly=True,
        samesite="strict",
    )


def cookie_of(request: Request, name: str) -> Optional[str]:
    """The value of a cookie that set_cookie() has set."""
    return request.cookies.get(_full_name(name, secure=is_secure(request)))


def _full_name(name: str, *, secure: bool) -> str:
    # With the prefix, browsers take it only over TLS and from this host itself, not from one beside it in the domain.
    return f"__Host-{name}" if secure else name


def new_token() -> str:
    """A secret that nobody guesses."""
    return secrets.token_urlsafe(32)


def require_same_origin(request: Request) -> None:
    """
    Refuses what the browser says comes from elsewhere. A program that says nothing of where it comes from is left to
    the token: it has no user's cookies.

    Raises:
        HTTPException: 403.
    """
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    is_foreign = site is not None and site != "same-origin"
    if origin is not None and _host_of(origin) != request.headers.get("host", "").lower():
        is_foreign = True
    if is_foreign:
        raise HTTPException(403, _NOT_FROM_HERE)


def _host_of(origin: str) -> str:
    """``https://host:1`` -> ``host:1``; "" for ``null`` and what is no origin. The scheme may be a proxy's."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return ""
    return parts.netloc.lower() if parts.scheme in ("http", "https") else ""


def require_token(form: Form, expected: Optional[str]) -> None:
    """
    Refuses a form without the token that its page was given.

    Raises:
        HTTPException: 403.
    """
    given = form.one(CSRF_FIELD)
    if not expected or not hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode()):
        raise HTTPException(403, _NOT_FROM_HERE)


class Form:
    """The fields of a form."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self._pairs = pairs

    def one(self, name: str) -> str:
        """The first value of a field; "" without one."""
        return next((value for key, value in self._pairs if key == name), "")

    def all(self, name: str) -> list[str]:
        """All values of a field."""
        return [value for key, value in self._pairs if key == name]


async def read_form(request: Request) -> Form:
    """
    Reads the fields of a form.

    Raises:
        HTTPException: 415 for another content type, 413 for too large a body, 408 for a slow one, 400 for too many
            fields.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise HTTPException(415, "A form is expected: application/x-www-form-urlencoded.")
    try:
        body = await asyncio.wait_for(_read(request), _FORM_S)
    except asyncio.TimeoutError as exc:
        raise HTTPException(408, "The form came too slowly.") from exc
    try:
        pairs = parse_qsl(body.decode("ascii", "replace"), keep_blank_values=True, max_num_fields=_MAX_FIELDS)
    except ValueError as exc:
        raise HTTPException(400, f"The form has more than {_MAX_FIELDS:,} fields.") from exc
    return Form(pairs)


async def _read(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM:
            raise HTTPException(413, f"The form is larger than {MAX_FORM:,} bytes: choose fewer entries at once.")
    return bytes(body)
