"""``memphis-sync schema``: sources from files or stdin to the broker, and which station messages must match which."""

from __future__ import annotations

import json
from pathlib import PurePath
from typing import IO, TYPE_CHECKING, Any, Optional

import click

from memphis_sync.errors import MemphisError

from ._app import InputFile, Settings, need_input
from ._streams import write_result

if TYPE_CHECKING:
    from memphis_sync import Memphis

_BY_ENDING = {".proto": "protobuf", ".json": "json", ".avsc": "avro", ".graphql": "graphql", ".gql": "graphql"}


@click.group(name="schema")
def command() -> None:
    """What messages of a station must look like: protobuf, JSON Schema, Avro, GraphQL."""


@command.command()
@click.argument("name")
@click.argument("file", type=InputFile(), required=False)
@click.option(
    "--type",
    "kind",
    type=click.Choice(sorted(set(_BY_ENDING.values()))),
    help="Kind of schema; else FILE's ending says it.",
)
@click.option("--message", help="The message of a protobuf source that counts; else its first.")
@click.option("--activate", is_flag=True, help="Make this version the active one, for connected clients too.")
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

    The first version is active at once; a later one waits for --activate or for 'schema activate'. A version that is
    stored and cannot be activated (a Memphis broker does that in its REST interface only) ends with status 1 and a
    line that says both.
    """
    from memphis_sync._options.schema_source import source_text

    file = file or need_input()
    kind = kind or _BY_ENDING.get(PurePath(file.name).suffix.lower())
    if kind is None:
        raise click.UsageError(f"{file.name} does not say what kind of schema it is; give --type")
    try:
        content = source_text(file.read())
    except ValueError as exc:
        raise click.UsageError(f"{file.name} cannot be read: {exc}") from exc
    with settings.connect("schema") as client:
        client.create_schema(name, kind, schema_content=content, message_name=message)
        version = _activated(settings, client, name, kind) if activate else None
    text = f"schema {name} is stored" if version is None else f"schema {name}: version {version} is active"
    _report(settings, text, schema=name, type=kind, active_version=version)


@command.command()
@click.argument("name")
@click.argument("version", type=click.IntRange(min=1), required=False)
@click.pass_obj
def activate(settings: Settings, name: str, version: Optional[int]) -> None:
    """Make VERSION of schema NAME the active one (the newest without a number), for connected clients too."""
    with settings.connect("schema") as client:
        active = client.activate_schema_version(name, version)
    _report(settings, f"schema {name}: version {active} is active", schema=name, active_version=active)


@command.command()
@click.argument("name")
@click.argument("station")
@click.pass_obj
def enforce(settings: Settings, name: str, station: str) -> None:
    """Let STATION take only messages that match schema NAME."""
    with settings.connect("schema") as client:
        client.enforce_schema(name, station)
    _report(settings, f"station {station} takes only what matches schema {name}", station=station, schema=name)


@command.command()
@click.argument("station")
@click.pass_obj
def detach(settings: Settings, station: str) -> None:
    """Let STATION take any message again."""
    with settings.connect("schema") as client:
        client.detach_schema(station)
    _report(settings, f"station {station} takes any message", station=station, schema=None)


def _activated(settings: Settings, client: Memphis, name: str, kind: str) -> int:
    """Activates the version that was just stored; a failure says that it is stored."""
    try:
        return client.activate_schema_version(name)
    except MemphisError as exc:
        if settings.json:
            _report(settings, "", schema=name, type=kind, active_version=None, error=str(exc))
        raise MemphisError(f"schema {name} is stored, but its newest version was not made active: {exc}") from exc


def _report(settings: Settings, text: str, **fields: Any) -> None:
    """A sentence on stderr, or one JSON object on stdout."""
    if settings.json:
        write_result(json.dumps(fields))
    else:
        settings.say(text)
