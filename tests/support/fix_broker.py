"""A real broker on loopback: one for the session, or one of a test's own where the test kills it."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Callable

import pytest

if TYPE_CHECKING:
    from control_client import ControlClient

    from memphis_sync import Memphis
    from memphis_sync.broker import BrokerProcess

# Seconds that a broker may take to be ready: it needs well under one, but two cores may be busy with other things.
READY_S = 30.0
LAST = 4000  # characters
_numbers = itertools.count(1)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that failed on a broker shows the last that the broker said."""
    report = yield
    if report.failed:
        from memphis_sync.broker import BrokerProcess

        for name, process in getattr(item, "funcargs", {}).items():
            if isinstance(process, BrokerProcess):
                report.sections.append((f"What {name} said last", process.output()[-LAST:]))
    return report


@pytest.fixture(scope="session")
def broker() -> Iterator[BrokerProcess]:
    """One ephemeral broker for the whole session; tests share it and keep apart by station names."""
    from memphis_sync.broker import BrokerOptions, BrokerProcess

    with BrokerProcess(BrokerOptions(port=0, ephemeral=True), timeout_s=READY_S) as process:
        yield process


@pytest.fixture
def fresh_broker() -> Iterator[Callable[..., BrokerProcess]]:
    """``fresh_broker(**options)`` starts a broker of the test's own, on a free port unless told otherwise."""
    from memphis_sync.broker import BrokerOptions, BrokerProcess

    started: list[BrokerProcess] = []

    def start(**options: object) -> BrokerProcess:
        options.setdefault("port", 0)
        if "data_dir" not in options:
            options.setdefault("ephemeral", True)
        ready_s = READY_S if options.get("http_port") is None else 3 * READY_S  # a gateway starts behind it
        started.append(BrokerProcess(BrokerOptions(**options), timeout_s=ready_s))
        return started[-1].start()

    yield start
    for process in started:
        process.stop()


@pytest.fixture
def memphis(broker: BrokerProcess) -> Iterator[Memphis]:
    """A client of the session's broker, as root; closed after the test."""
    import memphis_sync

    with memphis_sync.connect(broker.url) as client:
        yield client


@pytest.fixture
def control(broker: BrokerProcess) -> Iterator[ControlClient]:
    """A plain connection to the session's broker, as root: what a client or an SDK made is looked at with it."""
    from control_client import ControlClient

    with ControlClient(broker) as client:
        yield client


@pytest.fixture
def station_name(request: pytest.FixtureRequest) -> str:
    """A name that no other test uses: the test's own (cut to fit) and a number."""
    name = "".join(char if char.isalnum() else "-" for char in request.node.originalname.lower())[:40]
    return f"{name.strip('-')}-{next(_numbers)}"
