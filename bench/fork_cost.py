"""
What does a fork cost the parent when a client is open, and what does an open client cost a child that does not use it?

Times ``os.fork()`` in the parent of two processes of the same program on the same processor, of which one opens a
client (both connections, a producer, a consumer). They fork in turns, a fork each, and now one and now the other
begins, so that what the machine does beside meets both; first while neither has a client, since two processes never
cost the same: where their memory lies decides over a hundred microseconds. What the client costs is the median of the
differences afterwards less that of those before. That is done with --couples of processes, --count forks each; reported
is the median of all, and between which values it lies by 95 of 100 draws from the couples (bootstrap).

The child leaves with ``os._exit(0)`` at once, and its parent has reaped it before the next fork. ``parent`` is the time
of the call, ``processor`` what of it the parent's thread has worked, which says more on a busy machine, and ``child``
is from before the fork to the end of the child, as its parent sees it.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import time
from typing import Any

import _common

import memphis_sync
from memphis_sync.broker import BrokerOptions, BrokerProcess

WARM_UP = 25
DRAWS = 1000
FIGURES = ("parent", "processor", "child")


def forks(count: int) -> dict[str, list[int]]:
    """Nanoseconds of each of *count* forks, by FIGURES."""
    clock, worked = time.perf_counter_ns, time.thread_time_ns
    times: dict[str, list[int]] = {figure: [] for figure in FIGURES}
    for _ in range(count):
        start, start_work = clock(), worked()
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        end_work, end = worked(), clock()
        os.waitpid(pid, 0)
        for figure, took in zip(FIGURES, (end - start, end_work - start_work, clock() - start)):
            times[figure].append(took)
    return times


def serve(url: str) -> None:
    """Forks so many times as a line says, and answers with the times; opens a client when it says "open"."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    clients: list[memphis_sync.Memphis] = []
    kept: list[object] = []
    print("ready", flush=True)
    for line in sys.stdin:
        if line != "open\n":
            print(json.dumps(forks(int(line))), flush=True)
            continue
        clients.append(memphis_sync.connect(url))
        producer, consumer = (
            clients[0].producer("bench-fork", "bench"),
            clients[0].consumer("bench-fork", f"bench-{os.getpid()}"),
        )
        producer.produce(b"x")
        consumer.fetch(1, timeout_s=5)
        kept += producer, consumer
        print("open", flush=True)
    for client in clients:
        client.close()


class Forker:
    """One of the two processes."""

    def __init__(self, url: str) -> None:
        command = [sys.executable, "-W", "ignore", __file__, "--serve", url]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._process.stdout.readline()

    def end(self) -> None:
        """Ends it."""
        self._process.communicate()

    def ask(self, line: object) -> str:
        """Says something to it, and gives the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()

    def fork(self, count: int) -> dict[str, list[int]]:
        """The times of so many forks."""
        times: dict[str, list[int]] = json.loads(self.ask(count))
        return times


def in_turns(bare: Forker, other: Forker, count: int) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """The times of both, one fork each in turn."""
    found = {bare: {figure: [0] * count for figure in FIGURES}, other: {figure: [0] * count for figure in FIGURES}}
    for number in range(count):
        for each in (bare, other) if number % 2 else (other, bare):
            for figure, (took,) in each.fork(1).items():
                found[each][figure][number] = took
    return found[bare], found[other]


def couple(url: str, count: int) -> dict[str, tuple[float, float, float]]:
    """Of one couple, by figure: a fork without a client, one with, and what the client costs, in microseconds."""
    bare, other = Forker(url), Forker(url)
    try:
        for each in (bare, other):
            each.fork(WARM_UP)
        before = in_turns(bare, other, count)
        other.ask("open")
        other.fork(WARM_UP)
        after = in_turns(bare, other, count)
    finally:
        bare.end()
        other.end()

    def more(times: tuple[dict[str, list[int]], dict[str, list[int]]], figure: str) -> float:
        return p50_us([one - another for another, one in zip(times[0][figure], times[1][figure])])

    return {
        figure: (p50_us(before[1][figure]), p50_us(after[1][figure]), more(after, figure) - more(before, figure))
        for figure in FIGURES
    }


def p50_us(nanoseconds: list[int]) -> float:
    """The median in microseconds."""
    return round(statistics.median(nanoseconds) / 1000, 1)


def interval(values: list[float]) -> list[float]:
    """Between which values the median lies, by 95 of 100 draws."""
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(values, k=len(values))) for _ in range(DRAWS))
    return [round(medians[DRAWS // 40], 1), round(medians[-DRAWS // 40], 1)]


def main() -> None:
    """Prints what a fork costs without a client and with one, and the difference."""
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2])
        return
    parser = _common.parser(__doc__, count=100)
    parser.add_argument("--couples", type=int, default=12)
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        url = args.url or stack.enter_context(BrokerProcess(BrokerOptions(port=0, ephemeral=True))).url
        couples = [couple(url, args.count) for _ in range(args.couples)]
    figures: dict[str, Any] = {}
    for what in FIGURES:
        bare, opened, more = ([each[what][index] for each in couples] for index in range(3))
        figures[what] = {
            "without_p50_us": round(statistics.median(bare), 1),
            "with_p50_us": round(statistics.median(opened), 1),
            "more_us": round(statistics.median(more), 1),
            "more_between_us": interval(more),
        }
    if not args.json:
        for what, values in figures.items():
            print(f"{what:>9}: " + ", ".join(f"{name} {value}" for name, value in values.items()), file=sys.stderr)
    machine = _common.machine()
    print(json.dumps({"question": "fork_cost", **figures, "count": args.count, "couples": args.couples, **machine}))


if __name__ == "__main__":
    main()
