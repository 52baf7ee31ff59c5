"""``memphis-sync schema``: list, create and activate schemas, attach them to stations and detach them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import PurePath
from typing import IO, TYPE_CHECKING, Optional

import click

from memphis_sync.errors import MemphisError

from ._app import InputFile, Settings, need_input, need_output
from ._group import examples, group as group_of
from ._streams import write_result
from ._table import write_table

if TYPE_CHECKING:
    from memphis_sync import Memphis

_BY_ENDING = {".proto": "protobuf", ".json": "json", ".avsc": "avro", ".graphql": "graphql", ".gql": "graphql"}


@group_of(
    name="schema",
    epilog=examples(
        "memphis-sync schema create order order.json",
        "memphis-sync schema enforce order orders",
        "memphis-sync schema show order",
    ),
)
def command() -> None:
    """Manage what the messages of a station must look like: protobuf, JSON Schema, Avro, GraphQL."""


@command.command(
    epilog=examples(
        "memphis-sync schema create order order.json",
        "memphis-sync schema create order v2.proto --activate",
        "memphis-sync schema create order - --type avro < FILE",
    )
)
@click.argument("name")
@click.argument("file", type=InputFile(), required=False)
@click.option(
    "--type",
    "kind",
    type=click.Choice(sorted(set(_BY_ENDING.values()))),
    help="Kind of schema; by default FILE's ending says it.",
)
@click.option("--message", help="The message type of a protobuf source; by default its first.")
@click.option("--activate", is_flag=True, help="Make this version the active one, also for connected clients.")
@click.pass_obj
def create(
    settings: Settings,
    name: str,
    file: Optional[IO[bytes]],
    kind: Optional[str],
    message: Optional[str],
    activate: bool,
) -> None:
    """
    Create schema NAME, or its next version, from FILE or stdin.

    The first version is active at once; a later one needs --activate or 'schema activate'. When a version is stored
    but cannot be activated (a Memphis broker does that in its REST interface only), the exit status is 1.
    """
    from memphis_sync._options.schema_source import source_text

    file = file or need_input()
    kind = kind or _BY_ENDING.get(PurePath(file.name).suffix.lower())
    if kind is None:
        raise click.UsageError(f"{file.name} does not say which kind of schema it is; give --type")
    try:
        content = source_text(file.read())
    except ValueError as exc:
        raise click.UsageError(f"{file.name} cannot be read: {exc}") from exc
    with settings.connect("schema") as client:
        client.create_schema(name, kind, schema_content=content, message_name=message)
        version = _activated(settings, client, name, kind) if activate else None
    text = f"schema {name} is stored" if version is None else f"schema {name}: version {version} is active"
    settings.report(text, schema=name, type=kind, active_version=version)


@command.command(name="ls", epilog=examples("memphis-sync schema ls", "memphis-sync --json schema ls | jq .stations"))
@click.pass_obj
def list_(settings: Settings) -> None:
    """Write a line for each schema: columns separated by TAB in a pipe, or with --json an object."""
    need_output()
    with settings.connect("schema") as client:
        found = client.schemas()
    if settings.json:
        for each in found:
            write_result(json.dumps(dataclasses.asdict(each)))
        return
    headings = ("SCHEMA", "TYPE", "VERSIONS", "ACTIVE", "STATIONS")
    rows = [(each.name, each.type, each.versions, each.active_version, ",".join(each.stations)) for each in found]
    write_table(headings, rows)


@command.command(epilog=examples("memphis-sync schema show order", "memphis-sync schema show order 2 > v2.json"))
@click.argument("name")
@click.argument("version", type=click.IntRange(min=1), required=False)
@click.pass_obj
def show(settings: Settings, name: str, version: Optional[int]) -> None:
    """Write the source of VERSION of schema NAME, by default of the active one; with --json all that there is."""
    need_output()
    with settings.connect("schema") as client:
        found = client.schema(name, version)
    write_result(json.dumps(dataclasses.asdict(found)) if settings.json else found.content)


@command.command(epilog=examples("memphis-sync schema activate order", "memphis-sync schema activate order 2"))
@click.argument("name")
@click.argument("version", type=click.IntRange(min=1), required=False)
@click.pass_obj
def activate(settings: Settings, name: str, version: Optional[int]) -> None:
    """Make VERSION of schema NAME the active one (by default the newest), also for connected clients."""
    with settings.connect("schema") as client:
        active = client.activate_schema_version(name, version)
    settings.report(f"schema {name}: version {active} is active", schema=name, active_version=active)


@command.command(epilog=examples("memphis-sync schema enforce order orders"))
@click.argument("name")
@click.argument("station")
@click.pass_obj
def enforce(settings: Settings, name: str, station: str) -> None:
    """Make STATION accept only messages that match schema NAME."""
    with settings.connect("schema") as client:
        client.enforce_schema(name, station)
    settings.report(f"station {station} accepts only what matches schema {name}", station=station, schema=name)


@command.command(epilog=examples("memphis-sync schema detach orders"))
@click.argument("station")
@click.pass_obj
def detach(settings: Settings, station: str) -> None:
    """Make STATION accept any message again."""
    with settings.connect("schema") as client:
        client.detach_schema(station)
    settings.report(f"station {station} accepts any message", station=station, schema=None)


def _activated(settings: Settings, client: Memphis, name: str, kind: str) -> int:
    """Activates the version that was just stored; the error of a failure says that it is stored."""
    try:
        return client.activate_schema_version(name)
    except MemphisError as exc:
        if settings.json:
            settings.report("", schema=name, type=kind, active_version=None, error=str(exc))
        raise MemphisError(f"schema {name} is stored, but its newest version was not made active: {exc}") from exc
