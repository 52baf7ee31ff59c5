"""What tests of the public client share."""

from __future__ import annotations

import threading
import time

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


@pytest.fixture
def until():
    """``until(condition)`` waits until condition() is true and returns its value; fails after 10 s."""

    def wait(condition, limit_s=10.0):
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            value = condition()
            if value:
                return value
            time.sleep(0.01)
        pytest.fail(f"{condition} did not become true within {limit_s:g} s")

    return wait
