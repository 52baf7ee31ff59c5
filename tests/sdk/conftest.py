"""What the tests of the official SDKs share."""

from __future__ import annotations

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
