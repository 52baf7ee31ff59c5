"""
How late does a message end whose ack never comes?

Stops the broker's nats-server by SIGSTOP, produces --count messages without blocking, each with --ack-wait-s to be
confirmed in, and notes when each one's callback runs. The lateness is in percent of --ack-wait-s; a message that ends
early, twice, never or in another way than as unknown fails the run. It stops the broker that it starts, so --url has
no effect.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time

import _common

import memphis_sync
from memphis_sync.broker import BrokerOptions, BrokerProcess

SPARE_S = 30.0  # for the reports, on the busiest machine


def main() -> None:
    """Prints the distribution."""
    parser = _common.parser(__doc__, count=2000)
    parser.add_argument("--ack-wait-s", type=float, default=2.0)
    args = parser.parse_args()
    late: list[float] = []
    wrong: list[object] = []
    all_ended = threading.Event()

    def produce() -> None:
        started = time.monotonic()

        def ended(delivery: memphis_sync.Delivery) -> None:
            took_s = time.monotonic() - started
            outcome = getattr(delivery.exception(0), "outcome", "delivered")
            if outcome != "unknown" or took_s < args.ack_wait_s:
                wrong.append((outcome, took_s))
            late.append((took_s / args.ack_wait_s - 1) * 100)
            if len(late) == args.count:
                all_ended.set()

        producer.produce(payload, nonblocking=True, ack_wait_sec=args.ack_wait_s, on_delivery=ended)

    payload = os.urandom(args.size)
    with (
        BrokerProcess(BrokerOptions(port=0, ephemeral=True)) as broker,
        memphis_sync.connect(broker.url, outbox_max_bytes=_common.room(args)) as client,
    ):
        client.station("bench-deadline", storage_type=memphis_sync.Storage.MEMORY)
        producer = client.producer("bench-deadline", "bench", idempotent=args.ids)
        producer.produce(payload)
        with _common.stopped(broker.nats_pid):
            for _ in range(args.count):
                produce()
            in_time = all_ended.wait(args.ack_wait_s + SPARE_S)
    if wrong or not in_time or len(late) != args.count:
        raise SystemExit(f"{len(late)} of {args.count} messages ended, {len(wrong)} of them wrongly: {wrong[:3]}")
    ordered = sorted(late)
    figures = {"p50_late_percent": round(ordered[len(ordered) // 2], 3), "max_late_percent": round(ordered[-1], 3)}
    if not args.json:
        print(
            f"{args.count} messages ended {figures['p50_late_percent']} % (p50) and at most "
            f"{figures['max_late_percent']} % after their {args.ack_wait_s:g} s",
            file=sys.stderr,
        )
    facts = {"question": "ack_deadline", **figures, "ack_wait_s": args.ack_wait_s, "count": args.count}
    print(json.dumps({**facts, "size": args.size, **_common.machine()}))


if __name__ == "__main__":
    main()
