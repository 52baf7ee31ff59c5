"""
10,000 requests that no SDK sends, on every subject of the control plane: each gets one reply, and the service goes on.

What the broker listens to is taken from the classes of requests and reports, so that a new one is in here by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple, Optional

import pytest
from control_client import ControlClient, kinds
from hypothesis import HealthCheck, Phase, given, settings, strategies as st

from memphis_sync._protocol.body import Request, StoredReply
from memphis_sync._protocol.dead_letters import DeadLetterAck
from memphis_sync._protocol.requests import ConsumerCreate, Notification, StationCreate, StationDestroy
from memphis_sync.broker import BrokerOptions, BrokerProcess

AT_ONCE = 50
ANSWER_S = 20.0
LISTENED = sorted({kind.SUBJECT for kind in kinds()})
# Sent without a reply subject. Whoever adds one hears that a stream took it, or nothing.
WITHOUT_REPLY = {Notification.SUBJECT} | {
    kind.SUBJECT for kind in kinds() if not issubclass(kind, Request) or kind.REPLY is StoredReply
}
KEYS = sorted(
    {item.metadata["key"] or item.name for kind in kinds() for item in fields(kind)}
    | {"producer", "message", "headers", "data", "partition", "seq", "id", "ids", "cg_name", "dls_configuration"}
)

NAMES = st.one_of(
    st.sampled_from(
        ["st", "ST.a", "*", ">", "st.*", "st.>", "a..b", ".", "", "st$1", "a#b", "\0", "a\0b", "ä", "x" * 128,
         "x" * 129, "../x", "a\r\nPING", "$memphis", "_INBOX.>", "root", "nobody", "root$1", "root$2",
         "\ud800", " ", "a b"]
    ),
    st.text(max_size=20),
)  # fmt: skip
NUMBERS = st.one_of(
    st.sampled_from([0, 1, 2, -1, 4, 10_001, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 2**64, 1.0, 1e308, 10**60]),
    st.integers(),
    st.floats(allow_nan=True),
)
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, NAMES)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=5,
)
# Partitions are few: a legal request for ten thousand streams is a load, not an attack.
MEMBERS = st.one_of(
    st.tuples(st.sampled_from(KEYS).filter(lambda key: key != "partitions_number"), st.one_of(NAMES, LEAVES, TREES)),
    st.tuples(st.just("partitions_number"), st.sampled_from([1, 2, 1, 0, -1, 10_001, 1.5, "1", None, [], 2**70])),
    st.tuples(st.sampled_from(["username", "created_by_username"]), st.sampled_from(["root", "root$1", "x", 1])),
    st.tuples(
        st.sampled_from(["type", "retention_type", "storage_type"]),
        st.sampled_from(["json", "bytes", "file", "ack_based"]),
    ),
)
PLAUSIBLE = {"name": "st", "station_name": "st", "username": "root", "partitions_number": 1, "req_version": 4,
             "producer_type": "application", "consumer_type": "application", "start_consume_from_sequence": 1,
             "last_messages": -1, "connection_id": "x", "consumers_group": "g"}  # fmt: skip


class Body(bytes):
    """Bytes that are not printed whole."""

    def __repr__(self) -> str:
        return bytes(self).__repr__() if len(self) < 300 else f"<{bytes(self[:100])!r}... {len(self)} bytes>"


def dumped(value: object) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


OBJECTS = st.builds(
    lambda plausible, members, upper: dumped(
        {(key.upper() if upper else key): value for key, value in [*(PLAUSIBLE.items() if plausible else ()), *members]}
    ),
    st.booleans(),
    st.lists(MEMBERS, max_size=4),
    st.booleans(),
)
REPEATED = st.sampled_from([b"[", b'{"name":', b"{", b'"', b"\xff"])
BODIES = st.one_of(
    OBJECTS,
    OBJECTS,
    OBJECTS,
    TREES.map(dumped),
    st.binary(max_size=60),
    st.builds(
        lambda body, at, cut: body[:at] + cut + body[at + 1 :], OBJECTS, st.integers(0, 100), st.binary(max_size=3)
    ),
    st.builds(lambda piece, count: piece * count, REPEATED, st.integers(0, 9000)),
    st.builds(
        lambda key, size: b'{"%b": "%b"}' % (key.encode(), b"x" * size),
        st.sampled_from(KEYS),
        st.sampled_from([1000, 70_000, 300_000]),
    ),
)
HEADERS = st.one_of(
    st.none(),
    st.none(),
    st.sampled_from(
        [b"NATS/1.0\r\n\r\n", b"NATS/1.0\r\ntraceparent: 00-1\r\n\r\n", b"NATS/1.0 503\r\n\r\n",
         b"NATS/1.0\r\nnonsense\r\n\r\n", b"NATS/1.0\r\nNats-Request-Info: {}\r\n\r\n", b"\xff\xfe", b"x",
         b"NATS/1.0\r\na: \xff\r\n\r\n", b"NATS/1.0\r\n: \r\n\r\n"]
    ),
)  # fmt: skip
# None: an inbox of our own, whose replies are counted.
REPLIES = st.one_of(
    st.none(),
    st.none(),
    st.none(),
    st.sampled_from(
        [b"", b".", b"a..b", b">", b"*", b"_INBOX.*", b"$memphis_station_creations", b"$JS.API.INFO", b"x" * 900,
         b"\xff", b"\0", b"$memphis_notifications", b"nobody.listens", b"a\x0bb", b"a\x0cb", b"a\x85"]
    ),
)  # fmt: skip


class Attack(NamedTuple):
    """One request."""

    subject: str
    body: bytes
    headers: Optional[bytes]
    reply: Optional[bytes]


ATTACKS = st.builds(Attack, st.sampled_from(LISTENED), BODIES.map(Body), HEADERS, REPLIES)


class Attacker:
    """One connection that writes frames by hand, so that nothing stands between the test and the server."""

    def __init__(self, broker: BrokerProcess) -> None:
        self._broker = broker
        self._loop = asyncio.new_event_loop()
        self._numbers = itertools.count(1)
        self.replies: dict[int, list[bytes]] = {}
        self.sent = Counter[str]()
        self._came: asyncio.Condition  # made in the loop, for Python 3.9
        self._loop.run_until_complete(self._connect())

    async def _connect(self) -> None:
        self._came = asyncio.Condition()
        self._reader, self._writer = await asyncio.open_connection(self._broker.host, self._broker.port, limit=1 << 24)
        hello = {"user": "root", "pass": self._broker.password, "name": "fuzz::root", "verbose": False, "headers": True}
        await self._reader.readline()
        self._writer.write(b"CONNECT %b\r\nSUB fuzz.* 1\r\nPING\r\n" % json.dumps(hello).encode())
        assert await self._reader.readline() == b"PONG\r\n"
        self._reading = self._loop.create_task(self._read())

    async def _read(self) -> None:
        try:
            await self._read_all()
        finally:
            async with self._came:
                self._came.notify_all()

    async def _read_all(self) -> None:
        while line := await self._reader.readline():
            words = line.split()
            if words[0] in (b"MSG", b"HMSG"):
                data = await self._reader.readexactly(int(words[-1]) + 2)
                self.replies.setdefault(int(words[1].split(b".")[1]), []).append(data[:-2])
                async with self._came:
                    self._came.notify_all()
            elif words[0] == b"PING":
                self._writer.write(b"PONG\r\n")
            else:
                raise AssertionError(line)

    def run(self, attacks: list[Attack]) -> dict[int, Attack]:
        """Sends them all at once, and waits until each that must be answered is."""
        return self._loop.run_until_complete(self._run(attacks))

    async def _run(self, attacks: list[Attack]) -> dict[int, Attack]:
        sent: dict[int, Attack] = {}
        for attack in attacks:
            number = next(self._numbers)
            reply = b"fuzz.%d" % number if attack.reply is None else attack.reply
            self.sent[attack.subject] += 1
            self._write(attack, reply)
            if attack.reply is None and attack.subject not in WITHOUT_REPLY:
                sent[number] = attack
        await self._writer.drain()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._all_came(sent), ANSWER_S)
        if self._reading.done():
            raise AssertionError("the server ended the connection") from self._reading.exception()
        missing = [attack for number, attack in sent.items() if number not in self.replies]
        assert not missing, f"no reply within {ANSWER_S:g} s: {missing}"
        return sent

    async def _all_came(self, sent: Collection[int]) -> None:
        async with self._came:
            await self._came.wait_for(lambda: self._reading.done() or all(number in self.replies for number in sent))

    def _write(self, attack: Attack, reply: bytes) -> None:
        blank = b" " if reply else b""
        subject = attack.subject.encode()
        if attack.headers is None:
            self._writer.write(b"PUB %b %b%b%d\r\n%b\r\n" % (subject, reply, blank, len(attack.body), attack.body))
            return
        size = len(attack.headers) + len(attack.body)
        line = b"HPUB %b %b%b%d %d\r\n" % (subject, reply, blank, len(attack.headers), size)
        self._writer.write(line + attack.headers + attack.body + b"\r\n")

    def close(self) -> None:
        async def end() -> None:
            self._reading.cancel()
            self._writer.close()
            await self._writer.wait_closed()

        self._loop.run_until_complete(end())
        self._loop.close()


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[BrokerProcess]:
    """A broker that is attacked; a session's broker is left in peace."""
    with BrokerProcess(BrokerOptions(port=0, ephemeral=True), timeout_s=30) as broker:
        yield broker


def rss_mb(pid: int) -> float:
    found = re.search(r"VmRSS:\s*(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) / 1024


def check(attack: Attack, reply: bytes) -> None:
    """One reply: empty, a text, or an object with an error; short; and never a success for what is no object."""
    assert len(reply) < 10_000, attack
    if reply.startswith(b"{"):
        assert isinstance(json.loads(reply).get("error"), str), (attack, reply)
    else:
        reply.decode()
    try:
        is_object = isinstance(json.loads(attack.body.decode("utf-8", "replace")), (dict, type(None)))
    except (ValueError, RecursionError):
        is_object = False
    if not is_object:
        assert reply, f"a success for {attack}"
        assert not reply.startswith(b"{") or json.loads(reply)["error"], attack


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [60, pytest.param(200, marks=pytest.mark.large)])
def test_thousands_of_requests(fuzzed: BrokerProcess, rounds: int) -> None:
    attacker = Attacker(fuzzed)
    sizes: list[float] = []

    # No shrinking: what was not answered is named, and each smaller example would be waited for again.
    @settings(
        max_examples=rounds,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(st.lists(ATTACKS, min_size=AT_ONCE, max_size=AT_ONCE))
    def attack(attacks: list[Attack]) -> None:
        for number, request in attacker.run(attacks).items():
            check(request, attacker.replies[number][0])
        sizes.append(rss_mb(fuzzed.pid))

    try:
        attack()
    finally:
        attacker.close()
    assert sum(attacker.sent.values()) >= AT_ONCE * rounds
    assert set(attacker.sent) == set(LISTENED)
    assert [replies for replies in attacker.replies.values() if len(replies) > 1] == [], "two replies to one request"
    assert "Traceback" not in fuzzed.output()
    assert "could not be served" not in fuzzed.output()
    grown = sizes[-1] - sizes[len(sizes) // 4]
    assert grown < 12, f"the service grew by {grown:.1f} MB"
    with ControlClient(fuzzed) as control:
        assert control.station("afterwards", partitions_number=2) == ""
        assert control.consumer("afterwards").startswith("{")
        assert control.destroy_station("afterwards") == ""


def test_the_subjects_are_those_that_the_broker_listens_to(fuzzed: BrokerProcess) -> None:
    """A subject nobody serves would be answered by the server itself, at once, and test nothing."""
    assert {StationCreate.SUBJECT, DeadLetterAck.SUBJECT, Notification.SUBJECT} <= set(LISTENED)
    assert len(LISTENED) == len(set(LISTENED)) >= 13
    with ControlClient(fuzzed) as control:
        for subject in LISTENED:
            if subject not in WITHOUT_REPLY:
                assert control.raw(subject, b"{") != b"", subject  # raises where nobody answers


def test_any_reply_is_the_only_one(fuzzed: BrokerProcess) -> None:
    """Broken consumer requests get two replies from a Memphis broker; ours gives one."""
    attacker = Attacker(fuzzed)
    bodies: list[Any] = [
        {},
        {"name": ""},
        {"name": "c", "station_name": "a b"},
        {"name": "c", "station_name": ""},
        [],
        1,
    ]
    try:
        sent = attacker.run([Attack(ConsumerCreate.SUBJECT, dumped(body), None, None) for body in bodies])
        attacker.run([Attack(StationDestroy.SUBJECT, b"{", None, None)])  # a second one would have come by now
        assert all(len(attacker.replies[number]) == 1 for number in sent)
    finally:
        attacker.close()


@pytest.mark.parametrize(
    ("headers", "reply"),
    [
        (b"x", None),
        (b"\xff\xfe", None),
        (b"NATS/1.0", None),
        (b"NATS/1.0 \xff\xff\xff\r\n\r\n", None),
        (b"NATS/1.0 503 \xff\r\n\r\n", None),
        (b"NATS/1.0\r\n\xff: 1\r\n\r\n", None),
        (None, b"a\xffb"),
        (None, b"a\x0bb"),
        (None, b"\0"),
        (b"x", b"\xff"),
    ],
)
def test_no_frame_silences_the_service(fuzzed: BrokerProcess, headers: Optional[bytes], reply: Optional[bytes]) -> None:
    """Each of these stopped nats-py's reader for good, or made it connect again."""
    attacker = Attacker(fuzzed)
    try:
        for subject in (StationCreate.SUBJECT, Notification.SUBJECT):
            attacker.run([Attack(subject, b"{", headers, reply), Attack(StationDestroy.SUBJECT, b"{", None, None)])
    finally:
        attacker.close()
    assert "was lost" not in fuzzed.output()
