"""
How fast can one thread produce, compared with a program that only replays prebuilt bytes?

Non-blocking produce of --count messages and a flush, against the raw replay of the same frames into an equal station.
The figure to look at is the ratio; the rates alone say more about the machine. With --tls it is the client under TLS
that is measured, against itself without. ``cpu_us`` is the processor time of the client's whole process for each
message, all threads and the calling loop together.
"""

from __future__ import annotations

import contextlib
import functools
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
    parser.add_argument(
        "--stations", type=int, default=1, help="one producer of so many stations; each message goes to all of them"
    )
    parser.add_argument("--tls", action="store_true", help="the client under TLS against the client without it")
    args = parser.parse_args()
    calls = args.count // args.stations
    args.count = calls * args.stations
    cpu_s: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        run = stack.enter_context(_common.bench(args))
        plain = run.client

        def ours(run: _common.Bench = run) -> float:
            stations = [run.station() for _ in range(args.stations)]
            producer = run.producer(*stations)
            payload, count = run.payload, calls
            start, cpu_start = time.perf_counter(), time.process_time()
            if args.many:
                producer.produce_many(payload for _ in range(count))
            else:
                produce = producer.produce
                for _ in range(count):
                    produce(payload, nonblocking=True)
                left = producer.flush(120)
                if left:
                    raise SystemExit(f"{left} messages were not acknowledged")
            rate = args.count / (time.perf_counter() - start)
            cpu_s.setdefault("plain" if run.client is plain else "tls", []).append(
                (time.process_time() - cpu_start) / args.count
            )
            for station in stations:
                station.destroy()
            return rate

        def raw() -> float:
            stations = [run.station() for _ in range(args.stations)]
            subjects = [subject for station in stations for subject in run.subjects(station)]
            took = _raw.produce(run.wire, run.template, subjects, run.payload, args.count, args.window)
            for station in stations:
                station.destroy()
            return args.count / took

        if args.tls:
            secure = run._replace(client=stack.enter_context(_common.tls_client(_common.room(args))))
            question, other, others_name = "produce_throughput_tls", "plain", "the same without TLS"
            mine_once, other_once = functools.partial(ours, secure), ours
        else:
            question, other, others_name = "produce_throughput", "raw", "the raw replay"
            mine_once, other_once = ours, raw
        # Not counted: the first run finds caches cold and the outbox's memory untouched, unlike the replay's frames.
        mine_once(), other_once()
        cpu_s.clear()
        rates = _common.in_turn(args.pairs, mine_once, other_once)
        mine, limit = map(statistics.median, rates)
        ratios = sorted(a / b for a, b in zip(*rates))
        figures = {"msgs_per_s": round(mine), f"{other}_msgs_per_s": round(limit), "ratio": round(mine / limit, 3)}
        figures["stations"] = args.stations
        figures["cpu_us"] = round(statistics.median(cpu_s["tls" if args.tls else "plain"]) * 1e6, 3)
        figures["ratio_range"] = [round(ratios[0], 3), round(ratios[-1], 3)]
        _common.report(
            question,
            run,
            figures,
            f"{mine:,.0f} acknowledged messages/s, {others_name} {limit:,.0f}: {mine / limit:.2f} of it",
        )
        if args.plot:
            title = f"non-blocking produce, {args.size}-byte payload"
            series = {"memphis_sync": rates[0], others_name: rates[1]}
            _common.plot(args.plot, title, "acknowledged messages/s", series)


if __name__ == "__main__":
    main()
