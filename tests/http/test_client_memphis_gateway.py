"""The client over HTTP with Memphis' own gateway: it takes nothing for stored, and repeats nothing that it must not."""

from __future__ import annotations

import base64
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import memphis_sync.http
from memphis_sync import (
    AckTimeoutError,
    AuthenticationError,
    ConfigurationError,
    ConnectError,
    ConnectionLostError,
    DeadlineError,
    HeaderError,
    MemphisError,
    PayloadTooLargeError,
    ProduceError,
    RejectedError,
    RemoteProtocolError,
    SchemaError,
    ServerError,
    UsageError,
)
from memphis_sync.http.client import calling, tokens

LOGIN = {"username": "root", "password": "memphis"}
JSON, TEXT = "application/json", "text/plain"


@pytest.fixture
def client(memphis_gateway: Any) -> Any:
    with memphis_sync.http.connect(memphis_gateway.url, **LOGIN) as opened:
        yield opened


@pytest.mark.parametrize(
    ("message", "data", "kind"),
    [
        (b"\xff\x00", b"\xff\x00", TEXT),
        ("grün", "grün".encode(), TEXT),
        ({"n": 2**60}, b'{"n": 1152921504606846976}', JSON),
        (b"", b"", TEXT),
    ],
)
def test_a_message_is_accepted_and_not_taken_for_stored(
    client: Any, memphis_gateway: Any, message: Any, data: bytes, kind: str
) -> None:
    assert not client.confirms_storage
    answer = client.produce("orders", message)
    assert (answer.is_stored, answer.sequence, answer.message_id) == (False, None, None)
    (stored,) = memphis_gateway.messages("orders")
    assert stored.data == data
    assert stored.headers["Content-Type"] == kind


def test_a_message_gets_no_header_that_the_request_does_not_need(client: Any, memphis_gateway: Any) -> None:
    """All of them are stored with it."""
    client.produce("orders", b"x", headers={"x-a": "grün"})
    (stored,) = memphis_gateway.messages("orders")
    assert sorted(stored.headers) == ["Authorization", "Content-Length", "Content-Type", "Host", "X-A"]
    assert stored.headers["X-A"] == "grün"


def test_both_lives_of_a_login_are_asked_for(client: Any, memphis_gateway: Any) -> None:
    (login,) = memphis_gateway.seen
    asked = json.loads(login.body)
    assert asked["refresh_token_expiry_in_minutes"] > asked["token_expiry_in_minutes"] > 0
    assert (asked["username"], asked["account_id"]) == ("root", 1)
    assert login.headers["Content-Type"] == JSON


# ---- what is repeated, and what is not ------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["lose", "reset"])
def test_a_message_without_an_answer_is_not_sent_again(client: Any, memphis_gateway: Any, fault: str) -> None:
    memphis_gateway.faults.append(fault)
    with pytest.raises(ProduceError, match="may be stored") as caught:
        client.produce("orders", b"x", ack_wait_sec=60)
    assert caught.value.outcome == "unknown"
    assert not isinstance(caught.value, AckTimeoutError)
    assert memphis_gateway.paths().count("/stations/orders/produce/single") == 1


def test_a_message_that_is_answered_too_late_is_not_sent_again(client: Any, memphis_gateway: Any) -> None:
    go_on = threading.Event()
    memphis_gateway.before_answer = lambda _path: go_on.wait(60)
    with pytest.raises(AckTimeoutError) as caught:
        client.produce("orders", b"x", ack_wait_sec=0.3)
    go_on.set()
    assert caught.value.outcome == "unknown"
    assert memphis_gateway.paths().count("/stations/orders/produce/single") == 1


@pytest.mark.parametrize(
    "fault",
    [
        (429, TEXT, b"slow down", {"Retry-After": "0"}),
        (500, JSON, b'{"message":"Server error"}'),
        (401, JSON, b'{"message":"Unauthorized"}'),
    ],
    ids=repr,
)
def test_what_was_not_begun_is_sent_again(client: Any, memphis_gateway: Any, fault: Any) -> None:
    memphis_gateway.faults += [fault, fault]
    assert client.produce("orders", b"x", ack_wait_sec=60)
    assert len(memphis_gateway.messages("orders")) == 1


@pytest.mark.parametrize("status", [502, 503, 504])
def test_what_a_proxy_answers_says_nothing_of_the_message(client: Any, memphis_gateway: Any, status: int) -> None:
    memphis_gateway.faults.append((status, "text/html", b"<html>Bad Gateway</html>"))
    with pytest.raises(ProduceError, match=str(status)) as caught:
        client.produce("orders", b"x", ack_wait_sec=60)
    assert caught.value.outcome == "unknown"
    assert "<html>" not in str(caught.value)
    assert memphis_gateway.messages("orders") == []


def test_a_pause_that_is_longer_than_the_time_ends_the_call_at_once(client: Any, memphis_gateway: Any) -> None:
    memphis_gateway.faults.append((429, TEXT, b"", {"Retry-After": "3600"}))
    began = time.monotonic()
    with pytest.raises(AckTimeoutError, match="429") as caught:
        client.produce("orders", b"x", ack_wait_sec=120)
    assert caught.value.outcome == "not_sent"
    assert time.monotonic() - began < 60


def test_a_pause_may_be_a_date_by_the_gateways_clock(client: Any, memphis_gateway: Any) -> None:
    memphis_gateway.skew_s = 86_400.0
    when = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + memphis_gateway.skew_s))
    memphis_gateway.faults.append((429, TEXT, b"", {"Retry-After": when}))
    assert client.produce("orders", b"x", ack_wait_sec=60)


def test_a_call_that_is_under_way_when_the_client_is_closed_says_so(memphis_gateway: Any, until: Any) -> None:
    go_on = threading.Event()
    client = memphis_sync.http.connect(memphis_gateway.url, **LOGIN)
    memphis_gateway.before_answer = lambda _path: go_on.wait(60)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.produce, "orders", b"x", ack_wait_sec=60)
        until(lambda: memphis_gateway.paths()[-1].endswith("/single"))
        client.close()
        go_on.set()
        error = waiting.exception(60)
    assert isinstance(error, ProduceError), error
    assert error.outcome == "unknown"
    assert "the client was closed" in str(error)


# ---- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "kind", "outcome"),
    [
        ((500, TEXT, b"unsupported content type"), RejectedError, "rejected"),
        ((500, JSON, b'{"error":"memphis: timeout","success":false}'), ProduceError, "unknown"),
        ((400, TEXT, b"error when reading request headers"), RejectedError, "rejected"),
        ((404, TEXT, b"Cannot POST /x"), RejectedError, "rejected"),
        ((405, TEXT, b"Method Not Allowed"), RejectedError, "rejected"),
        ((413, TEXT, b"Request Entity Too Large"), PayloadTooLargeError, "not_sent"),
        ((302, TEXT, b""), RejectedError, "rejected"),
        ((200, "text/html", b"<html>Log in</html>"), ProduceError, "unknown"),
        ((200, JSON, b'{"success":'), ProduceError, "unknown"),
        ((200, JSON, b"[]"), ProduceError, "unknown"),
        ((400, JSON, b'{"error":["a","b"],"success":false}'), RejectedError, "rejected"),
        ((400, JSON, b'{"message":[{"field":"Username","reason":"required"}]}'), RejectedError, "rejected"),
    ],
    ids=repr,
)
def test_each_answer_is_an_error_that_says_whether_the_message_may_be_stored(
    client: Any, memphis_gateway: Any, fault: Any, kind: type[MemphisError], outcome: str
) -> None:
    memphis_gateway.faults.append(fault)
    with pytest.raises(kind) as caught:
        client.produce("orders", b"x", ack_wait_sec=60)
    assert caught.value.outcome == outcome  # type: ignore[attr-defined]
    assert str(fault[0]) in str(caught.value)


def test_a_message_against_the_schema_is_refused(client: Any, memphis_gateway: Any) -> None:
    memphis_gateway.schemas.add("orders")
    with pytest.raises(SchemaError, match="Must be object"):
        client.produce("orders", [1])


@pytest.mark.parametrize(
    "options", [{"msg_id": "a"}, {"producer_partition_key": "a"}, {"producer_partition_number": 2}], ids=repr
)
def test_what_the_gateway_would_drop_is_refused(client: Any, memphis_gateway: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=f"{next(iter(options))} is given, but the gateway is Memphis' own"):
        client.produce("orders", b"x", **options)
    assert memphis_gateway.paths() == ["/auth/authenticate"]


def test_what_the_gateway_would_refuse_without_reading_it_is_not_sent(client: Any, memphis_gateway: Any) -> None:
    with pytest.raises(PayloadTooLargeError):
        client.produce("orders", b"x" * (4 * 1024 * 1024 + 1))
    with pytest.raises(HeaderError, match="4096"):
        client.produce("orders", b"x", headers={"x-a": "x" * 3800})
    assert memphis_gateway.paths() == ["/auth/authenticate"]
    assert client.produce("orders", b"x" * (4 * 1024 * 1024), headers={"x-a": "x" * 3000})


# ---- tokens ---------------------------------------------------------------------------------------------------------


def logins(gateway: Any) -> list[str]:
    return [path for path in gateway.paths() if path.startswith("/auth/")]


def test_a_token_is_renewed_before_it_expires(memphis_gateway: Any) -> None:
    memphis_gateway.life_s = 0  # it has expired when it arrives
    with memphis_sync.http.connect(memphis_gateway.url, **LOGIN) as client:
        memphis_gateway.life_s = None
        client.produce("orders", b"x")
        client.produce("orders", b"x")
    assert memphis_gateway.paths() == [
        "/auth/authenticate",
        "/auth/refreshToken",
        *2 * ["/stations/orders/produce/single"],
    ]


def test_a_token_in_its_last_minute_is_renewed_by_one_thread(memphis_gateway: Any) -> None:
    memphis_gateway.life_s = 50
    with memphis_sync.http.connect(memphis_gateway.url, **LOGIN) as client:
        kept = client._caller().tokens
        kept._token = kept._token._replace(renew_at=time.monotonic())
        memphis_gateway.life_s = None
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: client.produce("orders", b"%d" % number), range(40)))
    assert logins(memphis_gateway) == ["/auth/authenticate", "/auth/refreshToken"]
    assert len(memphis_gateway.messages("orders")) == 40


def test_a_gateway_that_has_no_new_token_now_is_asked_again_later(memphis_gateway: Any) -> None:
    """The old one is still valid for a while."""
    memphis_gateway.life_s = 50
    with memphis_sync.http.connect(memphis_gateway.url, **LOGIN) as client:
        kept = client._caller().tokens
        kept._token = kept._token._replace(renew_at=time.monotonic())
        answer, memphis_gateway.answer = (
            memphis_gateway.answer,
            lambda seen: (500, JSON, b'{"message":"Server error"}') if seen.path.startswith("/auth/") else answer(seen),
        )
        client.produce("orders", b"0")
        assert logins(memphis_gateway) == ["/auth/authenticate", "/auth/refreshToken", "/auth/authenticate"]
        assert len(memphis_gateway.messages("orders")) == 1


@pytest.mark.parametrize("skew_s", [-86_400.0, 86_400.0])
def test_a_clock_that_is_wrong_does_not_matter(memphis_gateway: Any, skew_s: float) -> None:
    memphis_gateway.skew_s = skew_s
    with memphis_sync.http.connect(memphis_gateway.url, **LOGIN) as client:
        for _ in range(3):
            client.produce("orders", b"x")
    assert logins(memphis_gateway) == ["/auth/authenticate"]


def test_a_refused_token_is_refreshed_once_for_all_threads(client: Any, memphis_gateway: Any) -> None:
    memphis_gateway.expire_tokens()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: client.produce("orders", b"%d" % number, ack_wait_sec=60), range(40)))
    assert logins(memphis_gateway) == ["/auth/authenticate", "/auth/refreshToken"]
    assert len(memphis_gateway.messages("orders")) == 40


def test_when_refreshing_is_refused_the_client_logs_in(client: Any, memphis_gateway: Any) -> None:
    memphis_gateway.expire_tokens()
    memphis_gateway.refuses_refresh = True
    client.produce("orders", b"x")
    assert logins(memphis_gateway) == ["/auth/authenticate", "/auth/refreshToken", "/auth/authenticate"]


def test_after_a_refresh_and_a_login_the_call_fails(client: Any, memphis_gateway: Any) -> None:
    memphis_gateway.faults += 3 * [(401, JSON, b'{"message":"Unauthorized"}')]
    with pytest.raises(AuthenticationError):
        client.produce("orders", b"x", ack_wait_sec=60)
    assert memphis_gateway.paths() == [
        "/auth/authenticate",
        "/stations/orders/produce/single",
        "/auth/refreshToken",
        "/stations/orders/produce/single",
        "/auth/authenticate",
        "/stations/orders/produce/single",
    ]


def test_credentials_that_are_not_valid_any_more_are_told(client: Any, memphis_gateway: Any) -> None:
    memphis_gateway.expire_tokens()
    memphis_gateway.refuses_refresh = memphis_gateway.is_locked = True
    with pytest.raises(AuthenticationError, match="'root'"):
        client.produce("orders", b"x", ack_wait_sec=60)


def test_no_secret_is_shown(memphis_gateway: Any, caplog: Any) -> None:
    caplog.set_level(0)
    with memphis_sync.http.connect(memphis_gateway.url, **LOGIN) as client:
        token = client._caller().tokens._token
        shown = [repr(client), repr(client._settings), client._repr_html_(), repr(vars(client))]
        memphis_gateway.faults += [(500, TEXT, b"no"), "lose"]
        for _ in range(2):
            with pytest.raises(ProduceError) as caught:
                client.produce("orders", b"x")
            shown += [str(caught.value), repr(caught.value)]
    for text in [*shown, caplog.text]:
        for secret in ("memphis:", token.access, token.refresh, base64.b64encode(b"memphis").decode()):
            assert secret not in text
        assert "password='memphis'" not in text


def test_a_broker_that_is_away_while_logging_in_is_an_error_that_may_pass(memphis_gateway: Any) -> None:
    memphis_gateway.answer = lambda _seen: (500, JSON, b'{"message":"Server error"}')
    with pytest.raises(ConnectError, match="500") as caught:
        memphis_sync.http.connect(memphis_gateway.url, **LOGIN)
    assert caught.value.retryable


# ---- many -----------------------------------------------------------------------------------------------------------


def test_many_messages_are_accepted_and_not_counted_as_delivered(client: Any, memphis_gateway: Any) -> None:
    result = client.produce_many("orders", (b"%d" % number for number in range(100)))
    assert (result.delivered, result.accepted, result.failed) == (0, 100, ())
    assert sorted(int(each.data) for each in memphis_gateway.messages("orders")) == list(range(100))


def test_objects_that_come_out_as_they_went_in_go_together(client: Any, memphis_gateway: Any) -> None:
    rows = [{"id": number, "price": 1.5, "text": "<&>\u2028ü"} for number in range(1200)]
    result = client.produce_many("orders", rows)
    assert result.accepted == 1200
    # Three of 500 at most, and more of them where time passes between two rows.
    assert 3 <= memphis_gateway.paths().count("/stations/orders/produce/batch") < 120
    found = sorted((json.loads(each.data) for each in memphis_gateway.messages("orders")), key=lambda each: each["id"])
    assert found == rows


@pytest.mark.parametrize(
    "row",
    [
        *(
            {"n": 2**53 + 1},
            {"n": 1.0},
            {"n": [-(2**60)]},
            {"n": {"m": 1e300}},
            {"a": "\ud800"},
            ["a"],
            "text",
            b"\xff",
        ),
        *(b'{"a": 1}', b'{"b":1,"a":2}', b'{"a":1,"a":2}', b'{"a":"<"}', b'{"a":1.50}', b'{"a":1', b'[{"a":1}]', b"7"),
    ],
    ids=repr,
)
def test_what_would_be_changed_goes_alone(client: Any, memphis_gateway: Any, row: Any) -> None:
    result = client.produce_many("orders", [row, row], concurrency=1)
    assert result.accepted == 2
    assert memphis_gateway.paths()[1:] == 2 * ["/stations/orders/produce/single"]
    data = json.dumps(row) if isinstance(row, (dict, list)) else row
    expected = data.encode() if isinstance(data, str) else data
    assert [each.data for each in memphis_gateway.messages("orders")] == [expected, expected]


def test_bytes_that_are_written_as_the_gateway_writes_them_go_together(client: Any, memphis_gateway: Any) -> None:
    rows = [b'{"a":%d,"b":"\\u003c"}' % number for number in range(10)]
    client.produce_many("orders", rows)
    assert memphis_gateway.paths()[1:] == ["/stations/orders/produce/batch"]
    assert [each.data for each in memphis_gateway.messages("orders")] == rows


def test_of_objects_that_failed_together_nobody_knows(client: Any, memphis_gateway: Any) -> None:
    memphis_gateway.schemas.add("orders")
    rows = [{"id": 0}, {"bad": 1}, {"id": 2}]
    result = client.produce_many("orders", rows, on_error="collect")
    assert (result.accepted, [each.index for each in result.failed]) == (0, [0, 1, 2])
    assert {each.error.outcome for each in result.failed} == {"unknown"}
    assert "together with 2 others" in str(result.failed[0].error)
    assert len(memphis_gateway.messages("orders")) == 1


@pytest.mark.parametrize("fault", ["lose", "reset"])
def test_objects_without_an_answer_are_not_sent_again(client: Any, memphis_gateway: Any, fault: str) -> None:
    memphis_gateway.faults.append(fault)
    result = client.produce_many("orders", [{"id": number} for number in range(10)], on_error="collect")
    assert {each.error.outcome for each in result.failed} == {"unknown"}
    assert memphis_gateway.paths().count("/stations/orders/produce/batch") == 1


def test_of_many_messages_those_without_an_answer_are_named(client: Any, memphis_gateway: Any) -> None:
    memphis_gateway.faults += ["lose", (200, JSON, b'{"error":null,"success":true}'), (500, TEXT, b"no")]
    result = client.produce_many("orders", [b"0", b"1", b"2", b"3"], on_error="collect", concurrency=1)
    assert result.accepted == 2
    assert [(each.index, each.error.outcome) for each in result.failed] == [(0, "unknown"), (2, "rejected")]


# ---- fetching -------------------------------------------------------------------------------------------------------


def test_who_does_not_say_that_messages_may_be_lost_gets_none(client: Any, memphis_gateway: Any) -> None:
    with pytest.raises(ConfigurationError, match="pass auto_ack=True"):
        client.fetch_messages("orders", "reader")
    assert memphis_gateway.paths() == ["/auth/authenticate"]


def test_messages_are_fetched_as_text(client: Any) -> None:
    for message in (b"first", "grün", b"\xff\x00"):
        client.produce("orders", message, headers={"x-a": "b"})
    found = client.fetch_messages("orders", "reader", auto_ack=True)
    assert [(each.data, each.may_be_damaged) for each in found] == [
        (b"first", False),
        ("grün".encode(), False),
        ("\ufffd\x00".encode(), True),
    ]
    assert {each.headers["X-A"] for each in found} == {"b"}
    with pytest.raises(UsageError, match="the gateway has acknowledged it"):
        found[0].ack()
    assert (found[0].station, found[0].sequence, found[0].timesent) == ("orders", None, None)
    assert client.fetch_messages("orders", "reader", auto_ack=True, batch_max_time_to_wait_ms=100) == []


def test_the_group_is_the_consumers_name_unless_it_is_given(client: Any, memphis_gateway: Any) -> None:
    client.fetch_messages("orders", "Reader", auto_ack=True, batch_size=7, batch_max_time_to_wait_ms=200)
    client.fetch_messages("orders", "other", "billing", auto_ack=True)
    first, second = (json.loads(each.body) for each in memphis_gateway.seen[1:])
    assert first == {
        "consumer_name": "reader",
        "consumer_group": "reader",
        "batch_size": 7,
        "batch_max_wait_time_ms": 200,
    }
    assert (second["consumer_name"], second["consumer_group"]) == ("other", "billing")


def test_a_consumer_keeps_its_group(client: Any) -> None:
    """The gateway would go on with the first one, silently."""
    client.fetch_messages("orders", "reader", "billing", auto_ack=True)
    with pytest.raises(UsageError, match="'billing'"):
        client.fetch_messages("orders", "reader", "audit", auto_ack=True)
    client.fetch_messages("orders", "reader", "billing", auto_ack=True)


def test_each_partition_is_asked_before_a_station_counts_as_empty(client: Any, memphis_gateway: Any) -> None:
    memphis_gateway.partitions = 3
    client.produce("orders", b"only one")
    client.fetch_messages("orders", "reader", auto_ack=True)
    assert client.fetch_messages("orders", "reader", auto_ack=True, partitions_number=3) == []
    asked = [json.loads(each.body) for each in memphis_gateway.seen if each.path.endswith("consume/batch")]
    assert [each["batch_max_wait_time_ms"] for each in asked] == [1000, 333, 333, 333]
    for number in range(3):
        client.produce("orders", b"%d" % number)
    found = [client.fetch_messages("orders", "reader", auto_ack=True, partitions_number=3) for _ in range(3)]
    assert sorted(message.data for batch in found for message in batch) == [b"0", b"1", b"2"]


def test_an_answer_that_is_lost_takes_its_messages_along_and_says_so(client: Any, memphis_gateway: Any) -> None:
    client.produce("orders", b"x")
    memphis_gateway.faults.append("lose")
    with pytest.raises(ConnectionLostError, match="acknowledged, and lost"):
        client.fetch_messages("orders", "reader", auto_ack=True)
    assert memphis_gateway.paths().count("/stations/orders/consume/batch") == 1
    assert client.fetch_messages("orders", "reader", auto_ack=True) == []


def test_an_answer_that_is_late_is_a_deadline(client: Any, memphis_gateway: Any) -> None:
    go_on = threading.Event()
    memphis_gateway.before_answer = lambda _path: go_on.wait(60)
    with pytest.raises(DeadlineError) as caught:
        client.fetch_messages("orders", "reader", auto_ack=True, batch_max_time_to_wait_ms=100, timeout_s=0.3)
    go_on.set()
    assert caught.value.timeout_s == 0.3


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ((400, JSON, b'{"error":"Consumer name is required","success":false}'), ServerError),
        ((200, JSON, b'{"success":true}'), RemoteProtocolError),
        ((200, "text/html", b"<html>"), RemoteProtocolError),
        ((200, JSON, b"[1]"), RemoteProtocolError),
        ((200, JSON, b'[{"message":1}]'), RemoteProtocolError),
    ],
    ids=repr,
)
def test_an_answer_that_holds_no_messages_is_an_error(
    client: Any, memphis_gateway: Any, fault: Any, kind: type[MemphisError]
) -> None:
    memphis_gateway.faults.append(fault)
    with pytest.raises(kind):
        client.fetch_messages("orders", "reader", auto_ack=True)


def test_the_limits_of_repeating_are_within_what_a_station_remembers() -> None:
    """A station forgets ids after two minutes by default, and an access token lives longer than its margin."""
    assert calling.LONGEST_REPEAT_S < 120
    assert tokens.ACCESS_MINUTES < tokens.REFRESH_MINUTES
