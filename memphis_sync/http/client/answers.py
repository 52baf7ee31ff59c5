"""
Reading a gateway's responses: which gateway it is, and what it says of an error.

Three shapes of errors exist: ``{"message": ...}``, ``{"success": false, "error": ...}`` and plain text; proxies add
HTML.
"""

from __future__ import annotations

import email.utils
import json
import time
from collections.abc import Mapping
from typing import Any, NamedTuple, Optional

from memphis_sync.http.client.transport import Answer

GATEWAY_HEADER = "Memphis-Gateway"
_MOST_SHOWN = 300  # characters of a gateway's text in an error


class Gateway(NamedTuple):
    """
    Which gateway answers, by its header Memphis-Gateway: ``memphis-sync/<version>; <feature>, <feature>, ...``.

    Attributes:
        is_own: Whether it is the one of memphis-sync; Memphis' own sends no such header.
        features: What it can do beyond Memphis' own.
    """

    is_own: bool = False
    features: frozenset[str] = frozenset()

    @property
    def keeps_ids(self) -> bool:
        """Whether Idempotency-Key becomes the message's id, so that a produce may be repeated."""
        return "idempotency-key" in self.features


def gateway_of(answer: Answer) -> Gateway:
    """The gateway that has sent a response."""
    product, _, features = answer.headers.get(GATEWAY_HEADER, "").partition(";")
    names = frozenset(name.strip().lower() for name in features.split(",") if name.strip())
    return Gateway(product.strip().lower().startswith("memphis-sync/"), names)


def json_of(answer: Answer) -> Any:
    """The body as JSON; None when it is something else."""
    if "json" not in answer.headers.get("content-type", ""):
        return None
    try:
        return json.loads(answer.body)
    except (ValueError, RecursionError):
        return None


def object_of(answer: Answer) -> Mapping[str, Any]:
    """The body as a JSON object; an empty one when it is something else."""
    found = json_of(answer)
    return found if isinstance(found, dict) else {}


def text_of(answer: Answer) -> str:
    """What a response says of its error, in one line."""
    found = object_of(answer)
    said = found.get("error") or found.get("message")
    if isinstance(said, list):
        said = "; ".join(each if isinstance(each, str) else json.dumps(each) for each in said)
    if not isinstance(said, str):
        kind = answer.headers.get("content-type", "")
        said = answer.body[:1000].decode("utf-8", "replace") if kind.startswith("text/plain") else ""
    line = " ".join(said.split())
    return line if len(line) <= _MOST_SHOWN else f"{line[: _MOST_SHOWN - 3]}..."


def retry_after_s(answer: Answer) -> Optional[float]:
    """The pause that a response asks for, in seconds or until a date; None when it asks for none."""
    text = answer.headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit() and len(text) < 8:
        return float(text)
    when = _time_of(text)
    return None if when is None else max(when - _now_of(answer), 0.0)


def _now_of(answer: Answer) -> float:
    """The gateway's clock, which is the one that its dates are by; this machine's, when it does not say."""
    sent = _time_of(answer.headers.get("date", ""))
    return time.time() if sent is None else sent


def seconds_until(unix_time: float, answer: Answer) -> float:
    """How far ahead a time was when a response was sent, by the gateway's own clock."""
    return unix_time - _now_of(answer)


def _time_of(text: str) -> Optional[float]:
    try:
        return email.utils.parsedate_to_datetime(text).timestamp()
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
