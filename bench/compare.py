"""
How do we compare with nats-py and memphis-py: throughput over payload size, and the latency of a blocking produce?

Each client runs in a process of its own against one broker, the raw replay and ours beside them, one after the other,
--pairs rounds; medians of the rates, and all times of the latencies. ``--plot DIR`` draws throughput.svg and
latency.svg. memphis-py needs an environment of its own: --memphis-py names an interpreter that has it; without one it
is installed into a temporary environment.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import _common
import _raw

SIZES = (16, 128, 1024, 8192, 65536, 1048576)  # bytes of payload
BYTES = 48 * 2**20  # of one run at most: fits into an outbox of the default size
WINDOW = 16384  # messages that the raw replay has unacknowledged at most: our client's own default
MEMPHIS_PY = ("memphis-py==1.3.1", "protobuf<6")  # it calls what protobuf 6 no longer has
OURS, RAW = "memphis_sync", "raw replay"


class Peer(NamedTuple):
    """A client in a process of its own."""

    process: subprocess.Popen[str]

    def ask(self, **job: Any) -> dict[str, Any]:
        """One job, its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args} ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextlib.contextmanager
def memphis_py(named: str | None) -> Iterator[str]:
    """An interpreter that has memphis-py."""
    if named:
        yield named
        return
    with tempfile.TemporaryDirectory(prefix="memphis-sync-bench-") as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        python = str(Path(folder) / "bin" / "python")
        subprocess.run([python, "-m", "pip", "install", "-q", *MEMPHIS_PY], check=True, stdout=sys.stderr)
        yield python


@contextlib.contextmanager
def peer(python: str, kind: str, url: str) -> Iterator[Peer]:
    """Starts one, connected."""
    parts = urlsplit(url)
    login = [str(parts.hostname), str(parts.port), unquote(parts.username or ""), unquote(parts.password or "")]
    command = [python, str(Path(__file__).with_name("_peer.py")), kind, *login]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        if not process.stdout.readline():
            raise SystemExit(f"{kind} could not be started")
        yield Peer(process)
        process.stdin.close()


def throughput(run: _common.Bench, peers: dict[str, Peer], size: int) -> dict[str, float]:
    """Acknowledged messages a second of each, for one payload size, once."""
    count = max(min(BYTES // size, run.args.count), 32)
    payload = os.urandom(size)
    rates = {}
    for kind in (RAW, OURS, *peers):
        station = run.station()
        if kind == RAW:
            took = _raw.produce(run.wire, run.template, run.subjects(station), payload, count, WINDOW)
        elif kind == OURS:
            producer = run.producer(station)
            start = time.perf_counter()
            for _ in range(count):
                producer.produce(payload, nonblocking=True)
            if producer.flush(120):
                raise SystemExit("not everything was acknowledged")
            took = time.perf_counter() - start
        else:
            slower = max(count // 5, 32)  # a fifth of the messages at a tenth of the rate is time enough
            took = peers[kind].ask(do="throughput", station=station.name, size=size, count=slower)["seconds"]
            took *= count / slower
        rates[kind] = count / took
        station.destroy()
    return rates


def latency(run: _common.Bench, peers: dict[str, Peer]) -> dict[str, list[float]]:
    """Seconds of each blocking produce, once."""
    count = run.args.latency_count
    times: dict[str, list[float]] = {}
    for kind in (RAW, OURS, *peers):
        station = run.station()
        if kind == RAW:
            times[kind] = _raw.rtt(run.wire, run.template, run.subjects(station)[0], run.payload, count)
        elif kind == OURS:
            produce, clock = run.producer(station).produce, time.perf_counter
            taken = []
            for _ in range(count):
                start = clock()
                produce(run.payload)
                taken.append(clock() - start)
            times[kind] = taken
        else:
            job = {"do": "latency", "station": station.name, "size": run.args.size, "count": count}
            times[kind] = peers[kind].ask(**job)["times_s"]
        station.destroy()
    return times


def draw(folder: Path, rates: dict[int, dict[str, float]], times: dict[str, list[float]], size: int) -> None:
    """throughput.svg and latency.svg."""
    plt = _common.pyplot()
    folder.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    sizes = sorted(rates)
    for kind in rates[sizes[0]]:
        axes.plot(sizes, [rates[one][kind] for one in sizes], "o-", label=kind)
    axes.set(xscale="log", yscale="log", xlabel="bytes of payload", ylabel="acknowledged messages/s")
    axes.set_title(f"non-blocking produce, memory station\n{_common.place()}", fontsize=9)
    axes.set_xticks(sizes, [f"{one:,}" for one in sizes])
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(folder / "throughput.svg", metadata={"Date": None})
    plt.close(figure)
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for kind, taken in times.items():
        shares = [place / 200 for place in range(200)]
        axes.plot([_raw.percentile(taken, share) * 1e6 for share in shares], shares, label=kind)
    axes.set(xscale="log", xlabel="µs", ylabel="share of the calls that took no longer", ylim=(0, 1))
    axes.set_title(f"blocking produce, {size}-byte payload\n{_common.place()}", fontsize=9)
    axes.legend()
    axes.grid(alpha=0.3, which="both")
    figure.savefig(folder / "latency.svg", metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    """Prints one JSON line."""
    parser = _common.parser(__doc__, count=50_000)
    parser.add_argument("--latency-count", type=int, default=2_000, help="blocking calls in each round")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="bytes of payload")
    parser.add_argument("--memphis-py", metavar="PYTHON", help="an interpreter that has memphis-py and protobuf<6")
    args: argparse.Namespace = parser.parse_args()
    with contextlib.ExitStack() as stack:
        run = stack.enter_context(_common.bench(args))
        python = stack.enter_context(memphis_py(args.memphis_py))
        peers = {
            "nats-py": stack.enter_context(peer(sys.executable, "nats-py", run.url)),
            "memphis-py": stack.enter_context(peer(python, "memphis-py", run.url)),
        }
        rounds = [{size: throughput(run, peers, size) for size in args.sizes} for _ in range(args.pairs)]
        kinds = list(rounds[0][args.sizes[0]])
        rates = {
            size: {kind: statistics.median(one[size][kind] for one in rounds) for kind in kinds} for size in args.sizes
        }
        times: dict[str, list[float]] = {kind: [] for kind in kinds}
        for _ in range(args.pairs):
            for kind, taken in latency(run, peers).items():
                times[kind] += taken
        p50 = {kind: round(_raw.percentile(taken, 0.5) * 1e6, 1) for kind, taken in times.items()}
        p99 = {kind: round(_raw.percentile(taken, 0.99) * 1e6, 1) for kind, taken in times.items()}
        figures = {
            "msgs_per_s": {str(size): {kind: round(rate) for kind, rate in row.items()} for size, row in rates.items()},
            "p50_us": p50,
            "p99_us": p99,
        }
        at = 128 if 128 in rates else args.sizes[0]
        shares = ", ".join(f"{kind} {rates[at][kind] / rates[at][RAW]:.2f}" for kind in kinds if kind != RAW)
        _common.report("compare", run, figures, f"of the raw replay, {at}-byte payload: {shares}; p50 in us: {p50}")
        if args.plot:
            draw(args.plot, rates, times, args.size)


if __name__ == "__main__":
    main()
