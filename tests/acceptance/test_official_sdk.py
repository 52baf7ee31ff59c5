"""memphis-py 1.3.1, unchanged, and our client on one broker: each reads what the other wrote, where it belongs."""

from __future__ import annotations

import json
from typing import Any

from fix_process import run_python

KEYS = [f"customer-{number}" for number in range(40)] + ["", "ключ", "鍵", "x" * 300]
PARTITIONS = [1, 2, 3]

THEIRS_WRITES = """
import asyncio, json, sys
from memphis import Memphis, Headers

async def main(port, station, keys):
    memphis = Memphis()
    await memphis.connect(host="127.0.0.1", port=port, username="root", password="memphis")
    await memphis.station(station, partitions_number=3)
    producer = await memphis.producer(station_name=station, producer_name="theirs")
    for number, key in enumerate(keys):
        headers = Headers()
        headers.add("key-number", str(number))
        await producer.produce(bytearray(b"theirs %d" % number), headers=headers, producer_partition_key=key)
    await producer.destroy()
    await memphis.close()

asyncio.run(main(int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])))
"""

THEIRS_READS = """
import asyncio, json, sys
from memphis import Memphis

async def main(port, station, count):
    memphis = Memphis()
    await memphis.connect(host="127.0.0.1", port=port, username="root", password="memphis")
    consumer = await memphis.consumer(station_name=station, consumer_name="theirs", consumer_group="theirs")
    got = []
    for _ in range(50):
        for partition in (1, 2, 3):
            for message in await consumer.fetch(100, consumer_partition_number=partition):
                headers = message.get_headers() or {}
                got.append([partition, message.get_data().decode("latin-1"), headers.get("kind"), headers])
                await message.ack()
            if len(got) >= count:
                break
        if len(got) >= count:
            break
    print(json.dumps(got))
    await consumer.destroy()
    await memphis.close()

asyncio.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
"""


def read_all(memphis: Any, station: str, count: int) -> list[Any]:
    consumer = memphis.consumer(station, "ours", batch_max_time_to_wait_ms=3000)
    got: list[Any] = []
    while len(got) < count and (batch := consumer.fetch(100)):
        got += batch
        for message in batch:
            message.ack()
    return got


def test_we_read_what_they_wrote(broker: Any, memphis: Any, station_name: str) -> None:
    from memphis_sync._wire.partitions import partition_for_key

    run_python("-c", THEIRS_WRITES, str(broker.port), station_name, json.dumps(KEYS), timeout_s=60)
    messages = read_all(memphis, station_name, len(KEYS))
    assert sorted(message.data for message in messages) == sorted(b"theirs %d" % number for number in range(len(KEYS)))
    for message in messages:
        number = int(message.headers["key-number"])
        assert message.data == b"theirs %d" % number
        assert message.partition == partition_for_key(KEYS[number], PARTITIONS), KEYS[number]
        assert message.get_headers()["$memphis_producedBy"] == "theirs"


def test_they_read_what_we_wrote(broker: Any, memphis: Any, station_name: str) -> None:
    memphis.station(station_name, partitions_number=3)
    producer = memphis.producer(station_name, "ours")
    expected = []
    for number, key in enumerate(KEYS):
        payload = bytes([number]) + b" \xff ours"
        way = {"nonblocking": True} if number % 2 else {}
        result = producer.produce(payload, producer_partition_key=key, headers={"kind": f"k{number}"}, **way)
        ack = result.result(10) if number % 2 else result
        expected.append((ack.partition, payload.decode("latin-1"), f"k{number}"))
    done = run_python("-c", THEIRS_READS, str(broker.port), station_name, str(len(KEYS)), timeout_s=110)
    got = json.loads(done.stdout)
    assert sorted(tuple(row[:3]) for row in got) == sorted(expected)
    assert all(row[3]["$memphis_producedBy"] == "ours" and "$memphis_connectionId" in row[3] for row in got)


def test_both_choose_the_same_partition_for_a_key(broker: Any, memphis: Any, station_name: str) -> None:
    run_python("-c", THEIRS_WRITES, str(broker.port), station_name, json.dumps(KEYS), timeout_s=60)
    producer = memphis.producer(station_name, "ours")
    ours = {key: producer.produce(b"ours", producer_partition_key=key).partition for key in KEYS}
    theirs = {}
    for message in read_all(memphis, station_name, 2 * len(KEYS)):
        if message.data != b"ours":
            theirs[KEYS[int(message.headers["key-number"])]] = message.partition
    assert theirs == ours
