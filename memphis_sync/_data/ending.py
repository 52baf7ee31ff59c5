"""The end of a data link: what is queued is sent, and confirmed, before connection and threads end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from memphis_sync._base.logs import Log
from memphis_sync.errors import ConnectionLostError

if TYPE_CHECKING:
    from memphis_sync._data.connection import DataLink

log = Log("memphis_sync.link")
LAST_ROUND_TRIP_S = 0.05  # what is allowed for the acks of messages, however short the time is


def let_go(link: DataLink) -> int:
    """
    Takes and sends nothing more, and leaves the outbox's file to whoever opens it next. Waits for nothing, and can be
    repeated. Gives how many messages it has given up.
    """
    link.core.close()
    left: int = link.core.abandon()
    link.core.stop()
    if link.file is not None:
        link.file.leave(link.core.stats()["abandoned"])
    return left


def end_steps(link: DataLink, deadline: float, acks_until: float, last: float, reports_until: float) -> Iterator[None]:
    """
    Takes no messages any more, sends what is queued, waits for its acks, then ends connection and threads. What is left
    is given up: it may be stored all the same.

    A generator, so that one thread ends several links side by side: what it begins before a yield it waits for after.

    Args:
        link: Which.
        deadline: For the acks of produced messages; this and the others by ``time.monotonic()``.
        acks_until: For those of consumed ones.
        last: For the threads, which else are left to end by themselves.
        reports_until: For callbacks.
    """
    if link._phase in ("closed", "ended"):  # what is held has nowhere to go; or an end was interrupted
        link._end("ended", last, reports_until)
        return
    link.core.close()
    try:
        yield
        link.core.wait_drained(-1, deadline)
        if link.core.is_up():
            # Acks of messages are queued behind nothing but time: one round trip, and the broker has them.
            number, until = link.core.ping(), max(acks_until, time.monotonic() + LAST_ROUND_TRIP_S)
            yield
            link.core.wait_pong(number, until)
        let_go(link)  # the threads of all of them end at the same time
        yield
    except ConnectionLostError:
        log.debug("%r ended without a connection", link._label)
    finally:
        link._end("ended", last, reports_until)
