"""
pytest fixtures for programs that use memphis_sync: a real broker, a client, a station for each test, and what was
produced where no broker is needed.

To use them, put ``pytest_plugins = ["memphis_sync.testing"]`` into the root conftest. No fixture is autouse, and
nothing is imported or started before a test requests it. The broker needs the extra ``broker``; ``--memphis-url`` or
``MEMPHIS_TEST_URL`` names a running one instead. Each pytest-xdist worker starts its own, on a free port.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Optional

import pytest

if TYPE_CHECKING:
    from memphis_sync import Memphis, Station
    from memphis_sync.memory import SentMessages

_OPTION, _VARIABLE = "--memphis-url", "MEMPHIS_TEST_URL"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds ``--memphis-url``."""
    parser.addoption(_OPTION, help=f"URL of a running Memphis broker, instead of one for this test run ({_VARIABLE})")


def pytest_configure(config: pytest.Config) -> None:
    """Refuses a URL that no broker can have, before any test runs."""
    _running_broker(config)


def _running_broker(config: pytest.Config) -> Optional[str]:
    """The URL of a broker that runs already, if one is named."""
    option, variable = config.getoption(_OPTION), os.environ.get(_VARIABLE)
    if not option and not variable:
        return None
    from memphis_sync import ConfigurationError, check_connect  # noqa: PLC0415  a run without a URL loads nothing

    url, place = (str(option), _OPTION) if option else (str(variable), _VARIABLE)
    if "://" not in url:
        raise pytest.UsageError(f"{place} is not a URL; the form is memphis://user:password@host:port")
    if url.lower().startswith("memory:"):
        raise pytest.UsageError(f"{place} is memory://, which is no broker; for that request the fixture memphis_sent")
    try:
        check_connect(url)
    except ConfigurationError as exc:
        raise pytest.UsageError(f"{place}: {exc}") from None
    return url


@pytest.fixture(scope="session")
def memphis_broker(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a broker for the whole session: the one that was named, or a new one that stops with the session."""
    url = _running_broker(request.config)
    if url:
        yield url
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


@pytest.fixture
def memphis_sent() -> SentMessages:
    """What the program's ``memory://`` clients have produced since the test began, oldest first."""
    from memphis_sync.memory import sent  # noqa: PLC0415  as above

    sent.clear()
    return sent
