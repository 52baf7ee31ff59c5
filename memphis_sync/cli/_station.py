"""``memphis-sync station``: stations as a whole."""

from __future__ import annotations

import json
import sys

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
    Destroy stations with their messages, producers and consumers; one that is not there is fine.

    A station whose streams are gone, as after a restart of a Memphis broker that kept it in memory, is destroyed too.
    """
    with settings.connect("station") as client:
        for name in names:
            client.destroy_station(name)
            if settings.json:
                sys.stdout.write(json.dumps({"station": name, "destroyed": True}) + "\n")
            else:
                settings.say(f"station {name} is destroyed")
