"""``memphis-sync dls``: list, resend and drop the dead letters of a station."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Optional

import click

from ._app import Settings, need_output
from ._group import examples, group as group_of
from ._streams import forget_stdout, json_line
from ._table import one_line

if TYPE_CHECKING:
    from memphis_sync import DeadLetter

_HEADINGS = ("ID", "TYPE", "PARTITION", "SEQUENCE", "GROUPS", "PRODUCER", "TIME", "BYTES", "REASON")
_TYPES = click.Choice(["poison", "schema"])


@group_of(
    name="dls",
    epilog=examples(
        "memphis-sync dls ls orders",
        "memphis-sync dls resend orders --all",
        "memphis-sync dls drop orders --all --type schema",
    ),
)
def command() -> None:
    """List, resend and drop the dead letters of a station (a Memphis broker has a REST API for that instead)."""


@command.command(
    name="ls",
    epilog=examples(
        "memphis-sync dls ls orders",
        "memphis-sync dls ls orders --type schema --limit 10",
        "memphis-sync --json dls ls orders | jq .reason",
    ),
)
@click.argument("station")
@click.option("--type", "kind", type=_TYPES, default=None, help="Only these.")
@click.option("--after", type=click.IntRange(min=0), default=0, metavar="ID", help="Only those after this id.")
@click.option("--limit", type=click.IntRange(min=1), help="Stop after this many.")
@click.pass_obj
def list_(settings: Settings, station: str, kind: Optional[str], after: int, limit: Optional[int]) -> int:
    """Write a line for each dead letter of STATION: columns separated by TAB, or with --json everything."""
    need_output()
    with settings.connect("dls") as client:
        letters = client.dls(station)._read(kind or "", None, after, limit or sys.maxsize, with_data=settings.json)
        try:
            _write(settings, letters, limit)
        except BrokenPipeError:  # the reader has closed it
            forget_stdout()
    return 0


@command.command(epilog=examples("memphis-sync dls resend orders 17 18", "memphis-sync dls resend orders --all"))
@click.argument("station")
@click.argument("ids", nargs=-1, type=click.IntRange(min=1), metavar="[ID]...")
@click.option("--all", "every", is_flag=True, help="All of the station.")
@click.pass_obj
def resend(settings: Settings, station: str, ids: tuple[int, ...], every: bool) -> int:
    """Send poison dead letters of STATION to their groups again; each is kept until its groups acknowledge it."""
    _need_ids_or_all(ids, every=every)
    with settings.connect("dls") as client:
        count = client.dls(station).resend(None if every else ids)
    settings.report(f"{count:,} sent again", resent=count)
    return 0


@command.command(epilog=examples("memphis-sync dls drop orders 17", "memphis-sync dls drop orders --all --type schema"))
@click.argument("station")
@click.argument("ids", nargs=-1, type=click.IntRange(min=1), metavar="[ID]...")
@click.option("--all", "every", is_flag=True, help="All of the station.")
@click.option("--type", "kind", type=_TYPES, default=None, help="Only these.")
@click.pass_obj
def drop(settings: Settings, station: str, ids: tuple[int, ...], every: bool, kind: Optional[str]) -> int:
    """Remove dead letters of STATION for good."""
    _need_ids_or_all(ids, every=every)
    with settings.connect("dls") as client:
        count = client.dls(station).drop(None if every else ids, type=kind or "")
    settings.report(f"{count:,} dropped", dropped=count)
    return 0


def _need_ids_or_all(ids: tuple[int, ...], *, every: bool) -> None:
    if bool(ids) == every:
        raise click.UsageError("give the ids of dead letters, or --all")


def _write(settings: Settings, letters: Iterator[DeadLetter], limit: Optional[int]) -> None:
    out = sys.stdout.buffer
    if not settings.json and sys.stdout.isatty():
        settings.say("\t".join(_HEADINGS))
    for number, letter in enumerate(letters, 1):
        out.write(_json_line(letter) if settings.json else _line(letter))
        out.flush()
        if number == limit:
            return


def _line(letter: DeadLetter) -> bytes:
    columns = (
        letter.id,
        letter.type,
        letter.partition,
        letter.sequence,
        ",".join(letter.groups),
        letter.producer,
        letter.time.isoformat(),
        letter.size,
        letter.reason,
    )
    return ("\t".join(one_line(str(column)) for column in columns) + os.linesep).encode("utf-8", "replace")


def _json_line(letter: DeadLetter) -> bytes:
    record = {
        "id": letter.id,
        "station": letter.station,
        "type": letter.type,
        "partition": letter.partition,
        "sequence": letter.sequence,
        "producer": letter.producer,
        "groups": list(letter.groups),
        "reason": letter.reason,
        "time": letter.time.isoformat(),
        "headers": letter.headers,
    }
    return json_line(record, letter.data)
