"""produce/batch: the bytes of each element, and what becomes of each."""

from __future__ import annotations

import json
from typing import Any

import pytest

from memphis_sync import Storage
from memphis_sync.http.gateway.json_array import NotAnArrayError, elements


def stored_in(memphis: Any, station: str) -> list[bytes]:
    found = []
    for message in memphis.consumer(station, "reader").read_all():
        found.append(bytes(message.data))
        message.ack()
    return found


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"[]", []),
        (b" null\n", []),
        (b"[1]", [b"1"]),
        (b"[ 9007199254740993 ,\r\n1.0,\t1e30, -0]", [b"9007199254740993", b"1.0", b"1e30", b"-0"]),
        (b"[" + b"9" * 5000 + b"]", [b"9" * 5000]),
        (b'[{"b": 1, "a": 2, "b": [ 3 ]}]', [b'{"b": 1, "a": 2, "b": [ 3 ]}']),
        ('["grün", "\\u00fc\\ud800", null, true]'.encode(), ['"grün"'.encode(), b'"\\u00fc\\ud800"', b"null", b"true"]),
        (b'\xef\xbb\xbf[{"a":"]"},["[",{}]]', [b'{"a":"]"}', b'["[",{}]']),
    ],
)
def test_elements_keep_their_bytes(body: bytes, expected: list[bytes]) -> None:
    assert list(elements(body)) == expected


@pytest.mark.parametrize(
    "body",
    [
        *(
            b"",
            b"{}",
            b"1",
            b'"a"',
            b"nul",
            b"null 1",
            b"[",
            b"[1",
            b"[1,",
            b"[1,]",
            b"[,1]",
            b"[1 2]",
            b"[1]]",
            b"[1],",
        ),
        *(b"[NaN]", b"[Infinity]", b"[-Infinity]", b"[01]", b"[1.]", b"['a']", b'["a\nb"]', b'["\\x"]', b"[nul]"),
        *(b"\xff", b'["\xff"]', b"[" * 200_000, b'[{"a":' * 100_000, b"[\x00]", b"[1\xa0]", "[1\u2003]".encode()),
    ],
)
def test_what_is_not_an_array_is_refused(body: bytes) -> None:
    with pytest.raises(NotAnArrayError):
        list(elements(body))


def test_each_element_is_stored_in_its_order(gateway: Any, memphis: Any, station_name: str) -> None:
    rows = [b'{"n": 9007199254740993, "n": 1.0}', b'"x<&>"', b"null", b"[1,  2]", b"{ }"]
    answer = gateway.post(
        f"/stations/{station_name}/produce/batch", b"[" + b" ,\n".join(rows) + b"]", "application/json; charset=utf-8"
    )
    assert answer.status == 200
    assert answer.json == {
        "error": None,
        "errors": [],
        "fail": 0,
        "results": [
            {"duplicate": False, "partition": 1, "seq": number + 1, "stream": f"{station_name}$1"}
            for number in range(len(rows))
        ],
        "sent": len(rows),
        "success": True,
    }
    assert stored_in(memphis, station_name) == rows


def test_nothing_of_a_broken_array_is_stored(gateway: Any, memphis: Any, station_name: str) -> None:
    answer = gateway.post(f"/stations/{station_name}/produce/batch", b"[1,2,3,{]", "application/json")
    assert (answer.status, answer.json["success"]) == (400, False)
    assert "character 7" in answer.json["error"]
    assert stored_in(memphis, station_name) == []


def test_each_element_has_its_answer(gateway: Any, memphis: Any, station_name: str) -> None:
    memphis.create_schema(f"s-{station_name}", "json", schema_content='{"type": "integer"}')
    memphis.station(station_name, schema_name=f"s-{station_name}", storage_type=Storage.MEMORY)
    answer = gateway.post(f"/stations/{station_name}/produce/batch", [1, "two", 3, {"four": 4}])
    told = answer.json
    assert (answer.status, told["success"], told["sent"], told["fail"]) == (400, False, 2, 2)
    assert [(error["index"], error["outcome"]) for error in told["errors"]] == [(1, "not_sent"), (3, "not_sent")]
    for error in told["errors"]:
        assert error["error"].startswith("Schema validation has failed: ")
        assert error["error"].count("has failed") == 1
    assert [result and result["seq"] for result in told["results"]] == [1, None, 2, None]
    assert stored_in(memphis, station_name) == [b"1", b"3"]


def test_a_batch_that_is_sent_again_is_stored_once(gateway: Any, memphis: Any, station_name: str) -> None:
    memphis.station(station_name, partitions_number=3)
    answers = [
        gateway.post(f"/stations/{station_name}/produce/batch", list(range(20)), headers={"Idempotency-Key": "again"})
        for _ in range(2)
    ]
    first, second = [answer.json["results"] for answer in answers]
    assert [row["duplicate"] for row in first] == [False] * 20
    assert second == [{**row, "duplicate": True} for row in first]
    assert sorted(map(int, stored_in(memphis, station_name))) == list(range(20))


def test_more_elements_than_a_batch_may_have(gateway: Any, memphis: Any, station_name: str) -> None:
    answer = gateway.post(f"/stations/{station_name}/produce/batch", b"[" + b"0," * 50_000 + b"0]", "application/json")
    assert (answer.status, answer.json["success"]) == (413, False)
    assert stored_in(memphis, station_name) == []


def test_a_batch_that_is_not_waited_for(gateway: Any, memphis: Any, station_name: str, until: Any) -> None:
    answer = gateway.post(f"/stations/{station_name}/produce/batch?ack=none", [1, 2])
    assert (answer.status, answer.json["acknowledged"], answer.json["success"]) == (202, False, True)
    found: list[bytes] = []

    def arrived() -> bool:
        found.extend(stored_in(memphis, station_name))
        return found == [b"1", b"2"]

    until(arrived)


def test_a_message_too_large_for_the_broker(fresh_broker: Any, gateway_inside: Any, station_name: str) -> None:
    gateway = gateway_inside(fresh_broker(max_payload=4096).url)
    for path, body in (("single", json.dumps("x" * 5000)), ("batch", json.dumps(["x" * 5000, "y"]))):
        answer = gateway.post(f"/stations/{station_name}/produce/{path}", body, "application/json")
        assert (answer.status, answer.json["success"]) == (413, False), answer
        assert "4096" in str(answer.json)
