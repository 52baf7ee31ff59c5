"""
How much processor time does a client take that has nothing to do?

The client has a producer and a consumer, and has produced, fetched and acknowledged; then it does nothing for
--seconds. A consumer that waits in `for message in consumer:` is measured as well (--waiting), and TLS (--tls). The
brokers' PINGs and the client's own are part of it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import threading
import time

import _common

import memphis_sync
from memphis_sync.broker import BrokerOptions, BrokerProcess


def main() -> None:
    """Prints one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--waiting", action="store_true", help="a thread waits for a message all the time")
    parser.add_argument("--tls", action="store_true")
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        if args.tls:
            client = stack.enter_context(_common.tls_client())
        else:
            broker = stack.enter_context(BrokerProcess(BrokerOptions(port=0, ephemeral=True)))
            client = stack.enter_context(memphis_sync.connect(broker.url))
        client.producer("idle", "idle").produce(b"x")
        consumer = client.consumer("idle", "idle")
        for message in consumer.fetch():
            message.ack()
        waiting = threading.Thread(target=lambda: list(consumer), daemon=True)
        if args.waiting:
            waiting.start()
        time.sleep(1)  # what connecting left to do
        start, cpu_start = time.perf_counter(), time.process_time()
        time.sleep(args.seconds)
        took, cpu_s = time.perf_counter() - start, time.process_time() - cpu_start
        consumer.stop_consume()
        if args.waiting:
            waiting.join()
    percent = 100 * cpu_s / took
    figures = {"question": "idle_cpu", "percent_of_a_core": round(percent, 4), "cpu_ms": round(cpu_s * 1e3, 2)}
    print(json.dumps({**figures, **vars(args), **_common.machine()}))
    sys.stderr.write(f"an idle client takes {percent:.4f} % of a core\n")


if __name__ == "__main__":
    main()
