"""
How fast can one thread fetch and acknowledge, compared with a program that only counts the bytes?

Two consumer groups read the same messages: one through ``consumer.fetch(batch)`` and ``message.ack()``, or with
``--iterate`` through ``for message in consumer``; one by raw pulls of the same size whose messages are acknowledged
unread.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import _common
import _raw


def main() -> None:
    """Runs the pairs and prints the ratio of the medians."""
    parser = _common.parser(__doc__, count=100_000)
    parser.add_argument("--batch", type=int, default=500, help="messages asked for at once")
    parser.add_argument("--iterate", action="store_true", help="for message in consumer, instead of fetch()")
    args = parser.parse_args()
    with _common.bench(args) as run:
        filled = run.station()
        if run.producer(filled).produce_many(run.payload for _ in range(args.count)).failed:
            raise SystemExit("the station could not be filled")
        turn = iter(range(10**6))

        def ours() -> float:
            consumer = run.client.consumer(filled.name, f"ours-{next(turn)}", batch_size=args.batch)
            start = time.perf_counter()
            got = (_iterate if args.iterate else _fetch)(consumer, args.count)
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
            "iterate_throughput" if args.iterate else "fetch_throughput",
            run,
            figures,
            f"{mine:,.0f} messages/s fetched and acknowledged, the raw replay {limit:,.0f}: {mine / limit:.2f} of it",
        )
        if args.plot:
            how = "for message in consumer" if args.iterate else f"fetch({args.batch})"
            title = f"{how} and ack, {args.size}-byte payload"
            _common.plot(args.plot, title, "messages/s", {"memphis_sync": rates[0], "raw replay": rates[1]})
        filled.destroy()


def _fetch(consumer: Any, count: int) -> int:
    got = 0
    while got < count:
        batch = consumer.fetch(consumer.batch_size)
        for message in batch:
            message.ack()
        got += len(batch)
    return got


def _iterate(consumer: Any, count: int) -> int:
    for got, message in enumerate(consumer, 1):
        message.ack()
        if got == count:
            break
    return count


if __name__ == "__main__":
    main()
