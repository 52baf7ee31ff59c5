"""memphis-py 1.3.1, unchanged, consumes from our broker what our own client wrote."""

from __future__ import annotations

import json
from typing import Any, Callable

import pytest
from control_client import ControlClient
from fix_sdk import SdkClient, SdkError

from memphis_sync import Memphis
from memphis_sync._control.dead_letters import give_back
from memphis_sync._protocol.dead_letters import GivenBack
from memphis_sync._protocol.partitions import partition_for_key


def texts(messages: list[Any]) -> list[str]:
    return [message.get_data().decode() for message in messages]


def fill(memphis: Memphis, station: str, partitions: dict[int, list[str]], **options: Any) -> None:
    """Makes a station with these messages in its partitions."""
    memphis.station(station, partitions_number=max(partitions), **options)
    with memphis.producer(station, "ours") as producer:
        for number, messages in partitions.items():
            for text in messages:
                producer.produce(text, producer_partition_number=number, headers={"text": text})


def test_fetch_gives_what_is_in_a_message(memphis_py: SdkClient, memphis: Memphis, station_name: str) -> None:
    memphis.station(station_name)
    with memphis.producer(station_name, "ours") as producer:
        for payload in (bytes(range(256)), b"", b"z" * 100_000):
            producer.produce(payload, headers={"size": str(len(payload)), "x": "ä"})
    consumer = memphis_py.consumer(station_name=station_name, consumer_name="c")
    found = consumer.fetch(batch_size=10)
    assert [message.get_data() for message in found] == [bytes(range(256)), b"", b"z" * 100_000]
    assert [message.get_sequence_number() for message in found] == [1, 2, 3]
    assert [message.get_data_deserialized() for message in found] == [message.get_data() for message in found]
    headers = found[0].get_headers()
    assert (headers["size"], headers["x"], headers["$memphis_producedBy"]) == ("256", "ä", "ours")
    assert found[0].get_timesent() is None  # protocol reference D-py-7: it calls a property, and hides the error
    for message in found:
        assert message.ack() is None


def test_every_option_of_a_consumer_reaches_the_group(
    memphis_py: SdkClient, memphis: Memphis, control: ControlClient, station_name: str
) -> None:
    fill(memphis, station_name, {1: ["a", "b", "c", "d"]})
    consumer = memphis_py.consumer(
        station_name,
        "c",
        consumer_group="Billing.EU",
        pull_interval_ms=200,
        batch_size=3,
        batch_max_time_to_wait_ms=500,
        max_ack_time_ms=7000,
        max_msg_deliveries=4,
        generate_random_suffix=True,
        start_consume_from_sequence=3,
        timeout_retries=2,
    )
    durable = control.durable(f"{station_name}$1", "billing#eu")
    assert durable is not None
    config = durable["config"]
    assert (config["ack_wait"], config["max_deliver"]) == (7_000_000_000, 4)
    assert (config["deliver_policy"], config["opt_start_seq"]) == ("by_start_sequence", 3)
    assert texts(consumer.fetch(10)) == ["c", "d"]
    newest = memphis_py.consumer(station_name, "newest", last_messages=1)
    assert texts(newest.fetch(10)) == ["d"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"batch_size": 5001}, "Batch size can not be greater than 5000 or less than 1"),
        ({"start_consume_from_sequence": 0}, "start_consume_from_sequence has to be a positive number"),
        ({"last_messages": -2}, "min value for last_messages is -1"),
        ({"last_messages": 2, "start_consume_from_sequence": 2}, "can't contain both"),
        ({"consumer_group": "bad group"}, "Only alphanumeric"),
    ],
)
def test_what_a_consumer_may_not_be(
    memphis_py: SdkClient, station_name: str, options: dict[str, Any], text: str
) -> None:
    with pytest.raises(SdkError, match=text):
        memphis_py.consumer(station_name, "c", **options)


def test_groups_see_everything_and_members_share_it(memphis_py: SdkClient, memphis: Memphis, station_name: str) -> None:
    fill(memphis, station_name, {1: [f"{number}" for number in range(6)]})
    one = memphis_py.consumer(station_name, "one", consumer_group="g")
    two = memphis_py.consumer(station_name, "two", consumer_group="g")
    shared = [*one.fetch(3), *two.fetch(3)]
    assert sorted(texts(shared)) == [f"{number}" for number in range(6)]
    assert texts(memphis_py.consumer(station_name, "alone").fetch(10)) == [f"{number}" for number in range(6)]


def test_partitions_by_key_number_and_in_turn(memphis_py: SdkClient, memphis: Memphis, station_name: str) -> None:
    fill(memphis, station_name, {1: ["a1", "b1"], 2: ["a2", "b2"], 3: ["a3"]})
    consumer = memphis_py.consumer(station_name, "c")
    assert texts(consumer.fetch(1, consumer_partition_number=2)) == ["a2"]
    assert partition_for_key("a", [1, 2, 3]) == 1
    assert texts(consumer.fetch(1, consumer_partition_key="a")) == ["a1"]
    assert [texts(consumer.fetch(2)) for _ in range(3)] == [["b1"], ["b2"], ["a3"]]
    with pytest.raises(SdkError, match="Can not use both partition number and partition key"):
        consumer.fetch(1, consumer_partition_key="k", consumer_partition_number=1)
    with pytest.raises(SdkError, match="Partition number is out of range"):
        consumer.fetch(1, consumer_partition_number=4)


def test_fetch_messages_makes_a_consumer_and_keeps_it(
    memphis_py: SdkClient, memphis: Memphis, station_name: str
) -> None:
    fill(memphis, station_name, {1: ["a"], 2: ["b", "c"]})
    options = {"consumer_group": "g", "max_ack_time_ms": 5000, "max_msg_deliveries": 3, "prefetch": False}
    found = memphis_py.fetch_messages(station_name, "c", batch_size=1, consumer_partition_number=2, **options)
    assert texts(found) == ["b"]
    key = next(key for key in "abcdefgh" if partition_for_key(key, [1, 2]) == 1)
    assert texts(memphis_py.fetch_messages(station_name, "c", consumer_partition_key=key)) == ["a"]
    assert len(memphis_py.memphis.read("consumers_map")) == 1


def test_prefetch(
    memphis_py: SdkClient, memphis: Memphis, station_name: str, until: Callable[[Callable[[], bool]], bool]
) -> None:
    """
    The first fetch loads twice its size behind the caller's back; what is loaded is given out first.

    Source: protocol reference D-py-11.
    """
    fill(memphis, station_name, {1: [f"{number}" for number in range(9)]})
    consumer = memphis_py.consumer(station_name, "c")
    found = texts(consumer.fetch(3, prefetch=True))
    until(lambda: len(consumer.read("cached_messages")) == 6)
    found += texts(consumer.fetch(3, prefetch=True))
    found += texts(consumer.fetch(3, prefetch=True))
    assert found == [f"{number}" for number in range(9)]


def test_acknowledged_messages_do_not_come_back_and_others_do(
    memphis_py: SdkClient, memphis: Memphis, station_name: str
) -> None:
    fill(memphis, station_name, {1: ["acked", "nacked", "left"]})
    consumer = memphis_py.consumer(station_name, "c", max_ack_time_ms=1000, max_msg_deliveries=3)
    acked, nacked, _left = consumer.fetch(3)
    acked.ack()
    with pytest.raises(SdkError, match="MemphisConnectError"):
        acked.ack()
    nacked.nack()
    for text in ("nacked", "left"):  # at once, and after its ack time
        (again,) = consumer.fetch(3)
        assert texts([again]) == [text]
        again.ack()


def test_what_a_member_of_ours_gave_back_untouched_comes_to_it(
    memphis_py: SdkClient, memphis: Memphis, control: ControlClient, station_name: str, until: Callable[..., Any]
) -> None:
    """It is no dead letter, although JetStream has delivered it as often as it may; it is answered as one."""
    fill(memphis, station_name, {1: ["a"]})
    ours = memphis.consumer(station_name, "ours", "g", max_msg_deliveries=1)
    theirs = memphis_py.consumer(station_name, "c", consumer_group="g", max_msg_deliveries=1)
    (message,) = ours.fetch(timeout_s=10)
    ours._reader.membership.end()
    session = memphis._session
    request = GivenBack.of(station_name, "g", [(1, message.sequence or 0, 1)], [])
    session.call(lambda: give_back(session.control, request, 5), 5, "give_back")
    message.nack()
    (again,) = until(lambda: theirs.fetch(1))
    assert texts([again]) == ["a"]
    again.ack()

    def is_owed() -> bool:
        pattern = f"memphis_dead_letters.owed.{station_name}.>"
        info = control.jetstream("STREAM.INFO.memphis_dead_letters", {"subjects_filter": pattern})
        return bool(info["state"].get("subjects"))

    until(lambda: not is_owed())
    assert memphis.dls(station_name).list() == []


def test_a_delayed_message_comes_again_later(memphis_py: SdkClient, memphis: Memphis, station_name: str) -> None:
    fill(memphis, station_name, {1: ["later", "now"]})
    consumer = memphis_py.consumer(station_name, "c")
    consumer.fetch(1)[0].delay(1)
    assert texts(consumer.fetch(1)) == ["now"]
    assert texts(consumer.fetch(1)) == ["later"]


def test_delay_needs_headers(memphis_py: SdkClient, control: ControlClient, station_name: str) -> None:
    """A message that another NATS client wrote has none, and the SDK looks into them (protocol reference D-py-28)."""
    memphis_py.station(station_name)
    control.publish(f"{station_name}$1.final", b"bare")
    (message,) = memphis_py.consumer(station_name, "c").fetch(1)
    assert message.get_headers() is None
    with pytest.raises(SdkError, match="TypeError"):
        message.delay(1)
    message.ack()


def test_consume_calls_back_with_batches_and_context(
    memphis_py: SdkClient, memphis: Memphis, station_name: str
) -> None:
    fill(memphis, station_name, {1: ["a", "b", "c"], 2: ["d"]})
    consumer = memphis_py.consumer(station_name, "c", pull_interval_ms=10, batch_size=2)
    consumer.set_context({"number": 7})
    calls = memphis_py.sdk.callback()
    consumer.consume(calls)
    found = calls.wait(4)
    messages = [message for batch, _, _ in found for message in batch]
    assert sorted(texts(messages)) == ["a", "b", "c", "d"]
    assert all(context == {"number": 7} and error is None for _, error, context in found)
    assert max(len(batch) for batch, _, _ in found) == 2
    for message in messages:
        message.ack()
    with memphis.producer(station_name, "ours") as producer:
        producer.produce("more", producer_partition_number=2)
    assert texts(calls.wait(5)[-1][0]) == ["more"]
    consumer.destroy()


def test_consume_from_one_partition(memphis_py: SdkClient, memphis: Memphis, station_name: str) -> None:
    fill(memphis, station_name, {1: ["a"], 2: ["b", "c"]})
    key = next(key for key in "abcdefgh" if partition_for_key(key, [1, 2]) == 2)
    for number, options in enumerate([{"consumer_partition_number": 2}, {"consumer_partition_key": key}]):
        consumer = memphis_py.consumer(station_name, f"c{number}", pull_interval_ms=10)
        calls = memphis_py.sdk.callback()
        consumer.consume(calls, **options)
        assert [text for batch, _, _ in calls.wait(2) for text in texts(batch)] == ["b", "c"]
        consumer.destroy()


def test_an_exception_in_the_callback_ends_consuming_silently(
    memphis_py: SdkClient, memphis: Memphis, station_name: str
) -> None:
    """
    Nobody is told; the messages stay unacknowledged and are there for the next consumer of the group.

    Source: protocol reference D-py-13.
    """
    fill(memphis, station_name, {1: ["a"]})
    consumer = memphis_py.consumer(station_name, "c", max_ack_time_ms=500, max_msg_deliveries=5)
    calls = memphis_py.sdk.callback(fails=True)
    consumer.consume(calls)
    assert len(calls.wait(1)) == 1
    again = memphis.consumer(station_name, "d", consumer_group="c", max_ack_time_ms=500, max_msg_deliveries=5)
    assert [message.data for message in again.fetch(1, timeout_s=10)] == [b"a"]


def test_the_last_members_destroy_ends_the_group(
    memphis_py: SdkClient, memphis: Memphis, control: ControlClient, station_name: str
) -> None:
    fill(memphis, station_name, {1: ["a"]})
    one = memphis_py.consumer(station_name, "one", consumer_group="g")
    two = memphis_py.consumer(station_name, "two", consumer_group="g")
    one.destroy()
    assert control.durable(f"{station_name}$1", "g") is not None
    assert texts(two.fetch(1)) == ["a"]
    two.destroy(timeout_retries=0)
    assert control.durable(f"{station_name}$1", "g") is None


def test_functions_are_not_there(memphis_py: SdkClient, control: ControlClient, station_name: str) -> None:
    """A station of version 2 has no functions: the SDK asks for none, and publishes to ``.final``."""
    reply = control.producer(station_name)
    assert reply["station_version"] >= 2
    assert reply["station_partitions_first_functions"] == {}
    producer = memphis_py.producer(station_name, "p")
    assert memphis_py.memphis.read("functions_updates_data") == {station_name: {}}
    producer.produce("plain")
    (message,) = memphis_py.fetch_messages(station_name, "c")
    assert message.read("message").read("subject") == f"{station_name}$1.final"
    assert json.loads(json.dumps(message.get_headers()))["$memphis_producedBy"] == "p"


def test_it_reads_what_we_wrote_in_any_way(memphis_py: SdkClient, memphis: Memphis, station_name: str) -> None:
    memphis.station(station_name, partitions_number=3)
    keys = [f"customer-{number}" for number in range(40)] + ["", "ключ", "鍵", "x" * 300]
    expected = []
    with memphis.producer(station_name, "ours") as producer:
        for number, key in enumerate(keys):
            payload, headers = bytes([number]) + b" \xff ours", {"kind": f"k{number}"}
            if number % 2:
                delivery = producer.produce(payload, producer_partition_key=key, headers=headers, nonblocking=True)
                ack = delivery.result(10)
            else:
                ack = producer.produce(payload, producer_partition_key=key, headers=headers)
            expected.append((ack.partition, ack.sequence, payload, f"k{number}"))
    consumer = memphis_py.consumer(station_name, "theirs")
    got = [
        (message.read("partition"), message.get_sequence_number(), message.get_data(), message.get_headers()["kind"])
        for partition in sorted({row[0] for row in expected})
        for message in consumer.fetch(100, consumer_partition_number=partition)
    ]
    assert got == sorted(expected)
