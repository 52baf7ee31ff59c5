"""
Fetching messages: with acknowledgements of the program's own, or acknowledged by the gateway before its answer arrives.

Of the second kind an answer that is lost takes its messages along; Memphis' own gateway has no other.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any, NamedTuple, NoReturn, Optional

from memphis_sync._options.checks import as_int
from memphis_sync.errors import (
    ConfigurationError,
    ConnectionLostError,
    DeadlineError,
    MemphisError,
    RemoteProtocolError,
    ServerError,
    StationNotFoundError,
    UsageError,
)
from memphis_sync.headers import is_own
from memphis_sync.http.client.answers import Gateway, json_of, object_of, text_of
from memphis_sync.http.client.calling import Caller, Failed, Reply
from memphis_sync.http.client.message import Delivery, HttpMessage, HttpMessages
from memphis_sync.http.client.transport import JSON_TYPE

DEFAULT_WAIT_MS = 1000
LEAST_WAIT_MS = 100  # of every gateway
ANSWER_S = 15.0  # how long an answer may take beyond the wait that was asked for
_REPLACED = "\ufffd"


class Fetch(NamedTuple):
    """The checked arguments of fetch_messages()."""

    station: str
    consumer: str
    group: str
    batch_size: int
    wait_ms: int
    ack_ms: int
    deliveries: int
    auto_ack: bool
    partitions: int
    timeout_s: Optional[float]


class FirstUse(NamedTuple):
    """Memphis' own gateway keeps group and wait of a consumer's first use, whatever later ones say."""

    group: str
    wait_ms: int


def fetch(get: Callable[[], Caller], first_uses: dict[tuple[str, str], FirstUse], given: Fetch) -> HttpMessages:
    """
    Fetches a batch.

    Raises:
        As HttpClient.fetch_messages().
    """
    gateway = get().tokens.gateway
    if not given.auto_ack:
        if "explicit-acks" not in gateway.features:
            raise ConfigurationError(
                "the gateway is Memphis' own, which acknowledges messages before they arrive here: pass auto_ack=True "
                "if they may be lost with an answer or with this program, or use the gateway of memphis-sync"
            )
        asked = {"ack_time_ms": given.ack_ms, "max_deliveries": given.deliveries}
        return _ask(get, given, "consume", given.wait_ms, asked, given.wait_ms / 1000 + ANSWER_S)
    calls = 1 if gateway.is_own else given.partitions
    wait_ms = max(given.wait_ms // calls, LEAST_WAIT_MS)
    first = first_uses.setdefault((given.station, given.consumer), FirstUse(given.group, wait_ms))
    if not gateway.is_own and first.group != given.group:
        raise UsageError(
            f"consumer {given.consumer!r} of station {given.station!r} was used with the group {first.group!r} before, "
            "and Memphis' own gateway goes on with that one; take another consumer_name for another group"
        )
    began_at, longest_s = time.monotonic(), max(first.wait_ms, wait_ms) * calls / 1000 + ANSWER_S
    found = HttpMessages()
    while calls and not found:
        calls -= 1
        found = _ask(get, given, "consume/batch", wait_ms, {}, longest_s - (time.monotonic() - began_at))
    return found


def _ask(
    get: Callable[[], Caller], given: Fetch, path: str, wait_ms: int, more: Mapping[str, Any], longest_s: float
) -> HttpMessages:
    """One request for messages."""
    timeout_s = longest_s if given.timeout_s is None else min(longest_s, given.timeout_s)
    fields = {
        "consumer_name": given.consumer,
        "consumer_group": given.group,
        "batch_size": given.batch_size,
        "batch_max_wait_time_ms": wait_ms,
    }
    body = json.dumps({**fields, **more}).encode()
    try:
        reply = get().call(
            f"/stations/{given.station}/{path}",
            lambda _gateway, _left_s: ([JSON_TYPE], body),
            time.monotonic() + timeout_s,
            is_repeatable=False,
        )
    except Failed as exc:
        raise _failure(exc, given, timeout_s) from exc
    return messages_of(reply, given.station, None if given.auto_ack else get)


def _failure(exc: Failed, given: Fetch, timeout_s: float) -> MemphisError:
    lost = ""
    if exc.outcome == "unknown":
        fate = "acknowledged, and lost" if given.auto_ack else "delivered again after their ack time"
        lost = f"; messages that it had fetched are {fate}"
    if exc.is_late:
        return DeadlineError(
            f"the gateway did not answer for station {given.station!r} within {timeout_s:g} s: {exc}{lost}",
            timeout_s=timeout_s,
        )
    return ConnectionLostError(f"the gateway's answer for station {given.station!r} was lost: {exc}{lost}")


def messages_of(reply: Reply, station: str, get: Optional[Callable[[], Caller]]) -> HttpMessages:
    """
    The messages of an answer.

    Args:
        reply: The answer.
        station: Their station.
        get: Gives the process's connections, for messages that the program acknowledges; None for others.

    Raises:
        ServerError, RemoteProtocolError: It holds none.
    """
    answer = reply.answer
    if answer.status != 200:
        text = text_of(answer)
        kind = StationNotFoundError if answer.status == 404 and reply.gateway.is_own else ServerError
        raise kind(
            f"the gateway answered {answer.status} for station {station!r}{f': {text}' if text else ''}",
            code=answer.status,
            description=text,
        )
    found = json_of(answer) if get is None else object_of(answer).get("messages")
    if not isinstance(found, list):
        _refuse(station)
    return HttpMessages(_message_of(each, station, reply.gateway, get) for each in found)


def _message_of(found: Any, station: str, gateway: Gateway, get: Optional[Callable[[], Caller]]) -> HttpMessage:
    if not isinstance(found, Mapping):
        _refuse(station)
    encoded = found.get("message_base64")  # both forms that a gateway of memphis-sync has
    if encoded is None and found.get("encoding") == "base64":
        encoded = found.get("message")
    text, token = found.get("message"), found.get("token")
    try:
        if isinstance(encoded, str):
            data = base64.b64decode(encoded, validate=True)
        elif isinstance(text, str):
            data = text.encode("utf-8", "surrogatepass")
        else:
            _refuse(station)
    except ValueError:
        _refuse(station)
    if get is not None and not isinstance(token, str):
        _refuse(station)
    return HttpMessage(
        station,
        data,
        _headers_of(found.get("headers")),
        None if get is None else Delivery(get, str(token)),
        may_be_damaged=not gateway.is_own and _REPLACED in str(text),
        sequence=as_int(found.get("sequence")),
        partition=as_int(found.get("partition")),
        timesent=_time_of(found.get("time")),
        delivered=as_int(found.get("delivered")),
    )


def _headers_of(found: object) -> dict[str, str]:
    """The program's own; the first value of each."""
    headers = {}
    for name, values in found.items() if isinstance(found, Mapping) else ():
        value = values[0] if isinstance(values, list) and values else values
        if isinstance(value, str) and not is_own(str(name)):
            headers[str(name)] = value
    return headers


def _time_of(text: object) -> Optional[datetime]:
    if not isinstance(text, str):
        return None
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(timezone.utc)
    except ValueError:
        return None


def _refuse(station: str) -> NoReturn:
    raise RemoteProtocolError(
        f"the answer for station {station!r} is not a list of messages; is it the URL of a Memphis gateway?"
    )
