"""
Requests that are repeated until the broker has said that it keeps what they hold.

"Nobody listens" is no answer, and neither is silence: whoever takes them for one loses what was sent while the broker
was away. This is for our broker; a Memphis broker has no such word, and gets the same as plain messages.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Callable, Optional

from memphis_sync._base.logs import Log
from memphis_sync._control.connection import ControlLink
from memphis_sync.errors import ConnectionLostError, DeadlineError, MemphisError, ServerError

log = Log("memphis_sync.control")

TRY_S = 3.0  # until a request is made again: who had it may have been killed, and then no answer comes
_NO_RESPONDERS = 503
_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.05, 0.5


async def ask_until_kept(
    control: ControlLink,
    subject: str,
    body: bytes,
    timeout_s: float,
    what: str,
    judge: Callable[[bytes], str],
) -> None:
    """
    Asks until the broker keeps it.

    Args:
        control: Where to ask.
        subject: Where to.
        body: The same each time; the broker keeps what it gets twice only once.
        timeout_s: For all of it, in seconds; outages and restarts are waited out within it.
        what: The call, for error texts.
        judge: Says of a reply why it means "not now"; "" when it is kept. Raises when it never will be.

    Raises:
        DeadlineError: The broker did not say in time that it keeps it; it may.
        MemphisError: What *judge* raises.
        ClosedError: The link was closed, or has given up.
    """
    deadline, pause_s = time.monotonic() + timeout_s, _FIRST_PAUSE_S
    while True:
        left_s = max(0.001, deadline - time.monotonic())
        cause: Optional[MemphisError] = None
        try:
            reply = await control.request(subject, body, min(TRY_S, left_s))
        except (DeadlineError, ConnectionLostError) as exc:
            cause, reason = exc, str(exc)
        except ServerError as exc:
            if exc.code != _NO_RESPONDERS:
                raise
            cause, reason = exc, str(exc)
        else:
            reason = judge(reply)
            if not reason:
                return
        if time.monotonic() + pause_s >= deadline:
            raise DeadlineError(
                f"{what}: the broker did not say within {timeout_s:g} s that it keeps it ({reason})",
                timeout_s=timeout_s,
            ) from cause
        log.debug("%s: asking again: %s", what, reason)
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, _MAX_PAUSE_S)


async def store(control: ControlLink, subject: str, body: bytes, timeout_s: float, what: str) -> None:
    """
    Has a body stored on a subject that our broker's queue takes: JetStream answers when it has written it.

    Arguments and errors as ask_until_kept().
    """
    await ask_until_kept(control, subject, body, timeout_s, what, _judge_ack)


def _judge_ack(reply: bytes) -> str:
    """JetStream's answer to a message: why it is not stored, "" when it is."""
    try:
        answer = json.loads(reply)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        return f"it answered {reply[:64]!r}"
    error = answer.get("error")
    if error:
        return str(error.get("description") if isinstance(error, dict) else error)
    return "" if isinstance(answer.get("seq"), int) else f"it answered {reply[:64]!r}"
