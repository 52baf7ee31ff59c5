"""
A program written for memphis.py: what its README shows, put right where the README is wrong, as one shop.

    python memphis_py_program.py HOST PORT USERNAME PASSWORD STATION SCHEMA_FILE

test_user_story.py runs it as it stands, with memphis-py, and again with ``async`` and ``await`` deleted, with
memphis_sync: both print the same.
"""

import asyncio
import sys

from memphis import Headers, Memphis, MemphisError, MemphisHeaderError, MemphisSchemaError
from memphis.types import Retention, Storage


async def stations(memphis, name):
    """Stations with retention, storage, an idempotency window, partitions."""
    await memphis.station(name=name, partitions_number=3, storage_type=Storage.MEMORY)
    await memphis.station(
        name=f"{name}-audit", retention_type=Retention.MESSAGES, retention_value=1000, idempotency_window_ms=60000
    )
    try:
        await memphis.station(name="no such name!")
    except MemphisError:
        print("a station cannot be called that")


async def produce(memphis, name):
    """With headers, to partitions by key and by number, to two stations at once, and without waiting."""
    producer = await memphis.producer(station_name=name, producer_name="Shop")
    headers = Headers()
    headers.add("trace", "track-me-123")
    try:
        headers.add("$memphis_mine", "no")
    except MemphisHeaderError:
        print("a header cannot be called that")
    await producer.produce({"id": 1, "item": "cup"}, headers=headers, producer_partition_number=1)
    for city in ("berlin", "paris", "rome", "oslo"):
        await producer.produce(bytearray(city.encode()), producer_partition_key=city)
    await producer.produce("in the background", nonblocking=True, producer_partition_number=1)
    await producer.destroy()
    await memphis.produce(
        station_name=[f"{name}-audit", f"{name}-copy"], producer_name="audit", message="cup sold", msg_id="sale-1"
    )


async def read(memphis, name):
    """A batch from each partition; what is not needed now comes again."""
    consumer = await memphis.consumer(
        station_name=name, consumer_name="reader", consumer_group="billing", max_msg_deliveries=3
    )
    found = []
    for partition in (1, 2, 3):
        messages = await consumer.fetch(batch_size=10, consumer_partition_number=partition)
        for message in messages:
            headers = message.get_headers()
            found.append((partition, message.get_data().decode(), headers["$memphis_producedBy"], headers.get("trace")))
        await messages[0].nack()
        for message in messages[1:]:
            await message.ack()
        (again,) = await consumer.fetch(batch_size=1, consumer_partition_number=partition)
        print("again:", partition, again.get_sequence_number(), again.get_data().decode())
        await again.ack()
    for row in sorted(found):
        print("read:", *row)
    await consumer.destroy()


async def fetch(memphis, name):
    """Without a consumer of one's own."""
    for station in (f"{name}-audit", f"{name}-copy"):
        messages = await memphis.fetch_messages(station_name=station, consumer_name="auditor", batch_size=5)
        for message in messages:
            print("audit:", message.get_sequence_number(), message.get_data().decode())
            await message.ack()


async def handle(memphis, name):
    """A callback with a context, until a number of messages has come."""
    done = asyncio.Event()
    seen = []

    async def handler(messages, error, context):
        if error:
            print("error:", error)
        for message in messages:
            seen.append(message.get_data().decode())
            await message.ack()
        if len(seen) >= context["wanted"]:
            done.set()

    consumer = await memphis.consumer(station_name=f"{name}-audit", consumer_name="handler", pull_interval_ms=50)
    consumer.set_context({"wanted": 3})
    consumer.consume(handler)
    for text in ("second", "third"):
        await memphis.produce(station_name=f"{name}-audit", producer_name="audit", message=text)
    await asyncio.wait_for(done.wait(), 20)
    print("handled:", sorted(seen))
    await consumer.destroy()


async def schemas(memphis, name, path):
    """Messages that match, and one that does not."""
    await memphis.create_schema(schema_name=f"{name}-order", schema_type="json", schema_path=path)
    await memphis.station(name=f"{name}-orders")
    await memphis.enforce_schema(name=f"{name}-order", station_name=f"{name}-orders")
    producer = await memphis.producer(station_name=f"{name}-orders", producer_name="shop")
    await producer.produce({"id": 7})
    try:
        await producer.produce({"id": "seven"})
    except MemphisSchemaError as error:
        print("refused:", "Schema validation has failed" in str(error))
    for message in await memphis.fetch_messages(station_name=f"{name}-orders", consumer_name="reader"):
        print("order:", await message.get_data_deserialized())
        await message.ack()
    await memphis.detach_schema(station_name=f"{name}-orders")


async def main(host, port, username, password, name, schema_path):
    """The whole of it."""
    memphis = Memphis()
    try:
        await memphis.connect(host=host, port=int(port), username=username, password=password, timeout_ms=5000)
        print("connected:", memphis.is_connected())
        await stations(memphis, name)
        await produce(memphis, name)
        await read(memphis, name)
        await fetch(memphis, name)
        await handle(memphis, name)
        await schemas(memphis, name, schema_path)
        station = await memphis.station(name=name)
        await station.destroy()
    except MemphisError as error:
        print("failed:", error)
    finally:
        await memphis.close()
    print("connected:", memphis.is_connected())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
