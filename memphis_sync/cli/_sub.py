"""``memphis-sync sub``: messages to stdout as they come, byte for byte."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import select
import sys
import time
import uuid
from typing import TYPE_CHECKING, Any, Optional

import click

from memphis_sync.errors import MemphisError

from ._app import Settings, need_output
from ._streams import forget_stdout

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memphis_sync import Consumer, Message

_BATCH = 500
_WAIT_MS = 1000  # how long a fetch waits
_MOMENT_S = 0.05
_ENDS = {"line": b"\n", "nul": b"\0", "none": b""}


@click.command(name="sub")
@click.argument("station")
@click.option("--group", help="Consumer group that goes on where it stopped; without it all messages, and no trace.")
@click.option("--count", type=click.IntRange(min=1), help="Stop after this many.")
@click.option("--end", is_flag=True, help="Stop at the end of what STATION holds now.")
@click.option(
    "--split",
    type=click.Choice(sorted(_ENDS)),
    default="line",
    show_default=True,
    help="What is written after each message; none: nothing.",
)
@click.option("--create", is_flag=True, help="Create STATION if there is none; without it that is an error.")
@click.option("--no-ack", is_flag=True, help="Leave the messages to be delivered again.")
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
    """Write each message of STATION on a line of its own, at once, and acknowledge it."""
    need_output()
    name = group or f"memphis-sync-sub-{uuid.uuid4().hex[:12]}"
    with settings.connect("sub") as client:
        consumer = client.consumer(station, name, batch_max_time_to_wait_ms=_WAIT_MS, create_station=create)
        try:
            _copy(settings, consumer, count, end=end, after=_ENDS[split], ack=not no_ack)
        except BrokenPipeError:  # the reader has enough: what was not written stays unacknowledged
            forget_stdout()
        finally:
            if group is None:  # a group that exists for this run only; a broker that is gone has forgotten it
                with contextlib.suppress(MemphisError):
                    consumer.destroy()
    return 0


def _copy(settings: Settings, consumer: Consumer, count: Optional[int], *, end: bool, after: bytes, ack: bool) -> None:
    """Writes and flushes a batch, then acknowledges it: a message that was not written will come again."""
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
    """Together what came within a moment: an ack that waits keeps nothing from being read."""
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
    """Whether whoever read our output has closed it; asked when there is nothing to write, which would tell."""
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
    if headers is None:  # not what NATS calls headers
        record["headers_base64"] = base64.b64encode(message.header_block).decode()
    try:
        record["data"] = message.data.decode()
    except UnicodeDecodeError:
        record["data_base64"] = base64.b64encode(message.data).decode()
    # A header's bytes that are not UTF-8 are half surrogates in it: as escapes the line is JSON all the same.
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace") + os.linesep.encode()
