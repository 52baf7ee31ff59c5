"""``memphis-sync pub``: bytes in, stored messages out, and an exact count of what was not."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import IO, TYPE_CHECKING, Callable, Optional, Union

import click

from memphis_sync.errors import MemphisError

from ._app import NOT_STORED, Settings

if TYPE_CHECKING:
    from memphis_sync import BulkResult, Item, Memphis

    Watch = Callable[[Iterable[bytes]], Iterator[bytes]]

_READ = 1 << 20  # bytes at a time where the separator is not a line's end
_SHOWN = 5  # failures that are spelled out; the count is always exact


def pieces(stream: IO[bytes], split: str) -> Iterator[bytes]:
    """
    Cuts a stream into payloads without ever holding more than one of them and a read buffer.

    Args:
        stream: Binary.
        split: ``line`` (the newline is cut off, a carriage return stays), ``nul``, or ``none`` for one payload.
    """
    if split == "none":
        yield stream.read()
        return
    if split == "line":
        for line in stream:
            yield line[:-1] if line.endswith(b"\n") else line
        return
    rest = b""
    while chunk := stream.read(_READ):
        *whole, rest = (rest + chunk).split(b"\0")
        yield from whole
    if rest:
        yield rest


def _parse_headers(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{value!r} is not of the form NAME=VALUE")
        headers[name] = text
    return headers


@click.command(name="pub")
@click.argument("station")
@click.argument("body", required=False)
@click.option("--file", "source", type=click.File("rb"), help="Read this file instead of stdin.")
@click.option(
    "--split",
    type=click.Choice(["line", "nul", "none"]),
    default="line",
    show_default=True,
    help="What ends a message in the input; none: the whole input is one message.",
)
@click.option("--key", help="Partition key: the same key always goes to the same partition.")
@click.option("--partition", type=int, help="Partition number, from 1. Without key and number: in turn.")
@click.option("-H", "--header", "headers", multiple=True, callback=_parse_headers, help="NAME=VALUE, repeatable.")
@click.option(
    "--id", "msg_id", help="Message id; with several messages each gets ID-1, ID-2, ... so a repeat is stored once."
)
@click.pass_obj
def command(
    settings: Settings,
    station: str,
    body: Optional[str],
    source: Optional[IO[bytes]],
    split: str,
    key: Optional[str],
    partition: Optional[int],
    headers: dict[str, str],
    msg_id: Optional[str],
) -> int:
    """
    Produce BODY, or each line of stdin, and wait until the broker has stored it.

    Ends with 4 when something was not stored, and says exactly how many.
    """
    from memphis_sync import Item

    if body is not None and source is not None:
        raise click.UsageError("BODY and --file exclude each other")
    stream = source or sys.stdin.buffer
    payloads: Iterable[bytes] = [os.fsencode(body)] if body is not None else pieces(stream, split)
    single = body is not None or split == "none"

    def items(watched: Iterable[bytes]) -> Iterator[Union[bytes, Item]]:
        if key is None and partition is None and not headers and msg_id is None:
            yield from watched
            return
        number_or_turn = -1 if partition is None else partition
        for number, payload in enumerate(watched, 1):
            own_id = msg_id if single or msg_id is None else f"{msg_id}-{number}"
            yield Item(payload, key=key, partition=number_or_turn, headers=headers, msg_id=own_id)

    with settings.connect("pub") as client:
        producer = client.producer(station, "memphis-sync-pub")
        with _progress(settings, client, None if body is not None else stream) as watch:
            result = producer.produce_many(items(watch(payloads)), on_error="collect")
        code = _report(settings, station, result)  # first of all: what follows needs a broker that answers
        if code == 0:
            with contextlib.suppress(MemphisError):  # everything is stored; the broker forgets a producer by itself
                producer.destroy()
    return code


@contextlib.contextmanager
def _progress(settings: Settings, client: Memphis, stream: Optional[IO[bytes]]) -> Iterator[Watch]:
    """A bar with the stored messages and their rate, where a person looks at it; else nothing at all."""
    if not settings.shows_progress() or stream is None or stream.isatty():
        yield iter
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    total = os.fstat(stream.fileno()).st_size or None if stream.seekable() else None
    text = "{task.fields[stored]:,} stored, {task.fields[rate]:,.0f}/s"
    columns = (BarColumn(), TextColumn(text), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=total, stored=0, rate=0.0)
        start = time.monotonic()

        def watch(payloads: Iterable[bytes]) -> Iterator[bytes]:
            read = 0
            for number, payload in enumerate(payloads):
                read += len(payload) + 1
                if number % 1024 == 0:
                    stored = client.stats().delivered
                    rate = stored / max(time.monotonic() - start, 0.001)
                    progress.update(task, completed=read, stored=stored, rate=rate)
                yield payload

        yield watch


def _report(settings: Settings, station: str, result: BulkResult) -> int:
    """The summary on stderr, or one JSON object on stdout."""
    failed = len(result.failed)
    if settings.json:
        summary = {
            "station": station,
            "delivered": result.delivered,
            "duplicates": result.duplicates,
            "failed": failed,
            "seconds": round(result.seconds, 3),
        }
        click.echo(json.dumps(summary))
    else:
        rate = result.delivered / result.seconds if result.seconds else 0.0
        settings.say(
            f"{result.delivered:,} stored in {result.seconds:.2f} s ({rate:,.0f}/s), "
            f"{result.duplicates:,} duplicates, {failed:,} failed"
        )
    for failure in result.failed[:_SHOWN]:
        click.echo(f"error: not stored: {failure.error}", err=True)
    if failed and settings.quiet:
        click.echo(f"error: {failed} of {failed + result.delivered} messages were not stored", err=True)
    return NOT_STORED if failed else 0
