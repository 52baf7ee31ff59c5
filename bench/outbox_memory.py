"""
What does a message cost in memory while nobody has confirmed it?

Stops the server (SIGSTOP), fills an outbox that was made large enough with --count messages of --size bytes, and
compares what the process has resident with what it had before. What is over the frames' own bytes is the price of a
message. Exits with 1 when a message was refused or failed.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import sys
from pathlib import Path

import _common

import memphis_sync
from memphis_sync.broker import BrokerOptions, BrokerProcess

PAGE = os.sysconf("SC_PAGE_SIZE")
DEADLINE_S = 3600  # none of them may end before the figures are taken


def resident() -> int:
    """Bytes of this process that lie in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000_000, help="messages that wait at once")
    parser.add_argument("--size", type=int, default=128, help="bytes of payload")
    parser.add_argument("--json", action="store_true", help="the JSON line only")
    args = parser.parse_args()
    payload = os.urandom(args.size)
    with BrokerProcess(BrokerOptions(port=0, ephemeral=True)) as broker:
        client = memphis_sync.connect(
            broker.url, outbox_max_messages=args.count, outbox_max_bytes=max(args.count * (args.size + 400), 1 << 16)
        )
        client.station("bench-memory", storage_type=memphis_sync.Storage.MEMORY)
        producer = client.producer("bench-memory", "bench")
        producer.produce(payload)
        producer.produce(payload, nonblocking=True).result()
        gc.collect()
        before = resident()
        os.kill(broker.nats_pid, signal.SIGSTOP)
        try:
            for _ in range(args.count):
                producer.produce(payload, ack_wait_sec=DEADLINE_S, nonblocking=True)
            gc.collect()
            after = resident()
            stats = client.stats()
        finally:
            os.kill(broker.nats_pid, signal.SIGCONT)
        left = producer.flush(120)
        failed = client.stats().failed
        client.close()
    if left or failed or stats.queued + stats.in_flight != args.count:
        raise SystemExit(f"{stats.queued + stats.in_flight} waited, {left} were not confirmed, {failed} failed")
    # Frames differ by the digits of their number only, so those in flight are like those that are queued.
    frame = stats.queued_bytes / stats.queued
    over = (after - before) / args.count - frame
    figures = {
        "frame_bytes": round(frame, 1),
        "bytes_over_frame": round(over, 1),
        "resident_before_mib": round(before / 2**20, 1),
        "resident_after_mib": round(after / 2**20, 1),
    }
    if not args.json:
        print(
            f"{args.count:,} unconfirmed messages: frames of {frame:.0f} bytes and {over:.1f} bytes beside each; "
            f"{before / 2**20:.0f} MiB resident before, {after / 2**20:.0f} MiB with them",
            file=sys.stderr,
        )
    print(json.dumps({"question": "outbox_memory", **figures, **vars(args), **_common.machine()}))


if __name__ == "__main__":
    main()
