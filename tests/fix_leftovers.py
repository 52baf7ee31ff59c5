"""What nats-py leaves to the garbage collector, kept out of the tests that do not cause it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Callable, TypeVar

import pytest

Test = TypeVar("Test", bound=Callable[..., object])

# nats-py drops the writer of an attempt that fails during its handshake without closing it; under TLS, and always on
# Python 3.9, the transport below as well. Modules whose tests make that happen take these marks; the fixture keeps it
# out of the next module.
NATS_PY_LEFTOVERS = [
    pytest.mark.usefixtures("collect_leftovers"),
    *(
        pytest.mark.filterwarnings(f"ignore:Exception ignored in. {what}:pytest.PytestUnraisableExceptionWarning")
        for what in ("<function StreamWriter", "<function _SelectorTransport", "<socket.socket")
    ),
]


def nats_py_leftovers(test: Test) -> Test:
    """The same for a single test."""
    for mark in NATS_PY_LEFTOVERS:
        test = mark(test)
    return test


@pytest.fixture
def collect_leftovers() -> Iterator[None]:
    """What nats-py dropped is this test's, not the next one's."""
    yield
    gc.collect()
