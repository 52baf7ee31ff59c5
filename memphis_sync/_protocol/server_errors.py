"""
What a server's ``-ERR`` means for a connection; only here are refused credentials distinguished from other errors.

Rules
* Only a verdict can end a link for good, and only when every address has repeated it: a server that is starting or
  changing its users may refuse for a moment what it accepts again afterwards.
* A complaint concerns one operation; the connection stays.
* Everything else (a stale connection, too many of them, a shutdown, a login that took too long) is an outage like any
  other. The server closes the connection after it, and it is made again.

Source: the texts are those of nats-server 2.9 to 2.14 (``server/errors.go``, ``server/client.go``) and of Memphis 1.4,
which has them from it (protocol reference 1.5).
"""

from __future__ import annotations

from collections.abc import Iterable

REFUSALS = 5  # of each address, before the credentials count as refused for good
_VERDICTS = ("authorization violation", "authentication violation", "invalid credentials")
_ENDED = ("expired", "revoked")  # of credentials, a user or an account
_WHOSE = ("auth", "credential", "user", "account", "token")
_COMPLAINTS = (
    "permissions violation",
    "invalid subject",
    "invalid publish subject",
    "invalid subscription",
    "maximum subscriptions exceeded",
)


def is_verdict(text: str) -> bool:
    """Whether the server has judged the credentials: it refused them, or they have expired or were revoked."""
    lowered = text.lower()
    if any(words in lowered for words in _VERDICTS):
        return True
    return any(word in lowered for word in _ENDED) and any(word in lowered for word in _WHOSE)


def is_complaint(text: str) -> bool:
    """Whether the server refused a single operation, and keeps the connection."""
    lowered = text.lower()
    return any(words in lowered for words in _COMPLAINTS)


class Refusals:
    """
    Counts the verdicts on one link's credentials since it was last accepted.

    Args:
        addresses: All that the link tries.
    """

    def __init__(self, addresses: Iterable[str]) -> None:
        self._counts = dict.fromkeys(addresses, 0)

    def add(self, address: str) -> bool:
        """Another verdict; whether each address has given REFUSALS of them by now."""
        self._counts[address] = self._counts.get(address, 0) + 1
        return all(count >= REFUSALS for count in self._counts.values())

    def clear(self) -> None:
        """A server has accepted the credentials."""
        self._counts = dict.fromkeys(self._counts, 0)
