"""
pytest fixtures for programs that use memphis_sync: a real broker, a client, a station for each test.

To use them, put ``pytest_plugins = ["memphis_sync.testing"]`` into the root conftest. No fixture is autouse, and
nothing is imported or started before a test requests it. The broker needs the extra ``broker``; ``--memphis-url`` or
``MEMPHIS_TEST_URL`` names a running one instead. Each pytest-xdist worker starts its own, on a free port.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from memphis_sync import Memphis, Station


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds ``--memphis-url``."""
    parser.addoption("--memphis-url", help="URL of a running Memphis broker, instead of one for this test run")


@pytest.fixture(scope="session")
def memphis_broker(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a broker for the whole session: the one that was named, or a new one that stops with the session."""
    url = request.config.getoption("--memphis-url") or os.environ.get("MEMPHIS_TEST_URL")
    if url:
        yield str(url)
        return
    from memphis_sync.broker import BrokerOptions, BrokerProcess  # noqa: PLC0415  only when a test requests it

    with BrokerProcess(BrokerOptions(port=0, ephemeral=True)) as broker:
        yield broker.url


@pytest.fixture
def memphis(memphis_broker: str) -> Iterator[Memphis]:
    """A client of the broker, closed after the test."""
    from memphis_sync import connect  # noqa: PLC0415  after coverage and import hooks of the user's tests

    with connect(memphis_broker) as client:
        yield client


@pytest.fixture
def memphis_station(memphis: Memphis, request: pytest.FixtureRequest) -> Iterator[Station]:
    """A station with a unique name, destroyed after the test."""
    name = "".join(char if char.isalnum() else "-" for char in request.node.name.lower())[:60].strip("-")
    station = memphis.station(f"{name or 'test'}-{uuid.uuid4().hex[:8]}")
    yield station
    station.destroy()
