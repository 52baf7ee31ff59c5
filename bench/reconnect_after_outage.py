"""
How soon are many clients back after their broker was away?

All clients of one process lose a broker that is killed (SIGKILL, both processes) and started again on the same port
after a while. Measured from the moment its port takes connections again until both connections of a client are up; then
each client produces once more.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

import _common
import _raw

import memphis_sync
from memphis_sync.broker import BrokerOptions, BrokerProcess


def main() -> None:
    """Prints one JSON line for each outage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--outages", type=float, nargs="+", default=[1.0, 10.0, 55.0], help="seconds, each")
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        broker = stack.enter_context(BrokerProcess(BrokerOptions(port=0, data_dir=folder), timeout_s=60))
        clients = [
            stack.enter_context(memphis_sync.connect(broker.url, name=f"c{number}", timeout_ms=20_000))
            for number in range(args.clients)
        ]
        producers = [client.producer("herd", f"p{number}") for number, client in enumerate(clients)]
        for producer in producers:
            producer.produce(b"x")
        for outage_s in args.outages:
            measure(broker, clients, producers, outage_s)


def measure(
    broker: BrokerProcess, clients: list[memphis_sync.Memphis], producers: list[memphis_sync.Producer], outage_s: float
) -> None:
    """One outage."""
    broker.kill()
    time.sleep(outage_s)
    starting = threading.Thread(target=broker.start)
    starting.start()
    while True:
        with contextlib.suppress(OSError), socket.create_connection((broker.host, broker.port), 1):
            break
        time.sleep(0.001)
    back_at, cpu_s = time.monotonic(), time.process_time()
    waiting, times = set(range(len(clients))), []
    while waiting and time.monotonic() < back_at + 60:
        for number in [each for each in waiting if clients[each].is_connected()]:
            waiting.discard(number)
            times.append(time.monotonic() - back_at)
        time.sleep(0.005)
    if waiting:
        raise SystemExit(f"{len(waiting)} clients did not come back")
    cpu_s = time.process_time() - cpu_s
    starting.join()
    for producer in producers:
        producer.produce(b"y", ack_wait_sec=20)
    figures = {
        "question": "reconnect_after_outage",
        "outage_s": outage_s,
        "p50_s": round(_raw.percentile(times, 0.5), 3),
        "p99_s": round(_raw.percentile(times, 0.99), 3),
        "max_s": round(max(times), 3),
        "cpu_s": round(cpu_s, 3),
        "clients": len(clients),
    }
    print(json.dumps({**figures, **_common.machine()}), flush=True)
    sys.stderr.write(
        f"{len(clients)} clients back {figures['p50_s']} s (p50), {figures['max_s']} s (all) after an outage of "
        f"{outage_s:g} s\n"
    )


if __name__ == "__main__":
    main()
