"""
The clients of a project: one for each alias and process, shared by all of its threads.

A client is opened at its first use, so after a server has forked, and stays open: the end of the process drains it.
Django's own connection handlers keep one connection a thread; a client is threads and sockets, so one serves all. Each
alias has its own lock, so that one broker that is away holds up nobody who wants another one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Optional, cast

from django.conf import settings
from django.core.signals import setting_changed

from memphis_sync import Memphis
from memphis_sync.contrib._opening import Arguments, SharedClient
from memphis_sync.contrib.django import _config
from memphis_sync.contrib.django._config import DEFAULT
from memphis_sync.contrib.django._warning import IN_TRANSACTION


class Clients:
    """
    The clients by alias: ``clients["default"]``. The name of an alias that is not in ``settings.MEMPHIS`` is a
    ConfigurationError with the nearest one.

    Attributes:
        lost_after_commit: How many messages of produce_on_commit() were not accepted after their commit, in this
            process.
    """

    def __init__(self) -> None:
        self._places: dict[str, SharedClient] = {}
        self.lost_after_commit = 0

    def __getitem__(self, alias: str) -> Memphis:
        """
        The client of an alias. The first use in a process connects.

        Raises:
            ConfigurationError: There is no such alias, or its settings are wrong.
            ConnectError, AuthenticationError: As memphis_sync.connect(). The next use tries again.
        """
        place = self._places.get(alias)
        if place is None:
            _config.alias(alias)
            place = self._places.setdefault(alias, SharedClient())

        return place.client or place.get(lambda: _arguments(alias))

    def __contains__(self, alias: object) -> bool:
        return alias in _config.aliases()

    def __iter__(self) -> Iterator[str]:
        return iter(_config.aliases())

    def __len__(self) -> int:
        return len(_config.aliases())

    def __repr__(self) -> str:
        return f"<clients {', '.join(f'{alias}: {self.opened(alias) or None!r}' for alias in self)}>"

    def opened(self, alias: str = DEFAULT) -> Optional[Memphis]:
        """The client of an alias if it was opened; None otherwise. No IO."""
        place = self._places.get(alias)
        return None if place is None else place.client

    def close_all(self, timeout_s: float = 5.0) -> None:
        """
        Closes the clients that are open, as ``Memphis.close()`` does; their next use opens new ones. The end of the
        process does so by itself, so programs need it only to look at what is stored, in tests for instance.
        """
        for place in list(self._places.values()):
            place.close(timeout_s)

    def _on_setting_changed(self, *, setting: str, **_: object) -> None:
        """After the settings are read again: closes what was opened with others."""
        if setting != "MEMPHIS":
            return
        for alias, place in list(self._places.items()):
            known = _config.aliases().get(alias)
            if known is None or known.problems or dict(_arguments(alias)) != dict(place.arguments or {}):
                place.close()


def _arguments(alias: str) -> Arguments:
    """Of connect(), for an alias without problems."""
    found = _config.alias(alias)
    if not (settings.DEBUG and found.warns):
        return found.arguments
    return Arguments({**found.arguments, "observers": (*found.arguments.get("observers", ()), IN_TRANSACTION)})


clients = Clients()
setting_changed.connect(clients._on_setting_changed)


class _Default:
    """
    The client of ``default``, as ``django.core.cache.cache`` is its cache: looking up a name opens it.

    Leaving a ``with`` block would close what all threads share, so it is no context manager.
    """

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what tools look for in anything that they meet
            return getattr(Memphis, name)
        return getattr(clients[DEFAULT], name)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return Memphis

    def __dir__(self) -> list[str]:
        return dir(Memphis)

    def __repr__(self) -> str:
        client = clients.opened(DEFAULT)
        return "<Memphis 'default' not opened>" if client is None else repr(client)

    def __reduce__(self) -> str:
        return "memphis"

    def close(self, timeout_s: float = 5.0) -> None:
        """Closes the client of ``default``, if it is open; the next use opens another one."""
        place = clients._places.get(DEFAULT)
        if place is not None:
            place.close(timeout_s)


memphis = cast("Memphis", _Default())
