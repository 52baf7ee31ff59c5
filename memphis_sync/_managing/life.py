"""A client's beginning and end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable

from memphis_sync._options.connect import connect_options
from memphis_sync._options.table import ConnectArguments
from memphis_sync._session import SessionPerProcess, greenlets, shutdown, waiting

if TYPE_CHECKING:
    from memphis_sync.client import Memphis


def opened(given: ConnectArguments, forget_station: Callable[[str], None]) -> SessionPerProcess:
    """Connects; *forget_station* is called with the internal name of each station that is destroyed."""
    greenlets.prepare()
    options = connect_options(given)
    waiting.forbid_on_own_thread("connect()")
    sessions = SessionPerProcess(options, forget_station)
    sessions.open()
    return sessions


def close(client: Memphis, timeout_s: float) -> None:
    """Closes what this process has opened of a client."""
    session = client._own_session()
    if session is None or session.is_closed:
        return
    try:
        session.close(timeout_s)
    finally:
        client._producers.clear()
        client._consumers.clear()
        if session.left:
            where = f"when {session.label!r} was closed"
            shutdown.warn_undelivered(session.left, where, stacklevel=4, kept=session.kept)
