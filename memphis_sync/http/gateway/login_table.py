"""The table of all logins: bounded, and who logs in too often pushes out own logins only."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Optional

if TYPE_CHECKING:
    from .sessions import UserSession

Who = tuple[int, str]  # account and user


class LoginTable:
    """
    Logins by their ids.

    Args:
        most: How many there may be. Of the user that has most, the oldest makes room.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._by_id: dict[str, UserSession] = {}
        self._by_user: dict[Who, OrderedDict[str, UserSession]] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, session: UserSession) -> None:
        """Adds a login."""
        self._by_id[session.id] = session
        self._by_user.setdefault(session.who, OrderedDict())[session.id] = session
        while len(self._by_id) > self._most:
            most = max(self._by_user.values(), key=len)
            self.remove(next(iter(most.values())))

    def get(self, session_id: str) -> Optional[UserSession]:
        """The login with an id; None when there is none any more."""
        return self._by_id.get(session_id)

    def remove(self, session: UserSession) -> None:
        """Forgets a login, if it is there."""
        if self._by_id.pop(session.id, None) is not None:
            own = self._by_user[session.who]
            del own[session.id]
            if not own:
                del self._by_user[session.who]

    def of_user(self, who: Who) -> list[UserSession]:
        """A user's logins, the oldest first."""
        return list(self._by_user.get(who, {}).values())

    def expired(self) -> list[UserSession]:
        """Those whose last token has ended."""
        now = time.time()
        return [session for session in self._by_id.values() if session.expires < now]
