"""``memphis-sync station``: stations as a whole."""

from __future__ import annotations

from typing import Any, Optional

import click

from memphis_sync._base.option_names import as_options
from memphis_sync._options.arguments import StationArguments
from memphis_sync.errors import ConfigurationError, StationNotFoundError

from ._app import Settings
from ._group import examples, group as group_of
from ._keywords import options_of

_NO_OPTION = {"name", "create_station"}


@group_of(
    name="station",
    epilog=examples("memphis-sync station create orders", "memphis-sync station rm orders"),
)
def command() -> None:
    """Create, empty and destroy stations."""


@command.command(
    epilog=examples(
        "memphis-sync station create orders",
        "memphis-sync station create orders \\",
        "    --partitions-number 3 --retention-value 86400",
        "memphis-sync station create cache \\",
        "    --storage-type memory --retention-type messages \\",
        "    --retention-value 100000",
    )
)
@click.argument("name")
@options_of(StationArguments, without=_NO_OPTION)
@click.pass_obj
def create(settings: Settings, /, name: str, **given: Any) -> None:
    """
    Create station NAME; one that exists already is fine, and keeps its settings.

    The options are the keywords of station() in Python.
    """
    options = {keyword: value for keyword, value in given.items() if value is not None}
    with settings.connect("station") as client:
        try:
            client.station(name, create_station=False)
        except StationNotFoundError:
            is_new = True
        else:
            is_new = False
        try:
            made = client.station(name, **options)
        except ConfigurationError as exc:
            names = [row.name for row in StationArguments.ROWS if row.name not in _NO_OPTION]
            raise ConfigurationError(as_options(str(exc), names, {})) from exc
    text = "is created" if is_new else "exists already, and keeps its settings"
    settings.report(f"station {made.name} {text}", station=made.name, created=is_new)


@command.command(epilog=examples("memphis-sync station rm orders", "memphis-sync station rm orders invoices"))
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.pass_obj
def rm(settings: Settings, names: tuple[str, ...]) -> None:
    """
    Destroy stations with their messages, producers and consumers; one that does not exist is fine.

    This also works for a station that has lost its streams: a Memphis broker loses those in memory when it restarts.
    """
    with settings.connect("station") as client:
        for name in names:
            client.destroy_station(name)
            settings.report(f"station {name} is destroyed", station=name, destroyed=True)


@command.command(
    epilog=examples("memphis-sync station purge orders", "memphis-sync station purge orders --partition 2")
)
@click.argument("name")
@click.option("--partition", type=click.IntRange(min=1), help="Only this one.")
@click.pass_obj
def purge(settings: Settings, name: str, partition: Optional[int]) -> None:
    """
    Remove all messages of station NAME, read or not.

    Groups, schema, settings and dead letters stay. A Memphis broker does this in its REST interface only.
    """
    with settings.connect("station") as client:
        count = client.station(name, create_station=False).purge(partition=partition)
    settings.report(f"{count:,} messages of station {name} are removed", station=name, removed=count)
