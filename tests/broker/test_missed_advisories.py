"""
What was given back comes again although JetStream has told nobody that it has had its deliveries: nats-server was
killed before it could, or found the ack time over at its start.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dead_letter_client import LIMIT_S, DeadLetterClient, Delivery, Heard, owed, wait_until_owed
from nats.errors import NoRespondersError

import memphis_sync
from memphis_sync._protocol.dead_letters import CountOwed
from memphis_sync.broker import BrokerOptions, BrokerProcess
from memphis_sync.broker.server.nats_server import NatsServer

pytestmark = pytest.mark.slow

STATION = "a"  # nats-server finds it at its start before the stream that keeps advisories: the order is that of names
ACK_MS = 1000
MESSAGES = 5  # in each partition


def prepare(client: DeadLetterClient, deliveries: int, partitions: int = 1, messages: int = MESSAGES) -> None:
    assert client.station(STATION, partitions_number=partitions) == ""
    join(client, deliveries)
    for partition in range(1, partitions + 1):
        for number in range(messages):
            client.produce(STATION, b"%d.%d" % (partition, number), partition=partition)


def join(client: DeadLetterClient, deliveries: int) -> None:
    options = {"consumers_group": "g", "max_ack_time_ms": ACK_MS, "max_msg_deliveries": deliveries}
    assert client.consumer(STATION, "c", **options).startswith("{")


def take(client: DeadLetterClient, count: int, number: int, partition: int = 1) -> list[Delivery]:
    """Takes messages at their *number*-th delivery."""
    found: list[Delivery] = []
    deadline = time.monotonic() + LIMIT_S
    while len(found) < count:
        assert time.monotonic() < deadline, found
        found += client.take(STATION, partition=partition, count=count - len(found))
    assert {delivery.number for delivery in found} == {number}
    return found


def restart_later(broker: BrokerProcess) -> None:
    """Both processes are killed, and start when the ack time of all that was delivered is over."""
    time.sleep(0.3)  # nats-server writes ten times a second what it has delivered; what it forgets comes by itself
    broker.kill()
    time.sleep(1.5 * ACK_MS / 1000)
    broker.start()


def answer(client: DeadLetterClient, heard: Heard, count: int) -> list[bytes]:
    """Answers so many as they come, and gives their payloads."""
    for done in range(count):
        client.acknowledge(heard.wait_for(done + 1)[done][1])
    wait_until_owed(client, 0)
    return sorted(data for data, *_ in heard.messages)


def deliver_and_give_back(
    client: DeadLetterClient, deliveries: int, looked_at: int, partitions: int = 1, *, is_sent_back: bool = True
) -> list[Delivery]:
    """
    Uses all deliveries up: the first *looked_at* fail in a handler, and all others are given back.

    Args:
        client: The member.
        deliveries: How many each message has.
        looked_at: How many of them a handler sees.
        partitions: Of the station.
        is_sent_back: Whether the server hears of the last one, after the control plane.

    Returns:
        The last deliveries.
    """
    last: list[Delivery] = []
    for number in range(1, deliveries + 1):
        for partition in range(1, partitions + 1):
            taken = take(client, MESSAGES, number, partition)
            if number <= looked_at:
                for delivery in taken:
                    client.tell(delivery.reply, b"-NAK")
            else:
                nak = number < deliveries or is_sent_back
                assert client.give_back(STATION, *taken, partition=partition, nak=nak) == ""
            last += taken if number == deliveries else []
    return last


def expect_all(client: DeadLetterClient, deliveries: int, partitions: int = 1) -> None:
    """A member that joins and reads is sent all messages, each once; none is a dead letter."""
    heard = Heard(client, STATION)
    join(client, deliveries)
    for partition in range(1, partitions + 1):
        client.knock(STATION, "g", partition=partition)
    expected = sorted(b"%d.%d" % (part, number) for part in range(1, partitions + 1) for number in range(MESSAGES))
    assert answer(client, heard, MESSAGES * partitions) == expected
    assert client.letters(STATION) == []


@pytest.mark.parametrize("is_sent_back", [True, False], ids=["killed after the NAK", "killed before the NAK"])
@pytest.mark.parametrize("partitions", [1, 3])
@pytest.mark.parametrize(("deliveries", "looked_at"), [(1, 0), (2, 1)])
def test_what_was_given_back_before_a_kill_comes_again(
    fresh_broker: Callable[..., BrokerProcess],
    tmp_path: Path,
    deliveries: int,
    looked_at: int,
    partitions: int,
    is_sent_back: bool,
) -> None:
    broker = fresh_broker(data_dir=tmp_path / "data")
    with DeadLetterClient(broker, connection_id="first") as client:
        prepare(client, deliveries, partitions)
        deliver_and_give_back(client, deliveries, looked_at, partitions, is_sent_back=is_sent_back)
    restart_later(broker)
    with DeadLetterClient(broker, connection_id="second") as client:
        expect_all(client, deliveries, partitions)


def test_what_is_settled_does_not_come_again(fresh_broker: Callable[..., BrokerProcess], tmp_path: Path) -> None:
    """Answered, a dead letter, or one that was dropped: a restart makes none of them owed again."""
    broker = fresh_broker(data_dir=tmp_path / "data")
    with DeadLetterClient(broker, connection_id="first") as client:
        prepare(client, 1, messages=3)
        heard = Heard(client, STATION)
        client.give_back(STATION, *take(client, 3, 1))
        client.knock(STATION, "g")
        ((_, answered, _), *_) = heard.wait_for(1)
        client.acknowledge(answered)
        dropped, _ = client.wait_for(STATION, 2)
        wait_until_owed(client, 0)
        assert client.drop(STATION, dropped.id).count == 1
        (letter,) = client.letters(STATION)
    for _ in range(2):
        restart_later(broker)
        with DeadLetterClient(broker, connection_id="second") as client:
            heard = Heard(client, STATION)
            join(client, 1)
            last = b"%d" % time.monotonic_ns()
            client.produce(STATION, last)
            client.give_back(STATION, *take(client, 1, 1), nak=False)
        restart_later(broker)
        with DeadLetterClient(broker, connection_id="third") as client:
            heard = Heard(client, STATION)
            join(client, 1)
            assert answer(client, heard, 1) == [last], "it is the only one that comes"
            assert client.letters(STATION) == [letter]


def test_what_a_member_kept_and_handled_does_not_come_again(
    fresh_broker: Callable[..., BrokerProcess], tmp_path: Path
) -> None:
    broker = fresh_broker(data_dir=tmp_path / "data")
    with DeadLetterClient(broker, connection_id="first") as client:
        prepare(client, 1, messages=4)
        taken = take(client, 4, 1)
        assert client.give_back(STATION, *taken[:2], nak=False, kept=True) == ""
        for delivery in taken[:2]:
            client.tell(delivery.reply, b"+ACK")
        assert client.give_back(STATION, *taken[2:], nak=False) == ""
    restart_later(broker)
    with DeadLetterClient(broker, connection_id="second") as client:
        heard = Heard(client, STATION)
        join(client, 1)
        assert answer(client, heard, 2) == [b"1.2", b"1.3"]
        assert client.letters(STATION) == []


def test_a_message_that_fails_again_is_a_dead_letter_once(
    fresh_broker: Callable[..., BrokerProcess], tmp_path: Path
) -> None:
    broker = fresh_broker(data_dir=tmp_path / "data")
    with DeadLetterClient(broker, connection_id="first") as client:
        prepare(client, 2, messages=2)
        for delivery in take(client, 2, 1):
            client.tell(delivery.reply, b"-NAK")
        client.give_back(STATION, *take(client, 2, 2))
    restart_later(broker)
    with DeadLetterClient(broker, connection_id="second") as client:
        heard = Heard(client, STATION)
        join(client, 2)
        client.knock(STATION, "g")
        rows = client.wait_for(STATION, 2)
        wait_until_owed(client, 0)
        assert sorted(row.sequence for row in rows) == [1, 2]
        assert sorted(data for data, *_ in heard.messages) == [b"1.0", b"1.1"]
        assert client.letters(STATION) == rows


@pytest.fixture
def server(tmp_path: Path, until: Any) -> Iterator[NatsServer]:
    """A nats-server whose control plane is a process that is started and killed by itself."""
    server = NatsServer(BrokerOptions(port=0), tmp_path / "nats")
    server.prepare()
    server.spawn()
    until(server.is_up)
    yield server
    server.stop()


def copy_of(server: NatsServer) -> BrokerProcess:
    return BrokerProcess(BrokerOptions(nats=f"nats://root:memphis@127.0.0.1:{server.port}"), timeout_s=30)


def restart_server_later(server: NatsServer, until: Any) -> None:
    """As restart_later(), for a server by itself."""
    time.sleep(0.3)
    os.kill(server.pid, signal.SIGKILL)
    until(lambda: server.exit_code() is not None)
    time.sleep(1.5 * ACK_MS / 1000)
    server.spawn()
    until(server.is_up)


@pytest.mark.parametrize("partitions", [1, 3])
@pytest.mark.parametrize(("deliveries", "looked_at"), [(1, 0), (2, 0), (2, 1), (3, 1)])
def test_what_was_given_back_comes_again_although_its_advisory_was_lost(
    server: NatsServer, until: Any, deliveries: int, looked_at: int, partitions: int
) -> None:
    """JetStream has counted, and its advisory is nowhere: as if the server was killed in between."""
    with copy_of(server) as copy, DeadLetterClient(copy, connection_id="first") as client:
        prepare(client, deliveries, partitions)
        last = deliver_and_give_back(client, deliveries, looked_at, partitions, is_sent_back=False)
        copy.kill()
        for delivery in last:
            client.tell(delivery.reply, b"-NAK")
        for partition in range(1, partitions + 1):
            client.knock(STATION, "g", partition=partition)
        deadline = time.monotonic() + LIMIT_S
        while client.jetstream("STREAM.INFO.memphis_dead_letter_intake")["state"]["messages"] < len(last):
            assert time.monotonic() < deadline, "JetStream has not told"
            client.run(asyncio.sleep(0.01))
        assert client.jetstream("STREAM.PURGE.memphis_dead_letter_intake")["success"]
    restart_server_later(server, until)
    with copy_of(server) as copy, DeadLetterClient(copy, connection_id="second") as client:
        expect_all(client, deliveries, partitions)


def test_while_jetstream_may_still_tell_nothing_is_decided(server: NatsServer) -> None:
    """The control plane alone was killed: JetStream has the message, and tells when somebody asks for more."""
    with copy_of(server) as copy:
        with DeadLetterClient(copy, connection_id="first") as client:
            prepare(client, 1)
            assert client.give_back(STATION, *take(client, MESSAGES, 1)) == ""
        copy.kill()
    with copy_of(server) as copy, DeadLetterClient(copy, connection_id="second") as client:
        heard = Heard(client, STATION)
        join(client, 1)
        client.run(asyncio.sleep(4 * ACK_MS / 1000))
        assert owed(client) == {}
        assert heard.messages == []
        client.knock(STATION, "g")
        assert len(answer(client, heard, MESSAGES)) == MESSAGES
        assert client.letters(STATION) == []


def test_several_copies_of_the_service_owe_each_message_once(server: NatsServer, until: Any) -> None:
    with copy_of(server) as copy, copy_of(server):
        with DeadLetterClient(copy, connection_id="first") as client:
            prepare(client, 1)
            assert client.give_back(STATION, *take(client, MESSAGES, 1)) == ""
        restart_server_later(server, until)
        with DeadLetterClient(copy, connection_id="second") as client:
            until(lambda: not owed_count_error(client))
            expect_all(client, 1)


def owed_count_error(client: DeadLetterClient) -> str:
    """Why nobody says how many messages the group is owed; "" when somebody does: the service is back."""
    try:
        return client.send(CountOwed(STATION, "g")).error
    except NoRespondersError as exc:
        return str(exc)


@pytest.mark.parametrize("partitions", [1, 3])
@pytest.mark.parametrize("deliveries", [1, 2])
def test_a_loop_that_was_left_before_a_kill_loses_nothing(
    fresh_broker: Callable[..., BrokerProcess], tmp_path: Path, deliveries: int, partitions: int
) -> None:
    broker = fresh_broker(data_dir=tmp_path / "data")
    options = {"max_ack_time_ms": ACK_MS, "max_msg_deliveries": deliveries}
    everything = {b"%d" % number for number in range(200)}
    seen: set[bytes] = set()
    with memphis_sync.connect(broker.url, timeout_ms=20_000) as client:
        client.station(STATION, partitions_number=partitions)
        assert client.producer(STATION, "p").produce_many(sorted(everything)).delivered == 200
        for _ in range(deliveries):
            with client.consumer(STATION, "w", "g", **options) as consumer:
                for message in consumer:
                    with message:
                        seen.add(bytes(message.data))
                    if len(seen) % 40 == 39:
                        break
    assert len(seen) < 200
    restart_later(broker)
    with memphis_sync.connect(broker.url, timeout_ms=20_000) as client:
        consumer = client.consumer(STATION, "w", "g", **options)
        deadline = time.monotonic() + 60
        while len(seen) < 200:
            assert time.monotonic() < deadline, f"{len(seen)} of 200 handled"
            for message in consumer.fetch(100, timeout_s=0.5):
                seen.add(bytes(message.data))
                message.ack()
        assert seen == everything
        assert {bytes(letter.data) for letter in client.dls(STATION)} <= seen
