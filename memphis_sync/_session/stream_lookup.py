"""Whether a stream that does not answer exists: the data link cannot know, so it is asked over the control link."""

from __future__ import annotations

import functools
import weakref
from typing import TYPE_CHECKING, Callable

from memphis_sync._base.logs import Log
from memphis_sync._core._codes import StreamAnswer
from memphis_sync.errors import ClosedError, MemphisError, StationNotFoundError

if TYPE_CHECKING:
    from memphis_sync._session.session import Session

log = Log("memphis_sync.control")
_LOOK_S = 2.0


def stream_lookup(session: Session) -> Callable[[str, Callable[[int], None]], None]:
    """What a data link calls with a stream's name, from any thread, and with what takes the answer; see DataLink."""
    known = weakref.ref(session)  # the link is the session's

    def look_for(stream: str, answer: Callable[[int], None]) -> None:
        session = known()
        try:
            if session is None:
                raise ClosedError("the client has ended")
            session.loop.spawn(functools.partial(_look_for, session, stream, answer))
        except ClosedError:
            answer(StreamAnswer.UNKNOWN)

    return look_for


async def _look_for(session: Session, stream: str, answer: Callable[[int], None]) -> None:
    found = StreamAnswer.UNKNOWN
    try:
        await session.control.js_api(f"STREAM.INFO.{stream}", None, _LOOK_S)
        found = StreamAnswer.EXISTS
    except StationNotFoundError:
        found = StreamAnswer.GONE
    except MemphisError as exc:  # JetStream has no leader of its own, or the control link is away: nobody can tell
        log.debug("%r asked for stream %r: %s", session.label, stream, exc)
    finally:
        answer(found)
