"""No test leaves a thread of the client's behind: a forgotten one holds a socket, and speaks into the next test."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

PREFIX = "memphis-"
SPARE = "memphis-spare"  # on CPython 3.12.0 to 3.12.2 some are started in advance, and stay
# A thread that was told to end may still be on its way out of the interpreter; joined ones are gone at once.
GRACE_S = 2.0


def ours() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith(PREFIX) and thread.name != SPARE}


@pytest.fixture(autouse=True)
def no_thread_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that leaves a ``memphis-*`` thread; those of session and module fixtures existed before it."""
    before = ours()
    yield
    if request.node.get_closest_marker("leaves_threads"):
        return
    deadline = time.monotonic() + GRACE_S
    while (left := ours() - before) and time.monotonic() < deadline:
        time.sleep(0.01)
    if left:
        pytest.fail(f"the test left threads behind: {', '.join(sorted(thread.name for thread in left))}", pytrace=False)
