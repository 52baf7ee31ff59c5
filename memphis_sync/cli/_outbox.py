"""``memphis-sync outbox``: what is in an outbox file, and what to do with it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Optional

import click

from memphis_sync._core import parse_headers
from memphis_sync._core.outbox_file import OutboxFile
from memphis_sync._data.outbox_path import child_paths, fault_text, lock, unlock, user_of
from memphis_sync._protocol.names import external_name, split_stream
from memphis_sync.errors import ConfigurationError, MemphisError

from ._app import FAILED, NOT_STORED, Settings, leave_at_once, need_output
from ._group import command as command_of, examples
from ._streams import json_line, tell, write_result

_HEADINGS = ("FILE", "STATION", "PARTITION", "MESSAGES", "BYTES", "OLDEST")


@command_of(
    name="outbox",
    epilog=examples(
        "memphis-sync outbox /var/lib/shop/outbox",
        "memphis-sync outbox /var/lib/shop/outbox --send",
        "memphis-sync outbox OUTBOX --export saved.jsonl",
        "memphis-sync outbox OUTBOX --drop",
    ),
)
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--send", is_flag=True, help="Send all messages to the broker, and wait for its confirmations.")
@click.option(
    "--export", metavar="FILE", help="Write all messages to a new file, or to - (stdout), a JSON object a line."
)
@click.option("--drop", is_flag=True, help="Remove the file, with all that is in it.")
@click.option("--yes", is_flag=True, help="With --drop: do not ask.")
@click.option("--timeout", type=click.FloatRange(min=0), default=60.0, show_default=True, help="With --send: seconds.")
@click.pass_obj
def command(
    settings: Settings, path: Path, send: bool, export: Optional[str], drop: bool, yes: bool, timeout: float
) -> int:
    """
    Show what PATH holds, a file of connect(outbox=PATH), with the files of forked children beside it: a line for each
    station's partition, columns separated by TAB, or with --json an object for each file.
    """
    if send + drop + (export is not None) > 1:
        raise click.UsageError("give one of --send, --export and --drop")
    where = os.path.realpath(path.expanduser())
    paths = [each for each in (where, *child_paths(where)) if Path(each).exists()]
    if not paths:
        raise ConfigurationError(f"outbox {where!r}: there is no such file")
    if send:
        return _send(settings, where, timeout)
    if export is not None:
        return _export(settings, paths, export)
    if drop:
        return _drop(settings, paths, asks=not yes)
    return _show(settings, paths)


# ---- show ------------------------------------------------------------------------------------------------------------


def _show(settings: Settings, paths: list[str]) -> int:
    need_output()
    code = 0
    if not settings.json and sys.stdout.isatty():
        settings.say("\t".join(_HEADINGS))
    for path in paths:
        file, user = _read(path)
        info = file.info()
        fault = fault_text(info)
        places = _by_place(file)
        if settings.json:
            write_result(_json(path, info, user, fault, places))
        else:
            for (station, partition), (count, size, oldest) in sorted(places.items()):
                write_result("\t".join(map(str, (path, station, partition, count, size, _time(oldest)))))
        if fault:
            tell(f"error: outbox {path!r} {fault}")
            code = FAILED
            continue
        used = f"in use by process {user}" if user else "not in use"
        damaged = f", {info['damaged']:,} damaged entries" if info["damaged"] and not user else ""
        settings.say(f"{path}: {len(file):,} messages{damaged}, {used}")
    return code


def _read(path: str) -> tuple[OutboxFile, int]:
    """A file as it is at this moment, and the process that has it, or 0."""
    with Path(path).open("rb") as opened:
        return OutboxFile(opened.fileno()), user_of(opened.fileno())


def _messages(file: OutboxFile) -> Iterator[dict[str, Any]]:
    for index in range(len(file)):
        try:
            subject, msg_id, headers, payload, accepted_s, was_written = file.message(index)
            internal, partition = split_stream(subject.decode("utf-8", "replace").partition(".")[0])
            pairs = parse_headers(b"NATS/1.0\r\n" + headers + b"\r\n")[2]
        except (IndexError, MemphisError):  # the process that has the file has settled it meanwhile
            continue
        yield {
            "station": external_name(internal),
            "partition": partition,
            "msg_id": msg_id.decode("utf-8", "replace"),
            "accepted_s": accepted_s,
            "may_be_stored": was_written,
            "headers": dict(pairs),
            "payload": payload,
        }


def _by_place(file: OutboxFile) -> dict[tuple[str, int], tuple[int, int, int]]:
    """How many messages, payload bytes, and the oldest, for each station and partition."""
    places: dict[tuple[str, int], tuple[int, int, int]] = {}
    for each in _messages(file):
        place = each["station"], each["partition"]
        count, size, oldest = places.get(place, (0, 0, each["accepted_s"]))
        places[place] = count + 1, size + len(each["payload"]), min(oldest, each["accepted_s"])
    return places


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat()


def _json(
    path: str, info: dict[str, Any], user: int, fault: str, places: dict[tuple[str, int], tuple[int, int, int]]
) -> str:
    return json.dumps(
        {
            "path": path,
            "error": fault or None,
            "in_use_by": user or None,
            "messages": info["messages"],
            "damaged": 0 if user else info["damaged"],
            "max_bytes": info["max_bytes"],
            "max_messages": info["max_messages"],
            "opened": _time(info["created_s"]) if info["created_s"] else None,
            "oldest": _time(min(oldest for _, _, oldest in places.values())) if places else None,
            "stations": [
                {"station": station, "partition": number, "messages": count, "bytes": size, "oldest": _time(oldest)}
                for (station, number), (count, size, oldest) in sorted(places.items())
            ],
        }
    )


# ---- send, export, drop ----------------------------------------------------------------------------------------------


def _send(settings: Settings, path: str, timeout_s: float) -> int:
    from memphis_sync import connect

    client = connect(settings.url, name="outbox", outbox=path)
    try:
        left = client.flush(timeout_s)
        stats = client.stats()
    finally:
        leave_at_once(client)
    sent, failed = stats.delivered, stats.recovered_failed
    text = f"{sent:,} sent" + (f", {failed:,} failed" if failed else "") + (f", {left:,} remain" if left else "")
    settings.report(text, sent=sent, failed=failed, left=int(left))
    return NOT_STORED if left or failed else 0


def _export(settings: Settings, paths: list[str], target: str) -> int:
    need_output()
    read = []
    for path in paths:
        file, user = _read(path)
        fault = fault_text(file.info())
        if user:
            raise ConfigurationError(f"outbox {path!r} is in use by process {user}, which sends what is in it")
        if fault:
            raise ConfigurationError(f"outbox {path!r} {fault}")
        read.append(file)
    out = sys.stdout.buffer if target == "-" else Path(target).open("xb")  # noqa: SIM115  closed below
    count = 0
    try:
        for file in read:
            for message in _messages(file):
                payload, accepted_s = message.pop("payload"), message.pop("accepted_s")
                out.write(json_line({**message, "accepted": _time(accepted_s)}, payload))
                count += 1
        out.flush()
    finally:
        if target != "-":
            out.close()
    settings.say(f"{count:,} messages written; they are still in the file as well")
    return 0


def _drop(settings: Settings, paths: list[str], *, asks: bool) -> int:
    locked = []
    try:
        for path in paths:
            fd = lock(path)
            if fd is not None:
                locked.append((path, fd, OutboxFile(fd)))
        for path, _, file in locked:
            if file.info()["actual_size"] and "is not an outbox file" in fault_text(file.info()):
                raise ConfigurationError(f"outbox {path!r} is not an outbox file; remove it by other means")
        count = sum(len(file) for *_, file in locked)
        names = ", ".join(path for path, *_ in locked)
        if asks:
            click.confirm(f"Remove {names} with {count:,} messages that were never confirmed?", abort=True, err=True)
        for path, *_ in locked:
            Path(path).unlink()
    finally:
        for _, fd, _ in locked:
            unlock(fd)
    settings.report(f"{count:,} messages dropped", dropped=count)
    return 0
