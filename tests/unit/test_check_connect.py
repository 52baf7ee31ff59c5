"""Arguments and messages that are checked without a connection: nothing listens where these tests point to."""

from __future__ import annotations

import pytest

import memphis_sync
from memphis_sync import ConfigurationError, HeaderError

SECRET = "canary-secret"


def test_a_plan_says_where_connect_goes_and_holds_no_secret() -> None:
    plan = memphis_sync.check_connect(f"memphis+tls://shop:{SECRET}@b1:7777,b2/?name=web")
    assert [str(address) for address in plan.addresses] == ["b1:7777", "b2:6666"]
    assert (plan.name, plan.username, plan.is_tls, plan.is_local) == ("web", "shop", True, False)
    assert SECRET not in repr(plan)


@pytest.mark.parametrize(
    ("hosts", "is_local"), [("127.0.0.1", True), ("localhost,[::1]", True), ("127.0.0.1,b", False)]
)
def test_a_plan_tells_whether_it_leaves_the_machine(hosts: str, is_local: bool) -> None:
    assert memphis_sync.check_connect(f"memphis://u:p@{hosts}").is_local == is_local


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (("memphis://u:p@h/?timeout=1",), ConfigurationError, "did you mean 'timeout_ms'"),
        (("memphis://u:p@h:port",), ConfigurationError, "port"),
        (("h",), ConfigurationError, "username is missing"),
    ],
)
def test_wrong_arguments_are_refused_as_by_connect(arguments: tuple, error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        memphis_sync.check_connect(*arguments)


def test_an_unknown_argument_gets_the_nearest_name() -> None:
    with pytest.raises(TypeError, match="did you mean 'timeout_ms'"):
        memphis_sync.check_connect("memphis://u:p@h", timeout=2)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("message", "payload"),
    [
        (b"\x00", b"\x00"),
        (bytearray(b"ab"), b"ab"),
        (memoryview(b"abcd")[::2], b"ac"),
        ("\u00e9", b"\xc3\xa9"),
        ({"id": 7}, b'{"id": 7}'),
        ([1, None], b"[1, null]"),
    ],
)
def test_a_message_is_written_as_produce_writes_it(message: object, payload: bytes) -> None:
    assert memphis_sync.encode_message("orders", message) == (payload, None)


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"message": object()}, ConfigurationError, "message is of type object"),
        ({"message": {"at": {1}}}, ConfigurationError, "cannot be written as JSON"),
        ({"message": "\ud800"}, ConfigurationError, "cannot be written as UTF-8"),
        ({"station_name": "no spaces"}, ConfigurationError, "station_name"),
        ({"headers": {"Nats-x": "1"}}, HeaderError, "Nats-"),
        ({"headers": {"a": 1}}, HeaderError, "a"),
        ({"msg_id": 7}, ConfigurationError, "msg_id is of type int"),
        ({"producer_partition_key": 7}, ConfigurationError, "producer_partition_key"),
        ({"producer_partition_key": "\ud800"}, ConfigurationError, "partition key"),
        ({"producer_partition_number": "1"}, ConfigurationError, "producer_partition_number"),
        ({"json_default": 1}, ConfigurationError, "json_default"),
    ],
)
def test_what_produce_would_refuse_is_refused(given: dict, error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        memphis_sync.encode_message(**{"station_name": "orders", "message": b"", **given})


def test_json_default_writes_what_json_has_no_form_for() -> None:
    assert memphis_sync.encode_message("orders", {"at": {1}}, json_default=sorted).payload == b'{"at": [1]}'
