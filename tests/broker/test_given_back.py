"""What a member gives back without having looked at it uses no delivery up."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dead_letter_client import LIMIT_S, DeadLetterClient, Delivery, Heard, owed, wait_until_owed

from memphis_sync._protocol.dead_letters import CountOwed, DeadLetterCountReply, GivenBack, MaxDeliveries
from memphis_sync.broker import BrokerOptions, BrokerProcess
from memphis_sync.broker.server.nats_server import NatsServer

ACK_MS = 1000


@pytest.fixture
def client(broker: BrokerProcess) -> Iterator[DeadLetterClient]:
    with DeadLetterClient(broker, connection_id="member") as connected:
        yield connected


def prepare(
    client: DeadLetterClient,
    station: str,
    *,
    messages: int = 1,
    deliveries: int = 2,
    ack_ms: int = ACK_MS,
    **settings: Any,
) -> None:
    assert client.station(station, **settings) == ""
    options = {"consumers_group": "g", "max_ack_time_ms": ack_ms, "max_msg_deliveries": deliveries}
    assert client.consumer(station, "c", **options).startswith("{")
    for number in range(messages):
        client.produce(station, b"%d" % number)


def notes(client: DeadLetterClient, station: str) -> list[bytes]:
    """What is written of each message that is owed."""
    found = []
    for subject in owed(client, station):
        message = client.jetstream("STREAM.MSG.GET.memphis_dead_letters", {"last_by_subj": subject})["message"]
        found.append(base64.b64decode(message["data"]))
    return found


def exhaust(client: DeadLetterClient, station: str, *, messages: int = 1, deliveries: int, given_back: int) -> None:
    """Has messages delivered as often as they may be; nobody looked at the first *given_back* deliveries of each."""
    left, deadline = messages * deliveries, time.monotonic() + LIMIT_S
    while left:
        taken = client.take(station, count=100)
        assert taken or time.monotonic() < deadline
        untouched = [delivery for delivery in taken if delivery.number <= given_back]
        assert client.give_back(station, *untouched) == ""
        for delivery in taken:
            if delivery.number > given_back:
                client.tell(delivery.reply, b"-NAK")
        left -= len(taken)
    client.knock(station, "g")


@pytest.mark.parametrize("retention", ["message_age_sec", "ack_based"])
def test_what_was_given_back_comes_again_instead_of_being_a_dead_letter(
    client: DeadLetterClient, station_name: str, retention: str
) -> None:
    heard = Heard(client, station_name)
    prepare(client, station_name, messages=3, retention_type=retention)
    exhaust(client, station_name, messages=3, deliveries=2, given_back=2)
    seen = set()
    while len(seen) < 3:
        heard.wait_for(len(seen) + 1)
        for data, number, _ in heard.messages[len(seen) :]:
            seen.add(data)
            client.acknowledge(number)
    assert seen == {b"0", b"1", b"2"}
    wait_until_owed(client, 0, station_name)
    assert client.letters(station_name) == []
    assert len(heard.messages) == 3


@pytest.mark.parametrize(("deliveries", "given_back"), [(1, 1), (2, 1), (2, 2), (5, 3)])
def test_each_delivery_that_somebody_looked_at_counts(
    client: DeadLetterClient, station_name: str, deliveries: int, given_back: int
) -> None:
    heard = Heard(client, station_name)
    prepare(client, station_name, deliveries=deliveries)
    exhaust(client, station_name, deliveries=deliveries, given_back=given_back)
    times = [when for _, _, when in heard.wait_for(given_back)]
    (row,) = client.wait_for(station_name, 1)
    assert (row.sequence, row.groups) == (1, ("g",))
    assert len(heard.messages) == given_back
    assert {number for _, number, _ in heard.messages} == {row.id}, "it has the id that its dead letter has"
    assert all(after - before >= ACK_MS / 1000 - 0.05 for before, after in zip(times, times[1:])), times
    wait_until_owed(client, 0, station_name)


def test_a_message_that_was_never_given_back_is_a_dead_letter_as_ever(
    client: DeadLetterClient, station_name: str
) -> None:
    heard = Heard(client, station_name)
    prepare(client, station_name, messages=2, deliveries=1)
    first, second = client.take(station_name, count=2)
    client.give_back(station_name, first)
    client.tell(second.reply, b"-NAK")
    client.knock(station_name, "g")
    (row,) = client.wait_for(station_name, 1)
    assert row.sequence == 2
    ((data, number, _),) = heard.wait_for(1)
    assert data == b"0"
    client.acknowledge(number)
    wait_until_owed(client, 0, station_name)
    assert [row.sequence for row in client.letters(station_name)] == [2]


def test_the_same_delivery_given_back_twice_counts_once(client: DeadLetterClient, station_name: str) -> None:
    heard = Heard(client, station_name)
    prepare(client, station_name, deliveries=1)
    (delivery,) = client.take(station_name)
    other = Delivery(b"", "", 7, 1)
    client.give_back(station_name, delivery, other, nak=False)
    client.give_back(station_name, delivery, nak=False)
    client.give_back(station_name, delivery)
    client.knock(station_name, "g")
    client.wait_for(station_name, 1)
    assert len(heard.messages) == 1


@pytest.mark.slow
def test_what_is_told_twice_is_owed_once(client: DeadLetterClient, station_name: str) -> None:
    """A copy of the service that is killed before it has noted its work leaves it to another, which does it again."""
    heard = Heard(client, station_name)
    prepare(client, station_name, messages=2, deliveries=1, ack_ms=5 * ACK_MS)  # time for the answer on a busy machine
    taken = client.take(station_name, count=2)
    client.give_back(station_name, *taken)
    client.knock(station_name, "g")
    heard.wait_for(2)
    answered, unanswered = heard.messages
    client.acknowledge(answered[1])
    wait_until_owed(client, 0, station_name)
    client.wait_until_idle()
    (row,) = client.wait_for(station_name, 1)
    assert row.id == unanswered[1]
    for sequence in (1, 2):
        advisory = MaxDeliveries(f"{station_name}$1", "g", sequence, 1)
        client.tell(f"{MaxDeliveries.SUBJECT}.{station_name}$1.g", advisory.encode())
    client.wait_until_idle()
    assert owed(client, station_name) == {}
    assert client.letters(station_name) == [row]
    assert len(heard.messages) == 2


def test_one_that_was_sent_again_and_given_back_does_not_count(client: DeadLetterClient, station_name: str) -> None:
    heard = Heard(client, station_name)
    prepare(client, station_name, deliveries=1)
    exhaust(client, station_name, deliveries=1, given_back=1)
    for times in range(1, 6):
        (*_, (_, number, _)) = heard.wait_for(times, ACK_MS / 1000 + LIMIT_S)
        assert client.give_back(station_name, resent=[number, number + 1000]) == ""
    assert client.letters(station_name) == []
    heard.wait_for(6)
    client.acknowledge(number)
    wait_until_owed(client, 0, station_name)
    assert client.letters(station_name) == []


def test_only_a_few_are_under_way_at_once(client: DeadLetterClient, station_name: str) -> None:
    """What waits in a member is lost with it, and would count."""
    heard = Heard(client, station_name)
    prepare(client, station_name, messages=30)
    exhaust(client, station_name, messages=30, deliveries=2, given_back=2)
    done = 0
    while done < 30:
        heard.wait_for(done + 1)
        assert len(heard.messages) - done <= 4 + 1, "one may have come since the last was acknowledged"
        client.acknowledge(heard.messages[done][1])
        done += 1
    wait_until_owed(client, 0, station_name)
    assert len({data for data, _, _ in heard.messages}) == 30
    assert client.letters(station_name) == []


def test_one_that_a_member_did_not_answer_is_under_way_alone(client: DeadLetterClient, station_name: str) -> None:
    """It may be what the member died with, and would take the others along."""
    heard = Heard(client, station_name)
    prepare(client, station_name, messages=10)
    exhaust(client, station_name, messages=10, deliveries=2, given_back=1)
    for done in range(10):
        heard.wait_for(done + 1)
        assert len(heard.messages) == done + 1
        assert sum(json.loads(note)["sent"] > 0 for note in notes(client, station_name)) == 1
        client.acknowledge(heard.messages[done][1])
    wait_until_owed(client, 0, station_name)
    assert len({data for data, _, _ in heard.messages}) == 10
    assert client.letters(station_name) == []


@pytest.mark.slow
def test_while_no_member_is_connected_nothing_counts(
    fresh_broker: Callable[..., BrokerProcess], tmp_path: Path
) -> None:
    """Nor is anything forgotten when both processes are killed meanwhile."""
    broker = fresh_broker(data_dir=tmp_path / "data")
    with DeadLetterClient(broker, connection_id="first") as client:
        prepare(client, "st", messages=10)
        exhaust(client, "st", messages=10, deliveries=2, given_back=2)
        wait_until_owed(client, 10)
    broker.kill()
    broker.start()
    with DeadLetterClient(broker, connection_id="onlooker") as client:
        heard = Heard(client, "st")
        client.run(asyncio.sleep(3 * ACK_MS / 1000))
        assert heard.messages == []
        assert client.letters("st") == []
        assert len(owed(client)) == 10
    with DeadLetterClient(broker, connection_id="second") as client:
        heard = Heard(client, "st")
        assert client.consumer("st", "c", consumers_group="g", max_ack_time_ms=5000).startswith("{")
        done = 0
        while done < 10:
            heard.wait_for(done + 1)
            if done == 5:
                broker_pid = broker.pid
                os.kill(broker_pid, signal.SIGSTOP)  # it hears of the answer later
                client.acknowledge(heard.messages[done][1])
                os.kill(broker_pid, signal.SIGCONT)
            else:
                client.acknowledge(heard.messages[done][1])
            done += 1
        wait_until_owed(client, 0, "st")
        assert client.letters("st") == []
        assert len(heard.messages) == 10


@pytest.mark.slow
def test_copies_of_the_service_send_each_once_and_replace_one_another(tmp_path: Path, until: Any) -> None:
    server = NatsServer(BrokerOptions(port=0), tmp_path / "nats")
    server.prepare()
    server.spawn()
    until(server.is_up)
    url = f"nats://root:memphis@127.0.0.1:{server.port}"
    copies = [BrokerProcess(BrokerOptions(nats=url), timeout_s=30) for _ in range(2)]
    try:
        for copy in copies:
            copy.start()
        with DeadLetterClient(copies[0], connection_id="member") as client:
            heard = Heard(client, "st")
            assert client.station("st") == ""
            # An answer that the killed copy had taken comes to the other one five seconds later.
            options = {"consumers_group": "g", "max_ack_time_ms": 15_000, "max_msg_deliveries": 1}
            assert client.consumer("st", "c", **options).startswith("{")
            for number in range(20):
                client.produce("st", b"%d" % number)
            exhaust(client, "st", messages=20, deliveries=1, given_back=1)
            for done in range(20):
                heard.wait_for(done + 1)
                if done == 10:
                    copies[0].kill()
                client.acknowledge(heard.messages[done][1])
            wait_until_owed(client, 0, "st")
            assert client.letters("st") == []
            assert sorted(int(data) for data, _, _ in heard.messages) == list(range(20))
    finally:
        for copy in copies:
            copy.stop()
        server.stop()


def test_a_group_that_is_gone_is_owed_nothing(client: DeadLetterClient, station_name: str) -> None:
    heard = Heard(client, station_name)
    prepare(client, station_name)
    exhaust(client, station_name, deliveries=2, given_back=2)
    heard.wait_for(1)
    assert client.destroy_consumer(station_name, "c") == ""
    wait_until_owed(client, 0, station_name)
    assert client.consumer(station_name, "c", consumers_group="g", max_ack_time_ms=ACK_MS, max_msg_deliveries=1)
    (delivery,) = client.take(station_name)
    client.tell(delivery.reply, b"-NAK")
    client.knock(station_name, "g")
    client.wait_for(station_name, 1)
    assert client.destroy_station(station_name) == ""
    wait_until_owed(client, 0, station_name)


def test_a_group_is_sent_nothing_while_a_member_leaves(client: DeadLetterClient, station_name: str) -> None:
    """What came when it listens no more would be lost, and use a delivery up."""
    heard = Heard(client, station_name)
    prepare(client, station_name, messages=12)
    exhaust(client, station_name, messages=12, deliveries=2, given_back=2)
    heard.wait_for(1)
    assert client.give_back(station_name, nak=False) == ""
    left = time.monotonic()
    before = len(heard.messages)
    done = 0
    while done < 12:
        client.acknowledge(heard.wait_for(done + 1)[done][1])
        done += 1
    assert before < 12
    assert heard.messages[before][2] - left > 0.9
    wait_until_owed(client, 0, station_name)
    assert client.letters(station_name) == []


def test_it_says_how_many_a_group_is_owed(client: DeadLetterClient, station_name: str) -> None:
    def ask(station: str, group: str) -> DeadLetterCountReply:
        return client.send(CountOwed(station, group))

    assert "does not exist" in ask(station_name, "g").error
    heard = Heard(client, station_name)
    prepare(client, station_name, messages=3)
    assert ask(station_name, "g") == DeadLetterCountReply(0)
    exhaust(client, station_name, messages=3, deliveries=2, given_back=2)
    # From when JetStream has given it up, also while nothing is written yet; one may count twice while it is written.
    while (count := ask(station_name, "g").count) != 3:
        assert count > 3
    assert ask(station_name, "other").count == 0
    for done in range(3):
        client.acknowledge(heard.wait_for(done + 1)[done][1])
    wait_until_owed(client, 0, station_name)
    assert ask(station_name, "g").count == 0


def test_what_cannot_be_noted_is_refused(client: DeadLetterClient, station_name: str) -> None:
    def ask(request: GivenBack) -> str:
        return client.ask(request)

    assert "does not exist" in ask(GivenBack.of(station_name, "g", [(1, 1, 1)], []))
    prepare(client, station_name)
    assert "no delivery 1 of message 1 in 2" in ask(GivenBack.of(station_name, "g", [(2, 1, 1)], []))
    assert "no delivery 0 of message 1" in ask(GivenBack.of(station_name, "g", [(1, 1, 0)], []))
    assert "no delivery 1 of message 0" in ask(GivenBack.of(station_name, "g", [(1, 0, 1)], []))
    assert "equally many" in ask(GivenBack(station_name, "g", (1, 1), (1,), (1,)))
    assert "equally many" in ask(GivenBack.of(station_name, "g", [], [1] * 5001))
    assert ask(GivenBack.of(station_name, "g", [], [])) == ""
    assert ask(GivenBack.of(station_name, "g", [(1, n, 1) for n in range(1, 5001)], [])) == ""


def test_hostile_words_about_what_is_owed_stop_nothing(client: DeadLetterClient, station_name: str) -> None:
    heard = Heard(client, station_name)
    prepare(client, station_name, deliveries=1)
    for subject in ("owed.a", "owed.a.b.c", "owed.a.b.1", f"back.{station_name}.g.1.x", "done.a.b.c"):
        client.tell(f"memphis_dead_letters.{subject}", b"no JSON")
    client.tell(f"memphis_dead_letters.back.{station_name}.g.1.0-9-{'0' * 16}", b'[[1,"x"],5]')
    exhaust(client, station_name, deliveries=1, given_back=1)
    ((_, number, _),) = heard.wait_for(1)
    for group in ("", "*", ">", "a b", "g.*", "\0", "ü"):
        client.acknowledge(number, group)
    client.wait_until_idle()
    assert len(owed(client, station_name)) == 1
    client.acknowledge(number)
    wait_until_owed(client, 0, station_name)
    assert client.letters(station_name) == []
    assert client.jetstream("STREAM.PURGE.memphis_dead_letters", {"filter": "memphis_dead_letters.owed.a.>"})["success"]
