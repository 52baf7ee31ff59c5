"""Dead letters on the wire: reports as clients send them, headers as they are sent on, requests and replies."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from memphis_sync._core import parse_headers
from memphis_sync._protocol import subjects
from memphis_sync._protocol.dead_letter_headers import (
    copied_headers,
    headers_size,
    read_headers,
    resent_headers,
    sendable_headers,
    write_headers,
)
from memphis_sync._protocol.dead_letters import (
    MAX_GIVEN_BACK,
    CountOwed,
    DeadLetterAck,
    DeadLetterCountReply,
    DeadLetterData,
    DeadLetterDataReply,
    DeadLetterDrop,
    DeadLetterList,
    DeadLetterListReply,
    DeadLetterResend,
    DeadLetterRow,
    GivenBack,
    GroupGone,
    MaxDeliveries,
    NackedDeadLetter,
    SchemaDeadLetter,
    payload_of,
)
from memphis_sync._protocol.go_json import GoJsonError
from memphis_sync.errors import RemoteProtocolError

ROW = DeadLetterRow(7, "a.b", "poison", 2, 9, "p", ("g", "h"), "why", 123, 5, 2, b"\0\xffabc")


@pytest.mark.parametrize(
    "request_",
    [
        NackedDeadLetter("orders#eu", "reason", 1, "group.name", 12),
        SchemaDeadLetter("orders#eu", "p", "id", "6869", {"k": "v", "K": "w"}, 2, "wrong", 3),
        DeadLetterAck(3, "g"),
        MaxDeliveries("st$1", "g", 5),
        GroupGone("st", "g", 5),
        GivenBack.of("st", "g", [(1, 7, 1), (2, 9, 2)], [5]),
        GivenBack.of("st", "g", [], []),
        GivenBack.of("st", "g", [(1, 7, 1)], [], kept=True),
        CountOwed("st", "g"),
        DeadLetterList("st", "root", "poison", (1, 2**63 - 1), 3, 4, with_data=True),
        DeadLetterData("st", "root", 5, 6),
        DeadLetterResend("st", "root", (1,), 2),
        DeadLetterDrop("st", "root", "schema", (), 2),
    ],
)
def test_what_is_written_is_read_again(request_: Any) -> None:
    assert type(request_).decode(request_.encode()) == request_
    assert type(request_).decode(b"{}").encode(), "anything may be missing"


def test_reports_are_those_of_memphis() -> None:
    assert json.loads(NackedDeadLetter("orders#eu", "reason", 1, "group.name", 12).encode()) == {
        "station_name": "orders#eu",
        "error": "reason",
        "partition": 1,
        "cg_name": "group.name",
        "seq": 12,
    }
    assert json.loads(SchemaDeadLetter("st", "p", "id", "6869", {"k": "v"}, 0, "wrong").encode()) == {
        "station_name": "st",
        "producer": {"name": "p", "connection_id": "id"},
        "message": {"data": "6869", "headers": {"k": "v"}, "size": 0},
        "validation_error": "wrong",
        "partition_number": 0,
    }
    assert json.loads(DeadLetterAck(3, "g").encode()) == {"id": 3, "cg_name": "g"}


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"message": {"headers": []}}', "of type map[string]string"),
        (b'{"message": {"headers": {"k": 1}}}', "number into Go struct field"),
        (b'{"message": []}', "array into Go struct field"),
    ],
)
def test_headers_that_are_no_object_of_strings(body: bytes, text: str) -> None:
    with pytest.raises(GoJsonError) as caught:
        SchemaDeadLetter.decode(body)
    assert text in str(caught.value)


@pytest.mark.parametrize("ids", ["1", {"a": 1}, [1.5], ["1"], [2**63], [True], [[]]])
def test_ids_that_are_none(ids: Any) -> None:
    with pytest.raises(GoJsonError):
        DeadLetterList.decode(json.dumps({"ids": ids}).encode())


@given(st.binary())
def test_payloads_of_clients_that_write_hexadecimal(data: bytes) -> None:
    assert payload_of(data.hex()) == data
    assert payload_of(data.hex().upper()) == data


@given(st.text(st.sampled_from([*map(chr, range(0x20, 0x7F)), "\t", "\n", "\r"])))
def test_payloads_of_memphis_js(text: str) -> None:
    """It writes char codes without padding. Where the count of digits tells, its text comes back."""
    digits = "".join(f"{ord(char):x}" for char in text)
    if len(digits) % 2:
        assert payload_of(digits) == text.encode()


@pytest.mark.parametrize("digits", ["6f2", "zz", "0x61", "61 62", "a\n", "ü"])
def test_what_is_no_hexadecimal_stays_as_it_was_sent(digits: str) -> None:
    assert payload_of(digits) == digits.encode()


def test_headers_of_a_resend() -> None:
    original = {"$memphis_producedBy": "p", "$memphis_connectionId": "c", "producedBy": "old", "k": "v"}
    place = {"partition": 2, "sequence": 7, "time_ns": 5}
    expected = {
        "$memphis_connectionId": "c",
        "k": "v",
        "$memphis_producedBy": "$memphis_dls",
        "$memphis_pm_id": "3",
        "$memphis_pm_cg_name": "g.x",
        "$memphis_sync_partition": "2",
        "$memphis_sync_sequence": "7",
        "$memphis_sync_time": "5",
    }
    assert resent_headers({**original, "$memphis_sync_owed": "1"}, 3, "g.x", **place) == expected
    owed = resent_headers(original, 3, "g.x", **place, is_owed=True)
    assert owed == {**expected, "$memphis_sync_owed": "1"}
    assert original["$memphis_producedBy"] == "p"


def test_headers_of_a_copy() -> None:
    original = {"$memphis_producedBy": "p", "msg-id": "m", "nats-expected-last-sequence": "4", "Nats-Msg-Id": "m"}
    assert copied_headers(original, "a.b", "unacked", "id-1") == {
        "$memphis_producedBy": "p",
        "msg-id": "m",
        "station": "a.b",
        "type": "unacked",
        "Nats-Msg-Id": "id-1",
    }


def test_blocks() -> None:
    assert read_headers(b"") == {}
    assert read_headers(b"no block at all") == {}
    assert read_headers(b"NATS/1.0\r\nk: first\r\nk: second\r\n\r\n") == {"k": "first"}
    assert write_headers({}) == b""
    assert write_headers({"a b": "no name", "": "neither"}) == b""
    assert read_headers(write_headers({"k": "two\r\nlines", "u": "ü", "raw": "\udcff"})) == {
        "k": "two  lines",
        "u": "ü",
        "raw": "\ufffd",
    }


@given(st.dictionaries(st.text(max_size=8), st.text(max_size=20), max_size=5))
def test_any_headers_can_be_written(headers: dict[str, str]) -> None:
    block = write_headers(headers)
    kept = sendable_headers(headers)
    if block:
        assert len(parse_headers(block)[2]) == len(kept)
        assert len(block) == headers_size(kept)
    else:
        assert not kept


@pytest.mark.parametrize(
    "reply",
    [
        DeadLetterListReply((ROW, dataclasses.replace(ROW, id=8, type="schema", data=None)), 8),
        DeadLetterListReply(error="no"),
        DeadLetterDataReply(b"\0\xff", 9),
        DeadLetterDataReply(error="no"),
        DeadLetterCountReply(3, 4, (5, 6)),
        DeadLetterCountReply(error="no"),
    ],
)
def test_replies_are_read_as_they_are_written(reply: Any) -> None:
    assert type(reply).decode(reply.encode()) == reply


@pytest.mark.parametrize("kind", [DeadLetterListReply, DeadLetterDataReply, DeadLetterCountReply])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"text",
        b"[]",
        b"[" * 100_000,
        b'{"rows": 3, "data": 3, "count": "3"}',
        b'{"rows": [3], "data": "!", "count": -1}',
        b'{"rows": [{}], "total": 1.5, "too_large": [true]}',
        b'{"after_id": true, "total": true}',
    ],
)
def test_replies_that_are_none(kind: Any, body: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        kind.decode(body)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(DeadLetterRow)])
def test_a_row_with_a_wrong_member(field: str) -> None:
    wrong = {**ROW.to_json(), field: {"an": "object"}}
    with pytest.raises(RemoteProtocolError):
        DeadLetterListReply.decode(json.dumps({"rows": [wrong]}).encode())


def test_both_forms_of_the_subject() -> None:
    assert subjects.dls("st#a", "g#x") == "$memphis_dls_st#a.g#x"
    assert subjects.dls_before_dots("st#a", "g#x") == "$memphis_dls_st#a_g#x"


@pytest.mark.parametrize("is_memphis", [False, True])
def test_a_report_of_a_schema_failure_names_its_producer(is_memphis: bool) -> None:
    made = SchemaDeadLetter.of("st", 2, "p", "id", b"\x00\xff", {"k": "v"}, "bad", is_memphis=is_memphis)
    assert (made.data, made.size, made.partition_number, made.validation_error) == ("00ff", 2, 2, "bad")
    assert made.headers == {"k": "v", "$memphis_producedBy": "p", "$memphis_connectionId": "id"}
    assert bool(made.report_id) is not is_memphis, "our broker knows it by that when it comes again"


@pytest.mark.parametrize("count", [0, 1, MAX_GIVEN_BACK, 2 * MAX_GIVEN_BACK + 1])
def test_much_that_is_given_back_goes_in_parts(count: int) -> None:
    given = GivenBack.of("st", "g", [(1, number, 2) for number in range(count)], [7], kept=True)
    parts = list(given.parts())
    assert len(parts) == max(1, -(-count // MAX_GIVEN_BACK))
    assert [sequence for part in parts for sequence in part.sequences] == list(range(count))
    assert [resent for part in parts for resent in part.resent] == [7]
    assert all((part.cg_name, part.kept, len(part.partitions)) == ("g", True, len(part.sequences)) for part in parts)
