"""``memphis-sync pub``: produce what stands in arguments, files or stdin, and count exactly what was stored."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import IO, TYPE_CHECKING, Callable, Optional, Union

import click

from memphis_sync.errors import MemphisError

from ._app import INTERRUPTED, NOT_STORED, InputFile, Settings, leave_at_once, need_input
from ._group import command as command_of, examples
from ._streams import tell

if TYPE_CHECKING:
    from memphis_sync import BulkResult, Item, Memphis

    Watch = Callable[[Iterable[bytes]], Iterator[bytes]]

_READ = 1 << 20  # bytes at a time when the separator is not a newline
_MARK_EVERY = 1024  # messages between two marks of the progress bar
_LAST_ACKS_S = 2.0  # how long Ctrl-C waits for messages that are not confirmed
_SHOWN = 5  # failures that are shown in full; the count is always exact


def pieces(stream: IO[bytes], split: str) -> Iterator[bytes]:
    """
    Splits a stream into payloads, holding at most one of them and a read buffer.

    Args:
        stream: Binary.
        split: ``line`` (the newline is removed, a carriage return stays), ``nul``, or ``none`` for one payload.
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
        if name in headers:
            raise click.BadParameter(f"{name!r} is given twice; a message has one value for each header")
        headers[name] = text
    return headers


@command_of(
    name="pub",
    epilog=examples(
        "memphis-sync pub orders 'hello'",
        "seq 100000 | memphis-sync pub orders",
        "memphis-sync pub orders --file orders.jsonl --id load-1",
        "memphis-sync pub images --split none < a.png",
        "memphis-sync pub orders hello -H kind=test --key 17",
        "memphis-sync pub orders hello --count 1000",
    ),
)
@click.argument("station")
@click.argument("body", required=False)
@click.option("--file", "source", type=InputFile(), help="Read this file instead of stdin.")
@click.option(
    "--split",
    type=click.Choice(["line", "nul", "none"]),
    default="line",
    show_default=True,
    help="What ends a message in the input; none: the whole input is one message.",
)
@click.option("--key", help="Partition key: the same key always goes to the same partition.")
@click.option("--partition", type=int, help="Partition number, from 1. Without number, key or id: in turn.")
@click.option("-H", "--header", "headers", multiple=True, callback=_parse_headers, help="NAME=VALUE, repeatable.")
@click.option(
    "--count", type=click.IntRange(min=1), metavar="N", help="BODY so many times, or the first N messages of the input."
)
@click.option(
    "--id", "msg_id", help="Message id; several messages get ID-1, ID-2, ... so a repeated command stores them once."
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
    count: Optional[int],
    msg_id: Optional[str],
) -> int:
    """
    Produce BODY, or each line of stdin, and wait until the broker has stored it.

    The exit status is 4 when some messages were not stored; the count is exact.
    """
    from memphis_sync import Item

    if body is not None and source is not None:
        raise click.UsageError("give BODY or --file, not both")
    if key is not None and partition is not None:
        raise click.UsageError("give --key or --partition, not both")
    stream = None if body is not None else source or need_input()
    if stream is None:
        payloads: Iterable[bytes] = itertools.repeat(os.fsencode(body or ""), count or 1)
    else:
        payloads = itertools.islice(pieces(stream, split), count)
    single = (body is not None and count is None) or split == "none"

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
        try:
            with _progress(settings, client, stream) as watch:
                result = producer.produce_many(items(watch(payloads)), on_error="collect")
        except KeyboardInterrupt:
            return _interrupted(settings, station, client)
        code = _report(settings, station, result)  # first: what follows needs a broker that replies
        if code == 0:
            with contextlib.suppress(MemphisError):  # everything is stored, and the broker removes old producers
                producer.destroy()
    return code


@contextlib.contextmanager
def _progress(settings: Settings, client: Memphis, stream: Optional[IO[bytes]]) -> Iterator[Watch]:
    """A bar with the stored messages and their rate, on a terminal only."""
    if not settings.shows_progress() or stream is None or stream.isatty():
        yield iter
        return
    from rich.console import Console, RenderableType
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    total = os.fstat(stream.fileno()).st_size or None if stream.seekable() else None
    input_ = _Stored()
    start = time.monotonic()

    class Bar(Progress):
        """Reads the count of stored messages when it is drawn, so it moves on after the end of the input."""

        def get_renderables(self) -> Iterable[RenderableType]:
            stored = client.stats().delivered
            rate = stored / max(time.monotonic() - start, 0.001)
            for task in self.tasks:
                self.update(task.id, completed=input_.bytes_of(stored), stored=stored, rate=rate)
            return super().get_renderables()

    text = "{task.fields[stored]:,} stored, {task.fields[rate]:,.0f}/s"
    columns = (BarColumn(), TextColumn(text), TimeElapsedColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as progress:
        progress.add_task("", total=total, stored=0, rate=0.0)
        yield input_.watch


class _Stored:
    """How much of the input the stored messages are: the bar follows what is stored, not what is read."""

    def __init__(self) -> None:
        self._marks: deque[tuple[int, int]] = deque()  # a number of messages, and their bytes in the input
        self._bytes = 0

    def watch(self, payloads: Iterable[bytes]) -> Iterator[bytes]:
        """Passes the payloads on and records where they end."""
        read = number = 0
        for number, payload in enumerate(payloads, 1):
            read += len(payload) + 1
            if number % _MARK_EVERY == 0:
                self._marks.append((number, read))
            yield payload
        self._marks.append((number, read))

    def bytes_of(self, stored: int) -> int:
        """Bytes of the input that the first *stored* messages take, as far as the last mark."""
        while self._marks and self._marks[0][0] <= stored:
            self._bytes = self._marks.popleft()[1]
        return self._bytes


def _interrupted(settings: Settings, station: str, client: Memphis) -> int:
    """After Ctrl-C: waits up to _LAST_ACKS_S for confirmations, then reports what became of all that was read."""
    left = client.flush(_LAST_ACKS_S)
    stats = client.stats()
    counts = {"delivered": stats.delivered, "failed": stats.failed, "unconfirmed": left}
    text = f"interrupted: {stats.delivered:,} stored, {stats.failed:,} failed, {left:,} not confirmed"
    replace(settings, quiet=False).report(text, station=station, interrupted=True, **counts)
    leave_at_once(client)
    return INTERRUPTED


def _report(settings: Settings, station: str, result: BulkResult) -> int:
    """Writes the summary and some failures; returns the exit code."""
    failed = len(result.failed)
    rate = result.delivered / result.seconds if result.seconds else 0.0
    settings.report(
        f"{result.delivered:,} stored in {result.seconds:.2f} s ({rate:,.0f}/s), "
        f"{result.duplicates:,} duplicates, {failed:,} failed",
        station=station,
        delivered=result.delivered,
        duplicates=result.duplicates,
        failed=failed,
        seconds=round(result.seconds, 3),
    )
    for failure in result.failed[:_SHOWN]:
        tell(f"error: not stored: {failure.error}")
    if failed and settings.quiet:
        tell(f"error: {failed} of {failed + result.delivered} messages were not stored")
    return NOT_STORED if failed else 0
