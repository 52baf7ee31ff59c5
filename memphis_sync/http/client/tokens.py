"""
The tokens of one process: got once for all threads, renewed before they expire, and when the gateway refuses one.

A gateway's ``expires_in`` is not believed, for Memphis' own computes it wrongly: the expiry is the ``exp`` inside the
token, compared with the Date of the same response, so a clock that is wrong on either side does not matter.
"""

from __future__ import annotations

import base64
import contextlib
import json
import threading
import time
from typing import NamedTuple, Optional

from memphis_sync.errors import AuthenticationError, ConnectError
from memphis_sync.http.client.answers import Gateway, gateway_of, object_of, seconds_until, text_of
from memphis_sync.http.client.settings import HttpSettings
from memphis_sync.http.client.transport import JSON_TYPE, Answer, NoAnswer, Transport, Unsent

ACCESS_MINUTES = 15
REFRESH_MINUTES = 300  # else Memphis' own gateway gives both tokens the same life
_MARGIN_S = 60.0  # before the expiry; at most a fifth of a token's life
_UNKNOWN_S = 60.0  # the life of a token that does not say its own


class Token(NamedTuple):
    """An access token with its refresh token; both are secrets. Times are by ``time.monotonic()``."""

    access: str
    refresh: str
    renew_at: float
    ends_at: float
    refresh_ends_at: float


def bearer(access: str) -> tuple[bytes, bytes]:
    """The header of a request that carries an access token."""
    return b"Authorization", b"Bearer " + access.encode("ascii")


class Tokens:
    """The tokens of one process; any number of threads may ask for them."""

    def __init__(self, settings: HttpSettings, transport: Transport) -> None:
        self._settings = settings
        self._transport = transport
        # Held over the request for a token: whoever needs one needs the same one.
        self._renewing = threading.Lock()
        self._token: Optional[Token] = None
        self.gateway = Gateway()

    @property
    def size(self) -> int:
        """Bytes of the access token; 0 without one."""
        token = self._token
        return 0 if token is None else len(token.access)

    def get(self, deadline: float) -> str:
        """
        A token that is valid for a while.

        Args:
            deadline: By ``time.monotonic()``.

        Raises:
            AuthenticationError: The gateway refused the credentials.
            Unsent: There was no answer, or one that lets hope for a better one later; or another thread has been
                asking until the deadline.
        """
        token = self._token
        now = time.monotonic()
        if token is not None and now < token.renew_at:
            return token.access
        if token is not None and now < token.ends_at:
            # Others go on with the old one meanwhile, and so does this thread if the gateway has no new one now.
            if not self._renewing.acquire(blocking=False):
                return token.access
            try:
                if self._token is token:
                    self._renew(token, deadline, may_refresh=True)
            except AuthenticationError:
                raise
            except (Unsent, ConnectError):
                self._token = token._replace(refresh="", renew_at=min(now + 1.0, token.ends_at))
            finally:
                self._renewing.release()
            return token.access if self._token is None else self._token.access
        return self.instead_of("" if token is None else token.access, deadline, may_refresh=True)

    def instead_of(self, refused: str, deadline: float, *, may_refresh: bool) -> str:
        """
        Another token than one that was refused or has expired; if another thread has got one meanwhile, that.

        Args:
            refused: The access token; "" for none.
            deadline: By ``time.monotonic()``.
            may_refresh: False: log in again, whatever the refresh token would be good for.

        Raises:
            AuthenticationError, Unsent: As get().
        """
        if not self._renewing.acquire(timeout=min(max(deadline - time.monotonic(), 0.0), threading.TIMEOUT_MAX)):
            raise Unsent("another thread was still logging in")
        try:
            token = self._token
            if token is None or token.access == refused:
                token = self._renew(token, deadline, may_refresh=may_refresh)
            return token.access
        finally:
            self._renewing.release()

    def end(self, deadline: float) -> None:
        """Logs out where a gateway knows that: its tokens are worth nothing any more. It is done on trial only."""
        token = self._token
        if token is not None and "logout" in self.gateway.features:
            with contextlib.suppress(Unsent, NoAnswer):
                self._transport.post("/auth/logout", [bearer(token.access)], b"", deadline)

    def _renew(self, old: Optional[Token], deadline: float, *, may_refresh: bool) -> Token:
        if may_refresh and old is not None and old.refresh and time.monotonic() < old.refresh_ends_at:
            # It is good for one refresh, at our gateway: without a usable answer it is not tried again.
            with contextlib.suppress(Unsent):
                answer = self._ask("/auth/refreshToken", {"jwt_refresh_token": old.refresh}, deadline)
                if answer.status == 200:
                    return self._keep(answer)
            self._token = old._replace(refresh="")
        who = self._settings.credentials
        secret = {"password": who.password} if who.token is None else {"connection_token": who.token}
        body: dict[str, object] = {"username": who.username, **secret, "account_id": who.account_id}
        answer = self._ask("/auth/authenticate", body, deadline)
        if answer.status == 200:
            return self._keep(answer)
        said = text_of(answer)
        for text in (who.password, who.token):
            said = said.replace(text, "***") if text else said
        told = f"the gateway answered {answer.status}{f' ({said})' if said else ''}"
        if answer.status in (401, 403):
            self._token = None
            raise AuthenticationError(f"user {who.username!r} cannot log in at {self._settings.base}: {told}")
        if answer.status in (408, 425, 429) or answer.status >= 500:
            raise Unsent(told)
        raise ConnectError(
            f"user {who.username!r} cannot log in at {self._settings.base}: {told}, which no Memphis gateway does for "
            "valid credentials; is it the gateway's URL?"
        )

    def _ask(self, path: str, body: dict[str, object], deadline: float) -> Answer:
        body["token_expiry_in_minutes"] = ACCESS_MINUTES
        body["refresh_token_expiry_in_minutes"] = REFRESH_MINUTES
        try:
            answer = self._transport.post(path, [JSON_TYPE], json.dumps(body).encode(), deadline)
        except NoAnswer as exc:
            raise Unsent(f"logging in: {exc}") from exc  # a login may be repeated, and no message was sent
        if answer.status == 200:
            self.gateway = gateway_of(answer)
        return answer

    def _keep(self, answer: Answer) -> Token:
        found = object_of(answer)
        access, refresh = found.get("jwt"), found.get("jwt_refresh_token")
        if not isinstance(access, str) or not access or not access.isascii():
            raise ConnectError(
                f"what answers at {self._settings.base} gave no token, so it is not a Memphis gateway; is it the "
                "gateway's URL?"
            )
        refresh = refresh if isinstance(refresh, str) else ""
        now = time.monotonic()
        life_s, refresh_life_s = _life_s(access, answer), _life_s(refresh, answer)
        self._token = Token(
            access, refresh, now + life_s - min(_MARGIN_S, life_s / 5), now + life_s, now + refresh_life_s
        )
        return self._token


def _life_s(token: str, answer: Answer) -> float:
    """How long a token is still valid, by the ``exp`` in its payload, which anybody can read."""
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return max(seconds_until(float(claims["exp"]), answer), 0.0)
    except (IndexError, KeyError, TypeError, ValueError):
        return _UNKNOWN_S
