"""
What does a fork cost the parent when a client is open, and what does an open client cost a child that does not use it?

Times ``os.fork()`` in the parent, --count times with an open client (both connections, a producer, a consumer) and as
often without one, taken in turns in one run: two processes of the same program, of which one has connected. The child
leaves with ``os._exit(0)`` at once, and its parent has reaped it before the next fork. ``parent`` is the time of the
call, ``processor`` what of it the parent's thread has worked, which says more on a busy machine, and ``child`` is from
before the fork to the end of the child, as its parent sees it.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

import _common

import memphis_sync
from memphis_sync.broker import BrokerOptions, BrokerProcess

ROUND = 25  # forks before the other one's turn


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
    """Forks whenever a line asks for it, and answers with the times; with a client when there is a URL."""
    client = None
    if url:
        client = memphis_sync.connect(url)
        producer = client.producer("bench-fork", "bench")
        consumer = client.consumer("bench-fork", "bench")
        producer.produce(b"x")
        consumer.fetch(1, timeout_s=5)
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(forks(int(line))), flush=True)
    if client is not None:
        client.close()


class Forker:
    """One of the two processes."""

    def __init__(self, url: str) -> None:
        command = [sys.executable, "-W", "ignore", __file__, "--serve", url]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.times: dict[str, list[int]] = {figure: [] for figure in FIGURES}
        self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def fork(self, count: int) -> None:
        """Has it fork, and keeps the times."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        for figure, times in json.loads(self._answer()).items():
            self.times[figure] += times

    def end(self) -> None:
        """Ends it."""
        self._process.communicate()


def p50_us(nanoseconds: list[int]) -> float:
    """The median in microseconds."""
    return round(statistics.median(nanoseconds) / 1000, 1)


def main() -> None:
    """Prints the medians and their differences."""
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2])
        return
    args = _common.parser(__doc__, count=1000).parse_args()
    with contextlib.ExitStack() as stack:
        url = args.url or stack.enter_context(BrokerProcess(BrokerOptions(port=0, ephemeral=True))).url
        without, with_client = Forker(""), Forker(url)
        for each in (without, with_client):
            each.fork(ROUND)
            each.times = {figure: [] for figure in FIGURES}
        for _ in range(max(1, args.count // ROUND)):
            without.fork(ROUND)
            with_client.fork(ROUND)
        without.end()
        with_client.end()
    figures: dict[str, Any] = {}
    for what in FIGURES:
        bare, opened = p50_us(without.times[what]), p50_us(with_client.times[what])
        figures[what] = {"without_p50_us": bare, "with_p50_us": opened, "more_us": round(opened - bare, 1)}
    if not args.json:
        for what, values in figures.items():
            print(f"{what:>9}: " + ", ".join(f"{name} {value}" for name, value in values.items()), file=sys.stderr)
    print(json.dumps({"question": "fork_cost", **figures, "count": args.count, **_common.machine()}))


if __name__ == "__main__":
    main()
