"""
How much faster are many threads than one, all producing blocking on one client?

Each thread produces and waits for its PubAck, again and again, --seconds long; one thread and --threads of them in
turn. The acks of many threads travel together, so the rate should grow until the interpreter or the broker is busy.
"""

from __future__ import annotations

import statistics
import threading
import time

import _common


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
            counts = [0] * threads
            barrier = threading.Barrier(threads + 1)
            stop = threading.Event()

            def work(place: int) -> None:
                produce, payload = producer.produce, run.payload
                barrier.wait()
                done = 0
                while not stop.is_set():
                    produce(payload)
                    done += 1
                counts[place] = done

            workers = [threading.Thread(target=work, args=(place,)) for place in range(threads)]
            for worker in workers:
                worker.start()
            barrier.wait()
            start = time.perf_counter()
            time.sleep(args.seconds)
            stop.set()
            for worker in workers:
                worker.join()
            result = sum(counts) / (time.perf_counter() - start)
            station.destroy()
            return result

        rates = _common.in_turn(args.pairs, lambda: rate(args.threads), lambda: rate(1))
        many, one = map(statistics.median, rates)
        figures = {"threads": args.threads, "msgs_per_s": round(many), "one_thread_msgs_per_s": round(one)}
        figures["ratio"] = round(many / one, 2)
        _common.report(
            "blocking_threads",
            run,
            figures,
            f"{args.threads} threads produce {many:,.0f}/s blocking, one thread {one:,.0f}/s: {many / one:.1f} times",
        )
        if args.plot:
            series = {f"{args.threads} threads": rates[0], "one thread": rates[1]}
            _common.plot(args.plot, f"blocking produce, {args.size}-byte payload", "messages/s", series)


if __name__ == "__main__":
    main()
