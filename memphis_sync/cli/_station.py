"""``memphis-sync station``: stations as a whole."""

from __future__ import annotations

import click

from ._app import Settings


@click.group(name="station")
def command() -> None:
    """Destroy stations."""


@command.command()
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
