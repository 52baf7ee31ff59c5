"""
How long does a message take from a blocking produce in one process to a waiting fetch in another?

Beside it two raw sockets do the same: one publishes a prebuilt frame, the other has a pull open at the server and reads
what it is answered with. The message is produced a moment after the reader began to wait, one at a time.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from typing import Any, Callable
from urllib.parse import unquote, urlsplit

import _common
import _raw

PAUSE_S = 0.003  # after the reader's word that it begins to wait: it does by then


def main() -> None:
    """Runs the pairs and prints the ratio of the median latencies."""
    parser = _common.parser(__doc__, count=500)
    parser.add_argument("--reader", help="for the script's own use: what the reading process is to do")
    args = parser.parse_args()
    if args.reader:
        read(**json.loads(args.reader))
        return
    tails: dict[str, list[float]] = {"ours": [], "raw": []}
    with _common.bench(args) as run:
        own = run.station()
        produce = run.producer(own).produce
        bare = run.station()
        subject, stream = run.subjects(bare)[0], run.streams(bare)[0]
        run.client.consumer(own.name, "reader")  # before the first message, so that each is read
        run.client.consumer(bare.name, "reader")

        def ours() -> float:
            def send(_: int) -> None:
                produce(run.payload)

            return measure("ours", own.name, "", send)

        def raw() -> float:
            sock = run.wire.sock
            frames = [run.template.frame(subject, run.payload, number) for number in range(args.count)]
            sock.sendall(b"SUB %s.* 1\r\nPING\r\n" % run.template.reply)
            run.wire.until(b"PONG\r\n")

            def send(number: int) -> None:
                sock.sendall(frames[number])
                while b'"seq":' not in (answer := sock.recv(65536)):
                    if answer != b"PING\r\n":
                        raise SystemExit(f"not an acknowledgement: {answer[:200]!r}")
                    sock.sendall(b"PONG\r\n")

            return measure("raw", bare.name, stream, send)

        def measure(side: str, station: str, stream: str, send: Callable[[int], None]) -> float:
            job = {"url": run.url, "station": station, "stream": stream, "count": args.count}
            command = [sys.executable, __file__, "--reader", json.dumps(job)]
            with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as reader:
                assert reader.stdout is not None
                sent = []
                for number in range(args.count):
                    if reader.stdout.readline() != b"ready\n":
                        raise SystemExit(f"the reading process ended with {reader.wait()}")
                    time.sleep(PAUSE_S)
                    sent.append(time.perf_counter_ns())
                    send(number)
                received = json.loads(reader.stdout.readline())
            times = [(there - here) / 1000 for here, there in zip(sent, received)]
            tails[side].append(_raw.percentile(times, 0.99))
            return float(_raw.percentile(times, 0.5))

        medians = _common.in_turn(args.pairs, ours, raw)
        mine, limit = map(statistics.median, medians)
        figures = {
            "p50_us": round(mine, 1),
            "p99_us": round(statistics.median(tails["ours"]), 1),
            "raw_p50_us": round(limit, 1),
            "raw_p99_us": round(statistics.median(tails["raw"]), 1),
            "ratio": round(mine / limit, 3),
        }
        _common.report(
            "end_to_end_latency",
            run,
            figures,
            f"from produce to fetch in {mine:.0f} us (p50), two raw sockets {limit:.0f}: {mine / limit:.2f} times",
        )
        if args.plot:
            title = f"produce to fetch, {args.size}-byte payload, p50 of each run"
            _common.plot(args.plot, title, "us", {"memphis_sync": medians[0], "two raw sockets": medians[1]})
        own.destroy()
        bare.destroy()


def read(url: str, station: str, stream: str, count: int) -> None:
    """The reading process: says "ready" before each wait, and at the end when each message was here."""
    received: Any

    def ready() -> None:
        sys.stdout.write("ready\n")
        sys.stdout.flush()

    if stream:
        parts = urlsplit(url)
        wire = _raw.Wire(
            parts.hostname or "",
            parts.port or 6666,
            f"{unquote(parts.username or '')}$1",
            unquote(parts.password or ""),
        )
        received = _raw.receive(wire, stream, "reader", count, ready)
        wire.close()
    else:
        received = _read_ours(url, station, count, ready)
    print(json.dumps(received))


def _read_ours(url: str, station: str, count: int, ready: Callable[[], None]) -> list[int]:
    import memphis_sync

    clock, times = time.perf_counter_ns, []
    with memphis_sync.connect(url) as client:
        fetch = client.consumer(station, "reader").fetch
        fetch(1, timeout_s=0)  # opens the subscription
        for _ in range(count):
            ready()
            (message,) = fetch(timeout_s=60)
            times.append(clock())
            message.ack()
    return times


if __name__ == "__main__":
    main()
