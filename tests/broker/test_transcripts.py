"""
The recorded traffic of the official SDKs, replayed: our broker's reply to each control request equals the recorded one.

Each connection of a recording is opened with the same name and credentials and closed where it was closed; each request
is sent in its place. Where we answer differently on purpose, DIFFERENCES says so and why; an unused entry fails.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

import pytest
from control_client import ControlClient

from memphis_sync.broker import BrokerOptions, BrokerProcess

FOLDER = Path(__file__).parents[3] / "shared" / "protocol" / "transcripts"
SKIP = "MEMPHIS_SYNC_SKIP_TRANSCRIPTS"
USER, PASSWORD = "app", "Passw0rd!"  # as recorded
SUBJECTS = (
    *(
        f"$memphis_{kind}_{what}"
        for kind in ("station", "producer", "consumer")
        for what in ("creations", "destructions")
    ),
    *(f"$memphis_schema_{what}" for what in ("creations", "attachments", "detachments")),
)


# Schemas that were there before the recording began: their first recorded creation says that they exist.
PRESENT = {"go-schema-json.jsonl": ("sjg",)}


class Difference(NamedTuple):
    """One deliberate difference: where it shows, and what we answer instead."""

    transcripts: tuple[str, ...]
    subject: str
    recorded: str  # in the recorded reply
    ours: Callable[[Any, Any], bool]  # (recorded reply, our reply): both decoded
    reason: str


def joined(recorded: Any, ours: Any) -> bool:
    """We let a consumer into its group where the recorded broker refused it."""
    return isinstance(ours, dict) and not ours["error"] and bool(ours["partitions_update"]["partitions_list"])


DIFFERENCES = (
    Difference(
        transcripts=("py-fetch-messages.jsonl",),
        subject="$memphis_consumer_creations",
        recorded="start sequence can not be updated (10012)",
        ours=joined,
        reason="the start position counts when a group is made; rejoining with another one is no error (protocol 6.4)",
    ),
)


@dataclass
class Exchange:
    """One recorded request with its reply."""

    subject: str
    body: bytes
    reply: Optional[bytes] = None


@dataclass
class Recording:
    """What happened: ("open", conn, CONNECT), ("ask", conn, Exchange), ("close", conn, None), ("step", 0, text)."""

    events: list[tuple[str, int, Any]] = field(default_factory=list)

    @property
    def exchanges(self) -> list[Exchange]:
        return [event[2] for event in self.events if event[0] == "ask"]


def read(path: Path) -> Recording:
    recording, waiting = Recording(), {}
    for line in path.read_text().splitlines():
        frame = json.loads(line)
        conn, subject = frame.get("conn"), frame.get("subject", "")
        if frame["op"] == "CONNECT":
            recording.events.append(("open", conn, frame["json"]))
        elif frame["op"] == "STEP":
            recording.events.append(("step", 0, frame["text"]))
        elif frame["op"] == "CLOSE":
            recording.events.append(("close", conn, None))
        elif frame["op"] in ("PUB", "HPUB") and subject in SUBJECTS:
            exchange = Exchange(subject, frame["payload"].encode())
            waiting[conn, frame["reply"]] = exchange
            recording.events.append(("ask", conn, exchange))
        elif frame["op"] in ("MSG", "HMSG") and (conn, subject) in waiting:
            waiting.pop((conn, subject)).reply = frame["payload"].encode()
    return recording


def decoded(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode()


def names() -> list[str]:
    if os.environ.get(SKIP):
        return []
    return sorted(path.name for path in FOLDER.glob("*.jsonl")) or ["missing"]


@pytest.fixture(scope="module")
def password_broker() -> Iterator[BrokerProcess]:
    with BrokerProcess(BrokerOptions(port=0, ephemeral=True, users={USER: PASSWORD}), timeout_s=30) as broker:
        yield broker


@pytest.fixture(scope="module")
def token_broker() -> Iterator[BrokerProcess]:
    with BrokerProcess(BrokerOptions(port=0, ephemeral=True, token="tok"), timeout_s=30) as broker:
        yield broker


@pytest.fixture(scope="module")
def used() -> Counter[int]:
    """How often each entry of DIFFERENCES was needed."""
    return Counter()


class Replay:
    """Plays one recording against a broker."""

    def __init__(self, name: str, broker: BrokerProcess) -> None:
        self.name = name
        self.broker = broker
        self.clients: dict[int, ControlClient] = {}
        self.answers: list[tuple[Exchange, bytes]] = []

    def play(self) -> None:
        recording = read(FOLDER / self.name)
        try:
            self.prepare(recording)
            for event, conn, what in recording.events:
                getattr(self, event)(conn, what)
        finally:
            for conn in list(self.clients):
                self.close(conn, None)

    def prepare(self, recording: Recording) -> None:
        for name in PRESENT.get(self.name, ()):
            body = next(item.body for item in recording.exchanges if json.loads(item.body).get("name") == name)
            with self.client("earlier", USER) as earlier:
                assert earlier.raw("$memphis_schema_creations", body) == b'{"error":""}'

    def client(self, connection_id: str, user: str) -> ControlClient:
        login = {"token": "tok"} if self.broker.token else {"user": f"{USER}$1", "password": PASSWORD}
        return ControlClient(self.broker, connection_id=connection_id, username=user, **login)

    def open(self, conn: int, connect: dict[str, Any]) -> None:
        connection_id, _, user = connect.get("name", "").partition("::")
        if not self.name.endswith("bad-password.jsonl"):
            self.clients[conn] = self.client(connection_id, user).__enter__()

    def close(self, conn: int, _: None) -> None:
        if conn in self.clients:
            self.clients.pop(conn).__exit__()

    def ask(self, conn: int, exchange: Exchange) -> None:
        self.answers.append((exchange, self.clients[conn].raw(exchange.subject, exchange.body)))

    def step(self, _: int, text: str) -> None:
        """What happened beside the recorded connections."""
        if text.startswith("broker killed"):
            self.broker.kill()
            self.broker.start()
        elif text.startswith("station destroyed by a second client"):
            with self.client("second", USER) as second:
                assert second.destroy_station("gone") == ""


@pytest.mark.parametrize("name", names())
def test_replies_equal_the_recorded_ones(
    name: str, password_broker: BrokerProcess, token_broker: BrokerProcess, used: Counter[int]
) -> None:
    assert name != "missing", f"no transcripts in {FOLDER}; set {SKIP}=1 to do without them"
    replay = Replay(name, token_broker if "token" in name else password_broker)
    replay.play()
    wrong = []
    for exchange, reply in replay.answers:
        if exchange.reply is None or decoded(reply) == decoded(exchange.reply):
            continue
        entry = deliberate(name, exchange, reply)
        if entry is None:
            asked = f"{exchange.subject} {exchange.body!r}"
            wrong.append(f"{asked}\n  recorded {exchange.reply!r}\n  ours     {reply!r}")
        else:
            used[entry] += 1
    assert not wrong, "\n".join(wrong)


def deliberate(name: str, exchange: Exchange, reply: bytes) -> Optional[int]:
    """The entry of DIFFERENCES that explains our reply."""
    for index, entry in enumerate(DIFFERENCES):
        if (
            name in entry.transcripts
            and exchange.subject == entry.subject
            and entry.recorded in (exchange.reply or b"").decode()
            and entry.ours(decoded(exchange.reply or b""), decoded(reply))
        ):
            return index
    return None


@pytest.mark.skipif(bool(os.environ.get(SKIP)), reason=f"{SKIP} is set")
def test_every_deliberate_difference_is_needed(used: Counter[int]) -> None:
    unused = [entry.reason for index, entry in enumerate(DIFFERENCES) if not used[index]]
    assert not unused, f"these entries explain nothing any more: {unused}"


@pytest.mark.skipif(bool(os.environ.get(SKIP)), reason=f"{SKIP} is set")
def test_the_recordings_hold_what_they_should() -> None:
    """All three SDKs, every subject, and hardly a request without a reply: finding nothing would pass all."""
    found = Counter[tuple[str, str]]()
    silent = 0
    for name in names():
        for exchange in read(FOLDER / name).exchanges:
            found[name.partition("-")[0], exchange.subject] += 1
            silent += exchange.reply is None
    assert {(sdk, subject) for sdk in ("py", "js", "go") for subject in SUBJECTS} <= set(found)
    assert sum(found.values()) > 100
    assert silent <= 3
