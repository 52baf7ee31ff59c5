"""
One message: its request for each of the two gateways, and what their answers mean.

Memphis' own gateway makes every HTTP header a header of the message, answers before the broker has stored anything and
drops message ids. The gateway of memphis-sync answers once it is stored, and its Idempotency-Key is the message's id.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Mapping
from typing import Any, NamedTuple, Optional, Union

from memphis_sync._options.checks import as_int, check_seconds, show
from memphis_sync._protocol.json_text import JsonWriter
from memphis_sync._protocol.payload import message_id, not_utf8, payload_of
from memphis_sync.errors import (
    AckTimeoutError,
    ConfigurationError,
    HeaderError,
    Outcome,
    PayloadTooLargeError,
    ProduceError,
    RejectedError,
    SchemaError,
    StationGoneError,
)
from memphis_sync.headers import encode_user_headers
from memphis_sync.http.client.answers import Gateway, object_of, text_of
from memphis_sync.http.client.calling import Caller, Failed, Reply
from memphis_sync.http.client.results import GatewayAnswer
from memphis_sync.http.client.transport import Headers

# The limits of Memphis' own gateway; the other one says its own when they are exceeded.
BODY_LIMIT = 4 * 1024 * 1024
HEADER_LIMIT = 4096
# Of the time for a message the gateway gets a little less, so that its own word on it arrives.
_ANSWER_S = 0.5

# RFC 9110, 5.6.2: what the name of a header may be made of.
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+\Z")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
# They belong to the connection, to the login, or to the gateway: no gateway can make them headers of a message.
_OF_HTTP = frozenset(
    {
        *("authorization", "connection", "content-encoding", "content-length", "content-type", "cookie", "expect"),
        *("host", "idempotency-key", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"),
    }
)
_PREFIXES_OF_HTTP = ("memphis-", "proxy-")


class Outgoing(NamedTuple):
    """
    A message that was checked.

    Attributes:
        station: Its name, lower case.
        body: The payload.
        kind: The content type.
        headers: The user's, as HTTP has them.
        id: The message's id; None: it gets one where ids are kept.
        key: Partition key, or None.
        partition: Partition number; -1 for none.
    """

    station: str
    body: bytes
    kind: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()
    id: Optional[str] = None
    key: Optional[str] = None
    partition: int = -1


def outgoing(
    station: str,
    message: Any,
    writer: JsonWriter,
    headers: Optional[Mapping[str, str]] = None,
    msg_id: Optional[str] = None,
    key: Optional[str] = None,
    partition: int = -1,
) -> Outgoing:
    """
    Checks a message; no IO.

    Raises:
        ConfigurationError, HeaderError: Something of it cannot be sent.
    """
    try:
        payload = payload_of(message, writer)
    except UnicodeEncodeError as exc:
        raise not_utf8(exc) from exc
    if msg_id is not None:
        message_id(msg_id)
        if not msg_id or msg_id != msg_id.strip() or _CONTROL.search(msg_id):
            raise ConfigurationError(
                f"msg_id is {show(msg_id)}; over HTTP it needs at least one character, none of control, and no blank "
                "at its ends"
            )
    if key is not None and (not isinstance(key, str) or not key or key != key.strip() or _CONTROL.search(key)):
        raise ConfigurationError(
            f"producer_partition_key is {show(key)}; over HTTP it must be a str without control characters, and "
            "without blanks at its ends, or None"
        )
    number = as_int(partition)
    if number is None:
        raise ConfigurationError(f"producer_partition_number is {show(partition)}; it must be an int, -1 for none")
    if number > 0 and key is not None:
        raise ConfigurationError("producer_partition_number and producer_partition_key are both given; choose one")
    return Outgoing(station, bytes(payload), _kind_of(message), header_lines(headers), msg_id, key, number)


def _kind_of(message: Any) -> bytes:
    if isinstance(message, (dict, list)):
        return b"application/json"
    if isinstance(message, (bytes, bytearray, memoryview)):
        return b"application/octet-stream"
    return b"application/x-protobuf" if hasattr(message, "SerializeToString") else b"text/plain; charset=utf-8"


def header_lines(headers: Optional[Mapping[str, str]]) -> tuple[tuple[bytes, bytes], ...]:
    """
    The user's headers as HTTP has them.

    Raises:
        HeaderError: One is reserved, cannot be carried by HTTP, or differs from another one by its case only.
    """
    encode_user_headers(headers)
    lines: dict[str, tuple[bytes, bytes]] = {}
    for name, value in (headers or {}).items():
        lowered = name.lower()
        if lowered in _OF_HTTP or lowered.startswith(_PREFIXES_OF_HTTP):
            raise HeaderError(f"header {name!r} belongs to HTTP itself, so it cannot be one of the message; rename it")
        if not _TOKEN.match(name):
            raise HeaderError(
                f"header {name!r} has a character that HTTP allows in no name; use letters, digits and '-'"
            )
        if _CONTROL.search(value):
            raise HeaderError(f"the value of header {name!r} has a control character, which HTTP cannot carry")
        if lowered in lines:
            raise HeaderError(f"header {name!r} is there twice, for HTTP tells no upper case from lower case in a name")
        lines[lowered] = (name.encode("ascii"), value.strip(" \t").encode())
    return tuple(lines.values())


def check_for(gateway: Gateway, message: Outgoing, token_bytes: int) -> None:
    """
    Refuses what Memphis' own gateway would drop silently, or answer by closing the connection.

    Raises:
        ConfigurationError, HeaderError, PayloadTooLargeError: It cannot do that; nothing was sent.
    """
    if gateway.is_own:
        return
    for name, is_given in (
        ("msg_id", message.id is not None),
        ("producer_partition_key", message.key is not None),
        ("producer_partition_number", message.partition > 0),
    ):
        if is_given:
            raise ConfigurationError(
                f"{name} is given, but the gateway is Memphis' own, which has no such thing; leave it out, or use the "
                "gateway of memphis-sync"
            )
    if len(message.body) > BODY_LIMIT:
        raise PayloadTooLargeError(
            f"the message has {len(message.body)} bytes; Memphis' own gateway accepts at most {BODY_LIMIT}"
        )
    size = sum(len(name) + len(value) + 4 for name, value in message.headers) + token_bytes + 300
    if size > HEADER_LIMIT:
        raise HeaderError(
            f"the headers have about {size} bytes together with the token; Memphis' own gateway accepts {HEADER_LIMIT}"
        )


def produce(caller: Caller, message: Outgoing, ack_wait_s: float) -> GatewayAnswer:
    """
    Sends a message, again if that is safe, until there is an answer.

    Raises:
        As HttpClient.produce().
    """
    check_seconds("ack_wait_sec", ack_wait_s, allow_zero=False)
    made_id = uuid.uuid4().hex if message.id is None else message.id
    used_id: Optional[str] = message.id

    def make(gateway: Gateway, left_s: float) -> tuple[Headers, bytes]:
        nonlocal used_id
        check_for(gateway, message, caller.tokens.size)
        used_id = made_id if gateway.keeps_ids else None
        return [*request_headers(gateway, message, used_id, left_s), *message.headers], message.body

    path = f"/stations/{message.station}/produce/single"
    try:
        reply = caller.call(path, make, time.monotonic() + ack_wait_s, is_repeatable=True)
    except Failed as exc:
        raise failure(exc, message.station, used_id, ack_wait_s) from exc
    return answer_of(reply, message.station, used_id, ack_wait_s)


def request_headers(gateway: Gateway, message: Outgoing, used_id: Optional[str], left_s: float) -> Headers:
    """What a message's request has beside the user's headers: nothing that is not needed, for it may be published."""
    if not gateway.is_own:
        # It takes no other type for bytes, and no parameters of it.
        is_text = message.kind.startswith((b"text/", b"application/octet-stream"))
        return [(b"Content-Type", b"text/plain" if is_text else message.kind)]
    found = [(b"Content-Type", message.kind)]
    if used_id is not None:
        found.append((b"Idempotency-Key", used_id.encode()))
    found.append((b"Memphis-Timeout-Ms", b"%d" % max((left_s - min(_ANSWER_S, left_s / 10)) * 1000, 1)))
    if message.key is not None:
        found.append((b"Memphis-Partition-Key", message.key.encode()))
    if message.partition > 0:
        found.append((b"Memphis-Partition-Number", b"%d" % message.partition))
    return found


def failure(exc: Failed, station: str, used_id: Optional[str], ack_wait_s: float) -> ProduceError:
    """The error for a message that got no answer to go by."""
    kept = ""
    if exc.outcome == "unknown":
        kept = (
            f"; it may be stored: produce it again only with msg_id={used_id!r}"
            if used_id is not None
            else "; it may be stored, and Memphis' own gateway knows no message ids, so it was not sent again"
        )
    if exc.is_late:
        return AckTimeoutError(
            f"the message for station {station!r} was not confirmed within {ack_wait_s:g} s: {exc}{kept}",
            outcome=exc.outcome,
            message_id=used_id,
            timeout_s=ack_wait_s,
        )
    return ProduceError(
        f"the message for station {station!r} got no answer: {exc}{kept}", outcome=exc.outcome, message_id=used_id
    )


def answer_of(reply: Reply, station: str, used_id: Optional[str], ack_wait_s: float) -> GatewayAnswer:
    """
    What an answer says of a message.

    Raises:
        ProduceError, SchemaError: It was not stored, or may not be.
    """
    answer = reply.answer
    said = object_of(answer)
    if answer.status in (200, 202) and said.get("success") is True:
        return read_result(said if reply.gateway.is_own else {}, station, used_id)
    raise error_of(reply, station, used_id, ack_wait_s)


def read_result(said: Mapping[str, Any], station: str, used_id: Optional[str]) -> GatewayAnswer:
    """What a success says of one message; stored is what has a sequence number."""
    sequence, stream = as_int(said.get("seq")), said.get("stream")
    return GatewayAnswer(
        station,
        is_stored=sequence is not None,
        message_id=used_id,
        sequence=sequence,
        duplicate=said.get("duplicate") is True,
        stream=stream if isinstance(stream, str) else None,
        partition=as_int(said.get("partition")),
    )


def error_of(
    reply: Reply, station: str, used_id: Optional[str], ack_wait_s: float
) -> Union[ProduceError, SchemaError, HeaderError]:
    """The error that an answer means."""
    answer, said = reply.answer, object_of(reply.answer)
    status, text = answer.status, text_of(answer)
    about = f"the gateway answered {status} to the message for station {station!r}{f': {text}' if text else ''}"
    outcome = _outcome_of(reply, said)
    if outcome == "unknown":
        failed = Failed(about, outcome="unknown", is_late=status in (408, 504))
        return failure(failed, station, used_id, ack_wait_s)
    if status == 400 and "schema validation" in text.lower():
        path, reason = said.get("path"), said.get("reason")
        return SchemaError(about, path=str(path or ""), reason=str(reason or text))
    if status == 413:
        return PayloadTooLargeError(about, message_id=used_id)
    if status == 431:
        return HeaderError(about)
    if outcome == "not_sent":
        return ProduceError(about, outcome="not_sent", message_id=used_id)
    if 300 <= status < 400:
        about += "; a redirection is not followed: give the gateway's own URL"
    kind = StationGoneError if status == 404 and reply.gateway.is_own and said else RejectedError
    return kind(about, message_id=used_id, code=status, description=text)


def _outcome_of(reply: Reply, said: Mapping[str, Any]) -> Outcome:
    """Whether a message that was not confirmed may be stored."""
    answer = reply.answer
    outcome = said.get("outcome")
    if reply.was_begun or outcome == "unknown":
        return "unknown"
    if outcome in ("rejected", "not_sent"):
        return "rejected" if outcome == "rejected" else "not_sent"
    if answer.status < 300 or answer.status >= 502:
        return "unknown"  # an answer that no gateway gives: nobody knows
    if answer.status == 500:
        # Memphis' own: a mistake of the client is answered in plain text, all else in JSON.
        is_mistake = not reply.gateway.is_own and not said
        return "rejected" if is_mistake else "unknown"
    return "rejected"
