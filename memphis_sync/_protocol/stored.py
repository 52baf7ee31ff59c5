"""A message as a stream keeps it, and JetStream's times."""

from __future__ import annotations

import base64
import calendar
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple, Optional

NO_MESSAGE = (10037, 10043)  # err_code: not found; the sequence is beyond what the stream has
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_NS_PER_S = 1_000_000_000


class StoredMessage(NamedTuple):
    """
    A message as a stream keeps it.

    Attributes:
        block: Its header block; b"" without headers.
        time_ns: When it was stored; nanoseconds since 1970.
    """

    sequence: int
    block: bytes
    payload: bytes
    time_ns: int
    subject: str


def stored_message(reply: Mapping[str, Any]) -> StoredMessage:
    """
    Reads the reply to ``STREAM.MSG.GET``.

    Raises:
        KeyError, TypeError, ValueError: It is not one.
    """
    message = reply["message"]
    block, payload = (base64.b64decode(message.get(part) or "") for part in ("hdrs", "data"))
    return StoredMessage(int(message["seq"]), block, payload, nanoseconds(message["time"]), str(message["subject"]))


def nanoseconds(text: str) -> int:
    """JetStream's time, RFC 3339 in UTC with up to nine digits, as nanoseconds since 1970."""
    whole, _, fraction = text.rstrip("Z").partition(".")
    return calendar.timegm(datetime.fromisoformat(whole).timetuple()) * _NS_PER_S + int(fraction.ljust(9, "0")[:9])


def time_of(time_ns: int) -> datetime:
    """Nanoseconds since 1970 as a time, UTC, to the microsecond."""
    return EPOCH + timedelta(microseconds=time_ns // 1000)


def time_or_none(text: Optional[str]) -> Optional[datetime]:
    """JetStream's time; None when it says nothing, or the year 1 that stands for that."""
    time_ns = nanoseconds(text) if text else 0
    return time_of(time_ns) if time_ns > 0 else None
