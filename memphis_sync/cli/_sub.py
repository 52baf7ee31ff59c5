"""``memphis-sync sub``: messages to stdout as they come, byte for byte."""

from __future__ import annotations

import base64
import contextlib
import itertools
import select
import sys
import time
import uuid
from typing import TYPE_CHECKING, Any, Optional

import click

from memphis_sync.errors import MemphisError

from ._app import ENDS, Settings, need_output, split_option
from ._group import command as command_of, examples
from ._streams import forget_stdout, json_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memphis_sync import Consumer, Message

_BATCH = 500
_WAIT_MS = 1000  # how long a fetch waits
_MOMENT_S = 0.05


@command_of(
    name="sub",
    epilog=examples(
        "memphis-sync sub orders",
        "memphis-sync sub orders --end > orders.txt",
        "memphis-sync sub orders --group billing --count 100",
        "memphis-sync --json sub orders | jq .headers",
        "memphis-sync sub images --count 1 --split none > a.png",
    ),
)
@click.argument("station")
@click.option("--group", help="Consumer group, which continues where it stopped; by default a temporary one.")
@click.option("--count", type=click.IntRange(min=1), help="Stop after this many.")
@click.option("--end", is_flag=True, help="Stop after the last message that STATION holds.")
@split_option("What to write after each message; none: nothing.")
@click.option("--create", is_flag=True, help="Create STATION if it does not exist; by default that is an error.")
@click.option("--no-ack", is_flag=True, help="Do not acknowledge: the messages are delivered again.")
@click.pass_obj
def command(
    settings: Settings,
    station: str,
    group: Optional[str],
    count: Optional[int],
    end: bool,
    split: str,
    create: bool,
    no_ack: bool,
) -> int:
    """Write each message of STATION on a line of its own as soon as it arrives, and acknowledge it."""
    need_output()
    name = group or f"memphis-sync-sub-{uuid.uuid4().hex[:12]}"
    with settings.connect("sub") as client:
        consumer = client.consumer(station, name, batch_max_time_to_wait_ms=_WAIT_MS, create_station=create)
        try:
            _copy(settings, consumer, count, end=end, after=ENDS[split], ack=not no_ack)
        except BrokenPipeError:  # the reader has closed it; what was not written stays unacknowledged
            forget_stdout()
        finally:
            if group is None:  # a temporary group; a broker that cannot be reached removes it later
                with contextlib.suppress(MemphisError):
                    consumer.destroy()
    return 0


def _copy(settings: Settings, consumer: Consumer, count: Optional[int], *, end: bool, after: bytes, ack: bool) -> None:
    """Writes and flushes a batch, then acknowledges it: a message that was not written is delivered again."""
    out = sys.stdout.buffer
    for messages in _to_end(consumer, count) if end else _for_ever(consumer, count):
        for message in messages:
            out.write(_json_line(message) if settings.json else message.data + after)
        out.flush()
        if ack:
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
