"""Makes the links of a session, and waits for a broker that is not there yet, if it was told to."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import TYPE_CHECKING, Callable

from memphis_sync._base.logs import DEBUG, INFO, Log
from memphis_sync._control import ControlLink
from memphis_sync._control.station_registry import StationRegistry
from memphis_sync._data import DataLink
from memphis_sync._memory import MemoryControl, MemoryLink
from memphis_sync._session.stream_lookup import stream_lookup
from memphis_sync._session.ticks import begin_all
from memphis_sync.errors import AuthenticationError, ConnectError

if TYPE_CHECKING:
    from memphis_sync._session.session import Session

log = Log("memphis_sync.control")


async def open_control(session: Session, on_removed: Callable[[str], None]) -> tuple[ControlLink, StationRegistry]:
    """
    The control link, and what it tells of stations; on the session's loop.

    Args:
        session: Whose; its options say for how long.
        on_removed: Called with a station's internal name when the broker announces its removal.

    Raises:
        ConnectError, AuthenticationError: See ControlLink.connect. Nothing is left running then.
    """
    options = session.options
    until = time.monotonic() + options.wait_s
    is_waiting = False
    while True:
        try:
            opened = await _open(session, on_removed, time.monotonic() + options.timeout_ms / 1000)
        except AuthenticationError:
            raise
        except ConnectError as exc:
            pause_s = session.outages.pause_s("control", 1, 0.0, 0.0)
            if time.monotonic() + pause_s >= until:
                raise
            level = DEBUG if is_waiting else INFO
            log.log(level, "%r waits up to %g s for its broker: %s", session.label, options.wait_s, exc)
            is_waiting = True
        else:
            begin_all(session)
            return opened
        await asyncio.sleep(pause_s)


async def _open(
    session: Session, on_removed: Callable[[str], None], deadline: float
) -> tuple[ControlLink, StationRegistry]:
    kind = MemoryControl if session.options.is_memory else ControlLink
    control = kind(session.options, session.connection_id, session.outages)
    try:
        await control.connect(deadline)
        stations = StationRegistry(control, on_removed, session.json_writer)
        await stations.start()
    except BaseException:
        await control.close()
        raise
    return control, stations


def new_data_link(session: Session) -> DataLink:
    """The data link, which is not open yet."""
    kind = MemoryLink if session.options.is_memory else DataLink
    # An id of its own: a broker marks what an id registered as gone when any connection of that id ends.
    return kind(
        session.options,
        number=session.number,
        link_id=str(uuid.uuid4()),
        label=session.label,
        callbacks=session.callbacks,
        outages=session.outages,
        look_for_stream=stream_lookup(session),
    )
