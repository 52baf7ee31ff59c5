"""The lists of what there is, and what JetStream says of stored messages and times."""

from __future__ import annotations

import base64
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from memphis_sync._protocol.inspection import (
    MemberList,
    MemberPage,
    MemberRow,
    SchemaList,
    SchemaPage,
    SchemaRow,
    SchemaSource,
    SchemaSourceReply,
    StationList,
    StationPage,
    StationRow,
)
from memphis_sync._protocol.json_text import json_or_text
from memphis_sync._protocol.requests import SchemaUpdate
from memphis_sync._protocol.stored import nanoseconds, stored_message, time_of, time_or_none
from memphis_sync.errors import RemoteProtocolError


@pytest.mark.parametrize(
    "body",
    [
        StationList("a/b", "root", "a.b"),
        MemberList("1 a", "root"),
        SchemaList(),
        StationPage((StationRow("a.b", 3, "s", 2), StationRow("c", 1)), "c"),
        MemberPage((MemberRow("consumer", "a.b", "c", "g", "id", "root", "python", "app", 5, True, "[::1]:1"),)),
        SchemaSource("s", 3, "root"),
        SchemaSourceReply(SchemaUpdate("s", 3, "", "{}", "", "json")),
        SchemaPage((SchemaRow("s", "json", 1, 2, ("a", "b")), SchemaRow("t", "avro", 1, 1))),
    ],
)
def test_what_is_sent_is_read_the_same(body: Any) -> None:
    assert type(body).decode(body.encode()) == body


def test_an_error_has_no_rows() -> None:
    assert StationPage(error="no").encode() == b'{"error":"no"}'
    assert SchemaPage.decode(b'{"error":"no"}') == SchemaPage(error="no")


@pytest.mark.parametrize(
    "body", [b"", b"no", b"[]", b'{"rows": 7}', b'{"rows": [7]}', b'{"rows": [{"partitions": "x"}]}']
)
def test_what_is_no_page_is_refused(body: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="the broker's reply cannot be read"):
        StationPage.decode(body)


@pytest.mark.parametrize(
    ("text", "time_ns"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2026-11-27T13:42:03.320091123Z", 1795786923_320091123),
        ("2026-11-27T13:42:03.3Z", 1795786923_300000000),
    ],
)
def test_a_time_of_jetstream(text: str, time_ns: int) -> None:
    assert nanoseconds(text) == time_ns
    assert time_of(time_ns) == datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=time_ns // 1000)
    assert time_or_none(text) == (time_of(time_ns) if time_ns else None)


@pytest.mark.parametrize("text", [None, "", "0001-01-01T00:00:00Z"])
def test_no_time(text: Any) -> None:
    assert time_or_none(text) is None


def test_a_stored_message() -> None:
    message: dict[str, Any] = {"subject": "a$1.final", "seq": 7, "time": "1970-01-01T00:00:01Z"}
    assert stored_message({"message": message}) == (7, b"", b"", 10**9, "a$1.final")
    message.update(hdrs=base64.b64encode(b"NATS/1.0\r\n\r\n").decode(), data=base64.b64encode(b"\0\xff").decode())
    assert stored_message({"message": message}) == (7, b"NATS/1.0\r\n\r\n", b"\0\xff", 10**9, "a$1.final")
    with pytest.raises(KeyError):
        stored_message({})


@pytest.mark.parametrize(
    ("payload", "shown"), [(b'{"a": 1}', {"a": 1}), (b"[", "["), (b"\xff", b"\xff"), (b"", ""), ("ü".encode(), "ü")]
)
def test_a_payload_as_people_read_it(payload: bytes, shown: object) -> None:
    assert json_or_text(payload) == shown
