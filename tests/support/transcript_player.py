"""
Plays the client's side of a recording against a broker, byte for byte, and collects what the broker sends.

The recorded frames go out in their order, on connections of their own, with the recorded names, inboxes and
subscription ids. A frame waits until everything that the recorded broker had sent on its connection before has come.
Recorded times count only where the server's clocks matter (``keeps_time``), and then at most GAP_S each; pulls wait at
most EXPIRES_NS. What the recorded broker made up (an ack subject's time, a dead letter's number) is replaced by what
ours said in its place.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from memphis_sync.broker import BrokerProcess

GAP_S = 1.3
EXPIRES_NS = 1_200_000_000
WAIT_S = 4.0  # for a frame that the recorded broker sent; then it counts as missing, and nothing waits for it again
_MESSAGES = ("MSG", "HMSG")
_EXPIRES = re.compile(rb'("expires": ?)(\d+)')


@dataclass
class Frame:
    """One line of a recording, or one frame that our broker sent."""

    op: str
    line: str = ""
    subject: str = ""
    reply: str = ""
    sid: str = ""
    headers: bytes = b""
    payload: bytes = b""

    @classmethod
    def recorded(cls, item: dict[str, Any]) -> Frame:
        encoded = item.get("payload_b64")
        payload = item.get("payload", "").encode() if encoded is None else base64.b64decode(encoded)
        if item["op"] == "-ERR":
            payload = item["error"].encode()
        if item["op"] == "INFO":
            payload = json.dumps(item["json"]).encode()
        return cls(
            item["op"], item.get("line", ""), item.get("subject", ""), item.get("reply", ""), str(item.get("sid", "")),
            item.get("headers", "").encode("latin-1"), payload,
        )  # fmt: skip

    def encode(self) -> bytes:
        """The frame's bytes; the sizes are those of what it holds now."""
        if self.op not in ("PUB", "HPUB"):
            return self.line.encode() + b"\r\n"
        reply = f" {self.reply}" if self.reply else ""
        sizes = f" {len(self.headers)}" if self.op == "HPUB" else ""
        line = f"{self.op} {self.subject}{reply}{sizes} {len(self.headers) + len(self.payload)}\r\n"
        return line.encode() + self.headers + self.payload + b"\r\n"

    @property
    def is_heartbeat(self) -> bool:
        return self.headers.startswith(b"NATS/1.0 100")


@dataclass
class Channel:
    """What came for one subscription (for one subject of it, where the subscription has a wildcard)."""

    about: str = ""  # the subject of the request whose replies come here; "" for other subscriptions
    recorded: list[Frame] = field(default_factory=list)
    ours: list[Frame] = field(default_factory=list)
    is_given_up: bool = False

    def take(self, frames: list[Frame], frame: Frame) -> None:
        """Adds a frame; heartbeats, of which there are as many as time allows, count once."""
        if not (frame.is_heartbeat and frames and frames[-1].is_heartbeat):
            frames.append(frame)


class Connection:
    """One recorded connection and ours in its place."""

    def __init__(self) -> None:
        self.channels: dict[tuple[str, str], Channel] = {}
        self.requests: dict[str, str] = {}  # reply subject: subject of the request
        self.is_ended = False  # by the broker
        self._subscriptions: dict[str, str] = {}
        self._pings = 0  # of our own, whose answers are not the recorded client's
        self._changed = asyncio.Condition()
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self._reading: asyncio.Task[None]

    async def open(self, host: str, port: int) -> None:
        self._reader, self._writer = await asyncio.open_connection(host, port, limit=1 << 24)
        self._reading = asyncio.create_task(self._read())

    def channel(self, frame: Frame) -> Channel:
        if frame.op not in _MESSAGES:
            key = (frame.op, "")
        else:
            pattern = self._subscriptions.get(frame.sid, "")
            key = (frame.sid, frame.subject if "*" in pattern or ">" in pattern else "")
        channel = self.channels.setdefault(key, Channel())
        channel.about = channel.about or self.requests.get(frame.subject, "")
        return channel

    def expect(self, frame: Frame) -> None:
        channel = self.channel(frame)
        channel.take(channel.recorded, frame)

    async def send(self, frame: Frame) -> None:
        if frame.op == "SUB":
            self._subscriptions[frame.sid] = frame.subject
        if frame.reply:
            self.requests[frame.reply] = frame.subject
        self._writer.write(frame.encode())
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()

    async def wait(self) -> None:
        """Until our broker has sent as much as the recorded one; what does not come is waited for once."""

        def behind() -> list[Channel]:
            return [
                channel
                for channel in self.channels.values()
                if not channel.is_given_up and len(channel.ours) < len(channel.recorded)
            ]

        async with self._changed:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait_for(lambda: self.is_ended or not behind()), WAIT_S)
        for channel in behind():
            channel.is_given_up = True

    async def flush(self) -> None:
        """What the broker has sent so far is here when this returns."""
        if self.is_ended:
            return
        self._pings += 1
        self._writer.write(b"PING\r\n")
        async with self._changed:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait_for(lambda: self.is_ended or not self._pings), WAIT_S)

    async def close(self) -> None:
        self._reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reading
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    async def ended(self) -> bool:
        """Whether the broker has closed the connection, or does within WAIT_S."""
        async with self._changed:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait_for(lambda: self.is_ended), WAIT_S)
        return self.is_ended

    async def _read(self) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while line := await self._reader.readline():
                frame = await self._frame(line.rstrip(b"\r\n"))
                if frame.op == "PING":
                    self._writer.write(b"PONG\r\n")
                    continue
                async with self._changed:
                    if frame.op == "PONG" and self._pings:
                        self._pings -= 1
                    else:
                        channel = self.channel(frame)
                        channel.take(channel.ours, frame)
                    self._changed.notify_all()
        self.is_ended = True
        async with self._changed:
            self._changed.notify_all()

    async def _frame(self, line: bytes) -> Frame:
        words = line.decode("latin-1").split()
        if words[0] not in _MESSAGES:
            return Frame(words[0], payload=line[len(words[0]) :].strip().strip(b"'"))
        size = int(words[-1])
        head = int(words[-2]) if words[0] == "HMSG" else 0
        content = await self._reader.readexactly(size + 2)
        numbers = 2 if words[0] == "HMSG" else 1
        reply = words[3] if len(words) == 4 + numbers else ""
        return Frame(words[0], "", words[1], reply, words[2], content[:head], content[head:-2])


class Player:
    """
    One recording.

    Attributes:
        connections: All that were opened, by number.
        unmatched_acks: Acks of messages that our broker has not sent, and which were left out.
        still_open: Connections that the recorded broker ended and ours did not.
    """

    def __init__(self, path: Path, broker: BrokerProcess, *, keeps_time: bool) -> None:
        self.path = path
        self.items = [json.loads(line) for line in path.read_text().splitlines()]
        self.connections: dict[int, Connection] = {}
        self.unmatched_acks: list[str] = []
        self.still_open: list[int] = []
        self._broker = broker
        self._keeps_time = keeps_time
        self._refused = {item["conn"] for item in self.items if item.get("error") == "connection refused"}
        self._open: dict[int, Connection] = {}

    async def play(self) -> None:
        last: Optional[float] = None
        try:
            for item in self.items:
                if item["op"] == "RESULT" or item.get("conn") in self._refused:
                    continue
                if item.get("dir") == "C" or item["op"] == "STEP":
                    if self._keeps_time and last is not None:
                        await asyncio.sleep(min(item["t"] - last, GAP_S))
                    last = item["t"]
                await self._one(item)
        finally:
            for connection in self._open.values():
                await connection.flush()
                await connection.close()

    async def _one(self, item: dict[str, Any]) -> None:
        op, number = item["op"], item.get("conn")
        if op == "STEP":
            for connection in self._open.values():
                await connection.wait()
            await self._step(item["text"])
        elif op == "OPEN":
            self.connections[number] = self._open[number] = Connection()
            await self._open[number].open(self._broker.host, self._broker.sdk_port or self._broker.port)
        elif op == "CLOSE":
            await self._closed(number, by_broker=item["dir"] == "S")
        elif item["dir"] == "S":
            if op not in ("PING", "+OK"):
                self._open[number].expect(Frame.recorded(item))
        elif op != "PONG":
            await self._open[number].wait()
            frame = self._translated(Frame.recorded(item))
            if frame is not None:
                await self._open[number].send(frame)

    async def _closed(self, number: int, *, by_broker: bool) -> None:
        connection = self._open.pop(number, None)
        if connection is None:
            return
        await connection.wait()
        if not by_broker:
            await connection.flush()
        elif not await connection.ended():
            self.still_open.append(number)
        await connection.close()

    def _translated(self, frame: Frame) -> Optional[Frame]:
        """The recorded client's frame with our broker's numbers in it; None when it has no place here."""
        if frame.subject.startswith("$JS.ACK."):
            ours = self._pairs().get(frame.subject)
            if ours is None:
                self.unmatched_acks.append(frame.subject)
                return None
            frame.subject = ours
        elif frame.subject.startswith("$JS.API.CONSUMER.MSG.NEXT."):
            frame.payload = _EXPIRES.sub(
                lambda match: match[1] + str(min(int(match[2]), EXPIRES_NS)).encode(), frame.payload
            )
        elif frame.subject == "$memphis_pm_acks":
            body = json.loads(frame.payload)
            number = self._pairs().get(f"id {body['id']}")
            if number is None:
                self.unmatched_acks.append(f"dead letter {body['id']}")
                return None
            frame.payload = json.dumps({**body, "id": int(number)}).encode()
        return frame

    def _channels(self) -> list[Channel]:
        return [channel for connection in self.connections.values() for channel in connection.channels.values()]

    def _pairs(self) -> dict[str, str]:
        """Recorded reply subjects and dead letters' ids, and ours in the same place."""
        pairs: dict[str, str] = {}
        channels = self._channels()
        ours = {delivery(frame.reply): frame.reply for channel in channels for frame in channel.ours if frame.reply}
        for channel in channels:
            for frame in channel.recorded:
                if frame.reply and delivery(frame.reply) in ours:
                    pairs[frame.reply] = ours[delivery(frame.reply)]
            for frame, other in zip(channel.recorded, channel.ours):
                pairs.update((f"id {old}", new) for old, new in zip(_dead_letter_ids(frame), _dead_letter_ids(other)))
        return pairs

    # ---- what happened beside the recorded connections --------------------------------------------------------------

    async def _step(self, text: str) -> None:
        if text.startswith("broker killed"):
            await self._deliveries_written()
            await asyncio.to_thread(self._broker.kill)
            await asyncio.to_thread(self._broker.start)
        elif text.startswith("station destroyed by a second client"):
            body = {"station_name": "gone", "username": "app"}
            assert await self.ask("$memphis_station_destructions", body) == b""
        elif text.startswith("REST resendPoisonMessages"):
            await self._resend()

    async def _deliveries_written(self) -> None:
        """
        Until the groups' files hold what was delivered: a server killed before that delivers it once more. The recorded
        one had 39 ms. Source: encodeConsumerState of nats-server's store.go; places under 128 are one byte each.
        """
        assert self._broker.data_dir is not None
        places: dict[tuple[str, str], bytes] = {}
        for frame in (frame for channel in self._channels() for frame in channel.ours if frame.reply):
            stream, group, _, of_stream, of_group = frame.reply.split(".")[2:7]
            place = bytes((int(of_group), int(of_stream)))
            places[stream, group] = max(place, places.get((stream, group), b""))
        for (stream, group), place in places.items():
            (file,) = self._broker.data_dir.rglob(f"streams/{stream}/obs/{group}/o.dat")
            for _ in range(500):
                if file.read_bytes()[4:6] == place:
                    break
                await asyncio.sleep(0.01)
            assert file.read_bytes()[4:6] == place, f"{file.name} of {group} never held the delivery of {place!r}"

    async def _resend(self) -> None:
        created = next(item for item in self.items if item.get("subject") == "$memphis_consumer_creations")
        body = {"station_name": json.loads(created["payload"])["station_name"], "username": "app"}
        for _ in range(200):
            listed = json.loads(await self.ask("$memphis_sync_dls_list", {**body, "type": "poison", "limit": 10}))
            if listed["rows"]:
                break
            await asyncio.sleep(0.05)
        assert listed["rows"], f"no dead letter: {listed}"
        reply = json.loads(await self.ask("$memphis_sync_dls_resend", body))
        assert reply["error"] == "", reply

    async def ask(self, subject: str, body: dict[str, Any]) -> bytes:
        """One request on a connection of its own."""
        connection = Connection()
        await connection.open(self._broker.host, self._broker.port)
        login = {"user": "app", "pass": "Passw0rd!", "name": "second::app", "verbose": False, "headers": True}
        await connection.send(Frame("CONNECT", f"CONNECT {json.dumps(login)}"))
        await connection.send(Frame("SUB", "SUB second 1", "second", sid="1"))
        await connection.send(Frame("PUB", subject=subject, reply="second", payload=json.dumps(body).encode()))
        channel = connection.channel(Frame("MSG", subject="second", sid="1"))
        channel.recorded.append(Frame("MSG"))
        await connection.wait()
        await connection.close()
        assert channel.ours, f"no reply on {subject}"
        return channel.ours[0].payload


def delivery(ack_subject: str) -> str:
    """What an ack subject is about: stream, group, deliveries and both sequences; not the time, nor what is pending."""
    return ack_subject.rpartition(".")[0].rpartition(".")[0]


def _dead_letter_ids(frame: Frame) -> list[str]:
    return re.findall(r"\$memphis_pm_id: (\d+)", frame.headers.decode("latin-1"))


def requests_of(path: Path) -> Counter[str]:
    """How often each subject is published to by the recorded client."""
    items = map(json.loads, path.read_text().splitlines())
    return Counter(item["subject"] for item in items if item["op"] in ("PUB", "HPUB"))
