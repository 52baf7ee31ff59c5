"""What tests of the public client share."""

from __future__ import annotations

import threading

import pytest


@pytest.fixture
def in_threads():
    """``in_threads(n, run)`` calls run(number) in n threads that start together; returns results, raises the first
    error.
    """

    def go(count, run):
        barrier = threading.Barrier(count)
        results, errors = [None] * count, []

        def start(number):
            barrier.wait()
            try:
                results[number] = run(number)
            except Exception as exc:
                errors.append(exc)

        threads = [threading.Thread(target=start, args=(n,), name=f"test-{n}") for n in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        if errors:
            raise errors[0]
        return results

    return go


@pytest.fixture
def read_all():
    """``read_all(consumer, n)`` fetches and acknowledges until n messages have come, or none comes for 5 s."""

    def read(consumer, count):
        found = []
        while len(found) < count:
            batch = consumer.fetch(min(count, 500), timeout_s=5)
            if not batch:
                break
            for message in batch:
                message.ack()
            found += batch
        return found

    return read
