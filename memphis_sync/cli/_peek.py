"""``memphis-sync peek``: messages of a station, without consuming them."""

from __future__ import annotations

import re
import sys
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Optional

import click

from ._app import ENDS, Settings, need_output, split_option
from ._group import command as command_of, examples
from ._streams import json_line
from ._table import Size, one_line, write_table

if TYPE_CHECKING:
    from memphis_sync import PeekedMessage

_HEADINGS = ("PART", "SEQ", "TIME", "SIZE", "PAYLOAD", "HEADERS", "PRODUCER")
_AGO = re.compile(r"(\d+)([smhd])\Z")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def _time(_: click.Context, __: click.Parameter, value: Optional[str]) -> Optional[datetime]:
    """A time in ISO 8601, local without a zone, or how long ago: 90s, 15m, 2h, 1d."""
    if value is None:
        return None
    ago = _AGO.match(value)
    try:
        if ago:
            return datetime.now(timezone.utc) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        return datetime.fromisoformat(re.sub("[zZ]$", "+00:00", value)).astimezone(timezone.utc)
    except (OverflowError, ValueError):
        forms = "a time as 2026-11-23T09:12:03Z nor an age as 90s, 15m, 2h or 1d"
        raise click.BadParameter(f"{value!r} is neither {forms}") from None


@command_of(
    name="peek",
    epilog=examples(
        "memphis-sync peek orders",
        "memphis-sync peek orders --count 100 --since 15m",
        "memphis-sync peek orders --from 1200 --count 1 --raw",
        "memphis-sync --json peek orders | jq .data",
    ),
)
@click.argument("station")
@click.option("--count", type=click.IntRange(1, 1000), default=10, show_default=True, help="How many, at most.")
@click.option("--partition", type=click.IntRange(min=0), help="Only this partition.")
@click.option("--from", "sequence", type=click.IntRange(min=1), help="Begin at this sequence number.")
@click.option(
    "--since", metavar="TIME", callback=_time, help="Begin at this time (ISO 8601), or so long ago: 90s, 15m, 2h, 1d."
)
@click.option("--raw", is_flag=True, help="Only the payloads, byte for byte.")
@split_option("With --raw: what to write after each payload; none: nothing.")
@click.pass_obj
def command(
    settings: Settings,
    station: str,
    count: int,
    partition: Optional[int],
    sequence: Optional[int],
    since: Optional[datetime],
    raw: bool,
    split: str,
) -> None:
    """
    Show messages of STATION, oldest first, by default the newest.

    Nothing is consumed: no group loses a message, and no delivery is used up. Payloads are shown in one line, with
    escapes for what is not printable.
    """
    need_output()
    with settings.connect("peek") as client:
        found = client.station(station, create_station=False).peek(
            count, partition=partition, from_sequence=sequence, from_time=since
        )
    if settings.json or raw:
        after = ENDS[split]
        out = sys.stdout.buffer
        out.write(b"".join(_json_line(each) if settings.json else each.data + after for each in found))
        out.flush()
    else:
        write_table(_HEADINGS, [_row(each) for each in found])
    if not found:
        settings.say(f"station {station} holds no such messages")


def _row(message: PeekedMessage) -> tuple[Any, ...]:
    headers = " ".join(f"{name}={value}" for name, value in message.headers.items())
    payload = one_line(message.data.decode("utf-8", "backslashreplace"))
    place = (message.partition, message.sequence, message.time, Size(message.size))
    return (*place, payload, headers, message.producer)


def _json_line(message: PeekedMessage) -> bytes:
    record = {
        "station": message.station,
        "partition": message.partition,
        "sequence": message.sequence,
        "time": message.time.isoformat(),
        "producer": message.producer or None,
        "headers": message.headers,
    }
    return json_line(record, message.data)
