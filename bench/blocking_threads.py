"""
How much faster are many threads than one, all producing blocking on one client?

Each thread produces and waits for its PubAck, again and again, --seconds long; one thread and --threads of them in
turn. The acks of many threads travel together, so the rate should grow until the interpreter or the broker is busy.
How far Python's threads go at all is measured beside it: as many threads, each with a bare socket of its own.
"""

from __future__ import annotations

import contextlib
import statistics

import _common
import _raw


def main() -> None:
    """Runs the pairs and prints the ratio of the medians."""
    parser = _common.parser(__doc__, count=0)
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=2.0)
    args = parser.parse_args()
    with _common.bench(args) as run:

        def rate(threads: int) -> float:
            station = run.station()
            producer = run.producer(station)
            producer.produce(run.payload)
            result = _raw.rate_of_threads([lambda: producer.produce(run.payload)] * threads, args.seconds)
            station.destroy()
            return result

        def raw_rate(threads: int) -> float:
            station = run.station()
            with contextlib.ExitStack() as stack:
                wires = [stack.enter_context(contextlib.closing(run.another_wire())) for _ in range(threads)]
                subject = run.subjects(station)[0]
                steps = [
                    _raw.rtt_step(wire, run.template, subject, run.payload, place) for place, wire in enumerate(wires)
                ]
                result = _raw.rate_of_threads(steps, args.seconds)
            station.destroy()
            return result

        rates = _common.in_turn(args.pairs, lambda: rate(args.threads), lambda: rate(1))
        raw_rates = _common.in_turn(args.pairs, lambda: raw_rate(args.threads), lambda: raw_rate(1))
        many, one = map(statistics.median, rates)
        raw_many, raw_one = map(statistics.median, raw_rates)
        figures = {
            "threads": args.threads,
            "msgs_per_s": round(many),
            "one_thread_msgs_per_s": round(one),
            "ratio": round(many / one, 2),
            "raw_msgs_per_s": round(raw_many),
            "raw_one_thread_msgs_per_s": round(raw_one),
            "raw_ratio": round(raw_many / raw_one, 2),
        }
        _common.report(
            "blocking_threads",
            run,
            figures,
            f"{args.threads} threads produce {many:,.0f}/s blocking, one thread {one:,.0f}/s: {many / one:.1f} times; "
            f"a bare socket for each thread: {raw_many:,.0f}/s and {raw_one:,.0f}/s, {raw_many / raw_one:.1f} times",
        )
        if args.plot:
            series = {f"{args.threads} threads": rates[0], "one thread": rates[1]}
            _common.plot(args.plot, f"blocking produce, {args.size}-byte payload", "messages/s", series)


if __name__ == "__main__":
    main()
