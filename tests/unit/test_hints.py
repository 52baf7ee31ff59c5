"""A wrong keyword names the parameter that was meant, and a password in the wrong place is shown nowhere."""

from __future__ import annotations

import inspect
import traceback

import pytest

import memphis_sync
from memphis_sync import Consumer, Headers, Memphis, Message, Producer, Station
from memphis_sync._base.hints import hint_keywords, nearest


@pytest.mark.parametrize(
    ("call", "keyword", "meant"),
    [
        (Memphis.station, "partitions", "partitions_number"),
        (Memphis.station, "schema", "schema_name"),
        (Memphis.station, "retention", "retention_type"),
        (Memphis.station, "replica", "replicas"),
        (Memphis.consumer, "group", "consumer_group"),
        (Memphis.consumer, "batchsize", "batch_size"),
        (Memphis.fetch_messages, "key", "consumer_partition_key"),
        (Memphis.fetch_messages, "timeout", "timeout_s"),
        (Memphis.producer, "timeout", "ack_timeout_s"),
        (Memphis.close, "timeout", "timeout_s"),
        (Memphis.create_schema, "content", "schema_content"),
        (Memphis.enforce_schema, "station", "station_name"),
        (Producer.produce, "key", "producer_partition_key"),
        (Producer.produce, "partition", "producer_partition_number"),
        (Producer.produce, "timeout", "ack_wait_sec"),
        (Memphis.produce, "key", "producer_partition_key"),
        (Memphis.produce, "header", "headers"),
        (Producer.flush, "timeout", "timeout_s"),
        (Consumer.fetch, "partition", "consumer_partition_number"),
        (Consumer.consume, "worker", "workers"),
        (Station.destroy, "retries", "timeout_retries"),
        (Message.delay, "ms", "delay_ms"),
        (Headers.add, "name", ""),
        (memphis_sync.connect, "pasword", "password"),
        (memphis_sync.connect, "token", "connection_token"),
        (memphis_sync.connect, "timeout", "timeout_ms"),
        (memphis_sync.connect, "url", "host"),
        (memphis_sync.connect, "hostname", "host"),
        (memphis_sync.connect, "user", "username"),
    ],
)
def test_a_wrong_keyword_names_the_nearest_parameter(call, keyword, meant):
    needed = [p for p in inspect.signature(call).parameters.values() if p.default is p.empty and p.kind < p.VAR_KEYWORD]
    with pytest.raises(TypeError) as caught:
        call(*needed, **{keyword: 1})
    hint = f"did you mean {meant!r}?" if meant else "the known ones are "
    assert f"unexpected keyword argument {keyword!r}; {hint}" in str(caught.value)


def test_signatures_and_docstrings_stay():
    parameters = inspect.signature(Memphis.station).parameters
    assert list(parameters)[:3] == ["self", "name", "retention_type"]
    assert Memphis.station.__doc__.strip().startswith("Creates a station.")
    assert Memphis.station.__qualname__ == "Memphis.station"


def test_names_that_nothing_resembles_are_answered_with_all():
    assert nearest("zzz", {"alpha", "beta"}) == ""
    assert nearest("", {"alpha"}) == ""
    assert nearest("_", {"alpha"}) == ""


def test_right_calls_pass_and_own_type_errors_are_left_alone():
    @hint_keywords()
    class Thing:
        def take(self, one, *, two=2):
            if two is None:
                raise TypeError("its own")
            return one + two

    assert Thing().take(1, two=3) == 4
    with pytest.raises(TypeError, match="its own"):
        Thing().take(1, two=None)
    with pytest.raises(TypeError, match="missing 1 required"):
        Thing().take(two=1)


@pytest.mark.parametrize("before", [0, 3, 4, 5, 6, 7])
def test_a_password_in_the_place_of_another_argument_is_not_shown(before):
    """As in connect("host", "user", "password"): behind the user name come numbers and switches."""
    others = (1, "", "x", 6666, True, -1, 1500)[:before]
    with pytest.raises(memphis_sync.ConfigurationError) as caught:
        memphis_sync.connect("127.0.0.1", "root", *others, "canary-secret")
    text = "".join(traceback.format_exception_only(type(caught.value), caught.value))
    assert "is a str; it must be" in text
    assert ("password=..." in text) == (before == 0)
    assert "canary-secret" not in text
