"""``memphis-sync sub``: messages to stdout as they come, byte for byte."""

from __future__ import annotations

import base64
import contextlib
import itertools
import select
import sys
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional

import click

from memphis_sync.errors import MemphisError, ServerError

from ._app import ENDS, Settings, need_output, split_option
from ._format import LETTERS, formatted, parts_of
from ._group import command as command_of, examples
from ._streams import forget_stdout, json_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memphis_sync import Consumer, Memphis, Message

    from ._format import Part

_BATCH = 500
_WAIT_MS = 1000  # how long a fetch waits
_MOMENT_S = 0.05


@command_of(
    name="sub",
    epilog=examples(
        "memphis-sync sub orders",
        "memphis-sync sub orders --end > orders.txt",
        "memphis-sync sub orders --last 0",
        "memphis-sync sub orders --group billing --count 100",
        "memphis-sync sub orders --format '%p %o %s\\n'",
        "memphis-sync --json sub orders | jq .headers",
        "memphis-sync sub images --count 1 --split none > a.png",
    ),
)
@click.argument("station")
@click.option("--group", help="Consumer group, which continues where it stopped; by default a temporary one.")
@click.option("--count", type=click.IntRange(min=1), help="Stop after this many.")
@click.option("--end", is_flag=True, help="Stop after the last message that STATION holds.")
@click.option(
    "--last",
    type=click.IntRange(min=0),
    metavar="N",
    help="Begin with the newest N messages of each partition; 0: with what comes from now on.",
)
@click.option(
    "--from",
    "sequence",
    type=click.IntRange(min=1),
    metavar="SEQ",
    help="Begin at this sequence number; each partition has its own.",
)
@split_option("What to write after each message; none: nothing.")
@click.option(
    "--format",
    "parts",
    metavar="FORMAT",
    callback=parts_of,
    help=f"What to write for each message: {LETTERS}, \\n, \\t.",
)
@click.option("--create", is_flag=True, help="Create STATION if it does not exist; by default that is an error.")
@click.option(
    "--no-ack",
    is_flag=True,
    help="With --group: leave the messages to the group. They are delivered again after its ack time, and this uses up "
    "one of their deliveries. It needs --count or --end. Without --group nobody loses a message anyway.",
)
@click.pass_obj
def command(settings: Settings, /, station: str, **given: Any) -> int:
    """
    Write each message of STATION on a line of its own as soon as it arrives, and acknowledge it.

    Without --group everything that STATION holds is read, and no group loses a message. --last and --from say where a
    new group begins; one that exists goes on where it stopped. 'peek' shows single messages without a group.
    """
    need_output()
    options = Options(**given)
    options.check(settings)
    name = options.group or f"memphis-sync-sub-{uuid.uuid4().hex[:12]}"
    with settings.connect("sub") as client:
        kept: dict[str, Any] = {} if options.group is None else _settings_of(client, station, options)
        consumer = client.consumer(
            station,
            name,
            batch_max_time_to_wait_ms=_WAIT_MS,
            start_consume_from_sequence=options.sequence or 1,
            last_messages=-1 if options.last is None else options.last,
            create_station=options.create,
            **kept,
        )
        try:
            _copy(settings, consumer, options)
        except BrokenPipeError:  # the reader has closed it; what was not written stays unacknowledged
            forget_stdout()
        finally:
            if options.group is None:  # a temporary group; a broker that cannot be reached removes it later
                with contextlib.suppress(MemphisError):
                    consumer.destroy()
    return 0


@dataclass
class Options:
    """The options, as they were given."""

    group: Optional[str]
    count: Optional[int]
    end: bool
    last: Optional[int]
    sequence: Optional[int]
    split: str
    parts: Optional[list[Part]]
    create: bool
    no_ack: bool

    @property
    def has_beginning(self) -> bool:
        """Whether it is said where to begin."""
        return self.last is not None or self.sequence is not None

    @property
    def acks(self) -> bool:
        """Whether to acknowledge: always in a temporary group, which would get the messages again."""
        return not self.no_ack or self.group is None

    def check(self, settings: Settings) -> None:
        """Raises a usage error for options that exclude each other."""
        if self.last is not None and self.sequence is not None:
            raise click.UsageError("give --last or --from, not both")
        if not self.acks and self.count is None and not self.end:
            raise click.UsageError("--no-ack needs --count or --end: the same messages would come again and again")
        if self.parts is not None and settings.json:
            raise click.UsageError("give --format or --json, not both")
        if self.parts is not None and self.split != "line":
            raise click.UsageError(
                f"give --format or --split {self.split}, not both: a format says all that is written"
            )


def _settings_of(client: Memphis, station: str, options: Options) -> dict[str, Any]:
    """
    The settings of a group that exists, which whoever joins it would change otherwise; {} for a new one, and where the
    broker does not tell.

    Raises:
        UsageError: It exists, and is told where to begin, which would be ignored.
    """
    assert options.group is not None
    try:
        groups = client.station(station, create_station=False).info().groups or ()
    except ServerError:  # there is no station, or the user may not look: the consumer says so, if it matters
        return {}
    for group in groups:
        if group.name == options.group.lower():
            if options.has_beginning:
                option = "--last" if options.sequence is None else "--from"
                raise click.UsageError(
                    f"group {options.group!r} exists already, and goes on where it stopped: leave out {option}, or "
                    "name another group"
                )
            return {"max_ack_time_ms": group.max_ack_time_ms, "max_msg_deliveries": group.max_msg_deliveries}
    return {}


def _copy(settings: Settings, consumer: Consumer, options: Options) -> None:
    """Writes and flushes a batch, then acknowledges it: a message that was not written is delivered again."""
    out, after, parts = sys.stdout.buffer, ENDS[options.split], options.parts
    for messages in _to_end(consumer, options.count) if options.end else _for_ever(consumer, options.count):
        for message in messages:
            if parts is not None:
                out.write(formatted(message, parts))
            else:
                out.write(_json_line(message) if settings.json else message.data + after)
        out.flush()
        if options.acks:
            for message in messages:
                message.ack()


def _for_ever(consumer: Consumer, count: Optional[int]) -> Iterator[list[Message]]:
    left = count
    while left is None or left > 0:
        messages = consumer.fetch(_BATCH if left is None else min(_BATCH, left))
        if not messages and _reader_is_gone():
            return
        yield messages
        if left is not None:
            left -= len(messages)


def _to_end(consumer: Consumer, count: Optional[int]) -> Iterator[list[Message]]:
    """Yields together what arrives within _MOMENT_S, so that few flushes are needed."""
    batch: list[Message] = []
    started = time.monotonic()
    for message in itertools.islice(consumer.read_all(), count):
        batch.append(message)
        now = time.monotonic()
        if len(batch) >= _BATCH or now - started > _MOMENT_S:
            yield batch
            batch, started = [], now
    yield batch


def _reader_is_gone() -> bool:
    """Whether the reader of stdout has closed it; checked when there is nothing to write, as a write would fail."""
    if not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _json_line(message: Message) -> bytes:
    from memphis_sync.message import readable_headers

    sent, headers = message.timesent, readable_headers(message)
    record: dict[str, Any] = {
        "station": message.station,
        "partition": message.partition,
        "sequence": message.sequence,
        "time": None if sent is None else sent.isoformat(),
        "headers": headers or {},
    }
    if headers is None:  # not a valid header block
        record["headers_base64"] = base64.b64encode(message.header_block).decode()
    return json_line(record, message.data)
