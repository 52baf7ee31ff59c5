"""
What type checkers must not let pass: each marked line is an error, and the marks are checked as well.

``type: ignore`` is mypy's, which finds a needless one with warn_unused_ignores; ``pyright: ignore`` is pyright's, which
finds one with reportUnnecessaryTypeIgnoreComment. This file is never run.
"""

from __future__ import annotations

from typing import Optional

import memphis_sync
import memphis_sync.http
from memphis_sync import Consumer, Delivery, Item, LinkEvent, Memphis, MemphisError, Message, Producer


def wrong_kind(event: Message) -> None:
    print(event)


def no_argument() -> None:
    pass


async def later(delivery: Delivery) -> None:
    print(delivery)


def connecting(client: Memphis) -> None:
    memphis_sync.connect(hosts="localhost")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    memphis_sync.connect("localhost", port="6666")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    memphis_sync.connect("localhost", on_error=wrong_kind)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    memphis_sync.connect("localhost", json_default=no_argument)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    memphis_sync.connect("localhost", "root", 1, "token", "", 6666, True, -1, 1500, 2000, "", "", "", None)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    client.connect("localhost", wait=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    client.close("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def stations(client: Memphis) -> None:
    client.station("orders", "message_age_sec")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    client.station("orders", partitions=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    client.dls(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    client.create_schema("order")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    client.dead_letters("orders")  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]


def producing(client: Memphis, producer: Producer) -> None:
    producer.produce(7)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    producer.produce(None)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    producer.produce({1, 2})  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    producer.produce(b"x", key="k")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    producer.produce(b"x", headers={"a": 1})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType, reportCallIssue]
    producer.produce(b"x", msg_id=7)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    producer.produce(b"x", nonblocking=True, on_delivery=wrong_kind)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    print(producer.produce(b"x", nonblocking=True).stream)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownArgumentType, reportUnknownMemberType]
    producer.produce(b"x").result()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    producer.produce(b"x").sequence.decode()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    producer.produce_many([1, 2])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    producer.produce_many([b"x"], on_error="ignore")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    producer.produce_many(b"x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Item(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Item(b"x", "k", "1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    client.producer("orders")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    client.producer(7, "web")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    client.producer("orders", "web", on_delivery=wrong_kind)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    client.produce("orders", "web")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    client.produce("orders", "web", 7)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    client.produce("orders", "web", b"x", topic="orders")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    client.produce("orders", "web", b"x").result()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    print(client.produce("orders", "web", b"x", nonblocking=True).stream)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownArgumentType, reportUnknownMemberType]
    print(client.produce(["orders", "audit"], "web", b"x").sequence)  # type: ignore[union-attr]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownArgumentType, reportUnknownMemberType]
    print(client.producer(["orders", "audit"], "web").produce(b"x").sequence)  # type: ignore[union-attr]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownArgumentType, reportUnknownMemberType]
    one: Producer = client.producer(["orders", "audit"], "web")  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    print(one)


def over_http(client: memphis_sync.http.HttpClient) -> None:
    memphis_sync.http.connect("https://gateway", port=4444)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    memphis_sync.http.connect("https://gateway", "root")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    client.produce("orders", "shop", b"x")  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportCallIssue]
    client.produce("orders", 7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    client.produce("orders", b"x", nonblocking=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    client.fetch_messages("orders", "billing", auto_ack="yes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    client.station("orders")  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]


def waiting(delivery: Delivery) -> None:
    memphis_sync.wait(delivery)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    memphis_sync.wait([delivery], return_when="ALL")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    memphis_sync.as_completed([b"x"])  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
    delivery.add_done_callback(no_argument)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    delivery.result("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    delivery.cancel("now")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def consuming(client: Memphis, consumer: Consumer) -> None:
    client.consumer("orders", "mailer", group="mail")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    client.consumer(["orders", "audit"], "mailer")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    consumer.fetch("10")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    consumer.fetch(10, timeout=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    consumer.consume(no_argument)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    consumer.consume(handle, context="text")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    consumer.consume(handle, workers="all")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    consumer.read_all(limit=10)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    consumer.run(no_argument)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    consumer.run(print, on_error="ignore")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    memphis_sync.handler("orders")(print)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    memphis_sync.handler("orders", "billing")(no_argument)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
    for message in consumer:
        message.ack(1)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportCallIssue]
        message.ack(wait="yes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        message.delay("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        message.dead_letter()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        print(message.partition + 1, message.data)  # type: ignore[operator]  # pyright: ignore[reportOptionalOperand, reportUnknownArgumentType]
        print(message.get_data_deserialized()["id"])  # type: ignore[index]  # pyright: ignore[reportIndexIssue, reportUnknownArgumentType]
    for row in consumer.fetch().to_dicts():
        print(row["text"])  # type: ignore[typeddict-item]  # pyright: ignore[reportGeneralTypeIssues, reportUnknownArgumentType]


def handle(messages: list[Message], error: Optional[MemphisError], context: dict[str, int]) -> None:
    print(messages, error, context)


def on_event(event: LinkEvent) -> None:
    event.seconds = 1.0  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    print(event.link == "other")  # type: ignore[comparison-overlap]  # pyright: ignore[reportUnnecessaryComparison]
