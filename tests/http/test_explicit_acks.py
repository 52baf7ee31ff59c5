"""consume, ack and nack: a message stays its reader's until it is answered, whatever becomes of connections."""

from __future__ import annotations

import base64
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable

import pytest

LIMIT_S = 60.0
KEY = "k" * 32


def consume(gateway: Any, station: str, **fields: Any) -> list[dict[str, Any]]:
    asked = {"consumer_name": "c", "batch_max_wait_time_ms": 20_000, "ack_time_ms": 60_000, **fields}
    answer = gateway.post(f"/stations/{station}/consume", asked)
    assert answer.status == 200, answer
    assert (answer.json["error"], answer.json["success"]) == (None, True)
    messages: list[dict[str, Any]] = answer.json["messages"]
    return messages


def consume_all(gateway: Any, station: str, count: int, **fields: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while len(found) < count:
        found += consume(gateway, station, batch_size=count - len(found), **fields)
    return found


def tokens(messages: list[dict[str, Any]]) -> dict[str, Any]:
    return {"tokens": [message["token"] for message in messages]}


def test_a_message_is_shown_with_all_that_it_has(gateway: Any, memphis: Any, station_name: str) -> None:
    producer = memphis.producer(station_name, "p")
    producer.produce("grün <b>", headers={"colour": "red", "n": "1"})
    producer.produce(b"\xff\x00", headers={})
    first, second = consume_all(gateway, station_name, 2)
    assert {key: value for key, value in first.items() if key not in ("time", "token", "ack_until_ms")} == {
        "delivered": 1,
        "headers": {"colour": ["red"], "n": ["1"]},
        "message": "grün <b>",
        "partition": 1,
        "sequence": 1,
    }
    assert first["time"].endswith("+00:00")
    assert 0 < first["ack_until_ms"] - time.time() * 1000 <= 60_000
    assert "message" not in second
    assert base64.b64decode(second["message_base64"]) == b"\xff\x00"


def test_an_acknowledged_message_is_done_and_another_one_comes_again(
    gateway: Any, memphis: Any, station_name: str
) -> None:
    memphis.producer(station_name, "p").produce_many([b"1", b"2", b"3"])
    messages = consume_all(gateway, station_name, 3)
    for _ in range(2):  # the second one changes nothing: the answer to the first may have been lost
        answer = gateway.post(f"/stations/{station_name}/ack", tokens(messages[:2]))
        assert (answer.status, answer.json) == (200, {"error": None, "fail": 0, "sent": 2, "success": True})
    for _ in range(2):
        answer = gateway.post(f"/stations/{station_name}/nack", {"token": messages[2]["token"]})
        assert (answer.status, answer.json["sent"]) == (200, 1)
    (again,) = consume(gateway, station_name)
    assert (again["message"], again["delivered"]) == ("3", 2)
    answer = gateway.post(f"/stations/{station_name}/ack", tokens(messages))
    assert answer.status == 409
    assert answer.json == {
        "error": "the message was already answered with nack",
        "errors": [{"error": "the message was already answered with nack", "index": 2, "status": 409}],
        "fail": 1,
        "sent": 2,
        "success": False,
    }
    assert gateway.post(f"/stations/{station_name}/ack", tokens([again])).status == 200
    assert consume(gateway, station_name, batch_max_wait_time_ms=0) == []


def test_an_answered_message_stays_answered_however_its_token_is_spelled(
    gateway: Any, memphis: Any, station_name: str
) -> None:
    memphis.producer(station_name, "p").produce_many([b"x"] * 8)
    found = tokens(consume_all(gateway, station_name, 8))["tokens"]
    spelled = [token.replace("-", "+").replace("_", "/") for token in found]
    assert spelled != found
    assert gateway.post(f"/stations/{station_name}/ack", {"tokens": found}).status == 200
    for token, same in zip(spelled, found):
        for other in (token, f"{same}=", f"{same}\n", f" {same}"):
            answer = gateway.post(f"/stations/{station_name}/nack", {"token": other})
            assert answer.status == (409 if other == same else 400), (other, answer)


def test_a_message_comes_later_or_becomes_a_dead_letter(gateway: Any, memphis: Any, station_name: str) -> None:
    station = memphis.station(station_name)
    memphis.producer(station_name, "p").produce_many([b"1", b"2"])
    one, two = consume_all(gateway, station_name, 2)
    assert gateway.post(f"/stations/{station_name}/nack", {**tokens([one]), "delay_ms": 50}).status == 200
    assert gateway.post(f"/stations/{station_name}/nack", {**tokens([two]), "dead_letter": "broken"}).status == 200
    assert [message["message"] for message in consume(gateway, station_name)] == ["1"]
    (letter,) = station.dls
    assert (letter.data, letter.reason) == (b"2", "broken")


def test_an_answer_after_the_ack_time_says_so(
    gateway: Any, memphis: Any, station_name: str, until: Callable[..., Any]
) -> None:
    memphis.producer(station_name, "p").produce(b"1")
    (first,) = consume(gateway, station_name, ack_time_ms=300)
    until(lambda: time.time() * 1000 > first["ack_until_ms"])
    for path in ("ack", "nack"):
        answer = gateway.post(f"/stations/{station_name}/{path}", tokens([first]))
        assert answer.status == 410
        assert "the ack time was over" in answer.json["error"]
    (again,) = consume(gateway, station_name, ack_time_ms=300)
    assert again["delivered"] > 1


def test_a_poll_ends_with_the_first_message(gateway: Any, memphis: Any, station_name: str) -> None:
    assert consume(gateway, station_name, batch_max_wait_time_ms=0) == []
    with ThreadPoolExecutor(1) as pool:
        poll = pool.submit(consume, gateway, station_name, batch_max_wait_time_ms=55_000)
        began_at = time.monotonic()
        memphis.producer(station_name, "p").produce(b"1")
        assert [message["message"] for message in poll.result(LIMIT_S)] == ["1"]
    assert time.monotonic() - began_at < 40, "it did not wait for a full batch"


def test_the_messages_of_a_client_that_went_away_go_to_others_at_once(
    gateway: Any, memphis: Any, station_name: str
) -> None:
    an_hour = 3_600_000
    consume(gateway, station_name, batch_max_wait_time_ms=0, ack_time_ms=an_hour)
    body = json.dumps({"consumer_name": "c", "batch_max_wait_time_ms": 20_000, "ack_time_ms": an_hour})
    with socket.create_connection((gateway.host, gateway.port), LIMIT_S) as gone:
        gone.sendall(
            f"POST /stations/{station_name}/consume HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {gateway.token()}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        )
    memphis.producer(station_name, "p").produce(b"1")
    (message,) = consume(gateway, station_name, batch_max_wait_time_ms=55_000, ack_time_ms=an_hour)
    assert message["message"] == "1"


def test_a_token_outlives_gateway_and_broker_and_belongs_to_one_user(
    fresh_broker: Callable[..., Any], fresh_gateway: Callable[..., Any], station_name: str
) -> None:
    broker = fresh_broker(users={"app": "Passw0rd!"})
    environment = {"MEMPHIS_SYNC_GATEWAY_JWT_KEYS": KEY}
    first = fresh_gateway(broker.url, env=environment)
    for number in range(4):
        assert first.post(f"/stations/{station_name}/produce/single", str(number), "text/plain").status == 200
    messages = consume_all(first, station_name, 4)
    assert first.stop() == 0
    broker.kill()
    broker.start()
    second = fresh_gateway(broker.url, env={"MEMPHIS_SYNC_GATEWAY_JWT_KEYS": f"{'n' * 32} {KEY}"})
    path = f"/stations/{station_name}/ack"
    other = second.request("POST", path, tokens(messages), token=second.token("app", "Passw0rd!"))
    assert (other.status, other.json["error"]) == (403, "the token belongs to another user or station")
    assert second.post("/stations/another/ack", tokens(messages)).status == 403
    assert second.post(path, tokens(messages[:2])).status == 200
    assert second.post(f"/stations/{station_name}/nack", tokens(messages[2:])).status == 200
    assert sorted(each["message"] for each in consume_all(second, station_name, 2)) == ["2", "3"]
    stranger = fresh_gateway(broker.url)
    refusal = stranger.post(path, tokens(messages))
    assert (refusal.status, refusal.json["fail"]) == (400, 4)


def test_members_of_a_group_share_its_messages_and_sdks_are_members_too(
    gateway: Any, memphis: Any, station_name: str
) -> None:
    member = memphis.consumer(station_name, "sdk", "group", max_ack_time_ms=60_000)
    memphis.producer(station_name, "p").produce_many(str(number) for number in range(10))
    with ThreadPoolExecutor(4) as pool:
        polls = [
            pool.submit(consume_all, gateway, station_name, 2, consumer_name=f"c{place % 2}", consumer_group="Group")
            for place in range(4)
        ]
        found = [message for poll in polls for message in poll.result(LIMIT_S)]
    left: list[bytes] = []
    while len(left) < 2:
        left += [message.data for message in member.fetch(2, timeout_s=5)]
    assert sorted([each["message"] for each in found] + [data.decode() for data in left]) == [
        str(number) for number in range(10)
    ]
    assert gateway.post(f"/stations/{station_name}/ack", tokens(found)).json["sent"] == 8


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("consume", {}, "Consumer name is required"),
        ("consume", {"consumer_name": 1}, "consumer_name must be a string"),
        ("consume", {"consumer_name": "c", "batch_size": 5001}, "batch_size is 5001; it must be 1 to 5000"),
        ("consume", {"consumer_name": "c", "batch_size": "1"}, "batch_size must be a whole number"),
        ("consume", {"consumer_name": "c", "batch_max_wait_time_ms": 60001}, "it must be 0 to 60000"),
        ("consume", {"consumer_name": "c", "ack_time_ms": 99}, "ack_time_ms is 99; it must be 100 to 43200000"),
        ("consume", {"consumer_name": "c", "max_deliveries": 11}, "max_deliveries is 11; it must be 1 to 10"),
        ("consume", {"consumer_name": "a b"}, "consumer"),
        ("ack", {}, "tokens has 0 delivery tokens; it must be a list of 1 to 5000"),
        ("ack", {"tokens": [1]}, "tokens must be a list of strings"),
        ("ack", {"tokens": ["x" * 30]}, "not one of this gateway's delivery tokens"),
        ("ack", {"tokens": ["ü", ""]}, "not one of this gateway's delivery tokens"),
        ("nack", {"token": "x", "delay_ms": -1}, "delay_ms is -1; it must be 0 to 86400000"),
        ("nack", {"token": "x", "delay_ms": 1, "dead_letter": "y"}, "choose one"),
        ("nack", {"token": "x", "dead_letter": "y" * 1001}, "dead_letter has 1001 characters"),
        ("nack", b"{", "Invalid request body"),
    ],
)
def test_bad_input_is_named(gateway: Any, station_name: str, path: str, body: Any, words: str) -> None:
    answer = gateway.post(f"/stations/{station_name}/{path}", body, "application/json")
    assert (answer.status, answer.json["success"]) == (400, False)
    assert words in answer.json["error"]


def test_a_token_that_was_changed_is_refused(gateway: Any, memphis: Any, station_name: str) -> None:
    memphis.producer(station_name, "p").produce(b"1")
    (message,) = consume(gateway, station_name)
    token = message["token"]
    raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    later = raw[:16] + raw[16:].replace(str(message["ack_until_ms"]).encode(), b"9999999999999")
    assert later != raw
    for changed in (later, raw[:16], b"", raw[1:], raw + b" ", bytes([raw[0] ^ 1]) + raw[1:]):
        wrong = base64.urlsafe_b64encode(changed).decode()
        assert gateway.post(f"/stations/{station_name}/ack", {"token": wrong}).status == 400
    for jwt in (gateway.token(), f"{token}.{token}"):
        assert gateway.post(f"/stations/{station_name}/ack", {"token": jwt}).status == 400
    assert gateway.post(f"/stations/{station_name}/ack", {"token": token}).status == 200
