"""
How fast can one thread fetch and acknowledge, compared with a program that only counts the bytes?

Two consumer groups read the same messages: one through ``consumer.fetch(batch)`` and ``message.ack()``, one by raw
pulls of the same size whose messages are acknowledged unread.
"""

from __future__ import annotations

import statistics
import time

import _common
import _raw


def main() -> None:
    """Runs the pairs and prints the ratio of the medians."""
    parser = _common.parser(__doc__, count=100_000)
    parser.add_argument("--batch", type=int, default=500, help="messages asked for at once")
    args = parser.parse_args()
    with _common.bench(args) as run:
        filled = run.station()
        if run.producer(filled).produce_many(run.payload for _ in range(args.count)).failed:
            raise SystemExit("the station could not be filled")
        turn = iter(range(10**6))

        def ours() -> float:
            consumer = run.client.consumer(filled.name, f"ours-{next(turn)}", batch_size=args.batch)
            got, start = 0, time.perf_counter()
            while got < args.count:
                batch = consumer.fetch(args.batch)
                for message in batch:
                    message.ack()
                got += len(batch)
            rate = got / (time.perf_counter() - start)
            consumer.destroy()
            return rate

        def raw() -> float:
            group = f"raw-{next(turn)}"
            consumer = run.client.consumer(filled.name, group)
            bindings = [(stream, group) for stream in run.streams(filled)]
            took = _raw.fetch(run.wire, bindings, args.count, args.batch)
            consumer.destroy()
            return args.count / took

        rates = _common.in_turn(args.pairs, ours, raw)
        mine, limit = map(statistics.median, rates)
        figures = {
            "msgs_per_s": round(mine),
            "raw_msgs_per_s": round(limit),
            "ratio": round(mine / limit, 3),
            "batch": args.batch,
        }
        _common.report(
            "fetch_throughput",
            run,
            figures,
            f"{mine:,.0f} messages/s fetched and acknowledged, the raw replay {limit:,.0f}: {mine / limit:.2f} of it",
        )
        if args.plot:
            title = f"fetch({args.batch}) and ack, {args.size}-byte payload"
            _common.plot(args.plot, title, "messages/s", {"memphis_sync": rates[0], "raw replay": rates[1]})
        filled.destroy()


if __name__ == "__main__":
    main()
