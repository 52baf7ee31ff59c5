"""
What does it cost to keep the outbox in a file?

Non-blocking produce of --count messages and a flush, with the outbox in a file against the same client with its outbox
in memory; the figures to look at are the ratio of the rates and that of the processor time. Then what one non-blocking
produce costs its caller with each value of fsync; with "produce" that is a write to the disk that --outbox is on.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import _common

import memphis_sync

SYNCED = 200  # messages of fsync="produce", each of which is a write to the disk


def rate(run: _common.Bench, client: Any, cpu_s: list[float]) -> float:
    """Acknowledged messages a second; adds the processor time of one, of the whole process, to *cpu_s*."""
    station = run.station()
    producer = client.producer(station.name, "bench", idempotent=run.args.ids)
    payload = run.payload
    start, cpu_start = time.perf_counter(), time.process_time()
    for _ in range(run.args.count):
        producer.produce(payload, nonblocking=True)
    if producer.flush(120):
        raise SystemExit("not all messages were acknowledged")
    took = time.perf_counter() - start
    cpu_s.append((time.process_time() - cpu_start) / run.args.count)
    producer.destroy()
    station.destroy()
    return float(run.args.count / took)


def call_us(run: _common.Bench, client: Any, count: int) -> float:
    """The median cost of a call, in microseconds."""
    station = run.station()
    producer = client.producer(station.name, "bench", idempotent=run.args.ids)
    times = []
    for _ in range(count):
        start = time.perf_counter_ns()
        producer.produce(run.payload, nonblocking=True)
        times.append(time.perf_counter_ns() - start)
    producer.flush(120)
    producer.destroy()
    station.destroy()
    return round(statistics.median(times) / 1000, 3)


def main() -> None:
    """Runs the pairs and prints the ratio of the medians."""
    parser = _common.parser(__doc__, count=200_000)
    parser.add_argument("--outbox", type=Path, metavar="FILE", help="where the file is; else in the temporary folder")
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        run = stack.enter_context(_common.bench(args))
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="memphis-sync-bench-"))
        path = args.outbox or Path(folder) / "outbox"
        with memphis_sync.connect(run.url, outbox=path, outbox_max_bytes=_common.room(args)) as client:
            rate(run, client, []), rate(run, run.client, [])  # not counted: the first touch of file and memory
            cpu: tuple[list[float], list[float]] = ([], [])
            filed, in_memory = _common.in_turn(
                args.pairs, lambda: rate(run, client, cpu[0]), lambda: rate(run, run.client, cpu[1])
            )
            calls = {"memory": call_us(run, run.client, 20 * SYNCED), "none": call_us(run, client, 20 * SYNCED)}
        for fsync, count in (("second", 20 * SYNCED), ("produce", SYNCED)):
            with memphis_sync.connect(run.url, outbox=path, fsync=fsync) as client:
                calls[fsync] = call_us(run, client, count)
        mine, limit = statistics.median(filed), statistics.median(in_memory)
        ratios = sorted(a / b for a, b in zip(filed, in_memory))
        figures = {
            "msgs_per_s": round(mine),
            "memory_msgs_per_s": round(limit),
            "ratio": round(mine / limit, 3),
            "ratio_range": [round(ratios[0], 3), round(ratios[-1], 3)],
            "cpu_us": round(statistics.median(cpu[0]) * 1e6, 3),
            "cpu_ratio": round(statistics.median(cpu[1]) / statistics.median(cpu[0]), 3),
            "call_us": calls,
        }
        sentence = (
            f"{mine:,.0f} acknowledged messages/s with a file, {limit:,.0f} in memory; a call costs "
            f"{calls['memory']} us in memory, {calls['none']} us with a file, {calls['second']} us and "
            f"{calls['produce']} us with fsync='second' and 'produce': {mine / limit:.2f} of it"
        )
        _common.report("outbox_file", run, figures, sentence)
        if args.plot:
            series = {"file": filed, "memory": in_memory}
            _common.plot(args.plot, "non-blocking produce, outbox in a file", "acknowledged messages/s", series)


if __name__ == "__main__":
    main()
