"""
What does one non-blocking produce cost its caller, with the server running and with it stopped?

Times each call of ``produce(payload, nonblocking=True)`` on its own, --count of them, first with the broker's
nats-server running, then with it stopped by SIGSTOP; then goes on until the outbox is full and times the calls that
raise. The cost of reading the clock is measured too and taken off. It stops the broker that it starts, so --url has no
effect.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import sys
import time
from typing import Any, Callable

import _common

import memphis_sync
from memphis_sync.broker import BrokerOptions, BrokerProcess


def percentiles(nanoseconds: list[int], clock_ns: int) -> dict[str, float]:
    """p50, p99, p99.9 and the worst, in microseconds."""
    ordered = sorted(nanoseconds)

    def at(share: float) -> float:
        return round(max(ordered[min(int(len(ordered) * share), len(ordered) - 1)] - clock_ns, 0) / 1000, 3)

    return {"p50_us": at(0.5), "p99_us": at(0.99), "p99_9_us": at(0.999), "max_us": at(1.0)}


def timed(call: Callable[[], object], count: int) -> list[int]:
    """Nanoseconds of each of *count* calls."""
    clock = time.perf_counter_ns
    times = []
    for _ in range(count):
        start = clock()
        call()
        times.append(clock() - start)
    return times


def until_full(call: Callable[[], object], count: int) -> list[int]:
    """Fills the outbox, then times *count* calls that raise BufferFullError."""
    times: list[int] = []
    while len(times) < count:
        start = time.perf_counter_ns()
        try:
            call()
        except memphis_sync.BufferFullError:
            times.append(time.perf_counter_ns() - start)
    return times


def main() -> None:
    """Prints the three distributions."""
    args = _common.parser(__doc__, count=100_000).parse_args()
    payload = os.urandom(args.size)
    figures: dict[str, Any] = {}
    with BrokerProcess(BrokerOptions(port=0, ephemeral=True)) as broker:
        client = memphis_sync.connect(broker.url, outbox_max_bytes=(args.size + 400) * args.count * 2)
        client.station("bench-cost", storage_type=memphis_sync.Storage.MEMORY)
        producer = client.producer("bench-cost", "bench", idempotent=args.ids)

        def call() -> None:
            producer.produce(payload, nonblocking=True)

        clock_ns = int(statistics.median(timed(lambda: None, 10_000)))
        timed(call, 1000)
        producer.flush(60)
        gc.freeze()
        figures["running"] = percentiles(timed(call, args.count), clock_ns)
        producer.flush(60)
        with _common.stopped(broker.nats_pid):
            figures["stopped"] = percentiles(timed(call, args.count), clock_ns)
            figures["full"] = percentiles(until_full(call, 10_000), clock_ns)
        left = producer.flush(120)
        client.close()
    if left:
        raise SystemExit(f"{left} messages were not acknowledged after the server went on")
    if not args.json:
        for what, values in figures.items():
            print(f"{what:>8}: " + ", ".join(f"{name} {value}" for name, value in values.items()), file=sys.stderr)
    print(
        json.dumps({"question": "caller_cost", **figures, "count": args.count, "size": args.size, **_common.machine()})
    )


if __name__ == "__main__":
    main()
