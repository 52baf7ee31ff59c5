"""
Another client as a process of its own, driven by JSON lines: what compare.py measures beside ours.

    python _peer.py nats-py|memphis-py HOST PORT USER PASSWORD

Each line of stdin is a job ``{"do": "throughput"|"latency", "station": ..., "size": ..., "count": ...}``; each line of
stdout an answer, ``{"seconds": ...}`` or ``{"times_s": [...]}``. The clock starts when the client is connected and has
its producer, and stops with the last acknowledgement. Nothing of memphis_sync is imported.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import Any, Protocol


class Peer(Protocol):
    """What a client has to do here."""

    async def open(self, station: str) -> None:
        """Gets ready to produce to a station."""

    async def burst(self, payload: bytes, count: int) -> None:
        """Produces without waiting for each message; returns when all are acknowledged."""

    async def one(self, payload: bytes) -> None:
        """Produces one message; returns when it is acknowledged."""


class NatsPy:
    """nats-py's JetStream publish calls, with the headers that a Memphis client sets."""

    def __init__(self, nc: Any, user: str) -> None:
        self._js = nc.jetstream()
        self._headers = {"$memphis_producedBy": "bench", "$memphis_connectionId": f"{user}-bench"}
        self._subject = ""

    async def open(self, station: str) -> None:
        self._subject = f"{station}$1.final"

    async def burst(self, payload: bytes, count: int) -> None:
        # Its own bound of 4,000 unacknowledged messages makes the call wait; that is the client's flow control.
        for _ in range(count):
            await self._js.publish_async(self._subject, payload, wait_stall=60, headers=self._headers)
        await self._js.publish_async_completed()

    async def one(self, payload: bytes) -> None:
        await self._js.publish(self._subject, payload, headers=self._headers)


class MemphisPy:
    """The official SDK's produce(), non-blocking with a bound on its tasks, and blocking."""

    def __init__(self, memphis: Any) -> None:
        self._memphis = memphis
        self._producer: Any = None

    async def open(self, station: str) -> None:
        self._producer = await self._memphis.producer(station_name=station, producer_name="bench")

    async def burst(self, payload: bytes, count: int) -> None:
        message = bytearray(payload)
        for _ in range(count):
            await self._producer.produce(message, nonblocking=True, concurrent_task_limit=4000)
        while self._producer.background_tasks:
            await asyncio.gather(*self._producer.background_tasks)

    async def one(self, payload: bytes) -> None:
        await self._producer.produce(bytearray(payload))


async def connect(kind: str, host: str, port: int, user: str, password: str) -> Peer:
    """A connected client."""
    if kind == "memphis-py":
        from memphis import Memphis

        memphis = Memphis()
        await memphis.connect(host=host, port=port, username=user, password=password)
        return MemphisPy(memphis)
    import nats

    return NatsPy(await nats.connect(f"nats://{host}:{port}", user=f"{user}$1", password=password), user)


async def work(peer: Peer, job: dict[str, Any]) -> dict[str, Any]:
    """One job's answer."""
    payload, count, clock = os.urandom(job["size"]), job["count"], time.perf_counter
    await peer.open(job["station"])
    if job["do"] == "throughput":
        start = clock()
        await peer.burst(payload, count)
        return {"seconds": clock() - start}
    times = []
    for _ in range(count):
        start = clock()
        await peer.one(payload)
        times.append(clock() - start)
    return {"times_s": times}


async def main() -> None:
    """Serves jobs until stdin ends."""
    kind, host, port, user, password = sys.argv[1:]
    peer = await connect(kind, host, int(port), user, password)
    print(json.dumps({"ready": kind}), flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps(await work(peer, json.loads(line))), flush=True)
    os._exit(0)  # tasks and connections of the measured client are of no interest any more


if __name__ == "__main__":
    asyncio.run(main())
