"""``memphis-sync ping``: whether the broker answers, and how fast."""

from __future__ import annotations

import json
import time

import click

from memphis_sync.errors import DeadlineError

from ._app import NO_CONNECTION, Settings
from ._group import command as command_of, examples
from ._streams import tell, write_result


@command_of(
    name="ping",
    epilog=examples(
        "memphis-sync ping",
        "memphis-sync ping --count 10 --interval 0.5",
        "memphis-sync -q ping && echo up",
        "memphis-sync --json ping | jq .seconds",
    ),
)
@click.option("--count", type=click.IntRange(min=1), default=1, show_default=True, help="How many round trips.")
@click.option("--interval", type=click.FloatRange(min=0), default=1.0, show_default=True, help="Seconds between two.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=2.0,
    show_default=True,
    help="Seconds that an answer may take.",
)
@click.pass_obj
def command(settings: Settings, count: int, interval: float, timeout: float) -> int:
    """
    Connect, log in, and measure round trips to the broker.

    A line for each round trip; the exit status is 3 when there is no connection, or no answer in time.
    """
    started = time.perf_counter()
    with settings.connect("ping") as client:
        connected_s = time.perf_counter() - started
        for number in range(1, count + 1):
            if number > 1:
                time.sleep(interval)
            try:
                seconds = client.ping(timeout)
            except DeadlineError as exc:
                tell(f"error: {exc}")
                return NO_CONNECTION
            if settings.json:
                write_result(json.dumps({"number": number, "seconds": seconds, "connect_s": connected_s}))
            elif not settings.quiet:
                connected = f" (connected in {connected_s * 1000:.1f} ms)" if number == 1 else ""
                write_result(f"answer {number}: {seconds * 1000:.3f} ms{connected}")
    return 0
