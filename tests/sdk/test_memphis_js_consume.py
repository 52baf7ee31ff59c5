"""memphis-dev 1.3.2, unchanged, consumes from our broker what our own client wrote."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from control_client import ControlClient
from fix_sdk import SdkClient, SdkError

from memphis_sync import Memphis
from memphis_sync._protocol.partitions import partition_for_key

pytestmark = pytest.mark.node


def texts(messages: list[Any]) -> list[str]:
    return [message.getData().decode() for message in messages]


def fill(memphis: Memphis, station: str, partitions: dict[int, list[str]]) -> None:
    """Makes a station with these messages in its partitions."""
    memphis.station(station, partitions_number=max(partitions))
    with memphis.producer(station, "ours") as producer:
        for number, messages in partitions.items():
            for text in messages:
                producer.produce(text, producer_partition_number=number, headers={"text": text})


def test_fetch_gives_what_is_in_a_message(memphis_js: SdkClient, memphis: Memphis, station_name: str) -> None:
    memphis.station(station_name)
    payloads = [bytes(range(256)), b"", b"z" * 100_000, b'{"id": 7}']
    with memphis.producer(station_name, "ours") as producer:
        for payload in payloads:
            producer.produce(payload, headers={"size": str(len(payload))})
    consumer = memphis_js.consumer(stationName=station_name, consumerName="c")
    found = consumer.fetch(batchSize=4)
    assert [message.getData() for message in found] == payloads
    assert [message.getDataDeserialized() for message in found] == payloads
    assert [message.getSequenceNumber() for message in found] == [1, 2, 3, 4]
    assert [message.getHeaders()["size"] for message in found] == ["256", "0", "100000", "9"]
    assert found[3].getDataAsJson() == {"id": 7}
    sent = datetime.fromisoformat(found[0].getTimeSent().replace("Z", "+00:00"))
    assert abs(sent - datetime.now(timezone.utc)) < timedelta(minutes=5)
    for message in found:
        message.ack()
    consumer.destroy()


def test_every_option_of_a_consumer_reaches_the_group(
    memphis_js: SdkClient, memphis: Memphis, control: ControlClient, station_name: str
) -> None:
    fill(memphis, station_name, {1: ["a", "b", "c", "d"]})
    consumer = memphis_js.consumer(
        stationName=station_name,
        consumerName="c",
        consumerGroup="Billing.EU",
        pullIntervalMs=200,
        batchSize=3,
        batchMaxTimeToWaitMs=500,
        maxAckTimeMs=7000,
        maxMsgDeliveries=4,
        genUniqueSuffix=True,
        startConsumeFromSequence=3,
        timeoutRetry=2,
    )
    durable = control.durable(f"{station_name}$1", "billing#eu")
    assert durable is not None
    config = durable["config"]
    assert (config["ack_wait"], config["max_deliver"]) == (7_000_000_000, 4)
    assert (config["deliver_policy"], config["opt_start_seq"]) == ("by_start_sequence", 3)
    assert texts(consumer.fetch(batchSize=2)) == ["c", "d"]
    newest = memphis_js.consumer(stationName=station_name, consumerName="newest", lastMessages=1)
    assert texts(newest.fetch(batchSize=1)) == ["d"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"batchSize": 5001}, "Batch size can not be greater than 5000 or less than 1"),
        ({"startConsumeFromSequence": 0}, "startConsumeFromSequence has to be a positive number"),
        ({"lastMessages": -2}, "min value for LastMessages is -1"),
        ({"lastMessages": 2, "startConsumeFromSequence": 2}, "can't contain both"),
        ({"consumerGroup": "bad group"}, "Only alphanumeric"),
    ],
)
def test_what_a_consumer_may_not_be(
    memphis_js: SdkClient, station_name: str, options: dict[str, Any], text: str
) -> None:
    with pytest.raises(SdkError, match=text):
        memphis_js.consumer(stationName=station_name, consumerName="c", **options)


def test_groups_see_everything_and_members_share_it(memphis_js: SdkClient, memphis: Memphis, station_name: str) -> None:
    fill(memphis, station_name, {1: [f"{number}" for number in range(6)]})
    one = memphis_js.consumer(stationName=station_name, consumerName="one", consumerGroup="g")
    two = memphis_js.consumer(stationName=station_name, consumerName="two", consumerGroup="g")
    shared = [*one.fetch(batchSize=3), *two.fetch(batchSize=3)]
    assert sorted(texts(shared)) == [f"{number}" for number in range(6)]
    alone = memphis_js.fetchMessages(stationName=station_name, consumerName="alone", batchSize=6)
    assert texts(alone) == [f"{number}" for number in range(6)]


def test_partitions_by_number_and_in_turn(memphis_js: SdkClient, memphis: Memphis, station_name: str) -> None:
    fill(memphis, station_name, {1: ["a1"], 2: ["a2", "b2"], 3: ["a3"]})
    consumer = memphis_js.consumer(stationName=station_name, consumerName="c")
    assert texts(consumer.fetch(batchSize=1, consumerPartitionNumber=2)) == ["a2"]
    assert [texts(consumer.fetch(batchSize=1)) for _ in range(3)] == [["a1"], ["b2"], ["a3"]]
    with pytest.raises(SdkError, match="Can not use both partition number and partition key"):
        consumer.fetch(batchSize=1, consumerPartitionKey="k", consumerPartitionNumber=1)


def test_keys_are_read_one_partition_too_low(memphis_js: SdkClient, memphis: Memphis, station_name: str) -> None:
    """
    The key of partition 2 reads partition 1, and that of partition 1 a stream that is not there.

    Source: protocol reference D-js-3.
    """
    fill(memphis, station_name, {1: ["a1"], 2: ["a2"], 3: ["a3"]})
    consumer = memphis_js.consumer(stationName=station_name, consumerName="c")
    assert partition_for_key("key", [1, 2, 3]) == 2
    assert texts(consumer.fetch(batchSize=1, consumerPartitionKey="key")) == ["a1"]
    assert partition_for_key("a", [1, 2, 3]) == 1
    with pytest.raises(SdkError, match="stream not found"):
        consumer.fetch(batchSize=1, consumerPartitionKey="a")


def test_acknowledged_messages_do_not_come_back_and_others_do(
    memphis_js: SdkClient, memphis: Memphis, station_name: str
) -> None:
    fill(memphis, station_name, {1: ["acked", "nacked", "left"]})
    consumer = memphis_js.consumer(
        stationName=station_name, consumerName="c", maxAckTimeMs=1000, maxMsgDeliveries=3, batchMaxTimeToWaitMs=5000
    )
    acked, nacked, _left = consumer.fetch(batchSize=3)
    acked.ack()
    nacked.nack()
    for text in ("nacked", "left"):  # at once, and after its ack time
        (again,) = consumer.fetch(batchSize=1)
        assert texts([again]) == [text]
        again.ack()


def test_a_delayed_message_comes_again_later(memphis_js: SdkClient, memphis: Memphis, station_name: str) -> None:
    fill(memphis, station_name, {1: ["later", "now"]})
    consumer = memphis_js.consumer(stationName=station_name, consumerName="c", batchMaxTimeToWaitMs=5000)
    consumer.fetch(batchSize=1)[0].delay(300)  # milliseconds here, seconds in memphis-py
    assert texts(consumer.fetch(batchSize=1)) == ["now"]
    assert texts(consumer.fetch(batchSize=1)) == ["later"]


def test_on_message_calls_back_with_each_message_and_the_context(
    memphis_js: SdkClient, memphis: Memphis, station_name: str
) -> None:
    fill(memphis, station_name, {1: ["a", "b"], 2: ["c", "d"]})
    consumer = memphis_js.consumer(stationName=station_name, consumerName="c", pullIntervalMs=100, batchSize=2)
    consumer.setContext({"number": 7})
    calls, errors = memphis_js.sdk.callback(), memphis_js.sdk.callback()
    consumer.on("error", errors)
    consumer.on("message", calls)
    found = calls.wait(4)
    assert sorted(texts([message for message, _ in found])) == ["a", "b", "c", "d"]
    assert all(context == {"number": 7} for _, context in found)
    for message, _ in found:
        message.ack()
    consumer.stop()
    assert errors.wait(0) == []


def test_the_last_members_destroy_ends_the_group(
    memphis_js: SdkClient, memphis: Memphis, control: ControlClient, station_name: str
) -> None:
    fill(memphis, station_name, {1: ["a"]})
    one = memphis_js.consumer(stationName=station_name, consumerName="one", consumerGroup="g")
    two = memphis_js.consumer(stationName=station_name, consumerName="two", consumerGroup="g")
    one.destroy()
    assert control.durable(f"{station_name}$1", "g") is not None
    assert texts(two.fetch(batchSize=1)) == ["a"]
    two.destroy(1)
    assert control.durable(f"{station_name}$1", "g") is None


def test_a_station_with_capitals_cannot_be_read(memphis_js: SdkClient, memphis: Memphis, station_name: str) -> None:
    """
    The SDK looks its partitions up under the name as it was spelled, and asks for a stream without any.

    Source: protocol reference D-js-8.
    """
    fill(memphis, station_name, {1: ["a"]})
    consumer = memphis_js.consumer(stationName=station_name.upper(), consumerName="c")
    with pytest.raises(SdkError, match="stream not found"):
        consumer.fetch(batchSize=1)
