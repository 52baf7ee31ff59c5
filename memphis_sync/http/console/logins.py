"""
Who is logged in at the console: a table in memory, from the digest of a cookie to a login.

Rules:
* The cookie is 32 random bytes; only its digest is kept. It says nothing, so there is nothing in it to forge.
* A new login gets a new cookie, whatever the browser sent: nobody can be made to use a cookie that another one knows.
* A login ends when its user logs out, after IDLE_S without a request, after LIFETIME_S in any case, when its user has
  logged in MOST_OF_USER times since, and with the process. A cookie of an ended login is an unknown one.
* The table is bounded; the login that was used least recently makes room.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Callable, Literal, Optional

if TYPE_CHECKING:
    from memphis_sync.http.gateway.sessions import UserSession

IDLE_S = 30 * 60.0  # a pause of a person's at work; live numbers keep a page that is looked at from counting as idle
LIFETIME_S = 12 * 3600.0  # a working day
MOST = 1000  # logins at once; each is about a kilobyte
MOST_OF_USER = 20
_MOST_NOTICES = 10


@dataclass(frozen=True)
class Notice:
    """What a change has led to, shown once on the next page."""

    text: str
    kind: Literal["done", "failed"] = "done"


@dataclass(eq=False)
class Login:
    """
    One login of one browser.

    Attributes:
        session: The user's at the gateway; its client is shared with all who are the same user.
        csrf: What every changing request must carry.
        began, used: Seconds of the table's clock.
        notices: To be shown on the next page.
    """

    session: UserSession
    began: float
    used: float
    csrf: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    notices: list[Notice] = field(default_factory=list)

    @property
    def who(self) -> tuple[int, str]:
        """The account and the broker's user."""
        return self.session.account_id, self.session.username

    def notify(self, text: str, kind: Literal["done", "failed"] = "done") -> None:
        """Adds a notice; the oldest makes room."""
        self.notices = [*self.notices, Notice(text, kind)][-_MOST_NOTICES:]

    def take_notices(self) -> list[Notice]:
        """The notices, once."""
        taken, self.notices = self.notices, []
        return taken


class Logins:
    """
    The table. It belongs to the event loop's thread.

    Args:
        on_end: Called with each login that ends.
        clock: Seconds that only grow.
    """

    def __init__(self, on_end: Callable[[Login], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._on_end = on_end
        self._clock = clock
        self._logins: OrderedDict[bytes, Login] = OrderedDict()  # the one used least recently comes first

    def add(self, session: UserSession) -> str:
        """A new login; returns its cookie."""
        now = self._clock()
        who = (session.account_id, session.username)
        self._end_old(now)
        own = [key for key, login in self._logins.items() if login.who == who]
        for key in own[: max(0, len(own) - MOST_OF_USER + 1)]:
            self._end(key)
        while len(self._logins) >= MOST:
            self._end(next(iter(self._logins)))
        cookie = secrets.token_urlsafe(32)
        self._logins[_digest(cookie)] = Login(session, now, now)
        return cookie

    def find(self, cookie: Optional[str]) -> Optional[Login]:
        """The login of a cookie, which counts as used now; None when there is none, or it has ended."""
        if not cookie:
            return None
        now = self._clock()
        self._end_old(now)
        key = _digest(cookie)
        login = self._logins.get(key)
        if login is None:
            return None
        if now - login.began >= LIFETIME_S:
            self._end(key)
            return None
        login.used = now
        self._logins.move_to_end(key)
        return login

    def end(self, cookie: Optional[str]) -> None:
        """Ends the login of a cookie."""
        if cookie:
            self._end(_digest(cookie))

    def end_all(self) -> None:
        """Ends every login: the process stops."""
        for key in list(self._logins):
            self._end(key)

    def __len__(self) -> int:
        return len(self._logins)

    def _end_old(self, now: float) -> None:
        while self._logins:
            key, login = next(iter(self._logins.items()))
            if now - login.used < IDLE_S:
                return
            self._end(key)

    def _end(self, key: bytes) -> None:
        login = self._logins.pop(key, None)
        if login is not None:
            self._on_end(login)


def _digest(cookie: str) -> bytes:
    return hashlib.sha256(cookie.encode("utf-8", "surrogatepass")).digest()
