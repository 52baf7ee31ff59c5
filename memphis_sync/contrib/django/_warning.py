"""Under DEBUG: warns once a call site about a produce() inside a transaction, which a rollback would not take back."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import connections

import memphis_sync
from memphis_sync.observer import UNWATCHED, Observer

log = logging.getLogger("memphis_sync.django")
_PACKAGE = str(Path(memphis_sync.__file__).parent)
_is_meant: contextvars.ContextVar[bool] = contextvars.ContextVar("memphis_is_meant", default=False)


@contextlib.contextmanager
def meant() -> Iterator[None]:
    """Around a produce that is right where it is, inside a transaction or not."""
    token = _is_meant.set(True)
    try:
        yield
    finally:
        _is_meant.reset(token)


class InTransaction(Observer):
    """The observer that warns."""

    def __init__(self) -> None:
        self._seen: set[tuple[str, int]] = set()

    def producing(self, station: str, count: int, headers: Any) -> Any:
        """On the thread that produces."""
        if settings.DEBUG and not _is_meant.get() and _is_in_transaction():
            self._warn(station)
        return UNWATCHED

    def _warn(self, station: str) -> None:
        place = _call_site()
        if place not in self._seen:
            self._seen.add(place)
            log.warning("%s:%d: produce() to %s inside a transaction; see produce_on_commit", *place, station)


def _is_in_transaction() -> bool:
    return any(each.in_atomic_block for each in connections.all(initialized_only=True))


def _call_site() -> tuple[str, int]:
    """The first line outside of this package."""
    frame = sys._getframe()
    while frame.f_code.co_filename.startswith(_PACKAGE) and frame.f_back is not None:
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno


IN_TRANSACTION = InTransaction()
