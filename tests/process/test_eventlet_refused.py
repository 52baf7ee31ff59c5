"""Processes that a library has patched in a way that the client cannot work with are refused, at once and in words."""

from __future__ import annotations

from typing import Any

import pytest

REFUSED = """
{patch}
import memphis_sync, os, time
start = time.monotonic()
try:
    memphis_sync.connect(os.environ["TEST_URL"])
except memphis_sync.ConfigurationError as exc:
    print(exc)
else:
    os._exit(3)
assert time.monotonic() - start < 10
"""


@pytest.mark.parametrize(
    ("patch", "what"),
    [
        ("import eventlet; eventlet.monkey_patch()", "threading"),
        ("import memphis_sync, eventlet; eventlet.monkey_patch()", "threading"),
        ("import eventlet; eventlet.monkey_patch(thread=True, socket=False)", "threading"),
        ("import eventlet; eventlet.monkey_patch(thread=False)", "socket"),
        ("import eventlet; eventlet.monkey_patch(time=True)", "time"),
    ],
)
def test_eventlet_is_refused(run_python: Any, broker: Any, patch: str, what: str) -> None:
    done = run_python(
        "-W", "ignore", "-c", REFUSED.format(patch=patch), env={"TEST_URL": broker.url}, timeout_s=60
    ).stdout.decode()
    assert f"eventlet has patched this process's {what}" in done
    assert "use another worker class (gunicorn -k gevent" in done


LATE = """
import os
import memphis_sync
first = memphis_sync.connect(os.environ["TEST_URL"])
first.produce("late", "p", b"1")
{patch}
try:
    memphis_sync.connect(os.environ["TEST_URL"])
except memphis_sync.ConfigurationError as exc:
    print(exc)
first.produce("late", "p", b"2")
first.close()
"""


@pytest.mark.parametrize(
    ("patch", "advice"),
    [
        ("from gevent import monkey; monkey.patch_all()", "gevent.monkey.patch_all() before that"),
        ("from gevent import monkey; monkey.patch_all(thread=False)", "gevent.monkey.patch_all() before that"),
        ("from gevent import monkey; monkey.patch_time()", "gevent.monkey.patch_all() before that"),
        ("import eventlet; eventlet.monkey_patch()", "use another worker class"),
    ],
)
def test_a_process_that_is_patched_after_its_first_client_is_refused(
    run_python: Any, broker: Any, patch: str, advice: str
) -> None:
    done = run_python("-W", "ignore", "-c", LATE.format(patch=patch), env={"TEST_URL": broker.url}, timeout_s=60)
    assert advice in done.stdout.decode()


@pytest.mark.parametrize("use", ["import gevent, gevent.monkey", "import eventlet, eventlet.patcher"])
def test_a_library_that_patches_nothing_is_no_hindrance(run_python: Any, broker: Any, use: str) -> None:
    script = f"{use}\nimport memphis_sync, os\nprint(memphis_sync.connect(os.environ['TEST_URL']).is_connected())"
    done = run_python("-W", "ignore", "-c", script, env={"TEST_URL": broker.url}, timeout_s=60)
    assert done.stdout == b"True\n"
