"""
The client's reports and requests about dead letters, and about messages that it gives back.

What must not get lost is said until the broker has answered that it keeps it. "Nobody listens" is no answer, and
neither is silence: whoever takes them for one loses what was sent while the broker was away. That is for our broker; a
Memphis broker has no such word, and gets the same as plain messages.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Optional

from memphis_sync._base.logs import Log
from memphis_sync._control.api import NO_RESPONDERS, Requests, ask, server_error
from memphis_sync._control.connection import ControlLink
from memphis_sync._protocol.body import NOT_NOW, Request
from memphis_sync._protocol.dead_letters import CountOwed, DeadLetterData, GivenBack
from memphis_sync.errors import ConnectionLostError, DeadlineError, MemphisError, ServerError

log = Log("memphis_sync.control")

TRY_S = 3.0  # until a request is made again: who had it may have been killed, and then no answer comes
_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.05, 0.5


async def tell(control: ControlLink, report: Request[Any], timeout_s: float, what: str, *, is_memphis: bool) -> None:
    """
    Tells the broker of a dead letter, or that a group is done with one.

    Our broker is asked until it keeps it; what it gets twice it keeps once. A Memphis broker never answers: there it
    counts as done when its server has read it, and a message that was to be acknowledged after it may be lost.

    Args:
        control: Where to ask.
        report: What to tell.
        timeout_s: For all of it, in seconds; outages and restarts are waited out within it.
        what: The call, for error texts.
        is_memphis: Whether this is a Memphis broker.

    Raises:
        ServerError: The broker cannot keep it.
        DeadlineError: Our broker did not say in time that it keeps it; it may.
        ConnectionLostError, ClosedError: As ControlLink.request().
    """
    body = report.encode()
    if is_memphis:
        await control.publish(report.SUBJECT, body, timeout_s)
        return
    deadline, pause_s = time.monotonic() + timeout_s, _FIRST_PAUSE_S
    while True:
        left_s = max(0.001, deadline - time.monotonic())
        cause: Optional[MemphisError] = None
        try:
            reason = report.REPLY.decode(await control.request(report.SUBJECT, body, min(TRY_S, left_s))).error
        except (DeadlineError, ConnectionLostError, ServerError) as exc:
            if isinstance(exc, ServerError) and exc.code != NO_RESPONDERS:
                raise
            cause, reason = exc, str(exc)
        if not reason:
            return
        if cause is None and not reason.startswith(NOT_NOW):
            raise server_error(reason, what)
        if time.monotonic() + pause_s >= deadline:
            raise DeadlineError(
                f"{what}: the broker did not confirm within {timeout_s:g} s that it has stored it ({reason})",
                timeout_s=timeout_s,
            ) from cause
        log.debug("%s: asking again: %s", what, reason)
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, _MAX_PAUSE_S)


async def give_back(control: ControlLink, request: GivenBack, timeout_s: float) -> None:
    """
    Tells our broker what a member gives back without having looked at it, so that it uses no delivery up. The messages
    are given back with a NAK after it: the broker must know of it before the server counts. A Memphis broker does not
    offer this, and must not be asked.

    Args:
        control: Where to ask.
        request: All that is given back; of more than MAX_GIVEN_BACK messages the broker is told in several requests.
        timeout_s: For all of it, in seconds.

    Raises:
        ServerError: The broker refused, or there is none that offers it (code 503).
        DeadlineError, ConnectionLostError, ClosedError: As ControlLink.request().
    """
    deadline = time.monotonic() + timeout_s
    for part in request.parts():
        await ask(control, part, max(0.001, deadline - time.monotonic()), about="giving messages back")


async def count_owed(control: ControlLink, station: str, group: str, timeout_s: float) -> int:
    """
    How many messages our broker sends to a group again that are no dead letters yet: members had them and gave them
    back. Those that a member has in hand count until it has answered. A Memphis broker must not be asked.

    Raises:
        ServerError: The broker refused.
        DeadlineError, ConnectionLostError, ClosedError: As ControlLink.request(); restarts are waited out.
    """
    return (await ask(control, CountOwed(station, group), timeout_s, about="reading to the end")).count


async def read_data(requests: Requests, station: str, dead_letter_id: int) -> Optional[bytes]:
    """Header block and payload of a dead letter, piece by piece; None when they have gone."""
    data, about = bytearray(), f"dead letters of station {station!r}"
    while True:
        request = DeadLetterData(station, id=dead_letter_id, offset=len(data))
        reply = await requests.ask(request, about=about, fine="has no dead letter")
        if reply.error:
            return None
        data += reply.data
        if len(data) >= reply.total or not reply.data:
            return bytes(data)
