"""The client over HTTP with the gateway of memphis-sync: what it stores, under which id, and its errors."""

from __future__ import annotations

import datetime as dt
import json
import os
import pickle
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fix_process import run_python

import memphis_sync.http
from memphis_sync import (
    AckTimeoutError,
    AuthenticationError,
    BulkError,
    ClosedError,
    ConfigurationError,
    ConnectError,
    HeaderError,
    Item,
    PayloadTooLargeError,
    SchemaError,
)
from memphis_sync.http import HttpClient

LOGIN = {"username": "root", "password": "memphis"}
SCHEMA = '{"type": "object", "required": ["id"]}'


@pytest.fixture
def client(gateway: Any) -> Any:
    with memphis_sync.http.connect(gateway.url, **LOGIN) as opened:
        yield opened


def stored(memphis: Any, station: str) -> list[Any]:
    found = []
    for message in memphis.consumer(station, "reader").read_all():
        message.ack()
        found.append(message)
    return found


def test_a_message_is_stored_when_produce_returns(client: HttpClient, memphis: Any, station_name: str) -> None:
    assert client.confirms_storage
    answer = client.produce(station_name, b"\xff\x00", headers={"x-number": "7", "X-Text": "grün"}, msg_id="order-ü7")
    assert (answer.is_stored, answer.sequence, answer.duplicate) == (True, 1, False)
    assert (answer.station, answer.stream, answer.partition) == (station_name, f"{station_name}$1", 1)
    assert answer.message_id == "order-ü7"
    (message,) = stored(memphis, station_name)
    assert message.data == b"\xff\x00"
    assert message.headers == {
        "Content-Type": "application/octet-stream",
        "X-Number": "7",
        "X-Text": "grün",
    }
    assert "order-ü7" in message.get_headers().values()


def test_nothing_secret_and_nothing_of_http_is_stored(client: HttpClient, memphis: Any, station_name: str) -> None:
    client.produce(station_name, "hello")
    (message,) = stored(memphis, station_name)
    assert message.headers == {"Content-Type": "text/plain; charset=utf-8"}


@pytest.mark.parametrize(
    ("message", "data"),
    [
        (b"", b""),
        (bytearray(b"ab"), b"ab"),
        (memoryview(b"abcd")[::2], b"ac"),
        ("grün", "grün".encode()),
        ({"n": 2**60, "t": "<&>"}, b'{"n": 1152921504606846976, "t": "<&>"}'),
        ([1, None], b"[1, null]"),
        (b"x" * 1_000_000, b"x" * 1_000_000),
    ],
    ids=["none", "bytearray", "view", "text", "object", "array", "a million"],
)
def test_every_kind_of_message_is_stored_as_it_is(
    client: HttpClient, memphis: Any, station_name: str, message: Any, data: bytes
) -> None:
    client.produce(station_name, message)
    assert [each.data for each in stored(memphis, station_name)] == [data]


def test_json_default_writes_what_json_has_no_form_for(gateway: Any, memphis: Any, station_name: str) -> None:
    with memphis_sync.http.connect(gateway.url, json_default=str, **LOGIN) as client:
        client.produce(station_name, {"at": dt.date(2026, 1, 2)})
    assert [each.data for each in stored(memphis, station_name)] == [b'{"at": "2026-01-02"}']


def test_a_message_id_is_stored_once(client: HttpClient, memphis: Any, station_name: str) -> None:
    answers = [client.produce(station_name, b"x", msg_id="a-1") for _ in range(2)]
    assert [(each.sequence, each.duplicate) for each in answers] == [(1, False), (1, True)]
    assert len(stored(memphis, station_name)) == 1


def test_a_partition_is_chosen_by_number_and_by_key(client: HttpClient, memphis: Any, station_name: str) -> None:
    memphis.station(station_name, partitions_number=3)
    by_number = [client.produce(station_name, b"x", producer_partition_number=3).partition for _ in range(2)]
    by_key = {client.produce(station_name, b"x", producer_partition_key="kündin").partition for _ in range(3)}
    assert by_number == [3, 3]
    assert by_key == {memphis.produce(station_name, "p", b"x", producer_partition_key="kündin").partition}


def test_an_answer_that_is_lost_is_asked_for_again_with_the_same_id(
    gateway: Any, proxy_to: Any, memphis: Any, station_name: str
) -> None:
    proxy = proxy_to(gateway.host, gateway.port)
    with memphis_sync.http.connect(f"http://127.0.0.1:{proxy.port}", **LOGIN) as client:
        client.produce(station_name, b"first")
        for number in range(3):
            proxy.cut_after(0, to_server=False)
            answer = client.produce(station_name, b"%d" % number, ack_wait_sec=60)
            assert answer.duplicate, answer
    assert [each.data for each in stored(memphis, station_name)] == [b"first", b"0", b"1", b"2"]


def test_a_gateway_that_was_restarted_is_logged_in_at_again(
    broker: Any, fresh_gateway: Any, memphis: Any, station_name: str
) -> None:
    """It has new keys then, so neither token is worth anything."""
    first = fresh_gateway(broker.url)
    with memphis_sync.http.connect(first.url, **LOGIN) as client:
        client.produce(station_name, b"0")
        first.stop()
        with ThreadPoolExecutor(4) as pool:
            waiting = [pool.submit(client.produce, station_name, b"%d" % number, ack_wait_sec=120) for number in (1, 2)]
            fresh_gateway(broker.url, "--port", str(first.port))
            assert all(each.result().is_stored for each in waiting)
    assert sorted(each.data for each in stored(memphis, station_name)) == [b"0", b"1", b"2"]


def test_a_gateway_that_is_away_has_stored_nothing(fresh_gateway: Any, broker: Any, station_name: str) -> None:
    gateway = fresh_gateway(broker.url)
    with memphis_sync.http.connect(gateway.url, **LOGIN) as client:
        gateway.program.close()
        with pytest.raises(AckTimeoutError, match=r"not confirmed within 0\.5 s") as caught:
            client.produce(station_name, b"x", ack_wait_sec=0.5)
    assert caught.value.outcome == "not_sent"
    assert caught.value.timeout_s == 0.5
    assert pickle.loads(pickle.dumps(caught.value)).outcome == "not_sent"


def test_a_message_against_the_schema_is_refused(client: HttpClient, memphis: Any, station_name: str) -> None:
    memphis.create_schema(station_name, "json", schema_content=SCHEMA)
    memphis.station(station_name, schema_name=station_name)
    with pytest.raises(SchemaError, match="id") as caught:
        client.produce(station_name, {"no": 1})
    assert caught.value.outcome == "not_sent"
    assert caught.value.reason
    assert client.produce(station_name, {"id": 1}).is_stored


def test_a_message_that_is_too_large_is_refused(client: HttpClient, station_name: str) -> None:
    with pytest.raises(PayloadTooLargeError, match="413") as caught:
        client.produce(station_name, b"x" * 5_000_000)
    assert caught.value.outcome == "not_sent"


def test_threads_share_a_client(client: HttpClient, memphis: Any, station_name: str) -> None:
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: client.produce(station_name, b"%d" % number), range(200)))
    assert sorted(int(each.data) for each in stored(memphis, station_name)) == list(range(200))


FORKED = """
import os, sys, threading
import memphis_sync.http
url, station = sys.argv[1:]
client = memphis_sync.http.connect(url, username="root", password="memphis")
client.produce(station, "parent 0")
children = []
for number in range(3):
    pid = os.fork()
    if pid == 0:
        try:
            for each in range(5):
                client.produce(station, f"child {number} {each}")
            client.close()
            os._exit(0)
        finally:
            os._exit(1)
    children.append(pid)
for each in range(5):
    client.produce(station, f"parent {each + 1}")
print([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children])
client.produce(station, "parent 6")
client.close()
"""


def test_a_forked_child_has_connections_and_a_login_of_its_own(gateway: Any, memphis: Any, station_name: str) -> None:
    done = run_python("-W", "error", "-c", FORKED, gateway.url, station_name, timeout_s=60)
    assert (done.stdout.decode(), done.stderr.decode()) == ("[0, 0, 0]\n", "")
    expected = [f"parent {each}" for each in range(7)] + [f"child {n} {each}" for n in range(3) for each in range(5)]
    assert sorted(each.data.decode() for each in stored(memphis, station_name)) == sorted(expected)


def test_many_messages_are_stored_and_counted(client: HttpClient, memphis: Any, station_name: str) -> None:
    items = [Item(b"0", headers={"a": "b"}), Item("1", msg_id="one"), Item("1", msg_id="one"), {"n": 3}]
    result = client.produce_many(station_name, items, concurrency=1)
    assert (result.delivered, result.duplicates, result.accepted, result.failed) == (4, 1, 0, ())
    assert [each.data for each in stored(memphis, station_name)] == [b"0", b"1", b'{"n": 3}']


def test_of_many_messages_each_failure_is_named(client: HttpClient, memphis: Any, station_name: str) -> None:
    memphis.create_schema(station_name, "json", schema_content=SCHEMA)
    memphis.station(station_name, schema_name=station_name)
    rows: list[Any] = [{"id": 0}, {"no": 1}, {"id": 2}, 3, {"id": 4}]
    result = client.produce_many(station_name, rows, on_error="collect")
    assert result.delivered == 3
    assert [(each.index, type(each.error).__name__) for each in result.failed] == [
        (1, "SchemaError"),
        (3, "ProduceError"),
    ]
    assert isinstance(result.failed[1].error.__cause__, ConfigurationError)
    with pytest.raises(BulkError, match="message 1 failed") as caught:
        client.produce_many(station_name, rows, concurrency=1)
    assert isinstance(caught.value, SchemaError)
    assert caught.value.result is not None


def test_messages_that_go_together_are_stored_as_they_are_and_in_their_order(
    client: HttpClient, memphis: Any, station_name: str
) -> None:
    """What would not come out of a line as it went in goes alone."""
    odd = [
        b"a\nb",
        b"",
        b" \t",
        b"end\r",
        b"\r",
        "\u2028",
        b"\xff\xfe",
        {"text": "line\nend"},
        [1.0, 2**60],
        b"x" * 200_000,
    ]
    rows = [each for number in range(100) for each in (f"{number}", *odd[number % 10 : number % 10 + 1])]
    result = client.produce_many(station_name, rows, concurrency=1)
    assert (result.delivered, result.duplicates, result.failed) == (200, 0, ())
    written = [json.dumps(each) if isinstance(each, (dict, list)) else each for each in rows]
    expected = [each.encode() if isinstance(each, str) else each for each in written]
    assert [bytes(each.data) for each in stored(memphis, station_name)] == expected


@pytest.mark.parametrize("bytes_that_pass", [0, 2000, 30_000])
def test_many_messages_whose_answer_is_cut_are_stored_once(
    gateway: Any, proxy_to: Any, memphis: Any, station_name: str, bytes_that_pass: int
) -> None:
    proxy = proxy_to(gateway.host, gateway.port)
    with memphis_sync.http.connect(f"http://127.0.0.1:{proxy.port}", **LOGIN) as client:
        proxy.cut_after(bytes_that_pass, to_server=False)
        result = client.produce_many(station_name, (str(number) for number in range(2000)))
        assert (result.delivered, result.failed) == (2000, ())
        assert result.duplicates > 0
    assert sorted(int(each.data) for each in stored(memphis, station_name)) == list(range(2000))


def test_many_requests_take_the_time_that_there_is(fresh_gateway: Any, broker: Any, station_name: str) -> None:
    gateway = fresh_gateway(broker.url)
    with memphis_sync.http.connect(gateway.url, **LOGIN) as client:
        gateway.program.close()
        with pytest.raises(memphis_sync.DeadlineError) as caught:
            client.produce_many(station_name, (str(number) for number in range(700)), timeout_s=0.5)
    result = caught.value.result  # type: ignore[attr-defined]
    assert result.delivered == 0
    assert {each.error.outcome for each in result.failed} == {"not_sent"}


def test_what_the_iterable_raises_comes_after_what_was_sent(
    client: HttpClient, memphis: Any, station_name: str
) -> None:
    def rows() -> Any:
        yield from (b"0", b"1")
        raise KeyError("rows")

    with pytest.raises(KeyError) as caught:
        client.produce_many(station_name, rows())
    assert caught.value.result.delivered == 2  # type: ignore[attr-defined]
    assert len(stored(memphis, station_name)) == 2


@pytest.mark.parametrize("auto_ack", [False, True])
def test_messages_are_fetched_as_they_are(client: HttpClient, memphis: Any, station_name: str, auto_ack: bool) -> None:
    memphis.station(station_name, partitions_number=2)
    sent = [b"\xff\x00", "grün".encode(), b"", "\ufffd".encode()]
    for number, data in enumerate(sent):
        memphis.produce(station_name, "p", data, headers={"A": f"{number}ü"}, producer_partition_number=1 + number % 2)
    found: list[Any] = []
    while len(found) < 4:
        new = client.fetch_messages(station_name, "reader", batch_max_time_to_wait_ms=2000, auto_ack=auto_ack)
        new.ack() if not auto_ack else None
        found += new
    assert sorted((each.headers["A"], each.data) for each in found) == [
        (f"{number}ü", data) for number, data in enumerate(sent)
    ]
    assert {each.station for each in found} == {station_name}
    assert not any(each.may_be_damaged for each in found)
    assert all(each.is_answered for each in found)
    assert client.fetch_messages(station_name, "reader", batch_max_time_to_wait_ms=100, auto_ack=auto_ack) == []
    if not auto_ack:
        assert {(each.partition, each.sequence, each.delivered) for each in found} == {
            (partition, sequence, 1) for partition in (1, 2) for sequence in (1, 2)
        }
        age = dt.datetime.now(dt.timezone.utc) - found[0].timesent
        assert dt.timedelta(0) <= age < dt.timedelta(minutes=5)


def fetch(client: HttpClient, station: str, **options: Any) -> Any:
    """The one message that comes next."""
    (message,) = client.fetch_messages(station, "reader", batch_max_time_to_wait_ms=60_000, **options)
    return message


def test_a_message_comes_again_until_it_is_acknowledged(client: HttpClient, station_name: str) -> None:
    client.produce(station_name, b"x", headers={"a": "b"})
    with fetch(client, station_name, max_msg_deliveries=5) as message:
        message.nack()
    with pytest.raises(KeyError), fetch(client, station_name, max_msg_deliveries=5) as message:
        raise KeyError
    with fetch(client, station_name, max_msg_deliveries=5) as message:
        message.delay(delay_ms=1)
    with fetch(client, station_name, max_msg_deliveries=5) as message:
        assert (message.delivered, message.headers["A"], message.is_answered) == (4, "b", False)
        assert repr(message) == f"<HttpMessage {station_name}[1] seq=1 1 bytes>"
        assert message._delivery.token not in repr(message) + message._repr_html_()
    assert message.is_answered
    with pytest.raises(memphis_sync.UsageError, match="called before"):
        message.ack()
    assert client.fetch_messages(station_name, "reader", max_msg_deliveries=5, batch_max_time_to_wait_ms=100) == []


def test_a_message_that_cannot_be_handled_is_a_dead_letter(
    client: HttpClient, memphis: Any, station_name: str, until: Any
) -> None:
    client.produce(station_name, b"x")
    fetch(client, station_name).dead_letter("no such customer")
    (letter,) = until(lambda: list(memphis.dls(station_name)))
    assert letter.data == b"x"
    assert "no such customer" in letter.reason


def test_an_answer_to_an_ack_that_is_lost_is_asked_for_again(gateway: Any, proxy_to: Any, station_name: str) -> None:
    proxy = proxy_to(gateway.host, gateway.port)
    with memphis_sync.http.connect(f"http://127.0.0.1:{proxy.port}", **LOGIN) as client:
        client.produce_many(station_name, ["a", "b"])
        messages = client.fetch_messages(station_name, "reader", batch_max_time_to_wait_ms=60_000)
        proxy.cut_after(0, to_server=False)
        messages.ack(timeout_s=60)
        messages.ack()
        assert client.fetch_messages(station_name, "reader", batch_max_time_to_wait_ms=100) == []


def test_an_answer_to_a_fetch_that_is_lost_loses_nothing(gateway: Any, proxy_to: Any, station_name: str) -> None:
    proxy = proxy_to(gateway.host, gateway.port)
    with memphis_sync.http.connect(f"http://127.0.0.1:{proxy.port}", **LOGIN) as client:
        client.produce(station_name, b"x")
        proxy.cut_after(0, to_server=False)
        with pytest.raises(memphis_sync.ConnectionLostError, match="delivered again"):
            fetch(client, station_name, max_ack_time_ms=1000, max_msg_deliveries=5)
        assert fetch(client, station_name, max_ack_time_ms=1000, max_msg_deliveries=5).data == b"x"


def test_an_ack_that_comes_too_late_says_so(client: HttpClient, station_name: str, until: Any) -> None:
    client.produce(station_name, b"x")
    message = fetch(client, station_name, max_ack_time_ms=100, max_msg_deliveries=10)
    until(lambda: client.fetch_messages(station_name, "reader", max_ack_time_ms=100, max_msg_deliveries=10))
    with pytest.raises(memphis_sync.ServerError, match="delivered again") as caught:
        message.ack()
    assert caught.value.code == 410


def test_a_wrong_password_is_told_at_once_and_not_shown(gateway: Any) -> None:
    with pytest.raises(AuthenticationError, match="user 'root' cannot log in") as caught:
        memphis_sync.http.connect(gateway.url, username="root", password="canary")
    assert "canary" not in str(caught.value)


def test_a_closed_client_refuses_and_has_logged_out(gateway: Any, station_name: str) -> None:
    client = memphis_sync.http.connect(gateway.url, **LOGIN)
    client.produce(station_name, b"x")
    token = client._caller().tokens.get(time.monotonic() + 60)
    client.close()
    client.close()
    for call in (
        lambda: client.produce(station_name, b"x"),
        lambda: client.produce_many(station_name, [b"x"]),
        lambda: client.fetch_messages(station_name, "c"),
        lambda: client.confirms_storage,
    ):
        with pytest.raises(ClosedError):
            call()
    answer = gateway.request("POST", f"/stations/{station_name}/produce/single", b"x", token=token)
    assert answer.status == 401
    assert "closed" in repr(client)


def test_what_answers_is_not_a_gateway(broker: Any) -> None:
    port = int(broker.url.rpartition(":")[2])
    with pytest.raises(ConnectError):
        memphis_sync.http.connect(f"http://127.0.0.1:{port}", timeout_ms=30_000, **LOGIN)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(ConnectError, match="in time"):
        memphis_sync.http.connect(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_ms=300, **LOGIN)


def test_a_client_that_was_not_closed_is_told_of(gateway: Any) -> None:
    client = memphis_sync.http.connect(gateway.url, **LOGIN)
    with pytest.warns(ResourceWarning, match="never closed"):
        client.__del__()
    client.close()


def test_a_handler_inside_a_call_is_refused(client: HttpClient, station_name: str) -> None:
    """It would wait for locks that its own thread holds."""
    errors: list[BaseException] = []

    class Reentering(dict):  # type: ignore[type-arg]
        """Stands for a signal handler: it runs while the request is being made."""

        def items(self) -> Any:
            try:
                client.produce(station_name, b"inner")
            except memphis_sync.UsageError as exc:
                errors.append(exc)
            return super().items()

    caller = client._caller()
    with caller._once():
        Reentering().items()
    assert len(errors) == 1
    assert "signal handler" in str(errors[0])
    assert threading.get_ident() not in caller._calling
    assert client.produce(station_name, b"after").is_stored


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ({"Authorization": "x"}, "belongs to HTTP"),
        ({"cookie": "x"}, "belongs to HTTP"),
        ({"Memphis-Partition-Key": "x"}, "belongs to HTTP"),
        ({"Idempotency-Key": "x"}, "belongs to HTTP"),
        ({"a(b": "x"}, "a character"),
        ({"a": "x\x01"}, "control character"),
        ({"a": "x\r\nb: c"}, "a"),
        ({"a": "1", "A": "2"}, "twice"),
        ({"$memphis_x": "1"}, "reserved"),
        ({"Nats-Msg-Id": "1"}, "reserved"),
        ({"a": 1}, "must be a str"),
        ([("a", "b")], "must be a dict"),
    ],
    ids=repr,
)
def test_a_header_that_http_cannot_carry_is_refused(
    client: HttpClient, memphis: Any, station_name: str, headers: Any, why: str
) -> None:
    memphis.station(station_name)
    with pytest.raises(HeaderError, match=why):
        client.produce(station_name, b"x", headers=headers)
    assert stored(memphis, station_name) == []


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"station_name": "a/b"}, "station_name"),
        ({"station_name": ".."}, "station_name"),
        ({"station_name": "a%2Fb"}, "station_name"),
        ({"station_name": 7}, "station_name"),
        ({"message": 7}, "message is of type int"),
        ({"message": {"a": float("nan")}}, "message"),
        ({"message": "\ud800"}, "UTF-8"),
        ({"ack_wait_sec": 0}, "ack_wait_sec"),
        ({"msg_id": ""}, "msg_id"),
        ({"msg_id": "a\nb"}, "msg_id"),
        ({"msg_id": " a"}, "msg_id"),
        ({"msg_id": 7}, "msg_id"),
        ({"producer_partition_key": ""}, "producer_partition_key"),
        ({"producer_partition_number": "1"}, "producer_partition_number"),
        ({"producer_partition_number": 1, "producer_partition_key": "a"}, "both given"),
    ],
    ids=repr,
)
def test_a_bad_argument_of_produce_is_named(client: HttpClient, arguments: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        client.produce(**{"station_name": "orders", "message": b"x", **arguments})


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda client: client.produce_many("s", "text"), "iterable"),
        (lambda client: client.produce_many("s", [b"x"], on_error="ignore"), "on_error"),
        (lambda client: client.produce_many("s", [b"x"], timeout_s=0), "timeout_s"),
        (lambda client: client.produce_many("s", [b"x"], concurrency=0), "concurrency"),
        (lambda client: client.fetch_messages("s", "a b"), "consumer_name"),
        (lambda client: client.fetch_messages("s", "c", "g/h"), "consumer_group"),
        (lambda client: client.fetch_messages("s", "c", batch_size=5001), "batch_size"),
        (lambda client: client.fetch_messages("s", "c", batch_max_time_to_wait_ms=-1), "batch_max_time_to_wait_ms"),
        (lambda client: client.fetch_messages("s", "c", partitions_number=0), "partitions_number"),
        (lambda client: client.fetch_messages("s", "c", timeout_s="1"), "timeout_s"),
        (lambda client: client.fetch_messages("s", "c", timeout_s=1.0), "timeout_s is 1, which is not longer"),
        (lambda client: client.fetch_messages("s", "c", partitions_number=99, timeout_s=9.9), "the 9900 ms"),
        (lambda client: client.fetch_messages("s", "c", max_ack_time_ms=99), "max_ack_time_ms"),
        (lambda client: client.fetch_messages("s", "c", max_msg_deliveries=11), "max_msg_deliveries"),
        (lambda client: client.fetch_messages("s", "c", auto_ack="yes"), "auto_ack"),
        (lambda client: client.fetch_messages("s", "c", auto_ack=True, max_ack_time_ms=500), "auto_ack"),
    ],
)
def test_another_bad_argument_is_named(client: HttpClient, call: Any, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        call(client)


def test_a_parameter_of_the_other_client_gets_a_hint(client: HttpClient) -> None:
    with pytest.raises(TypeError, match="did you mean 'message'"):
        client.produce("orders", payload=b"x")  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        client.produce("orders", "shop", b"x")  # type: ignore[misc]


def test_nothing_of_the_extras_is_imported_with_the_module() -> None:
    code = (
        "import sys, memphis_sync.http\n"
        "print([name for name in ('httpx', 'starlette', 'uvicorn', 'jwt') if name in sys.modules])\n"
        "sys.modules['httpx'] = None\n"
        "try:\n    memphis_sync.http.connect('http://127.0.0.1:1', username='u', password='p')\n"
        "except memphis_sync.ConfigurationError as error:\n    print(error)\n"
    )
    done = run_python("-W", "error", "-c", code, timeout_s=60)
    first, second = done.stdout.decode().splitlines()
    assert first == "[]"
    assert "pip install 'memphis-sync[http]'" in second
    assert os.fsencode("Traceback") not in done.stderr
