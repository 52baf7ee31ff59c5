"""Whom requests may name as their user."""

from __future__ import annotations

from typing import Optional

from memphis_sync.broker.request_error import RequestError


class Users:
    """
    The known users.

    Args:
        names: Their names; None when whoever may connect is trusted to name itself.
    """

    def __init__(self, names: Optional[frozenset[str]]) -> None:
        self._names = names

    def require(self, name: str, otherwise: str) -> None:
        """
        Checks that a user exists.

        Raises:
            RequestError: It doesn't; *otherwise* is the text.
        """
        if not name or (self._names is not None and name not in self._names):
            raise RequestError(otherwise)
