"""A plain NATS connection that lets messages go wrong, and watches what the broker makes of it."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Optional

from control_client import ControlClient
from nats.aio.subscription import Subscription

from memphis_sync._protocol import subjects
from memphis_sync._protocol.dead_letter_headers import read_headers
from memphis_sync._protocol.dead_letters import (
    DeadLetterAck,
    DeadLetterCountReply,
    DeadLetterData,
    DeadLetterDataReply,
    DeadLetterDrop,
    DeadLetterList,
    DeadLetterListReply,
    DeadLetterResend,
    DeadLetterRow,
    GivenBack,
    NackedDeadLetter,
    SchemaDeadLetter,
)
from memphis_sync._protocol.names import internal_name, stream_name
from memphis_sync.broker import BrokerProcess

HEADERS = {"$memphis_producedBy": "p", "$memphis_connectionId": "c-1", "kind": "test"}
LIMIT_S = 20.0


class Delivery(NamedTuple):
    """One that JetStream counts."""

    data: bytes
    reply: str
    sequence: int
    number: int


class DeadLetterClient(ControlClient):
    """What a consumer and a producer do that lose a message, without either."""

    def __init__(self, broker: BrokerProcess, **settings: Any) -> None:
        super().__init__(broker, **settings)
        self._knocks: list[Subscription] = []  # kept: without its inbox JetStream forgets the question

    def produce(
        self, station: str, data: bytes, *, partition: int = 1, headers: Optional[Mapping[str, str]] = HEADERS
    ) -> int:
        """Stores a message, and gives its sequence."""
        subject = f"{internal_name(station)}${partition}.final"

        async def send() -> dict[str, Any]:
            assert self.connection is not None
            reply = await self.connection.request(subject, data, timeout=10, headers=headers and dict(headers))
            return dict(json.loads(reply.data))

        return int(self.run(send())["seq"])

    def pull(self, station: str, group: str, *, partition: int = 1, count: int = 1) -> None:
        """Takes messages, and never says a word about them."""
        stream = stream_name(internal_name(station), partition)

        async def take() -> None:
            assert self.connection is not None
            inbox = self.connection.new_inbox()
            subscription = await self.connection.subscribe(inbox)
            body = json.dumps({"batch": count}).encode()
            call = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{internal_name(group)}"
            await self.connection.publish(call, body, reply=inbox)
            for _ in range(count):
                message = await subscription.next_msg(LIMIT_S)
                assert "Status" not in (message.headers or {}), message.headers
            await subscription.unsubscribe()

        self.run(take())

    def take(self, station: str, group: str = "g", *, partition: int = 1, count: int = 1) -> list[Delivery]:
        """Takes messages that are there, up to *count*."""
        call = f"$JS.API.CONSUMER.MSG.NEXT.{stream_name(internal_name(station), partition)}.{internal_name(group)}"

        async def ask() -> list[Delivery]:
            assert self.connection is not None
            subscription = await self.connection.subscribe(inbox := self.connection.new_inbox())
            await self.connection.publish(call, json.dumps({"batch": count, "no_wait": True}).encode(), reply=inbox)
            found: list[Delivery] = []
            while len(found) < count:
                message = await subscription.next_msg(LIMIT_S)
                if "Status" in (message.headers or {}):
                    break
                meta = message.metadata
                found.append(Delivery(message.data, message.reply, meta.sequence.stream, meta.num_delivered))
            await subscription.unsubscribe()
            return found

        return self.run(ask())

    def give_back(
        self,
        station: str,
        *deliveries: Delivery,
        group: str = "g",
        partition: int = 1,
        resent: Sequence[int] = (),
        nak: bool = True,
        kept: bool = False,
    ) -> str:
        """Says that nobody has looked at them, and has them delivered again."""
        triples = [(partition, delivery.sequence, delivery.number) for delivery in deliveries]
        request = GivenBack.of(station, group, triples, resent, kept=kept)
        reply = self.ask(request)
        for delivery in deliveries if nak else ():
            self.tell(delivery.reply, b"-NAK")
        return reply

    def knock(self, station: str, group: str, *, partition: int = 1) -> None:
        """Asks for more, as a waiting consumer does: a message that was redelivered is found to be exhausted then."""
        call = f"$JS.API.CONSUMER.MSG.NEXT.{stream_name(internal_name(station), partition)}.{internal_name(group)}"

        async def ask() -> None:
            assert self.connection is not None
            inbox = self.connection.new_inbox()
            subscription = await self.connection.subscribe(inbox)
            await self.connection.publish(call, b'{"batch": 1, "expires": 5000000000}', reply=inbox)
            await self.connection.flush()
            self._knocks.append(subscription)

        self.run(ask())

    def tell(self, subject: str, body: bytes, headers: Optional[dict[str, str]] = None) -> None:
        """Publishes, and returns when the server has it."""

        async def send() -> None:
            assert self.connection is not None
            await self.connection.publish(subject, body, headers=headers)
            await self.connection.flush()

        self.run(send())

    def nack(self, station: str, sequence: int, group: str = "g", *, partition: int = 1, error: str = "no") -> None:
        report = NackedDeadLetter(internal_name(station), error, partition, group, sequence)
        self.tell(report.SUBJECT, report.encode())

    def schema_failure(self, station: str, data: str = "6869", **fields: Any) -> None:
        given = {"producer_name": "p", "headers": HEADERS, "validation_error": "wrong", **fields}
        report = SchemaDeadLetter(internal_name(station), data=data, **given)
        self.tell(report.SUBJECT, report.encode())

    def acknowledge(self, dead_letter_id: int, group: str = "g") -> None:
        self.tell(DeadLetterAck.SUBJECT, DeadLetterAck(dead_letter_id, group).encode())

    def page(self, station: str, **fields: Any) -> DeadLetterListReply:
        return self.send(DeadLetterList(station, self.user, **{"with_data": True, **fields}))

    def letters(self, station: str, **fields: Any) -> list[DeadLetterRow]:
        """All of a station's dead letters."""
        found: list[DeadLetterRow] = []
        after_id = 0
        while True:
            page = self.page(station, after_id=after_id, **fields)
            assert page.error == ""
            found += page.rows
            after_id = page.after_id
            if not after_id:
                return found

    def wait_for(self, station: str, count: int, *, groups: Optional[int] = None) -> list[DeadLetterRow]:
        """Waits until a station has so many dead letters, of so many groups together."""
        deadline = time.monotonic() + LIMIT_S
        while True:
            found = self.letters(station)
            if len(found) == count and (groups is None or sum(len(row.groups) for row in found) == groups):
                return found
            assert time.monotonic() < deadline, f"{len(found)} instead of {count}: {found}"
            self.run(asyncio.sleep(0.01))

    def wait_until_idle(self) -> None:
        """Waits until the broker has dealt with everything that was reported so far."""
        deadline = time.monotonic() + LIMIT_S
        while self.jetstream("STREAM.INFO.memphis_dead_letter_intake")["state"]["messages"]:
            assert time.monotonic() < deadline, "reports are left"
            self.run(asyncio.sleep(0.01))

    def piece(self, station: str, dead_letter_id: int, offset: int = 0) -> DeadLetterDataReply:
        return self.send(DeadLetterData(station, self.user, dead_letter_id, offset))

    def resend(self, station: str, *ids: int) -> DeadLetterCountReply:
        return self.send(DeadLetterResend(station, self.user, ids))

    def drop(self, station: str, *ids: int, kind: str = "") -> DeadLetterCountReply:
        return self.send(DeadLetterDrop(station, self.user, kind, ids))

    def received(self, subject: str, count: int, then: Any) -> list[tuple[bytes, dict[str, str]]]:
        """Subscribes, beside any consumers, calls *then*, and gives the messages that came: payload and headers."""

        async def listen() -> Any:
            assert self.connection is not None
            subscription = await self.connection.subscribe(subject)
            await self.connection.flush()
            return subscription

        subscription = self.run(listen())
        then()

        async def collect() -> list[tuple[bytes, dict[str, str]]]:
            messages = [await subscription.next_msg(LIMIT_S) for _ in range(count)]
            await self.connection.flush()  # type: ignore[union-attr]
            assert subscription.pending_msgs == 0, "more came than were expected"
            await subscription.unsubscribe()
            return [(message.data, dict(message.headers or {})) for message in messages]

        return self.run(collect())

    def stored(self, stream: str) -> list[tuple[bytes, dict[str, str]]]:
        """What a stream holds: payload and headers of each message."""
        state = self.jetstream(f"STREAM.INFO.{stream}")["state"]
        found = []
        for sequence in range(state["first_seq"], state["last_seq"] + 1):
            message = self.jetstream(f"STREAM.MSG.GET.{stream}", {"seq": sequence})["message"]
            block, data = (base64.b64decode(message.get(part) or "") for part in ("hdrs", "data"))
            found.append((data, read_headers(block)))
        return found


class Heard:
    """What comes on the subject where messages are sent to a group again."""

    def __init__(self, client: DeadLetterClient, station: str, group: str = "g") -> None:
        self._client = client
        self.messages: list[tuple[bytes, int, float]] = []

        async def hear(message: Any) -> None:
            number = int((message.headers or {})["$memphis_pm_id"])
            self.messages.append((message.data, number, time.monotonic()))

        async def listen() -> None:
            assert client.connection is not None
            await client.connection.subscribe(subjects.dls(station, group), cb=hear)
            await client.connection.flush()

        client.run(listen())

    def wait_for(self, count: int, limit_s: float = LIMIT_S) -> list[tuple[bytes, int, float]]:
        deadline = time.monotonic() + limit_s
        while len(self.messages) < count:
            assert time.monotonic() < deadline, f"{self.messages} instead of {count}"
            self._client.run(asyncio.sleep(0.01))
        return self.messages


def owed(client: DeadLetterClient, station: str = "*") -> dict[str, int]:
    pattern = f"memphis_dead_letters.owed.{station}.>"
    info = client.jetstream("STREAM.INFO.memphis_dead_letters", {"subjects_filter": pattern})
    return dict(info["state"].get("subjects") or {})


def wait_until_owed(client: DeadLetterClient, count: int, station: str = "*") -> None:
    deadline = time.monotonic() + LIMIT_S
    while len(owed(client, station)) != count:
        assert time.monotonic() < deadline, owed(client, station)
        client.run(asyncio.sleep(0.01))
