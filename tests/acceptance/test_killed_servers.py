"""kill -9 of both processes during a produce: whatever was confirmed is there after a restart on the same folder."""

from __future__ import annotations

import time
from typing import Any

import memphis_sync

MESSAGES = 100_000
PARTITIONS = 3


def test_kill_both_and_restart(fresh_broker: Any, tmp_path: Any) -> None:
    broker = fresh_broker(data_dir=tmp_path / "data")
    with memphis_sync.connect(broker.url) as client:
        client.station("ledger", partitions_number=PARTITIONS, idempotency_window_ms=120_000)
        group = client.consumer("ledger", "auditor", batch_max_time_to_wait_ms=2000, batch_size=100)
        producer = client.producer("ledger", "writer")
        producer.produce(b"-1")
        (first,) = group.fetch(1)
        first.ack()
        deliveries = []
        for number in range(MESSAGES):
            deliveries.append(producer.produce(b"%d" % number, nonblocking=True, ack_wait_sec=60))
            if number == MESSAGES // 2:
                while client.stats().delivered < MESSAGES // 10:  # some are confirmed, some are on their way
                    time.sleep(0.001)
                confirmed_before = client.stats().delivered
                broker.kill()
        outstanding = producer.flush(0.5)
        assert outstanding > 0, "the broker is dead: there must be something left"
        broker.start()
        assert producer.flush(60) == 0
        acks = [delivery.result(0) for delivery in deliveries]
        assert len(acks) == MESSAGES
        assert confirmed_before < MESSAGES
        places = {(ack.partition, ack.sequence) for ack in acks}
        assert len(places) == MESSAGES, "each message has a place of its own"
        assert client.stats().failed == 0

    # a program that knows nothing of the first one: station, group and messages are the broker's
    with memphis_sync.connect(broker.url) as other:
        group = other.consumer("ledger", "auditor", batch_max_time_to_wait_ms=5000, batch_size=5000)
        stored: dict[bytes, tuple[int, int]] = {}
        while len(stored) < MESSAGES and (batch := group.fetch(5000)):
            for message in batch:
                assert message.data not in stored, "nothing twice: the ids outlived the restart"
                stored[message.data] = (message.partition, message.sequence)
                message.ack()
        assert b"-1" not in stored, "the group remembers what it acknowledged before the kill"
        assert stored == {b"%d" % number: (ack.partition, ack.sequence) for number, ack in enumerate(acks)}
        assert len({partition for partition, _ in stored.values()}) == PARTITIONS
