"""What the tests of the official SDKs share."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from control_client import ControlClient

    from memphis_sync.broker import BrokerProcess


@pytest.fixture
def control(broker: BrokerProcess) -> Iterator[ControlClient]:
    """A plain connection to the session's broker, as root: what an SDK made is looked at with it."""
    from control_client import ControlClient

    with ControlClient(broker) as client:
        yield client


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
