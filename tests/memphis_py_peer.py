"""
The official SDK, memphis-py, as a peer to talk to: a program that produces or consumes with it and prints JSON.

    python memphis_py_peer.py produce '{"host": ..., "station": ..., "messages": [{"text": "a", "key": "k"}]}'
    python memphis_py_peer.py consume '{"host": ..., "station": ..., "group": "g", "count": 3}'

It runs in a process of its own (see the fixture ``memphis_py`` in fix_memphis_py.py), unchanged from PyPI.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import time
from typing import Any

from memphis import Headers, Memphis


async def connect(job: dict[str, Any]) -> Memphis:
    memphis = Memphis()
    login = {"connection_token": job["token"]} if job.get("token") else {"password": job["password"]}
    await memphis.connect(host=job["host"], port=job["port"], username=job["username"], **login)
    return memphis


async def produce(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Each message: text or base64, and optionally key, partition, headers, msg_id, nonblocking."""
    memphis = await connect(job)
    if job.get("partitions"):
        await memphis.station(name=job["station"], partitions_number=job["partitions"])
    producer = await memphis.producer(station_name=job.get("stations") or job["station"], producer_name="memphis-py")
    for message in job["messages"]:
        headers = Headers()
        for name, value in message.get("headers", {}).items():
            headers.add(name, value)
        options: dict[str, Any] = {}
        if "key" in message:
            options["producer_partition_key"] = message["key"]
        if "partition" in message:
            options["producer_partition_number"] = message["partition"]
        if "msg_id" in message:
            options["msg_id"] = message["msg_id"]
        payload = base64.b64decode(message["base64"]) if "base64" in message else message["text"].encode()
        await producer.produce(
            bytearray(payload), headers=headers, nonblocking=message.get("nonblocking", False), **options
        )
    await producer.destroy()  # waits for the non-blocking ones
    await memphis.close()
    return [{"produced": len(job["messages"])}]


async def consume(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Fetches and acknowledges *count* messages, or as many as come in *timeout_s*."""
    memphis = await connect(job)
    consumer = await memphis.consumer(
        station_name=job["station"], consumer_name="memphis-py", consumer_group=job.get("group", "")
    )
    found: list[dict[str, Any]] = []
    deadline = time.monotonic() + job.get("timeout_s", 20)
    while len(found) < job["count"] and time.monotonic() < deadline:
        for message in await consumer.fetch(batch_size=100) or []:
            found.append(
                {
                    "base64": base64.b64encode(message.get_data()).decode(),
                    "headers": message.get_headers(),
                    "sequence": message.get_sequence_number(),
                    "partition": int(message.message.subject.split("$")[1].split(".")[0]),
                }
            )
            await message.ack()
    await consumer.destroy()
    await memphis.close()
    return found


async def destroy(job: dict[str, Any]) -> list[dict[str, Any]]:
    memphis = await connect(job)
    station = await memphis.station(name=job["station"])
    await station.destroy()
    await memphis.close()
    return []


if __name__ == "__main__":
    program = {"produce": produce, "consume": consume, "destroy": destroy}[sys.argv[1]]
    for line in asyncio.run(program(json.loads(sys.argv[2] if len(sys.argv) > 2 else sys.stdin.read()))):
        print(json.dumps(line))
