"""
Who is logged in, and the connections to the broker that belong to them.

A **session** is one login: what a token names. Its password stays in this process. All sessions of a user and account
share one **user**: one client, its producers and its consumers. The client connects at its first use, is closed when
nobody has used it for a while, and connects again with the same login.

All of this belongs to the event loop; only the client's calls that block run elsewhere, in threads of ``Sessions``.
What several requests want at once is made once, and the others wait for it.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Callable, Optional, TypeVar

from starlette.requests import Request

import memphis_sync
from memphis_sync.errors import AuthenticationError, MemphisError

from .errors import Problem, busy, unauthorized
from .login_table import LoginTable
from .room import Room
from .settings import GatewaySettings
from .single_flight import LIMIT_S, SingleFlight
from .throttle import Throttle
from .tokens import Claims, Tokens

log = logging.getLogger("memphis_sync.gateway")

NAME = "rest-gateway"  # of producers, as of Memphis' own gateway
GROUP_SUFFIX = "-rest-gateway"
# The gateway goes down between a fetch and its acks at worst: then the group gets the message again. With one delivery,
# as in Memphis' own, it would not.
MAX_DELIVERIES = 10
ACK_TIME_MS = 30_000
CONTROL_THREADS = 16  # registrations at once, and logins
MAX_KEPT = 1000  # producers and consumers of one user
TURN_GRACE_S = 10.0  # within this a refresh token may come twice: the answer was lost, or two threads had one idea
CLOSE_S = 5.0
RETRIES = 0  # of a registration: who wants it tries again, and it must not hold its thread for minutes
PINS = "memphis_sync.pins"  # in a request's state: the users whose clients must not be closed under it

T = TypeVar("T")


class Secret:
    """A password or a connection token, that no log and no repr shows."""

    __slots__ = ("_text", "is_token")

    def __init__(self, text: str, *, is_token: bool = False) -> None:
        self._text = text
        self.is_token = is_token

    def matches(self, other: Secret) -> bool:
        """Whether both are the same, in a time that does not tell how much of them is."""
        same = hmac.compare_digest(
            self._text.encode("utf-8", "surrogatepass"), other._text.encode("utf-8", "surrogatepass")
        )
        return same and self.is_token == other.is_token

    def as_arguments(self) -> dict[str, str]:
        """The argument of connect() that it is."""
        return {"connection_token" if self.is_token else "password": self._text}


class User:
    """What all sessions of one user and account share: a client, and what it has registered."""

    def __init__(self, sessions: Sessions, key: tuple[int, str], secret: Secret) -> None:
        self.key = key
        self.secret = secret
        self.pins = 0  # requests under way
        self.used_at = time.monotonic()
        self._sessions = sessions
        self._client = SingleFlight(1, lambda _: None)
        self.producers = SingleFlight(MAX_KEPT, self._end)
        self.consumers = SingleFlight(MAX_KEPT, self._end)

    async def connected(self) -> memphis_sync.Memphis:
        """The client, connected at its first use."""
        return await self._client.get("", self._connect)

    @property
    def client(self) -> Optional[memphis_sync.Memphis]:
        """The client; None until it is connected."""
        client: Optional[memphis_sync.Memphis] = self._client.peek("")
        return client

    async def _connect(self) -> memphis_sync.Memphis:
        account, username = self.key
        return await self._sessions.connect(
            self._sessions.settings.client_url,
            username=username,
            account_id=account,
            name=NAME,
            **self.secret.as_arguments(),
        )

    def _end(self, registered: Any) -> None:
        """Destroys a producer that makes room; a consumer stays in its group, and only stops."""
        act = registered.destroy if isinstance(registered, memphis_sync.Producer) else registered.stop
        self._sessions.in_background(act)

    def is_idle(self, now: float, idle_s: float) -> bool:
        """Whether its client may be closed."""
        return self.pins == 0 and now - self.used_at >= idle_s


class UserSession:
    """
    One login.

    Attributes:
        id: What its tokens call it.
        username: The broker's user.
        account_id: Its account.
        expires: When its last token ends, in seconds since 1970.
    """

    def __init__(self, sessions: Sessions, user: User, session_id: str) -> None:
        self.id = session_id
        self.user = user
        self.who = self.account_id, self.username = user.key
        self.expires = 0.0
        self.turn = 0
        self.turned_at = 0.0
        self._sessions = sessions

    @property
    def room(self) -> Room:
        """For answers with messages."""
        return self._sessions.room

    @property
    def client(self) -> memphis_sync.Memphis:
        """The user's client. Its calls that block belong into ``call()``."""
        client = self.user.client
        if client is None:
            raise busy("the connection to the broker was closed meanwhile")
        return client

    async def call(self, function: Callable[..., T], *args: Any, **options: Any) -> T:
        """Runs a call that blocks in one of the gateway's threads."""
        return await self._sessions.call(function, *args, **options)

    async def wait(self, function: Callable[..., T], *args: Any, **options: Any) -> T:
        """The same for one that waits for messages: these have threads of their own."""
        return await self._sessions.wait(function, *args, **options)

    async def producer(self, station: str, limit_s: Optional[float] = None) -> memphis_sync.Producer:
        """
        The user's producer of a station, registered once.

        Args:
            station: The station.
            limit_s: How long its registration may take; None: as long as a message.

        Raises:
            Problem: 503, it took longer.
            MemphisError: As Memphis.producer().
        """
        key = station.lower()
        producers = self.user.producers
        kept: Optional[memphis_sync.Producer] = producers.peek(key)
        if kept is not None:
            return kept
        client = self.client
        return await producers.get(
            key,
            lambda: self.call(client.producer, station, NAME, timeout_retries=RETRIES),
            LIMIT_S if limit_s is None else limit_s,
        )

    def forget_producer(self, producer: memphis_sync.Producer) -> None:
        """Makes the next request register again: its station was destroyed, or its client closed."""
        self.user.producers.discard(producer.stations[0], producer)

    async def consumer(
        self, station: str, name: str, group: str = "", *, limit_s: float = LIMIT_S, **options: Any
    ) -> memphis_sync.Consumer:
        """
        The user's consumer, registered once for each combination of these arguments.

        Args:
            station: The station.
            name: The consumer.
            group: The group, as it is called at the broker.
            limit_s: How long its registration may take.
            options: More of Memphis.consumer().
        """
        key = (station.lower(), name.lower(), group.lower(), tuple(sorted(options.items())))
        client, options = self.client, {"timeout_retries": RETRIES, **options}
        kept: memphis_sync.Consumer = await self.user.consumers.get(
            key, lambda: self.call(client.consumer, station, name, group, **options), limit_s
        )
        return kept

    def forget_consumer(self, consumer: memphis_sync.Consumer) -> None:
        """As forget_producer()."""
        consumers = self.user.consumers
        for key in list(consumers._made):
            consumers.discard(key, consumer)


class Sessions:
    """All logins of a gateway. Create it on the event loop; close() ends it."""

    def __init__(self, settings: GatewaySettings, tokens: Tokens) -> None:
        self.settings = settings
        self.tokens = tokens
        self.is_ending = False  # what waits for messages stops waiting
        self.at_end: list[Callable[[], object]] = []  # called when the end begins: pages that are open let go
        self.room = Room()  # for answers with messages
        self._logins = LoginTable(settings.max_sessions)
        self._throttle = Throttle()
        self._users: dict[tuple[int, str], User] = {}
        self._control = ThreadPoolExecutor(CONTROL_THREADS, "memphis-gateway")
        self._waiting = ThreadPoolExecutor(settings.threads, "memphis-gateway-wait")
        # Logins, which anybody may send, keep nobody who is logged in from a thread.
        self._connecting = ThreadPoolExecutor(CONTROL_THREADS, "memphis-gateway-connect")
        self._tidying = asyncio.ensure_future(self._tidy())

    def __len__(self) -> int:
        return len(self._logins)

    def clients(self) -> list[memphis_sync.Memphis]:
        """Those that are connected; the one that was used last comes last."""
        users = sorted(self._users.values(), key=lambda user: user.used_at)
        return [user.client for user in users if user.client is not None]

    # ---- threads ----------------------------------------------------------------------------------------------------

    async def call(self, function: Callable[..., T], *args: Any, **options: Any) -> T:
        """Runs a call that blocks in one of the gateway's threads."""
        return await asyncio.get_running_loop().run_in_executor(self._control, partial(function, *args, **options))

    async def wait(self, function: Callable[..., T], *args: Any, **options: Any) -> T:
        """The same for one that waits for messages: these have threads of their own."""
        return await asyncio.get_running_loop().run_in_executor(self._waiting, partial(function, *args, **options))

    async def connect(self, url: str, **options: Any) -> memphis_sync.Memphis:
        """The same as memphis_sync.connect()."""
        make = partial(memphis_sync.connect, url, **options)
        return await asyncio.get_running_loop().run_in_executor(self._connecting, make)

    def in_background(self, function: Callable[[], object]) -> None:
        """Runs a call that nobody waits for; what it raises is logged."""
        self._control.submit(_quietly, function)

    # ---- logins -----------------------------------------------------------------------------------------------------

    async def open(
        self, account_id: int, username: str, password: str, *, address: str, is_token: bool = False
    ) -> UserSession:
        """
        Logs in: the broker says whether it accepts these.

        Args:
            account_id: The account, from 1.
            username: The broker's user.
            password: Its password, or a connection token.
            address: Of the client.
            is_token: Whether it is that.

        Raises:
            AuthenticationError: The broker refused.
            ConnectError, ConfigurationError: As connect().
            Problem: There are too many users; TooManyLogins, too many logins have failed.
        """
        key, secret = (account_id, username), Secret(password, is_token=is_token)
        async with self._throttle.attempt(account_id, username, address):
            user = self._users.get(key)
            if user is None or not user.secret.matches(secret) or user.client is None:
                user = await self._log_in(key, secret)
        user.used_at = time.monotonic()
        session = UserSession(self, user, secrets.token_urlsafe(24))
        session.expires = time.time() + 60  # until its tokens say more
        self._logins.add(session)
        return session

    async def _log_in(self, key: tuple[int, str], secret: Secret) -> User:
        known = self._users.get(key)
        if known is not None and known.secret.matches(secret):
            await known.connected()
            return known
        user = User(self, key, secret)
        await user.connected()  # until the broker accepts it, nobody makes room for it
        other = self._users.get(key)
        if other is not None and other.secret.matches(secret):  # two logins at once
            self._close(user)
            return other
        if other is not None:  # the password is another one now: sessions with the old one end
            for session in self._logins.of_user(key):
                if session.user is other:
                    self.revoke(session)
            self._close(other)
        try:
            self._check_room()
        except Problem:
            self._close(user)
            raise
        self._users[key] = user
        return user

    def _check_room(self) -> None:
        if len(self._users) < self.settings.max_clients:
            return
        unused = [user for user in self._users.values() if user.pins == 0]
        if not unused:
            raise busy(f"{len(self._users)} users are connected already")
        self._close(min(unused, key=lambda user: user.used_at))

    async def of(self, request: Request) -> UserSession:
        """
        The session of a request, connected: its client is not closed before the request's end.

        Raises:
            Problem: 401, for whatever is wrong with the token.
            MemphisError: The broker cannot be reached.
        """
        return await self.use(self.named_by(request), request)

    def named_by(self, request: Request) -> UserSession:
        """The session that a request's token names, as it is; a Problem, 401, when there is none."""
        return self.by_claims(self.tokens.verify(token_of(request), "access"))

    async def use(self, session: UserSession, request: Request) -> UserSession:
        """Has a session's client connected, and keeps it until the request's end."""
        user = session.user
        if self._users.get(user.key) is not user:
            session.user = user = self._shared(user)
        request.scope.setdefault("state", {}).setdefault(PINS, []).append(user)
        user.pins += 1
        if user.client is None:
            try:
                await user.connected()
            except AuthenticationError:
                self.revoke(session)
                raise unauthorized() from None
        return session

    def _shared(self, user: User) -> User:
        """A user that was closed for being idle is at work again, or another session's has taken its place."""
        other = self._users.get(user.key)
        if other is None:
            self._check_room()
            self._users[user.key] = user
            return user
        if not other.secret.matches(user.secret):
            raise unauthorized()
        return other

    def by_claims(self, claims: Optional[Claims]) -> UserSession:
        """The session that a token names; a Problem, 401, when there is none any more."""
        session = None if claims is None else self._logins.get(claims.session)
        if session is None:
            raise unauthorized()
        return session

    def revoke(self, session: UserSession) -> None:
        """Ends a session: none of its tokens is accepted any more."""
        self._logins.remove(session)

    @staticmethod
    def release(scope: Any) -> None:
        """The end of a request: the clients that it has used may be closed."""
        for user in scope.get("state", {}).pop(PINS, ()):
            user.pins -= 1
            user.used_at = time.monotonic()

    def renew(self, scope: Any) -> None:
        """A client of a request has ended for good: the next request opens another one."""
        for user in scope.get("state", {}).get(PINS, ()):
            self._close(user)

    # ---- the end ----------------------------------------------------------------------------------------------------

    async def _tidy(self) -> None:
        """Closes what is idle, and forgets sessions whose last token has expired."""
        while True:
            await asyncio.sleep(min(self.settings.idle_s / 4, 15.0))
            now, idle_s = time.monotonic(), self.settings.idle_s
            for user in [user for user in self._users.values() if user.is_idle(now, idle_s)]:
                self._close(user)
            for session in self._logins.expired():
                self.revoke(session)

    def _close(self, user: User) -> None:
        if self._users.get(user.key) is user:
            del self._users[user.key]
        client = user.client
        user._client = SingleFlight(1, lambda _: None)
        user.producers, user.consumers = SingleFlight(MAX_KEPT, user._end), SingleFlight(MAX_KEPT, user._end)
        if client is not None:
            self.in_background(partial(client.close, CLOSE_S))

    async def close(self) -> None:
        """Ends all clients, each after what it has accepted is settled, for a few seconds at most."""
        self._tidying.cancel()
        for user in list(self._users.values()):
            self._close(user)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, partial(self._connecting.shutdown, cancel_futures=True))
        await loop.run_in_executor(None, self._control.shutdown)
        await loop.run_in_executor(None, self._waiting.shutdown)


def _quietly(function: Callable[[], object]) -> None:
    try:
        function()
    except MemphisError as exc:
        log.warning("%s", exc)


def address_of(request: Request) -> str:
    """The client's address; "" when the server does not know it."""
    return request.client.host if request.client else ""


def token_of(request: Request) -> str:
    """The token that a request comes with; "" for none that can be one."""
    value = request.headers.get("authorization")
    if value is None:
        return request.query_params.get("authorization", "")
    parts = value.split(" ")
    return parts[1] if len(parts) == 2 else ""
