"""
A program that uses the whole public API, for type checkers: it is never run.

Each assert_type() says what an editor is to show. mypy --strict and pyright in strict mode must both agree with every
line; tests/typing/test_typing.py runs them.
"""

# ruff: noqa: TC004  nothing here is used at run time

from __future__ import annotations

import contextlib
import datetime as dt
import signal
import ssl
from collections.abc import Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Optional, Union

import memphis_sync
import memphis_sync.contrib.django
import memphis_sync.http
from memphis_sync import (
    BulkResult,
    ConnectionInfo,
    Consumer,
    DeadLetter,
    DeadLetters,
    Deliveries,
    Delivery,
    FlushResult,
    GroupInfo,
    Handler,
    Headers,
    Item,
    LinkEvent,
    Listing,
    Memphis,
    MemphisError,
    Message,
    Messages,
    Payload,
    PeekedMessage,
    PeekedMessages,
    Producer,
    Producing,
    PubAck,
    ResentMessage,
    Retention,
    RetryPolicy,
    SchemaInfo,
    SchemaSummary,
    Station,
    StationInfo,
    Stats,
    Storage,
)
from memphis_sync.contrib.django import outbox
from memphis_sync.http import GatewayAnswer, HttpBulkResult, HttpClient, HttpMessage, HttpMessages
from memphis_sync.message import Metadata
from memphis_sync.types import PubAcks

if TYPE_CHECKING:
    from typing_extensions import assert_type

    from memphis_sync.delivery import DoneAndNotDone
    from memphis_sync.errors import Outcome


def on_event(event: LinkEvent) -> None:
    print(event.client, event.link, event.address, event.reason, event.attempts, event.seconds, event.waiting)


def connecting() -> None:
    client = memphis_sync.connect("localhost", "root", password="memphis", on_disconnect=on_event, json_default=str)
    assert_type(client, Memphis)
    with memphis_sync.connect(
        "memphis://root:memphis@localhost",
        tls=ssl.create_default_context(),
        no_responders_retry=RetryPolicy(attempts=3, pause_ms=100),
        wait_s=5,
        on_error=print,
    ) as other:
        assert_type(other, Memphis)
    assert_type(client.is_connected(), bool)
    assert_type(client.ping(), float)
    assert_type(client.stats(), Stats)
    assert_type(client.stats().queued, int)
    assert_type(client.flush(1), FlushResult)
    assert_type(client.connection_id, str)
    client.connect("localhost", password="memphis")
    client.close(1.5)


def stations(client: Memphis) -> None:
    station = client.station(
        "orders", Retention.MESSAGES, 100, Storage.MEMORY, partitions_number=3, schema_name="order"
    )
    assert_type(station, Station)
    assert_type(station.name, str)
    with station as same:
        assert_type(same, Station)
    letters = client.dls("orders")
    assert_type(letters, DeadLetters)
    assert_type(station.dls, DeadLetters)
    for letter in letters:
        assert_type(letter, DeadLetter)
    client.create_schema("order", "json", schema_content="{}")
    client.create_schema("order", "json", "order.json")
    assert_type(client.activate_schema_version("order", 2), int)
    client.enforce_schema("order", "orders")
    client.attach_schema("order", "orders")
    client.detach_schema("orders")
    client.destroy_station("orders")
    station.destroy()


def looking(client: Memphis, station: Station) -> None:
    assert_type(client.station("orders", create_station=False), Station)
    assert_type(client.stations(), Listing[StationInfo])
    for each in client.stations(with_groups=True, timeout_s=1):
        assert_type(each, StationInfo)
    info = station.info(timeout_s=1)
    assert_type(info, StationInfo)
    assert_type(info.groups, Optional[tuple[GroupInfo, ...]])
    assert_type(info.last_time, Optional[dt.datetime])
    assert_type(info.messages, int)
    peeked = station.peek(10, partition=1, from_time=dt.datetime.now(dt.timezone.utc), max_bytes=1000)
    assert_type(peeked, PeekedMessages)
    for message in station.peek(from_sequence=1):
        assert_type(message, PeekedMessage)
        assert_type(message.data, bytes)
    assert_type(peeked.to_dicts()[0]["data"], object)
    assert_type(client.connections("orders"), Listing[ConnectionInfo])
    assert_type(client.schemas(), Listing[SchemaSummary])
    assert_type(client.schema("order", 2), SchemaInfo)


def on_delivery(delivery: Delivery) -> None:
    assert_type(delivery.station, str)
    assert_type(delivery.partition, int)


def producing(client: Memphis, is_quick: bool) -> None:
    producer = client.producer("orders", "web", idempotent=False, block_on_full_s=1, on_delivery=on_delivery)
    assert_type(producer, Producer[PubAck, Delivery])
    plain: Producer = producer  # the types of one station need not be written
    assert_type(plain.produce(b"x"), PubAck)
    assert_type(producer.produce("text", 5, {"key": "value"}, producer_partition_key="k"), PubAck)
    assert_type(producer.produce({"id": 1}, headers=Headers({"a": "b"}), msg_id="1", nonblocking=False), PubAck)
    delivery = producer.produce([1, "two"], nonblocking=True, on_delivery=on_delivery, concurrent_task_limit=10)
    assert_type(delivery, Delivery)
    assert_type(delivery.result(1), PubAck)
    assert_type(delivery.done(), bool)
    assert_type(delivery.exception(), Optional[Union[memphis_sync.ProduceError, memphis_sync.SchemaError]])
    delivery.add_done_callback(on_delivery)
    assert_type(producer.produce(bytearray(b"x"), nonblocking=is_quick), Union[PubAck, Delivery])
    assert_type(producer.produce(b"x", 15, None, None, True, "id", None, None, 1), Union[PubAck, Delivery])
    assert_type(len(producer), int)
    assert_type(producer.flush(), FlushResult)
    assert_type(producer.flush().failed, int)
    assert_type(producer.produce_many([b"a", "b", {"c": 1}, Item(b"d", key="k")], on_error="collect"), BulkResult)
    assert_type(producer.produce_many(rows(), timeout_s=5).delivered, int)
    assert_type(producer.produce_each([b"a", "b", {"c": 1}], headers={"d": "e"}), list[Union[Delivery, MemphisError]])
    producer.destroy()
    with client.producer("orders", "web") as entered:
        assert_type(entered.produce(b"x").sequence, int)


class InATest:
    """A stand-in for a producer."""

    def produce(
        self,
        message: Payload,
        *,
        headers: Optional[Mapping[str, str]] = None,
        msg_id: Optional[str] = None,
        producer_partition_key: Optional[str] = None,
        producer_partition_number: int = -1,
    ) -> PubAck:
        return PubAck("orders", 1, 1, False, "orders$1")


def announce(orders: Producing, number: int) -> int:
    return orders.produce({"id": number}, producer_partition_key=str(number)).sequence


def announcing(client: Memphis) -> None:
    assert_type(announce(client.producer("orders", "web"), 7), int)
    assert_type(announce(InATest(), 7), int)


def rows() -> Iterator[Payload]:
    yield b"a"
    yield {"b": [1, 2]}


def producing_to_several(client: Memphis) -> None:
    several = client.producer(["orders", "audit"], "web")
    acks = several.produce(b"x")
    assert_type(acks, Union[PubAck, PubAcks])  # a list may hold one station
    deliveries = several.produce(b"x", nonblocking=True)
    assert_type(deliveries, Union[Delivery, Deliveries])
    assert_type(deliveries.result(), Union[PubAck, PubAcks])
    if isinstance(deliveries, Deliveries):
        assert_type(deliveries["orders"], Delivery)
        assert_type(deliveries.result()["audit"], PubAck)


def producing_by_name(client: Memphis, is_quick: bool) -> None:
    assert_type(client.produce("orders", "web", b"x"), PubAck)
    assert_type(client.produce("orders", "web", {"a": 1}, ack_wait_sec=1, headers={"a": "b"}, msg_id="1"), PubAck)
    delivery = client.produce("orders", "web", "x", nonblocking=True, on_delivery=on_delivery, idempotent=False)
    assert_type(delivery, Delivery)
    unsure = client.produce("orders", "web", b"x", nonblocking=is_quick)
    assert_type(unsure, Union[PubAck, PubAcks, Delivery, Deliveries])
    assert_type(client.produce(["orders", "audit"], "web", b"x"), Union[PubAck, PubAcks])
    assert_type(client.produce(["a", "b"], "web", b"x", nonblocking=True), Union[Delivery, Deliveries])
    client.produce("orders", "web", b"x", True, 5, None, False, "id", "key", -1)


def waiting(one: Delivery, several: Deliveries) -> None:
    assert_type(memphis_sync.wait([one], 1.0, "FIRST_COMPLETED"), DoneAndNotDone[Delivery])
    done, not_done = memphis_sync.wait([several])
    assert_type(done, set[Deliveries])
    assert_type(not_done, set[Deliveries])
    for delivery in memphis_sync.as_completed([one, one]):
        assert_type(delivery, Delivery)


async def awaiting(one: Delivery, several: Deliveries) -> None:
    assert_type(await one, PubAck)
    assert_type(await several, PubAcks)


def consuming(client: Memphis) -> None:
    consumer = client.consumer("orders", "mailer", "mail", batch_size=50, max_msg_deliveries=3, create_station=False)
    assert_type(consumer, Consumer)
    batch = consumer.fetch(10, "key", timeout_s=1)
    assert_type(batch, Messages)
    assert_type(client.fetch_messages("orders", "mailer", until_end=True, timeout_s=1), Messages)
    for message in batch:
        assert_type(message, Message)
    for message in consumer:
        with message as same:
            assert_type(same, Message)
    for message in consumer.read_all(batch_size=10):
        reading(message)
    for row in batch.to_dicts():
        assert_type(row["station"], str)
        assert_type(row["partition"], Optional[int])
        assert_type(row["time"], Optional[dt.datetime])
        assert_type(row["headers"], dict[str, str])
        assert_type(row["data"], object)
    batch.ack()
    stats = client.stats()
    assert_type(stats.received - stats.acked - stats.given_back - stats.dead_lettered, int)
    consumer.consume(handle, context={"seen": 1}, workers=4)
    consumer.consume(lambda messages, error, context: print(len(messages), error, context))
    consumer.set_context({"seen": 2})
    assert_type(consumer.dls_messages, list[ResentMessage])
    assert_type(consumer.stop(), bool)
    assert_type(consumer.stop_consume(1), bool)
    assert_type(consumer.receipt(batch[0]), str)
    assert_type(consumer.restore("receipt"), Message)
    assert_type(consumer.run(handling, on_error="dead_letter", max_messages=5, idle_exit_s=1), int)
    assert_type(consumer.run(lambda message: print(message.data), stop_signals=(signal.SIGTERM,)), int)
    assert_type(consumer.wait(), bool)
    assert_type(consumer.wait(1.5, stop_signals=[signal.SIGTERM]), bool)
    with consumer as entered:
        assert_type(entered, Consumer)
    consumer.destroy()


@memphis_sync.handler("orders", group="billing", alias="default", on_error="retry", delay_ms=500, batch_size=50)
def handling(message: Message) -> str:
    return message.station


@contextlib.contextmanager
def transaction(message: Message) -> Generator[None, None, None]:
    print(message.sequence)
    yield


def running_handlers(client: Memphis) -> None:
    found = memphis_sync.load_handler("shop.handlers.on_order")
    assert_type(found, Handler)
    assert_type(found.alias, str)
    assert_type(found.path, str)
    station = client.station("orders")
    assert_type(station.purge(partition=1), int)
    for message in station.replay(from_sequence=5):
        assert_type(message, PeekedMessage)
    assert_type(memphis_sync.run_handler(client, found, around=transaction, batch_size=10), int)
    assert_type(memphis_sync.run_handler(client, handling, stop_signals=(signal.SIGTERM, signal.SIGINT)), int)


def handle(messages: list[Message], error: Optional[MemphisError], context: dict[str, int]) -> None:
    print(len(messages), error, context["seen"])


def reading(message: Message) -> None:
    assert_type(message.data, bytes)
    assert_type(message.get_data(), bytearray)
    print(message.json()["id"])
    assert_type(message.get_data_deserialized(as_dict=True), object)
    assert_type(message.headers, dict[str, str])
    assert_type(message.get_headers(), Optional[dict[str, str]])
    assert_type(message.station, str)
    assert_type(message.partition, Optional[int])
    assert_type(message.sequence, Optional[int])
    assert_type(message.delivered, int)
    assert_type(message.timesent, Optional[dt.datetime])
    assert_type(message.metadata, Optional[Metadata])
    if isinstance(message, ResentMessage):
        assert_type(message.is_owed, bool)
        assert_type(message.id, int)
        assert_type(message.metadata, None)
    message.ack(wait=True, timeout_s=1)
    message.nack()
    message.delay(1.5)
    message.delay(delay_ms=100)
    message.in_progress()
    message.dead_letter("no such customer")


def over_http() -> None:
    client = memphis_sync.http.connect("https://gateway:4444", username="root", password="memphis", json_default=str)
    assert_type(client, HttpClient)
    with memphis_sync.http.connect(tls=ssl.create_default_context(), timeout_ms=500) as other:
        assert_type(other, HttpClient)
    assert_type(client.url, str)
    assert_type(client.username, str)
    assert_type(client.confirms_storage, bool)
    answer = client.produce("orders", {"id": 7}, ack_wait_sec=1, headers={"a": "b"}, msg_id="7")
    assert_type(answer, GatewayAnswer)
    assert_type(answer.is_stored, bool)
    assert_type(answer.sequence, Optional[int])
    client.produce("orders", b"x", producer_partition_key="a")
    client.produce("orders", "x", producer_partition_number=1)
    result = client.produce_many("orders", [b"x", Item("y", headers={"a": "b"})], on_error="collect", concurrency=2)
    assert_type(result, HttpBulkResult)
    assert_type(result.accepted, int)
    assert_type(result.delivered, int)
    messages = client.fetch_messages("orders", "billing", "group", 100, 500, 10_000, 5, timeout_s=9)
    assert_type(messages, HttpMessages)
    messages.ack()
    for message in client.fetch_messages("orders", "billing", auto_ack=True, partitions_number=3):
        assert_type(message, HttpMessage)
        assert_type(message.data, bytes)
        assert_type(message.headers, dict[str, str])
        assert_type(message.timesent, Optional[dt.datetime])
        assert_type(message.may_be_damaged, bool)
        with message as same:
            assert_type(same, HttpMessage)
        message.ack(timeout_s=1)
        message.nack()
        message.delay(1.5)
        message.dead_letter("no such customer")
    client.close()


def failing(error: MemphisError) -> None:
    if isinstance(error, memphis_sync.ProduceError):
        assert_type(error.outcome, Outcome)
    if isinstance(error, memphis_sync.MultiStationError):
        for result in error.results.values():
            assert_type(result, Union[PubAck, memphis_sync.ProduceError, memphis_sync.SchemaError])
    if isinstance(error, memphis_sync.BulkError):
        assert_type(error.result, Optional[BulkResult])


def in_django() -> None:
    assert_type(memphis_sync.contrib.django.memphis, Memphis)
    assert_type(memphis_sync.contrib.django.clients["archive"], Memphis)
    assert_type(memphis_sync.contrib.django.clients.opened(), Optional[Memphis])
    assert_type(outbox.enqueue("orders", {"id": 7}, producer_partition_key="17", using="other"), str)
    memphis_sync.contrib.django.produce_on_commit("orders", b"x", alias="archive", on_delivery=print, msg_id="7")

    @memphis_sync.contrib.django.handler("orders", group="billing")
    def on_order(message: Message) -> int:
        return len(message.data)

    print(on_order)


def checking(client: Memphis) -> None:
    plan = memphis_sync.check_connect("memphis://shop:secret@broker", timeout_ms=500)
    assert_type(plan, memphis_sync.ConnectPlan)
    assert_type(plan.is_tls, bool)
    encoded = memphis_sync.encode_message("orders", {"id": 7}, client=client, headers={"a": "b"}, json_default=str)
    assert_type(encoded, memphis_sync.EncodedMessage)
    assert_type(encoded.payload, bytes)
    assert_type(encoded.schema, Optional[SchemaInfo])
