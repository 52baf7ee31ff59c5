"""
The recorded traffic of the official SDKs, replayed: every frame that our broker sends equals the recorded one.

Each recording's client frames are played in their order (transcript_player.py): logins, control requests, JetStream
calls, messages, pulls, acks and what follows from them; through the port for SDKs, where their message ids count. What
comes back is compared field by field. DIFFERENCES names each field in which a stock nats-server or our broker differs
on purpose, with the reason; an unused entry fails.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple, Union

import pytest
from transcript_player import Channel, Frame, Player, requests_of

from memphis_sync.broker import BrokerOptions, BrokerProcess

FOLDER = Path(__file__).parents[1] / "transcripts"
USERS = {"app": "Passw0rd!"}  # as recorded
SDKS = ("py", "js", "go")
CONTROL = (
    *(
        f"$memphis_{kind}_{what}"
        for kind in ("station", "producer", "consumer")
        for what in ("creations", "destructions")
    ),
    *(f"$memphis_schema_{what}" for what in ("creations", "attachments", "detachments")),
)
KEEPS_TIME = ("consume", "max-deliver")  # redeliveries there come by the clock
# Schemas that were there before the recording began: their first recorded creation says that they exist.
PRESENT = {"go-schema-json.jsonl": ("sjg",)}


class Difference(NamedTuple):
    """
    One deliberate difference.

    Attributes:
        about: The subject of the request that is answered, or of the message; ``*`` stands for anything.
        path: The field: a path in JSON, ``header <name>``, ``status``, ``missing`` or ``extra`` for a whole frame.
        transcripts: Where; ``*`` stands for anything.
    """

    about: str
    path: str
    reason: str
    transcripts: str = "*"


class Finding(NamedTuple):
    """One field in which we differ."""

    about: str
    path: str
    recorded: object
    ours: object


RUN = "made up by each server anew"
SERVER = "stock nats-server 2.15 instead of Memphis' fork of 2.10"
ONE_START = (
    "the start position counts when a group is made; rejoining with another one is no error (protocol reference B6)"
)
LAST_MESSAGES = (
    "last messages of one partition: the durable is made, as asked for (protocol reference B5); the group starts there"
)
DIFFERENCES: tuple[Difference, ...] = (
    *(Difference("INFO", path, RUN) for path in ("server_id", "client_id", "port", "xkey")),
    *(Difference("INFO", path, SERVER) for path in ("version", "go", "git_commit", "api_lvl")),
    Difference("INFO", "connection_id", "its absence tells a stock server; official SDKs do not look at it"),
    Difference("INFO", "extra", "a stock server sends a second INFO after CONNECT"),
    *(Difference("*", path, RUN) for path in ("reply 7", "created", "ts", "*.last_active", "header $memphis_pm_id")),
    Difference("$JS.API.INFO", "api.*", "counts of this server's own requests"),
    Difference("$JS.API.INFO", "storage", "what the broker itself keeps"),
    Difference("$JS.API.INFO", "streams", "what the broker itself keeps"),
    Difference("$JS.API.INFO", "consumers", "what the broker itself keeps"),
    Difference("$JS.API.INFO", "reserved_*", SERVER),
    Difference("$JS.API.CONSUMER.INFO.*", "config.metadata.*", SERVER),
    Difference("$JS.API.CONSUMER.INFO.*", "config.name", SERVER),
    Difference("*", "header Nats-Subject", "a stock server names the subject that nobody listens to"),
    Difference(
        "$JS.API.CONSUMER.MSG.NEXT.*", "status", "no_wait with expires: a stock server says at once that there is none"
    ),
    Difference("$JS.API.CONSUMER.MSG.NEXT.*", "header Nats-Pending-*", "the same: 404 has no counts, 408 has"),
    Difference(
        "$JS.API.CONSUMER.MSG.NEXT.*",
        "extra",
        "a pull on a missing consumer is answered (503); Memphis leaves it without an answer (protocol reference B36)",
        "py-gone.jsonl",
    ),
    Difference(
        "$memphis_sdk_clients_updates",
        "extra",
        "every destruction of a station is announced, not only those through REST (protocol reference B17)",
    ),
    Difference("$memphis_consumer_creations", "body", ONE_START, "py-fetch-messages.jsonl"),
    Difference(
        "$memphis_consumer_creations",
        "missing",
        "one reply to a request, not two (protocol reference B8)",
        "py-fetch-messages.jsonl",
    ),
    Difference("$JS.API.CONSUMER.INFO.*", "body", LAST_MESSAGES, "*-fetch-messages.jsonl"),
    Difference("$JS.API.CONSUMER.INFO.*", "ack_floor.stream_seq", SERVER, "py-fetch-messages.jsonl"),
    Difference("$JS.API.CONSUMER.CREATE.*", "body", LAST_MESSAGES, "py-fetch-messages.jsonl"),
    *(
        Difference("$JS.API.CONSUMER.MSG.NEXT.*", path, LAST_MESSAGES, "py-fetch-messages.jsonl")
        for path in ("body", "subject", "reply", "reply [058]", "header $memphis_*")
    ),
    Difference("$memphis_dls_*", "header $memphis_sync_*", "a message that is sent again says where it lies"),
    Difference(
        "$memphis_schema_creations", "error", "the error says where the source is wrong, and why", "*-schema-json.jsonl"
    ),
    Difference("connection", "end", "the recorder ended its broker under the idle connection", "js-idle.jsonl"),
)


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """A JSON value as leaves by their paths."""
    if isinstance(value, dict) and value:
        return {
            key: leaf for name, item in value.items() for key, leaf in flat(item, f"{path}.{name}".lstrip(".")).items()
        }
    return {path: value}


def body(frame: Frame) -> dict[str, Any]:
    """A frame's payload as leaves; what is no JSON object is one leaf, ``body``."""
    try:
        value = json.loads(frame.payload)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        return {"body": frame.payload}
    if "error" in value and isinstance(value["error"], dict):
        return {"body": value["error"]}
    return flat(value)


def header_lines(frame: Frame) -> dict[str, list[str]]:
    """A frame's headers by name, each with its values in order, and its status."""
    first, *lines = frame.headers.decode("latin-1").split("\r\n") if frame.headers else [""]
    found: dict[str, list[str]] = {"status": [first]}
    for line in filter(None, lines):
        name, _, value = line.partition(":")
        found.setdefault(f"header {name}", []).append(value.strip())
    return found


def compared(about: str, recorded: Frame, ours: Frame) -> list[Finding]:
    """The fields in which two frames differ."""
    pairs: list[tuple[str, Any, Any]] = [("subject", recorded.subject, ours.subject)]
    if recorded.reply or ours.reply:
        pairs += [
            (f"reply {index}", old, new)
            for index, (old, new) in enumerate(zip(recorded.reply.split("."), ours.reply.split(".")))
        ]
        pairs.append(("reply", recorded.reply.count("."), ours.reply.count(".")))
    for read in (header_lines, body):
        old_fields, new_fields = read(recorded), read(ours)
        if ("body" in old_fields) != ("body" in new_fields):
            old_fields, new_fields = {"body": recorded.payload}, {"body": ours.payload}
        pairs += [(path, old_fields.get(path), new_fields.get(path)) for path in {**old_fields, **new_fields}]
    return [Finding(about, path, old, new) for path, old, new in pairs if old != new]


def findings(channel: Channel) -> list[Finding]:
    """All differences of a channel."""
    found: list[Finding] = []
    for recorded, ours in zip(channel.recorded, channel.ours):
        found += compared(channel.about or recorded.subject or recorded.op, recorded, ours)
    both = min(len(channel.recorded), len(channel.ours))
    for frame in channel.recorded[both:]:
        found.append(Finding(channel.about or frame.subject or frame.op, "missing", frame, None))
    for frame in channel.ours[both:]:
        found.append(Finding(channel.about or frame.subject or frame.op, "extra", None, frame))
    return found


def names() -> list[str]:
    return sorted(path.name for path in FOLDER.glob("*.jsonl")) or ["missing"]


def keeps_time(name: str) -> bool:
    return name.partition("-")[2].partition(".")[0] in KEEPS_TIME


async def play_all() -> dict[str, Union[Player, BaseException]]:
    """
    Plays all recordings: those of one SDK one after the other on a broker of their own, for one kills it, and side by
    side, on another one, those that take their time.
    """
    played: dict[str, Union[Player, BaseException]] = {}

    async def play(broker: BrokerProcess, *chosen: str) -> None:
        for name in chosen:
            player = Player(FOLDER / name, broker, keeps_time=keeps_time(name))
            played[name] = player
            try:
                await prepare(player)
                await player.play()
            except Exception as exc:  # told by the test of that recording
                played[name] = exc

    slow = [name for name in names() if keeps_time(name)]
    tokens = [name for name in names() if "token" in name]
    rows = [[name for name in names() if name.startswith(sdk) and name not in {*slow, *tokens}] for sdk in SDKS]
    options = [*(BrokerOptions(port=0, ephemeral=True, sdk_port=0, users=USERS) for _ in (*rows, slow))]
    options.append(BrokerOptions(port=0, ephemeral=True, sdk_port=0, token="memphistoken"))
    brokers = [BrokerProcess(each, timeout_s=30) for each in options]
    try:
        await asyncio.gather(*(asyncio.to_thread(broker.start) for broker in brokers))
        *own, shared, with_token = brokers
        await asyncio.gather(
            *(play(broker, *row) for broker, row in zip(own, rows)),
            *(play(shared, name) for name in slow),
            play(with_token, *tokens),
        )
    finally:
        await asyncio.gather(*(asyncio.to_thread(broker.stop) for broker in brokers))
    return played


async def prepare(player: Player) -> None:
    for name in PRESENT.get(player.path.name, ()):
        bodies = (json.loads(item["payload"]) for item in player.items if item.get("subject") == CONTROL[6])
        assert await player.ask(CONTROL[6], next(item for item in bodies if item["name"] == name)) == b'{"error":""}'


@pytest.fixture(scope="module")
def played() -> dict[str, Union[Player, BaseException]]:
    """What came of each recording."""
    return asyncio.run(play_all())


@pytest.mark.slow
@pytest.mark.parametrize("name", names())
def test_every_frame_equals_the_recorded_one(name: str, played: dict[str, Union[Player, BaseException]]) -> None:
    assert name != "missing", f"no transcripts in {FOLDER}"
    player = played[name]
    if isinstance(player, BaseException):
        raise player
    wrong = [str(finding) for finding in all_findings(player) if deliberate(name, finding) is None]
    assert not wrong, "\n".join(wrong)


def all_findings(player: Player) -> Iterator[Finding]:
    """Every field in which a recording and what came of it differ."""
    yield from (Finding("connection", "end", number, None) for number in player.still_open)
    yield from (Finding(ack, "ack", ack, None) for ack in player.unmatched_acks)
    for connection in player.connections.values():
        for channel in connection.channels.values():
            yield from findings(channel)


def deliberate(name: str, finding: Finding) -> Union[Difference, None]:
    """The entry of DIFFERENCES that explains a finding."""
    for entry in DIFFERENCES:
        fits = fnmatchcase(finding.about, entry.about) and fnmatchcase(finding.path, entry.path)
        if fits and fnmatchcase(name, entry.transcripts):
            return entry
    return None


@pytest.mark.slow
def test_every_deliberate_difference_is_needed(played: dict[str, Union[Player, BaseException]]) -> None:
    used = {
        deliberate(name, finding)
        for name, player in played.items()
        if isinstance(player, Player)
        for finding in all_findings(player)
    }
    unused = [f"{entry.about} {entry.path}: {entry.reason}" for entry in DIFFERENCES if entry not in used]
    assert not unused, f"these entries explain nothing any more: {unused}"


def test_the_recordings_hold_what_they_should() -> None:
    """All three SDKs, every control subject, and what SDKs do with JetStream: finding nothing would pass all."""
    found = Counter[tuple[str, str]]()
    for name in names():
        for subject, count in requests_of(FOLDER / name).items():
            found[name[:2], ".".join(subject.split(".")[:4]) if subject.startswith("$JS.API") else subject] += count
    assert {(sdk, subject) for sdk in SDKS for subject in CONTROL} <= set(found)
    jetstream = {subject for _, subject in found if subject.startswith("$JS.API")}
    assert {"$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.CONSUMER.INFO", "$JS.API.CONSUMER.MSG"} <= jetstream
    assert {"$memphis_pm_acks", "$memphis_nacked_dls", "$memphis_schemaverse_dls"} <= {subject for _, subject in found}
    assert sum(found.values()) > 500


@pytest.mark.slow
def test_what_was_played_had_all_kinds_of_frames(played: dict[str, Union[Player, BaseException]]) -> None:
    """Acks, redeliveries, errors, pushed updates and dead letters did come from our broker."""
    frames = [
        frame
        for player in played.values()
        if isinstance(player, Player)
        for connection in player.connections.values()
        for channel in connection.channels.values()
        for frame in channel.ours
    ]
    assert sum(b'"duplicate": true' in frame.payload for frame in frames) == 3  # one message id twice, in each SDK
    assert sum(frame.reply.split(".")[4:5] == ["2"] for frame in frames if frame.reply) >= 8  # second deliveries
    assert sum(frame.subject.startswith("$memphis_schema_updates_") for frame in frames) >= 6
    assert sum(frame.subject.startswith("$memphis_dls_") for frame in frames) == 3
    assert sum(frame.op == "-ERR" for frame in frames) == 10
    assert sum(frame.headers.startswith(b"NATS/1.0 503") for frame in frames) >= 3
    assert len(frames) > 600
