"""
How fast can one thread produce, compared with a program that only replays prebuilt bytes?

Non-blocking produce of --count messages and a flush, against the raw replay of the same frames into an equal station.
The figure to look at is the ratio; the rates alone say more about the machine.
"""

from __future__ import annotations

import statistics
import time

import _common
import _raw


def main() -> None:
    """Runs the pairs and prints the ratio of the medians."""
    parser = _common.parser(__doc__, count=200_000)
    parser.add_argument(
        "--window", type=int, default=16384, help="unacknowledged messages of the raw replay; the client's default"
    )
    parser.add_argument("--many", action="store_true", help="produce_many() instead of one call a message")
    args = parser.parse_args()
    with _common.bench(args) as run:

        def ours() -> float:
            station = run.station()
            producer = run.producer(station)
            payload, count = run.payload, args.count
            start = time.perf_counter()
            if args.many:
                producer.produce_many(payload for _ in range(count))
            else:
                produce = producer.produce
                for _ in range(count):
                    produce(payload, nonblocking=True)
                left = producer.flush(120)
                if left:
                    raise SystemExit(f"{left} messages were not acknowledged")
            rate = count / (time.perf_counter() - start)
            station.destroy()
            return rate

        def raw() -> float:
            station = run.station()
            took = _raw.produce(run.wire, run.template, run.subjects(station), run.payload, args.count, args.window)
            station.destroy()
            return args.count / took

        rates = _common.in_turn(args.pairs, ours, raw)
        mine, limit = map(statistics.median, rates)
        ratios = sorted(a / b for a, b in zip(*rates))
        figures = {"msgs_per_s": round(mine), "raw_msgs_per_s": round(limit), "ratio": round(mine / limit, 3)}
        figures["ratio_range"] = [round(ratios[0], 3), round(ratios[-1], 3)]
        _common.report(
            "produce_throughput",
            run,
            figures,
            f"{mine:,.0f} acknowledged messages/s, the raw replay {limit:,.0f}: {mine / limit:.2f} of it",
        )
        if args.plot:
            title = f"non-blocking produce, {args.size}-byte payload"
            _common.plot(
                args.plot, title, "acknowledged messages/s", {"memphis_sync": rates[0], "raw replay": rates[1]}
            )


if __name__ == "__main__":
    main()
