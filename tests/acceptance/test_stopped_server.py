"""A server that stands still (SIGSTOP) stalls nobody who produces without blocking."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest

import memphis_sync
from memphis_sync import BufferFullError


def test_non_blocking_produce_beside_a_stopped_server(fresh_broker: Any, record_property: Any) -> None:
    broker = fresh_broker()
    payload, times = b"x" * 128, []
    with memphis_sync.connect(broker.url, outbox_max_bytes=16 * 1024 * 1024) as client:
        client.station("stopped")
        producer = client.producer("stopped", "hasty")
        producer.produce(payload)
        os.kill(broker.nats_pid, signal.SIGSTOP)
        try:
            clock = time.perf_counter
            with pytest.raises(BufferFullError) as full:  # noqa: PT012  the calls before the one that raises are the test
                while len(times) < 1_000_000:
                    start = clock()
                    producer.produce(payload, nonblocking=True, ack_wait_sec=120)
                    times.append(clock() - start)
            refused = clock() - start
        finally:
            os.kill(broker.nats_pid, signal.SIGCONT)
        accepted = len(times) + 1
        assert producer.flush(60) == 0
        assert client.stats().delivered == accepted, "what was taken before the buffer was full is stored"
    times.sort()
    p999_ms, worst_ms = times[len(times) * 999 // 1000] * 1e3, times[-1] * 1e3
    record_property("p99.9 of a non-blocking produce, ms", p999_ms)
    print(f"{len(times):,} taken; p99.9 {p999_ms:.3f} ms, worst {worst_ms:.1f} ms; refused in {refused * 1e3:.3f} ms")
    assert len(times) > 10_000
    assert worst_ms < 200, "a call waited for something"
    assert refused < 0.2
    assert "16777216" in str(full.value) or "16,777,216" in str(full.value), "the text gives the capacity"
    assert "outbox_max_bytes" in str(full.value), "and the option that changes it"
