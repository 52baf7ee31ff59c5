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


async def dead_letter(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Takes a message and is silent, has it sent again, takes and acknowledges that; lists before and after."""
    memphis = await connect(job)
    group = {"consumer_group": job["group"], "max_ack_time_ms": 500, "max_msg_deliveries": 1}
    consumer = await memphis.consumer(station_name=job["station"], consumer_name="memphis-py", **group)
    producer = await memphis.producer(station_name=job["station"], producer_name="memphis-py")
    await producer.produce(bytearray(b"poison"), headers=Headers())

    async def rows(count: int) -> list[dict[str, Any]]:
        body = json.dumps({"station_name": job["station"], "username": job["username"]}).encode()
        deadline = time.monotonic() + 20
        while True:
            reply = await memphis.broker_manager.request("$memphis_sync_dls_list", body, timeout=10)
            found = json.loads(reply.data)["rows"]
            if len(found) == count or time.monotonic() > deadline:
                return found
            await asyncio.sleep(0.01)

    (_,) = await consumer.fetch(batch_size=1)
    listed = await rows(1)
    body = json.dumps({"station_name": job["station"], "username": job["username"]}).encode()
    await memphis.broker_manager.request("$memphis_sync_dls_resend", body, timeout=10)
    (again,) = await consumer.fetch(batch_size=1)
    resent = {"text": again.get_data().decode(), "headers": again.get_headers()}
    await again.ack()
    left = await rows(0)
    await consumer.destroy()
    await memphis.close()
    return [{"listed": listed, "resent": resent, "left": left}]


async def destroy(job: dict[str, Any]) -> list[dict[str, Any]]:
    memphis = await connect(job)
    station = await memphis.station(name=job["station"])
    await station.destroy()
    await memphis.close()
    return []


if __name__ == "__main__":
    program = {"produce": produce, "consume": consume, "dead_letter": dead_letter, "destroy": destroy}[sys.argv[1]]
    for line in asyncio.run(program(json.loads(sys.argv[2] if len(sys.argv) > 2 else sys.stdin.read()))):
        print(json.dumps(line))
