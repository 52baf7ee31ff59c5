"""
Several messages in one request, where each of them loses nothing by that.

At the gateway of memphis-sync they are the lines of a stream: each has an id of its own and a result of its own, so a
request without an answer is sent again, and a line without a result is sent once more alone.

At Memphis' own gateway they are the elements of a JSON array, which it decodes and writes again. So only objects go
there that come out of that as they were: no number that float64 changes, and for bytes or text also no blank, no order
and no escape that its writer would change. Of a request that failed nobody knows how much is stored.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from typing import Any, NamedTuple, Optional, Union

from memphis_sync._options.checks import as_int
from memphis_sync.errors import ProduceError, SchemaError
from memphis_sync.http.client.answers import Gateway
from memphis_sync.http.client.calling import Caller, Failed, Reply
from memphis_sync.http.client.producing import (
    Outgoing,
    answer_of,
    error_of,
    failure,
    produce,
    read_result,
    request_headers,
)
from memphis_sync.http.client.results import GatewayAnswer
from memphis_sync.http.client.transport import JSON_TYPE, Answer, Headers

MOST_MESSAGES, MOST_BYTES = 500, 512 * 1024  # of a request: a fault costs so much again
MAX_SAFE_INTEGER = 2**53

Outcome = Union[GatewayAnswer, ProduceError, SchemaError]


class Way(NamedTuple):
    """
    How messages go together.

    Attributes:
        path: Below the station's.
        kind: The content type.
    """

    path: str
    kind: bytes

    @property
    def is_stream(self) -> bool:
        """Whether each message has its own result."""
        return self.path == "stream"


TEXT_LINES = Way("stream", b"text/plain")
JSON_LINES = Way("stream", b"application/x-ndjson")
ARRAY = Way("batch", JSON_TYPE[1])


def way_of(gateway: Gateway, message: Outgoing, *, is_object: bool) -> Optional[Way]:
    """
    How a message may go together with others; None: it goes alone.

    Args:
        gateway: Which gateway it is.
        message: The message.
        is_object: Whether the program gave a dict, of which only the value matters.
    """
    if message.headers or message.id is not None or message.key is not None or message.partition > 0:
        return None
    body = message.body
    if not body or len(body) > MOST_BYTES // 4:
        return None
    if "produce-stream" in gateway.features:
        if b"\n" in body or body.endswith(b"\r") or body.isspace():
            return None
        return JSON_LINES if message.kind == JSON_TYPE[1] else TEXT_LINES
    if gateway.is_own:
        return None
    return ARRAY if body.startswith(b"{") and _survives(body, is_object=is_object) else None


def send_group(caller: Caller, way: Way, messages: list[Outgoing], ack_wait_s: float) -> list[Outcome]:
    """Sends messages in one request; what became of each."""
    if len(messages) == 1:
        return [_alone(caller, messages[0], ack_wait_s)]
    key, deadline = uuid.uuid4().hex, time.monotonic() + ack_wait_s
    station = messages[0].station
    bodies = [message.body for message in messages]
    body = b"\n".join(bodies) if way.is_stream else b"[" + b",".join(bodies) + b"]"
    envelope = Outgoing(station, body, way.kind)

    def make(gateway: Gateway, left_s: float) -> tuple[Headers, bytes]:
        return request_headers(gateway, envelope, key if way.is_stream else None, left_s), body

    try:
        reply = caller.call(f"/stations/{station}/produce/{way.path}", make, deadline, is_repeatable=way.is_stream)
    except Failed as exc:
        ids = [f"{key}-{number}" if way.is_stream else None for number in range(1, len(messages) + 1)]
        return [failure(exc, station, each, ack_wait_s) for each in ids]
    if way.is_stream and reply.answer.status == 200:
        return _of_lines(caller, messages, reply, key, deadline, ack_wait_s)
    return _of_all(reply, way, messages, key, ack_wait_s)


def _alone(caller: Caller, message: Outgoing, ack_wait_s: float) -> Outcome:
    try:
        return produce(caller, message, ack_wait_s)
    except (ProduceError, SchemaError) as exc:
        return exc


def _of_all(reply: Reply, way: Way, messages: list[Outgoing], key: str, ack_wait_s: float) -> list[Outcome]:
    """The same for all: an answer that does not tell one from the other."""
    station = messages[0].station
    found: list[Outcome] = []
    for number in range(1, len(messages) + 1):
        used_id = f"{key}-{number}" if way.is_stream else None
        try:
            found.append(answer_of(reply, station, used_id, ack_wait_s))
        except (ProduceError, SchemaError) as exc:
            if way.is_stream or reply.answer.status in (413, 415):
                found.append(exc)
            else:
                text = (
                    f"{exc}; it went together with {len(messages) - 1} others, and those before the bad one are stored"
                )
                found.append(ProduceError(text, outcome="unknown"))
    return found


def _of_lines(
    caller: Caller, messages: list[Outgoing], reply: Reply, key: str, deadline: float, ack_wait_s: float
) -> list[Outcome]:
    """By the result of each line; a line without one, or that may be sent again, is sent again alone."""
    results: dict[int, Mapping[str, Any]] = {}
    for line in reply.answer.body.splitlines():
        try:
            result = json.loads(line)
        except ValueError:
            continue  # a cut line says nothing, so its message is sent again
        if isinstance(result, dict) and isinstance(result.get("line"), int):
            results[result["line"]] = result
    found: list[Outcome] = []
    for number, message in enumerate(messages, 1):
        result, used_id = results.get(number, {}), f"{key}-{number}"
        if result.get("success") is True:
            found.append(read_result(result, message.station, used_id))
        elif not result or result.get("status") in (408, 503, 504):
            left_s = deadline - time.monotonic()
            if left_s > 0:
                found.append(_alone(caller, message._replace(id=used_id), left_s))
            else:
                is_unsent = result.get("outcome") == "not_sent" and not reply.was_begun
                late = Failed(str(result.get("error")), outcome="not_sent" if is_unsent else "unknown", is_late=True)
                found.append(failure(late, message.station, used_id, ack_wait_s))
        else:
            status = as_int(result.get("status")) or 500
            answer = Answer(status, {"content-type": "application/json"}, json.dumps(result).encode())
            error = error_of(Reply(answer, reply.gateway, was_begun=False), message.station, used_id, 0.0)
            found.append(error if isinstance(error, (ProduceError, SchemaError)) else ProduceError(str(error)))
    return found


def _survives(body: bytes, *, is_object: bool) -> bool:
    """Whether Memphis' own gateway stores what it was given, by value for a dict, else byte by byte."""
    try:
        value = json.loads(body, object_pairs_hook=_without_doubles)
    except (ValueError, RecursionError):
        return False
    if not _is_safe(value):
        return False
    if is_object:
        return True
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text.encode("utf-8", "surrogatepass") == body


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found


def _is_safe(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_safe, value)) and all(map(_is_safe, value.values()))
    if isinstance(value, list):
        return all(map(_is_safe, value))
    if isinstance(value, str):
        return not any("\ud800" <= char <= "\udfff" for char in value)
    if isinstance(value, float):
        return not value.is_integer() and abs(value) != float("inf")  # 1.0 would become 1
    return not isinstance(value, int) or -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER
