"""``memphis-sync bench``: how fast this machine and that broker are together."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Optional, TypeVar

import click

from ._app import FAILED, NOT_STORED, Settings, need_output
from ._group import examples, group as group_of
from ._keywords import MemberOf
from ._streams import tell, write_result
from ._table import write_table

if TYPE_CHECKING:
    from ._bench_run import Work

Decorated = TypeVar("Decorated", bound=Callable[..., Any])
_SIZE = re.compile(r"(\d+)\s*(|b|k|kb|kib|m|mb|mib)\Z")
_UNITS = {"": 1, "b": 1, "k": 1000, "kb": 1000, "kib": 1024, "m": 10**6, "mb": 10**6, "mib": 1024**2}
_MOST = 64 * 1024**2  # bytes; far above what a broker takes, which says so itself


class SizeText(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic from click 8.2 on
    """A number of bytes: 128, 128B, 4KB, 1MiB."""

    name = "size"

    def convert(self, value: Any, param: Optional[click.Parameter], ctx: Optional[click.Context]) -> int:
        """The number."""
        found = _SIZE.match(str(value).strip().lower())
        size = int(found[1]) * _UNITS[found[2]] if found else -1
        if not 0 <= size <= _MOST:
            self.fail(f"{value!r} is not a number of bytes up to 64MiB, as 128B, 4KB or 1MiB", param, ctx)
        return size


def _options(msgs: int) -> Callable[[Decorated], Decorated]:
    """What all three take."""

    def decorate(function: Decorated) -> Decorated:
        from memphis_sync.types import Storage

        made = (
            click.option("--msgs", type=click.IntRange(1, 10**9), default=msgs, show_default=True, help="How many."),
            click.option("--size", type=SizeText(), default="128B", show_default=True, help="Of a message's payload."),
            click.option(
                "--clients",
                type=click.IntRange(1, 256),
                default=1,
                show_default=True,
                help="Connections, each in a thread of its own; they share the messages.",
            ),
            click.option(
                "--storage",
                type=MemberOf(Storage),
                default="disk",
                show_default=True,
                metavar="KIND",
                help="Of the station: disk or memory.",
            ),
            click.option(
                "--csv", "file", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures here, too."
            ),
        )
        for option in reversed(made):
            function = option(function)
        return function

    return decorate


def _mode(default: str, text: str) -> Callable[[Decorated], Decorated]:
    kinds = click.Choice(["blocking", "nonblocking"])
    return click.option("--mode", type=kinds, default=default, show_default=True, metavar="MODE", help=text)


@group_of(
    name="bench",
    epilog=examples(
        "memphis-sync bench pub",
        "memphis-sync bench pub --mode blocking --clients 8",
        "memphis-sync bench sub --msgs 1000000",
        "memphis-sync bench latency --csv latency.csv",
    ),
)
def command() -> None:
    """
    Measure how fast a broker is, with stations of the measurement's own, which are destroyed at the end.

    The figures are those of this machine, the network and the broker together. Machine and versions are part of the
    result.
    """


@command.command(
    epilog=examples("memphis-sync bench pub --msgs 1000000 --size 1KB", "memphis-sync bench pub --mode blocking")
)
@_options(100_000)
@_mode("nonblocking", "blocking: each message waits until it is stored; nonblocking: many are on their way.")
@click.pass_obj
def pub(settings: Settings, /, mode: str, **given: Any) -> int:
    """
    Produce, and wait until all is stored.

    The exit status is 4 when some messages were not stored.
    """
    from ._bench_run import produce

    return _run(settings, "pub", produce, given, mode, bad=NOT_STORED)


@command.command(epilog=examples("memphis-sync bench sub --clients 4", "memphis-sync --json bench sub | jq .rows"))
@_options(100_000)
@click.pass_obj
def sub(settings: Settings, /, **given: Any) -> int:
    """Fill a station, then consume and acknowledge all of it, as one group."""
    from ._bench_run import consume

    return _run(settings, "sub", consume, given, "nonblocking", bad=FAILED)


@command.command(epilog=examples("memphis-sync bench latency", "memphis-sync bench latency --storage memory"))
@_options(10_000)
@_mode("blocking", "blocking: also how long until it is stored; nonblocking: the message is only on its way.")
@click.pass_obj
def latency(settings: Settings, /, mode: str, **given: Any) -> int:
    """Produce a message, fetch it, and then the next: how long each takes until it is stored and until it is back."""
    from ._bench_run import wait

    return _run(settings, "latency", wait, given, mode, bad=FAILED)


def _run(settings: Settings, what: str, work: Work, given: dict[str, Any], mode: str, *, bad: int) -> int:
    from ._bench_run import Plan, Run, machine

    need_output()
    file: Optional[Path] = given.pop("file")
    if file is not None and not file.absolute().parent.is_dir():
        raise click.UsageError(f"--csv is {str(file)!r}; its folder does not exist")
    plan = Plan(**given, is_blocking=mode == "blocking")
    if plan.clients > plan.msgs:
        raise click.UsageError(f"--clients is {plan.clients}; it must be at most --msgs, which is {plan.msgs}")
    facts = {
        "bench": what,
        "mode": mode,
        "size": plan.size,
        "clients": plan.clients,
        "storage": plan.storage.name.lower(),
    }
    rows = [row.as_dict() for row in Run(settings, plan).measure(work)]
    facts["server"] = server_of(settings)
    facts.update(machine())
    if file is not None:
        _write_csv(file, rows, facts)
    if settings.json:
        write_result(json.dumps({**facts, "rows": rows}))
    else:
        _write(settings, rows, facts)
    failed = rows[-1].get("failed", 0)
    if failed:
        tell(f"error: {failed:,} of {plan.msgs:,} messages were not {'stored' if what == 'pub' else 'received'}")
    return bad if failed else 0


def server_of(settings: Settings) -> str:
    """The broker's name and version, from the INFO with which it begins a connection."""
    from ._doctor_steps import server_text

    return server_text(settings.url, settings.password or "")


def _write(settings: Settings, rows: Sequence[dict[str, Any]], facts: dict[str, Any]) -> None:
    settings.say(", ".join(f"{name} {value}" for name, value in facts.items()))
    shown = rows if len(rows) != 2 or "what" in rows[0] else rows[1:]  # one client is all of them
    write_table([name.upper() for name in rows[0]], [list(row.values()) for row in shown])


def _write_csv(file: Path, rows: Sequence[dict[str, Any]], facts: dict[str, Any]) -> None:
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, [*rows[0], *facts])
        writer.writeheader()
        writer.writerows({**row, **facts} for row in rows)
