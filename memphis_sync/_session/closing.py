"""
The end of one client, step by step.

close_steps() is a generator: what it begins before a yield it waits for after it, with limits that were fixed before.
So one thread ends many clients side by side, as at the end of a process, and starts no thread for it.
Every step can be repeated: after Ctrl-C another run with no time left does what is left to do.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Coroutine, Iterator
from typing import TYPE_CHECKING, Any, Callable, Optional

from memphis_sync._base.logs import Log
from memphis_sync._base.threads import join
from memphis_sync._data.ending import end_steps, let_go
from memphis_sync._session import shutdown
from memphis_sync._session.ticks import call_all
from memphis_sync.errors import ForkedError, MemphisError

if TYPE_CHECKING:
    from memphis_sync._session.event_loop import Call
    from memphis_sync._session.session import Session

log = Log("memphis_sync.control")
_CONTROL_CLOSE_S = 2.0
_REPORTS_S = 1.0  # for what waits to be reported when a client is closed: a round trip
_GIVE_BACK_S = 2.0  # for messages that nobody has looked at: a round trip or two
_CALLBACKS_S = 5.0  # for a callback that is running
_LOOP_S = 2.0
_LATE_S = 0.09  # how much longer than its time a close() takes at most, on a machine that is not busy
_LEAST_LOOP_S = 0.02  # for the loop's thread, however short the time is


def close_steps(
    session: Session, deadline: float, *, broker_s: float = math.inf, late_s: float = _LATE_S
) -> Iterator[None]:
    """
    Sends what is queued, then ends links and threads. Its caller holds the session's lock for it.

    Args:
        session: Whose.
        deadline: For handlers, messages and callbacks, by ``time.monotonic()``.
        broker_s: For each thing that is to be heard by the broker once these are over, in seconds.
        late_s: How much longer all together may take, which decides when the time is very short.
    """
    if not session.is_closing:
        for reader in list(session.readers):
            reader.wake()
        yield
        for thread in join(session._threads, deadline):
            log.error("thread %s did not end in time: a callback still runs", thread.name)
        if session._data is not None:
            session._data.wait_held(deadline)
    brief = min(deadline, time.monotonic() + broker_s)
    last = max(brief, time.monotonic()) + late_s

    def left_s(at_most: float) -> float:
        return max(0.0, min(at_most, last - time.monotonic()))

    def ask(work: Callable[[], Coroutine[Any, Any, Any]]) -> Optional[Call[Any]]:
        return session.loop.begin(work, "close()") if session.loop.is_alive() else None

    def heard(call: Optional[Call[Any]], at_most: float) -> Optional[BaseException]:
        try:
            if call is not None:
                session.loop.end(call, left_s(at_most), "close()")
        except (MemphisError, ForkedError) as exc:
            return exc
        return None

    if not session.is_closing:
        for reader in list(session.readers):
            reader.end(min(brief, time.monotonic() + _GIVE_BACK_S))
        call = ask(session.loop.drain)
        yield
        error = heard(call, _GIVE_BACK_S / 2)
        if error is not None:
            log.debug("%r: giving messages back: %s", session.label, error)  # they come back after their ack time
    session.is_closing = True
    if session._data is not None:
        try:
            yield from end_steps(session._data, deadline, brief, last, max(deadline, last))
        finally:
            session.left = session._data.stats().abandoned  # counted there also when Ctrl-C ended the drain
    control = session._control
    if control is not None:
        call = ask(session.reports.drain)
        yield
        error = heard(call, _REPORTS_S)
        if error is not None:
            log.warning("%r: not every schema failure could be reported: %s", session.label, error)
        call = ask(control.close)
        yield
        error = heard(call, _CONTROL_CLOSE_S)
        if error is not None:
            log.debug("%r: closing the control link: %s", session.label, error)
        with contextlib.suppress(MemphisError):  # the loop has ended, and its connections with it
            session.loop.post(control.abort)  # close() may have had no time even to begin
    call_all(session)
    session.callbacks.close(left_s(_CALLBACKS_S))
    if session.loop.is_alive():
        session.loop.begin_stop()
    yield
    session.loop.stop(max(left_s(_LOOP_S), _LEAST_LOOP_S))
    join(session._registrations, last)  # what it waits for has ended
    shutdown.unregister(session)
    session.is_closed = True


def leave_file(session: Session) -> None:
    """A close() that did not come to its end leaves the outbox file to the next client all the same."""
    if not session.is_closed and session._data is not None and session._data.file is not None:
        let_go(session._data)
