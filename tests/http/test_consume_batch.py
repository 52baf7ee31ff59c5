"""consume/batch: what a group gets, how it is written, and what is never lost silently."""

from __future__ import annotations

import base64
import json
import socket
import threading
from typing import Any

import pytest


def consume(gateway: Any, station: str, name: str = "reader", **fields: Any) -> list[Any]:
    answer = gateway.post(f"/stations/{station}/consume/batch", {"consumer_name": name, **fields})
    assert answer.status == 200, answer
    return answer.json


def test_messages_come_as_text_with_their_headers(gateway: Any, memphis: Any, station_name: str) -> None:
    memphis.produce(station_name, "p", "grün <b>", headers={"kind": "a", "X-Other": "ß"})
    memphis.produce(station_name, "p", "")
    (first, second) = consume(gateway, station_name, batch_size=2)
    assert first == {"message": "grün <b>", "headers": {"kind": "a", "X-Other": "ß"}}
    assert second == {"message": "", "headers": {}}


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        (None, [("text", None), (base64.b64encode(b"\xff\x00").decode(), "base64")]),
        (
            "base64",
            [(base64.b64encode(b"text").decode(), "base64"), (base64.b64encode(b"\xff\x00").decode(), "base64")],
        ),
        ("text", [("text", None), ("�\x00", None)]),
    ],
)
def test_bytes_that_are_not_text_arrive_whole(
    gateway: Any, memphis: Any, station_name: str, encoding: Any, expected: list[Any]
) -> None:
    for body in (b"text", b"\xff\x00"):
        memphis.produce(station_name, "p", body)
    rows = consume(gateway, station_name, batch_size=2, **({} if encoding is None else {"encoding": encoding}))
    assert [(row["message"], row.get("encoding")) for row in rows] == expected


def test_each_message_comes_once_to_a_group_and_to_each_group(gateway: Any, memphis: Any, station_name: str) -> None:
    memphis.producer(station_name, "p").produce_many(str(number) for number in range(30))
    wanted = [str(number) for number in range(30)]
    assert [row["message"] for row in consume(gateway, station_name, batch_size=12)] == wanted[:12]
    # The default group is that of every consumer that names none.
    assert [row["message"] for row in consume(gateway, station_name, "other", batch_size=18)] == wanted[12:]
    assert consume(gateway, station_name, batch_max_wait_time_ms=100) == []
    rows = consume(gateway, station_name, batch_size=30, consumer_group="Own")
    assert [row["message"] for row in rows] == wanted
    # ... and other programs find the groups by the names that they have in Memphis.
    for group in ("rest-gateway", "own-rest-gateway"):
        assert memphis.fetch_messages(station_name, "looks", group, until_end=True) == []


def test_a_consumer_of_two_groups_is_not_mixed_up(gateway: Any, memphis: Any, station_name: str) -> None:
    memphis.produce(station_name, "p", "only")
    for group in ("one", "two"):
        assert [row["message"] for row in consume(gateway, station_name, consumer_group=group, batch_size=1)] == [
            "only"
        ]


def test_all_partitions_are_waited_for_in_one_time(gateway: Any, memphis: Any, station_name: str) -> None:
    memphis.station(station_name, partitions_number=4)
    for number in range(4):
        memphis.produce(station_name, "p", str(number), producer_partition_number=number + 1)
    rows = consume(gateway, station_name, batch_size=4, batch_max_wait_time_ms=60_000)
    assert sorted(row["message"] for row in rows) == ["0", "1", "2", "3"]


def test_a_large_batch_ends_early_and_nothing_is_missing(gateway: Any, memphis: Any, station_name: str) -> None:
    body = b"x" * (4 * 2**20 - 2000)
    for _ in range(12):
        memphis.produce(station_name, "p", body)
    rows = consume(gateway, station_name, batch_size=12, batch_max_wait_time_ms=2000)
    while len(rows) < 12:
        more = consume(gateway, station_name, batch_size=12, batch_max_wait_time_ms=20_000)
        assert more
        rows += more
    assert {len(row["message"]) for row in rows} == {len(body)}


def test_who_goes_away_while_waiting_loses_nothing(
    gateway: Any, memphis: Any, control: Any, station_name: str, until: Any
) -> None:
    memphis.station(station_name)
    body = json.dumps({"consumer_name": "gone", "batch_size": 2, "batch_max_wait_time_ms": 60_000}).encode()
    with socket.create_connection((gateway.host, gateway.port)) as connection:
        connection.sendall(
            f"POST /stations/{station_name}/consume/batch HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {gateway.token()}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        memphis.produce(station_name, "p", "kept")
        # It comes into the gateway's hands, which waits for a second one.
        until(lambda: (control.durable(f"{station_name}$1", "rest-gateway") or {}).get("num_ack_pending") == 1)
    rows = consume(gateway, station_name, batch_size=1, batch_max_wait_time_ms=60_000)
    assert [row["message"] for row in rows] == ["kept"]


def test_requests_of_one_consumer_side_by_side_share_the_messages(
    gateway: Any, memphis: Any, station_name: str
) -> None:
    memphis.producer(station_name, "p").produce_many(str(number) for number in range(200))
    found: list[list[str]] = []

    def work() -> None:
        found.append([row["message"] for row in consume(gateway, station_name, batch_size=25)])

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(int(each) for rows in found for each in rows) == list(range(200))


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/x-www-form-urlencoded", b"consumer_name=reader&batch_size=1"),
        ("application/xml", b"<r><consumer_name>reader</consumer_name><batch_size>1</batch_size></r>"),
        (
            "multipart/form-data; boundary=b",
            b"".join(
                b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % field
                for field in ((b"consumer_name", b"reader"), (b"batch_size", b"1"))
            )
            + b"--b--\r\n",
        ),
    ],
)
def test_a_request_may_be_a_form(gateway: Any, memphis: Any, station_name: str, content_type: str, body: bytes) -> None:
    memphis.produce(station_name, "p", "x")
    answer = gateway.post(f"/stations/{station_name}/consume/batch", body, content_type)
    assert (answer.status, [row["message"] for row in answer.json]) == (200, ["x"])
