"""
``/auth``: a login becomes a pair of tokens, a refresh token becomes the next pair, and a logout ends both.

A refresh token is good for one refresh. One that comes again later than a lost answer explains is in somebody else's
hands, or was: the session ends.
"""

from __future__ import annotations

import logging
import time
from typing import Any, Optional

from starlette.requests import Request
from starlette.responses import Response

from memphis_sync.errors import AuthenticationError, ConfigurationError, MemphisError

from .errors import Problem, answer, message, status_of, unauthorized
from .fields import Fields, FieldsError, read_fields
from .sessions import TURN_GRACE_S, Sessions, UserSession, address_of
from .settings import GatewaySettings

log = logging.getLogger("memphis_sync.gateway")

MAX_LIFE_MIN = 366 * 24 * 60


class Auth:
    """The routes about logins."""

    def __init__(self, sessions: Sessions, settings: GatewaySettings) -> None:
        self._sessions, self._settings = sessions, settings

    async def authenticate(self, request: Request) -> Response:
        """POST /auth/authenticate: user and password, or connection token, become tokens."""
        try:
            fields = await read_fields(request, self._settings)
            username, account = _who(fields, request)
            password, token = fields.text("password"), fields.text("connection_token")
            lives = self._lives(fields)
        except FieldsError as exc:
            raise message(400, f"Some of your fields are not valid: {exc}") from None
        if not username:
            raise message(400, [{"field": "Username", "reason": "required"}])
        if not password and not token:
            raise unauthorized()
        try:
            session = await self._sessions.open(
                account, username, password or token, is_token=not password, address=address_of(request)
            )
        except MemphisError as exc:
            raise _refusal(exc) from exc
        return answer(self._tokens(session, lives))

    async def refresh(self, request: Request) -> Response:
        """POST /auth/refreshToken: a refresh token becomes the next pair, once."""
        try:
            fields = await read_fields(request, self._settings)
            text, lives = fields.text("jwt_refresh_token"), self._lives(fields)
        except FieldsError as exc:
            raise message(400, f"Some of your fields are not valid: {exc}") from None
        claims = self._sessions.tokens.verify(text, "refresh")
        session = self._sessions.by_claims(claims)
        if claims is None or claims.turn != session.turn:
            if time.monotonic() - session.turned_at > TURN_GRACE_S:
                log.warning("a refresh token of %r came again: its session ends", session.username)
                self._sessions.revoke(session)
            raise unauthorized()
        session.turn += 1
        session.turned_at = time.monotonic()
        try:
            await self._sessions.use(session, request)
        except MemphisError as exc:
            session.turn -= 1  # it was not used: the broker is away
            raise _refusal(exc) from exc
        return answer(self._tokens(session, lives))

    async def logout(self, request: Request) -> Response:
        """POST /auth/logout: no token of the session is accepted any more, the refresh token's included."""
        self._sessions.revoke(self._sessions.named_by(request))
        return answer({"message": "Logged out"})

    def _lives(self, fields: Fields) -> tuple[float, float]:
        """How long both tokens live, in seconds; 0 and less mean the default."""
        lives = []
        for name, default_s in (
            ("token_expiry_in_minutes", self._settings.token_life_s),
            ("refresh_token_expiry_in_minutes", self._settings.refresh_life_s),
        ):
            minutes = fields.number(name) or 0
            if minutes > MAX_LIFE_MIN:
                raise FieldsError(f"{name} must be {MAX_LIFE_MIN} or less")
            lives.append(minutes * 60.0 if minutes > 0 else default_s)
        return lives[0], lives[1]

    def _tokens(self, session: UserSession, lives: tuple[float, float]) -> dict[str, Any]:
        """The answer: both tokens, and for how many milliseconds each is valid."""
        issue = self._sessions.tokens.issue
        who: dict[str, Any] = {"username": session.username, "account_id": session.account_id}
        session.expires = max(session.expires, time.time() + max(lives))
        return {
            "expires_in": int(lives[0] * 1000),
            "jwt": issue("access", session.id, lives[0], **who),
            "jwt_refresh_token": issue("refresh", session.id, lives[1], turn=session.turn, **who),
            "refresh_token_expires_in": int(lives[1] * 1000),
        }


def _who(fields: Fields, request: Request) -> tuple[str, int]:
    """User and account: from the field, else from the query, else from what is behind the ``$`` of the name, else 1."""
    username, _, behind = fields.text("username").partition("$")
    account: Optional[int] = fields.number("account_id")
    for text in (request.query_params.get("accountId", ""), behind):
        if not account and text:
            if not (text.isascii() and text.isdecimal()) or len(text) > 18:
                raise FieldsError("the account id must be a whole number")
            account = int(text)
    if account is not None and account < 0:
        raise FieldsError("the account id must be a whole number from 1")
    return username, account or 1


def _refusal(error: MemphisError) -> Problem:
    """The answer to a login that the broker did not accept, or did not hear of."""
    if isinstance(error, AuthenticationError):
        return unauthorized()
    if isinstance(error, ConfigurationError):
        return message(400, f"Some of your fields are not valid: {error}")
    log.warning("a login failed: %s", error)
    status = status_of(error)
    return message(status, "Server error", {"retry-after": "1"} if status == 503 else None)
