"""
How fast is the embedded broker: from its start until it answers, and for each creation, as a client sees it?

    python bench/broker_latency.py [--count 200] [--starts 10] [--json]

Prints medians and 95th percentiles in milliseconds. One client asks one request after the other on one connection;
each request names a new station, producer or consumer. "ready" is from the fork of the broker's process until its ready
file is there, when requests are answered. The bounds are the acceptance figures.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence

import nats

from memphis_sync._protocol.requests import ConsumerCreate, ProducerCreate, StationCreate
from memphis_sync.broker import BrokerProcess

BOUNDS_MS = {"ready": 1000.0, "station, 3 partitions": 25.0, "producer": 3.0, "consumer, 3 partitions": 5.0}


def start_times(count: int) -> list[float]:
    """Milliseconds of *count* starts on fresh data folders."""
    found = []
    for _ in range(count):
        broker = BrokerProcess(port=0)
        begin = time.perf_counter()
        broker.start()
        found.append((time.perf_counter() - begin) * 1000)
        broker.stop()
    return found


async def request_times(broker: BrokerProcess, count: int) -> dict[str, list[float]]:
    """Milliseconds of *count* creations of each kind."""
    login = {"user": broker.username, "password": broker.password}
    connection = await nats.connect(f"nats://{broker.host}:{broker.port}", name="bench::root", **login)
    common = {"station_name": "station-0", "connection_id": "bench", "username": "root"}
    kinds = {
        "station, 1 partition": lambda at: StationCreate(name=f"single-{at}", username="root"),
        "station, 3 partitions": lambda at: StationCreate(name=f"station-{at}", partitions_number=3, username="root"),
        "producer": lambda at: ProducerCreate(name=f"p{at}", **common),
        "consumer, 3 partitions": lambda at: ConsumerCreate(name=f"c{at}", **common),
        "consumer joins its group": lambda at: ConsumerCreate(name=f"j{at}", consumers_group="joined", **common),
    }
    found: dict[str, list[float]] = {}
    for kind, make in kinds.items():
        times = found[kind] = []
        for at in range(count):
            request = make(at)
            body = request.encode()
            begin = time.perf_counter()
            reply = await connection.request(request.SUBJECT, body, timeout=20)
            times.append((time.perf_counter() - begin) * 1000)
            if reply.data and json.loads(reply.data)["error"]:
                raise SystemExit(f"{kind} was refused: {reply.data!r}")
    await connection.close()
    return found


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="requests of each kind")
    parser.add_argument("--starts", type=int, default=10, help="starts of the broker")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    arguments = parser.parse_args()
    times = {"ready": start_times(arguments.starts)}
    with BrokerProcess(port=0) as broker:
        times.update(asyncio.run(request_times(broker, arguments.count)))
    medians = {kind: statistics.median(values) for kind, values in times.items()}
    met = all(medians[kind] <= bound for kind, bound in BOUNDS_MS.items())
    if arguments.json:
        machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()}
        print(json.dumps({"median_ms": medians, "bounds_ms": BOUNDS_MS, "met": met, "machine": machine}))
        return 0 if met else 1
    print(f"{'':<26}{'median ms':>10}{'p95 ms':>10}{'bound ms':>10}")
    for kind, values in times.items():
        bound = f"{BOUNDS_MS[kind]:.0f}" if kind in BOUNDS_MS else ""
        print(f"{kind:<26}{medians[kind]:>10.2f}{percentile(values, 0.95):>10.2f}{bound:>10}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
