"""
Does the client stay as it is while it produces for a long time over a connection that is cut again and again?

Produces --rate messages a second for --minutes through a proxy that cuts both links every --cut-every seconds. Each
second it samples resident memory, file descriptors, threads and the counters' identity. A reader in a process of its
own takes every message off the station and compares the numbers: nothing lost, nothing twice, nothing out of order.
Exits with 1 when a message was lost, stored twice, out of order or failed, when the counters did not add up, when
memory grew by more than 2 % after the first minute, or when there are more descriptors or threads than then.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import _common

import memphis_sync
from memphis_sync.broker import BrokerOptions, BrokerProcess

STATION = "bench-soak"
PAGE = os.sysconf("SC_PAGE_SIZE")
TICK_S = 0.005  # messages of so long are produced in one go
WARM_S = 60.0  # caches, interpreter and outbox have their size by then
DRIFT = 0.02
KEPT = 2_000_000  # messages that the station holds at most; the reader has to stay nearer than that
SILENCE_S = 20.0  # the reader waits so long for what is missing


def read(url: str, progress: Path) -> None:
    """
    The reader: takes everything, until as many as stdin says at last have come, and prints what was wrong.

    One thread produces, so the station holds number n at sequence n + 1 when nothing was lost, stored twice or late.
    """
    found = {"read": 0, "out_of_place": 0, "delivered_again": 0}
    seen = bytearray()
    with memphis_sync.connect(url, name="soak-reader") as client:
        consumer = client.consumer(STATION, "soak-reader", max_ack_time_ms=120_000)
        print("ready", flush=True)
        totals: list[int] = []  # one, once all was produced; 0 when the producer has ended without a word
        threading.Thread(target=lambda: totals.append(int(sys.stdin.readline() or 0)), daemon=True).start()
        heard = time.monotonic()
        while not totals or (found["read"] < totals[0] and time.monotonic() - heard < SILENCE_S):
            batch = consumer.fetch(5000, timeout_s=0.5)
            for message in batch:
                message.ack()
                number = message.sequence - 1
                if number >= len(seen):
                    seen.extend(bytes(number + 1_000_000 - len(seen)))
                if seen[number]:
                    found["delivered_again"] += 1  # to the group; the station has it once
                    continue
                seen[number] = 1
                found["read"] += 1
                found["out_of_place"] += int(message.data[:12]) != number
            if batch:
                heard = time.monotonic()
                progress.write_text(str(found["read"]))
    found["missing"] = max(totals[0] - found["read"], 0)
    found["too_many"] = max(found["read"] - totals[0], 0)
    print(json.dumps(found), flush=True)


class Samples:
    """What was seen each second."""

    def __init__(self, client: memphis_sync.Memphis) -> None:
        self._client = client
        self._started = time.monotonic()
        self.rows: list[tuple[float, int, int, int]] = []  # seconds, resident bytes, descriptors, threads
        self.broken = 0

    def take(self) -> None:
        """One more."""
        s = self._client.stats()
        self.broken += s.accepted != s.delivered + s.failed + s.abandoned + s.queued + s.in_flight
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
        descriptors, threads = (sum(1 for _ in Path(f"/proc/self/{what}").iterdir()) for what in ("fd", "task"))
        self.rows.append((time.monotonic() - self._started, resident, descriptors, threads))

    def figures(self) -> dict[str, Any]:
        """Medians of the time after the warm-up (half of a short run) and of the last as many samples."""
        warm_s = min(WARM_S, self.rows[-1][0] / 2)
        steady = [row for row in self.rows if row[0] >= warm_s]
        part = max(len(steady) // 5, 1)
        (first, last) = (
            [statistics.median(values) for values in zip(*rows)] for rows in (steady[:part], steady[-part:])
        )
        return {
            "samples": len(self.rows),
            "identity_broken": self.broken,
            "warm_up_s": round(warm_s),
            "resident_mib": [round(first[1] / 2**20, 2), round(last[1] / 2**20, 2)],
            "resident_drift": round(last[1] / first[1] - 1, 4),
            "descriptors": [first[2], last[2]],
            "threads": [first[3], last[3]],
        }


def produce(
    client: memphis_sync.Memphis, args: argparse.Namespace, samples: Samples, progress: Path
) -> tuple[int, float]:
    """
    Produces at the rate, a sample each second.

    Returns:
        How many messages were accepted, and the seconds in which nothing was produced because the reader was so far
        behind that the station would have dropped what it has not seen: with many, the machine is too slow for the
        rate.
    """
    producer = client.producer(STATION, "soak")
    padding = b"x" * max(args.size - 12, 0)
    number = ahead = fill(producer, padding)
    started, sampled, held_s, may_go_to = time.monotonic(), 0.0, 0.0, KEPT // 2
    while (elapsed := time.monotonic() - started) < args.minutes * 60:
        try:
            while number < min(ahead + (elapsed - held_s) * args.rate, may_go_to):
                producer.produce(b"%012d" % number + padding, nonblocking=True, ack_wait_sec=120)
                number += 1
        except memphis_sync.BufferFullError:
            pass  # the next turn goes on with this number
        if number >= may_go_to:
            held_s += TICK_S
        if elapsed >= sampled + 1:
            may_go_to = max(may_go_to, int(progress.read_text() or 0) + KEPT // 2)  # empty while it is written
            sampled = float(int(elapsed))
            samples.take()
        time.sleep(TICK_S)
    left = producer.flush(120)
    samples.take()
    if left:
        raise SystemExit(f"{left} messages were not confirmed")
    return number, held_s


def fill(producer: memphis_sync.Producer, padding: bytes) -> int:
    """Fills the outbox once, as fast as it goes: an outage later then makes nothing resident that was not before."""
    for number in range(KEPT // 4):
        try:
            producer.produce(b"%012d" % number + padding, nonblocking=True, ack_wait_sec=120)
        except memphis_sync.BufferFullError:
            return number
    return KEPT // 4


def soak(args: argparse.Namespace) -> dict[str, Any]:
    """The whole run: broker, proxy, reader, producer; the figures."""
    here = Path(__file__).parent
    progress = Path(tempfile.mkdtemp(prefix="memphis-soak-")) / "read"
    progress.write_text("0")
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with BrokerProcess(BrokerOptions(port=0, ephemeral=True)) as broker:
        with memphis_sync.connect(broker.url) as setup:
            setup.station(
                STATION,
                storage_type=memphis_sync.Storage.MEMORY,
                retention_type=memphis_sync.Retention.MESSAGES,
                retention_value=KEPT,
                idempotency_window_ms=30_000,
            )
        with (
            subprocess.Popen(
                [sys.executable, here / "_proxy.py", broker.host, str(broker.port), str(args.cut_every)], **pipes
            ) as proxy,
            subprocess.Popen([sys.executable, __file__, "--reader", broker.url, str(progress)], **pipes) as reader,
        ):
            assert proxy.stdout is not None
            assert reader.stdout is not None
            port = int(proxy.stdout.readline())
            reader.stdout.readline()
            url = urlsplit(broker.url)
            through = url._replace(netloc=f"{url.netloc.rpartition('@')[0]}@127.0.0.1:{port}").geturl()
            client = memphis_sync.connect(through, reconnect_interval_ms=20)
            samples = Samples(client)
            accepted, held_s = produce(client, args, samples, progress)
            stats = client.stats()
            client.close()
            found = json.loads(reader.communicate(f"{accepted}\n", timeout=120)[0])
            cuts = proxy.communicate("", timeout=20)[0].split()
    shutil.rmtree(progress.parent)
    return {
        "accepted": accepted,
        **found,
        "held_s": round(held_s, 1),
        "failed": stats.failed + stats.abandoned,
        "cuts": len(cuts),
        "reconnects": stats.reconnects,
        "buffer_full": stats.buffer_full,
        **samples.figures(),
    }


def wrong(figures: dict[str, Any]) -> list[str]:
    """What makes the run a failure."""
    bad = [name for name in ("missing", "too_many", "out_of_place", "failed", "identity_broken") if figures[name]]
    if figures["resident_drift"] > DRIFT:
        bad.append("resident_drift")
    return bad + [name for name in ("descriptors", "threads") if figures[name][1] > figures[name][0]]


def main() -> None:
    """Prints one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--rate", type=int, default=50_000, help="messages a second")
    parser.add_argument("--size", type=int, default=128, help="bytes of payload, from 12")
    parser.add_argument("--cut-every", type=float, default=20.0, help="seconds between two cuts")
    parser.add_argument("--reader", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.reader:
        read(args.reader[0], Path(args.reader[1]))
        return
    figures = soak(args)
    del args.reader
    bad = wrong(figures)
    print(json.dumps({"question": "soak", "wrong": bad, **figures, **vars(args), **_common.machine()}))
    raise SystemExit(1 if bad else 0)


if __name__ == "__main__":
    main()
