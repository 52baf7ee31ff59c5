"""Waiting for something to become true, with a limit: no test sleeps and hopes."""

from __future__ import annotations

import time

import pytest


@pytest.fixture
def until():
    """``until(condition)`` waits until condition() is true and returns its value; fails after 30 s."""

    def wait(condition, limit_s=30.0):
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            value = condition()
            if value:
                return value
            time.sleep(0.01)
        pytest.fail(f"{condition} did not become true within {limit_s:g} s")

    return wait
