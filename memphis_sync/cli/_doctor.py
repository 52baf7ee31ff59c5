"""``memphis-sync doctor``: from the settings to a stored message, step by step, and what helps where it fails."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING, Optional

import click

from ._app import FAILED, NO_CONNECTION, USAGE, Settings, need_output
from ._group import command as command_of, examples
from ._streams import write_result

if TYPE_CHECKING:
    from ._doctor_steps import Result

_NAME = 11  # columns of a step's name
_LEAST = 40  # columns of a text


@command_of(
    name="doctor",
    epilog=examples(
        "memphis-sync doctor",
        "memphis-sync --url memphis://root@broker:6666 doctor",
        "memphis-sync --json doctor | jq 'select(.cure)'",
    ),
)
@click.pass_obj
def command(settings: Settings) -> int:
    """
    Find out why a connection fails.

    It shows where each setting comes from, and then takes the steps of every connection one by one: DNS, TCP, the
    server's INFO, TLS, login, JetStream, a request to the broker, and a message that is stored and read back, in a
    station of its own that it destroys. A line for each step with its time; it ends at the first that fails, with what
    helps.

    The exit status is 2 for wrong settings, 3 when there is no connection, and 1 when the broker does not do its work.
    """
    from memphis_sync._nats.handshake import STEPS

    from ._cures import SETTINGS
    from ._doctor_steps import Examination

    need_output()
    last: Optional[Result] = None
    for last in Examination(settings.url).results():
        (_write_json if settings.json else _write)(last)
    assert last is not None, "there is always a first step"
    if not last.cure:
        settings.say("all is well")
        return 0
    return USAGE if last.step == SETTINGS else NO_CONNECTION if last.step in STEPS else FAILED


def _write(result: Result) -> None:
    state = "FAILED" if result.cure else "ok"
    text = f"{result.step:<{_NAME}}{state:<7}{result.seconds * 1000:>8.1f} ms  "
    _write_wrapped(text, result.detail)
    for name, value, source in result.settings:
        _write_wrapped(f"  {name:<{_NAME}}", f"{value}  ({source})")
    if result.cure:
        _write_wrapped(f"{'cure':<{_NAME}}", result.cure)


def _write_wrapped(head: str, text: str) -> None:
    """A line; on a terminal as many as it takes, below each other."""
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
        indent = " " * (len(head) if width - len(head) >= _LEAST else 4)
        lines = textwrap.wrap(
            head + text, width, subsequent_indent=indent, drop_whitespace=True, break_on_hyphens=False
        )
        write_result("\n".join(lines))
    else:
        write_result((head + text).rstrip())


def _write_json(result: Result) -> None:
    record: dict[str, object] = {
        "step": result.step,
        "ok": not result.cure,
        "seconds": round(result.seconds, 6),
        "address": result.address or None,
        "detail": result.detail,
        "cure": result.cure or None,
    }
    if result.settings:
        record["settings"] = [each._asdict() for each in result.settings]
    write_result(json.dumps(record, ensure_ascii=False))
