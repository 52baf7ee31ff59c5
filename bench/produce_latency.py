"""
How long does one blocking produce take, compared with the bare round trip of the same bytes?

One message at a time, each waiting for the broker's acknowledgement, against the raw replay doing the same.
"""

from __future__ import annotations

import statistics
import time

import _common
import _raw


def main() -> None:
    """Runs the pairs and prints the ratio of the median round trips."""
    parser = _common.parser(__doc__, count=5_000)
    args = parser.parse_args()
    tails: dict[str, list[float]] = {"ours": [], "raw": []}
    with _common.bench(args) as run:
        own = run.station()
        produce = run.producer(own).produce
        bare = run.station()
        subject = run.subjects(bare)[0]

        def ours() -> float:
            payload, clock = run.payload, time.perf_counter
            times = []
            for _ in range(args.count):
                start = clock()
                produce(payload)
                times.append(clock() - start)
            tails["ours"].append(_raw.percentile(times, 0.99) * 1e6)
            return _raw.percentile(times, 0.5) * 1e6

        def raw() -> float:
            times = _raw.rtt(run.wire, run.template, subject, run.payload, args.count)
            tails["raw"].append(_raw.percentile(times, 0.99) * 1e6)
            return _raw.percentile(times, 0.5) * 1e6

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
            "produce_latency",
            run,
            figures,
            f"a blocking produce takes {mine:.0f} us (p50), the raw round trip {limit:.0f}: {mine / limit:.2f} times",
        )
        if args.plot:
            title = f"blocking produce, {args.size}-byte payload, p50 of each run"
            _common.plot(args.plot, title, "us", {"memphis_sync": medians[0], "raw round trip": medians[1]})
        own.destroy()
        bare.destroy()


if __name__ == "__main__":
    main()
