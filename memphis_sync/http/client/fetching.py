"""
Fetching messages, which the gateway acknowledges before its answer arrives.

An answer that is lost takes them along.
"""

from __future__ import annotations

import base64
import binascii
import json
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, NamedTuple, NoReturn, Optional

from memphis_sync._options.checks import as_int
from memphis_sync.errors import (
    ConnectionLostError,
    DeadlineError,
    MemphisError,
    RemoteProtocolError,
    ServerError,
    StationNotFoundError,
    UsageError,
)
from memphis_sync.http.client.answers import Gateway, json_of, text_of
from memphis_sync.http.client.calling import Caller, Failed, Reply
from memphis_sync.http.client.results import HttpMessage
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
    partitions: int
    timeout_s: Optional[float]


class FirstUse(NamedTuple):
    """Memphis' own gateway keeps group and wait of a consumer's first use, whatever later ones say."""

    group: str
    wait_ms: int


def fetch(caller: Caller, first_uses: dict[tuple[str, str], FirstUse], given: Fetch) -> list[HttpMessage]:
    """
    Fetches a batch.

    Raises:
        As HttpClient.fetch_messages().
    """
    calls = 1 if caller.tokens.gateway.is_own else given.partitions
    wait_ms = max(given.wait_ms // calls, LEAST_WAIT_MS)
    first = first_uses.setdefault((given.station, given.consumer), FirstUse(given.group, wait_ms))
    if not caller.tokens.gateway.is_own and first.group != given.group:
        raise UsageError(
            f"consumer {given.consumer!r} of station {given.station!r} was used with the group {first.group!r} before, "
            "and Memphis' own gateway goes on with that one; take another consumer_name for another group"
        )
    longest_s = max(first.wait_ms, wait_ms) * calls / 1000 + ANSWER_S
    timeout_s = longest_s if given.timeout_s is None else given.timeout_s
    deadline = time.monotonic() + timeout_s
    body = json.dumps(
        {
            "consumer_name": given.consumer,
            "consumer_group": given.group,
            "batch_size": given.batch_size,
            "batch_max_wait_time_ms": wait_ms,
        }
    ).encode()
    path = f"/stations/{given.station}/consume/batch"
    found: list[HttpMessage] = []
    while calls and not found:
        calls -= 1
        try:
            reply = caller.call(path, lambda _gateway, _left_s: ([JSON_TYPE], body), deadline, is_repeatable=False)
        except Failed as exc:
            raise _failure(exc, given.station, timeout_s) from exc
        found = messages_of(reply, given.station)
    return found


def _failure(exc: Failed, station: str, timeout_s: float) -> MemphisError:
    lost = "" if exc.outcome == "not_sent" else "; messages that it had fetched are acknowledged, and lost"
    if exc.is_late:
        return DeadlineError(
            f"the gateway did not answer for station {station!r} within {timeout_s:g} s: {exc}{lost}",
            timeout_s=timeout_s,
        )
    return ConnectionLostError(f"the gateway's answer for station {station!r} was lost: {exc}{lost}")


def messages_of(reply: Reply, station: str) -> list[HttpMessage]:
    """
    The messages of an answer.

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
    found = json_of(answer)
    if not isinstance(found, list):
        _refuse(station)
    return [_message_of(each, station, reply.gateway) for each in found]


def _message_of(found: Any, station: str, gateway: Gateway) -> HttpMessage:
    if not isinstance(found, Mapping) or not isinstance(found.get("message"), str):
        _refuse(station)
    text = found["message"]
    try:
        if found.get("encoding") == "base64":
            data = base64.b64decode(text, validate=True)
        else:
            data = text.encode("utf-8", "surrogatepass")
    except binascii.Error:
        _refuse(station)
    headers = found.get("headers")
    return HttpMessage(
        station,
        data,
        {str(name): str(value) for name, value in headers.items()} if isinstance(headers, Mapping) else {},
        may_be_damaged=not gateway.is_own and _REPLACED in text,
        sequence=as_int(found.get("seq")),
        partition=as_int(found.get("partition")),
        timesent=_time_of(found.get("time")),
    )


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
