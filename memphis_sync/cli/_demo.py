"""``memphis-sync demo``: its options, progress bars and table."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from ._app import FAILED, Settings
from ._demo_lines import Script, read_lines, standard_library
from ._demo_run import GROUPS, KINDS, THREADS, Advance, Report, run_demo
from ._group import command as command_of, examples
from ._streams import tell, write_result

_SHOWN = 10  # differences that are shown in full; the counts are always exact


@command_of(
    name="demo",
    epilog=examples(
        "memphis-sync demo",
        "memphis-sync demo /var/log/*.log",
        "memphis-sync --url memphis://root@localhost demo",
        "memphis-sync --json demo | jq .rows",
    ),
)
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.pass_obj
def command(settings: Settings, files: tuple[Path, ...]) -> int:
    """
    Move every line of FILES through a broker and back, and compare.

    Without FILES: the sources of this Python's standard library. Four threads produce, blocking and non-blocking, by
    key, in turn and to two stations at once; two consumer groups read everything back. Contents, and the order of each
    thread's lines in each partition, must be what was sent. The broker is a temporary one unless --url names one.
    """
    sources = list(files) or standard_library()
    script = Script(read_lines(sources), THREADS)
    settings.say(f"{script.count:,} lines, {script.size / 1e6:,.1f} MB of {len(sources):,} files")
    with contextlib.ExitStack() as stack:
        if settings.url is None:  # a demo never writes to the broker that the environment names
            from memphis_sync.broker import BrokerOptions, BrokerProcess

            broker = stack.enter_context(BrokerProcess(BrokerOptions(port=0, ephemeral=True)))
            settings.url = broker.url
            settings.say(f"a broker on {broker.host}:{broker.port}")
        client = stack.enter_context(settings.connect("demo"))
        advance = stack.enter_context(_progress(settings, script.count))
        report = run_demo(client, script, advance)
    if settings.json:
        write_result(json.dumps(report.as_dict()))
    else:
        _print_table(report)
    for difference in report.differences[:_SHOWN]:
        tell(f"error: {difference}")
    if not report.differences:
        settings.say(f"all {script.count:,} arrived, in order")
    return FAILED if report.differences else 0


@contextlib.contextmanager
def _progress(settings: Settings, total: int) -> Iterator[Advance]:
    """One bar for what is produced, and one for each consumer group; on a terminal only."""
    if not settings.shows_progress():
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        names = ("produced", *(f"read by {group}" for group in GROUPS))
        tasks = {name: progress.add_task(name, total=total) for name in names}
        yield lambda name, count: progress.advance(tasks[name], count)


def _print_table(report: Report) -> None:
    """Prints the table to stdout: 100 columns of plain text unless a terminal or COLUMNS says otherwise."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE)
    table.add_column("what")
    for name in ("messages", "MB", "messages/s", "MB/s", "seconds"):
        table.add_column(name, justify="right")
    for row in report.rows:
        rate = row.messages / row.seconds if row.seconds else 0.0
        table.add_row(
            row.what,
            f"{row.messages:,}",
            f"{row.size / 1e6:,.1f}",
            f"{rate:,.0f}",
            f"{row.size / 1e6 / row.seconds if row.seconds else 0.0:,.1f}",
            f"{row.seconds:.2f}",
        )
    table.add_section()
    for station, counts in report.partitions.items():
        for number, count in enumerate(counts, 1):
            table.add_row(f"{station} station, partition {number}", f"{count:,}")
    table.add_section()
    for kind in KINDS:
        table.add_row(kind, f"{report.counts[kind]:,}")
    width = None if sys.stdout is not None and sys.stdout.isatty() else int(os.environ.get("COLUMNS", "100"))
    Console(width=width, highlight=False).print(table)
