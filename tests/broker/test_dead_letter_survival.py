"""Dead letters outlive killed processes, are shared by copies of the service, and keep their ids."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
from dead_letter_client import LIMIT_S, DeadLetterClient
from nats.aio.client import Client

from memphis_sync._protocol.dead_letters import NackedDeadLetter
from memphis_sync.broker import BrokerOptions, BrokerProcess
from memphis_sync.broker.server.nats_server import NatsServer
from memphis_sync.broker.storage.dead_letter_stream import DeadLetterStream
from memphis_sync.broker.storage.dead_letters import DeadLetterRecord, DeadLetterStore
from memphis_sync.broker.storage.tables import ConflictError

T = TypeVar("T")


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[str]:
    """A nats-server without a control plane; its URL."""
    server = NatsServer(BrokerOptions(port=0), tmp_path / "nats")
    server.prepare()
    server.spawn()
    deadline = time.monotonic() + LIMIT_S
    while not server.is_up():
        assert time.monotonic() < deadline, server.failure()
        time.sleep(0.01)
    yield f"nats://root:memphis@127.0.0.1:{server.port}"
    server.stop()


def report(client: DeadLetterClient, station: str, sequence: int) -> None:
    """A report that the queue has: it acknowledges what is sent as a request."""
    body = NackedDeadLetter(station, "no", 1, "g", sequence).encode()
    assert b'"seq"' in client.raw(NackedDeadLetter.SUBJECT, body)


def prepare(client: DeadLetterClient, station: str, count: int) -> None:
    assert client.station(station) == ""
    assert client.consumer(station, "c", consumers_group="g", max_ack_time_ms=100, max_msg_deliveries=1).startswith("{")
    for number in range(count):
        client.produce(station, b"%d" % number)


@pytest.mark.slow
def test_kill_9_of_both_processes_loses_and_doubles_nothing(fresh_broker: Callable[..., BrokerProcess]) -> None:
    broker = fresh_broker()
    with DeadLetterClient(broker) as client:
        prepare(client, "st", 60)
        for sequence in range(1, 31):
            report(client, "st", sequence)
        known = client.wait_for("st", 30)
        for row in known[:10]:
            client.acknowledge(row.id)
        assert client.drop("st", *(row.id for row in known[10:15])).count == 5
        client.wait_for("st", 15)
        for sequence in range(31, 61):
            report(client, "st", sequence)
    broker.kill()
    broker.start()
    with DeadLetterClient(broker) as client:
        rows = client.wait_for("st", 45)
        client.wait_until_idle()
        assert rows == client.letters("st")
        assert rows[:15] == known[15:]
        assert sorted(row.sequence for row in rows) == list(range(16, 61))
        assert [(row.data or b"")[row.header_bytes :] for row in rows] == [b"%d" % (row.sequence - 1) for row in rows]
        assert client.drop("st").count == 45
    broker.kill()
    broker.start()
    with DeadLetterClient(broker) as client:
        assert client.letters("st") == []
        report(client, "st", 1)
        (row,) = client.wait_for("st", 1)
        assert row.id > rows[-1].id, "an id is never used again, also when nothing was left"


@pytest.mark.slow
def test_nothing_is_missed_while_no_copy_runs_and_copies_share_the_work(nats_server: str) -> None:
    """Two copies; both stopped while messages go wrong; both started again; one killed in the middle of its work."""
    copies = [BrokerProcess(BrokerOptions(nats=nats_server), timeout_s=30) for _ in range(2)]
    try:
        for copy in copies:
            copy.start()
        with DeadLetterClient(copies[0]) as client:
            prepare(client, "st", 200)
            for copy in copies:
                copy.stop()
            client.pull("st", "g", count=50)
            deadline = time.monotonic() + LIMIT_S
            while client.jetstream("STREAM.INFO.memphis_dead_letter_intake")["state"]["messages"] < 50:
                assert time.monotonic() < deadline, "JetStream has not told of all of them"
                time.sleep(0.02)
            for sequence in range(51, 61):
                report(client, "st", sequence)
            for copy in copies:
                copy.start()
            client.wait_for("st", 60)
            for sequence in range(61, 201):
                report(client, "st", sequence)
                if sequence == 150:
                    copies[0].kill()
            rows = client.wait_for("st", 200)
            client.wait_until_idle()
            assert client.letters("st") == rows
            assert sorted(row.sequence for row in rows) == list(range(1, 201))
            assert "error" not in client.jetstream("CONSUMER.INFO.memphis_dead_letter_intake.broker")
    finally:
        for copy in copies:
            copy.stop()


# ---- the store by itself: several copies at work on one dead letter -------------------------------------------------


@pytest.fixture
def with_stores(broker: BrokerProcess) -> Callable[[Callable[..., Awaitable[T]]], T]:
    """Runs a coroutine function with four stores, each on a connection of its own as copies of the service are."""

    def run(work: Callable[..., Awaitable[T]]) -> T:
        async def main() -> T:
            connections = [Client() for _ in range(4)]
            for connection in connections:
                await connection.connect(
                    f"nats://{broker.host}:{broker.port}", user="root", password=broker.password, allow_reconnect=False
                )
            try:
                return await work(
                    *(DeadLetterStore(DeadLetterStream(connection, 1, 3600)) for connection in connections)
                )
            finally:
                for connection in connections:
                    await connection.close()

        return asyncio.run(main())

    return run


def letter(station: str, *groups: str) -> DeadLetterRecord:
    now = time.time()
    return DeadLetterRecord(0, station, "poison", "1.7", 1, 7, "p", dict.fromkeys(groups, now), "", 1, 4, 0)


def test_copies_that_add_groups_at_once_agree_on_one_row(
    with_stores: Callable[..., DeadLetterRecord], station_name: str
) -> None:
    async def work(*stores: DeadLetterStore) -> DeadLetterRecord:
        puts = [stores[at % 4].put(letter(station_name, f"g{at}"), b"data") for at in range(24)]
        rows = await asyncio.gather(*puts)
        assert len({row.id for row in rows}) == 1
        ids = await stores[0].ids(station_name)
        assert ids == [rows[0].id]
        (row,) = await stores[1].rows(station_name, ids)
        assert await stores[2].data(row) == b"data"
        return row

    assert set(with_stores(work).groups) == {f"g{at}" for at in range(24)}


def test_nothing_is_lost_between_adding_and_removing(with_stores: Callable[..., None], station_name: str) -> None:
    """Copies add, acknowledge and drop at random; what is added after all of that is there, with its data."""

    async def churn(store: DeadLetterStore, seed: int) -> None:
        choice = random.Random(seed)
        for _ in range(25):
            group = choice.choice("abc")
            if choice.random() < 0.5:
                row = await store.put(letter(station_name, group), b"data")
                assert group in row.groups
            else:
                for row in await store.rows(station_name, await store.ids(station_name)):
                    if choice.random() < 0.5:
                        await store.remove_group(row, group, drop_empty=True, before=float("inf"))
                    else:
                        await store.drop(row)

    async def work(*stores: DeadLetterStore) -> None:
        for round_ in range(4):
            await asyncio.gather(*(churn(store, round_ * 4 + at) for at, store in enumerate(stores)))
            await stores[0].put(letter(station_name, "last"), b"data")
            rows = await stores[1].rows(station_name, await stores[1].ids(station_name))
            assert any("last" in row.groups for row in rows)
            for row in rows:
                assert await stores[2].data(row) == b"data"

    with_stores(work)


def test_a_copy_that_died_half_way_is_completed(with_stores: Callable[..., None], station_name: str) -> None:
    async def work(store: DeadLetterStore, other: DeadLetterStore, *_: DeadLetterStore) -> None:
        # It had the id, and wrote no more.
        dead_letter_id = await store._stream.write(f"at.{station_name}.1.7", b"", expected=0)
        assert await other.find(station_name, "1.7") is None
        row = await other.put(letter(station_name, "g"), b"data")
        assert row.id == dead_letter_id
        # It had marked the row as dropped, and removed nothing.
        await store._update(replace(row, is_dropped=True))
        assert await other.find(station_name, "1.7") is None
        assert await other.rows(station_name, [row.id]) == []
        again = await other.put(letter(station_name, "g"), b"data")
        assert again.id > row.id
        assert await other.ids(station_name) == [again.id]
        assert await other.data(row) is None

    with_stores(work)


def test_age(with_stores: Callable[..., None], station_name: str) -> None:
    """A row does not count beyond its time, and a group that comes late makes all of it young again."""

    async def work(store: DeadLetterStore, other: DeadLetterStore, *_: DeadLetterStore) -> None:
        row = await store.put(letter(station_name, "a"), b"data")
        old = await store._update(replace(row, stored=time.time() - 1800))
        renewed = await other.put(letter(station_name, "b"), b"data")
        assert (renewed.id, list(renewed.groups)) == (row.id, ["a", "b"])
        assert renewed.stored > old.stored + 1700
        assert renewed.at > row.at
        assert await store.find(station_name, "1.7") == renewed
        assert await store.find_by_id(row.id) == renewed
        with pytest.raises(ConflictError):
            await store._update(old)
        await store._update(replace(renewed, stored=time.time() - 3601))
        assert await other.find(station_name, "1.7") is None
        assert await other.find_by_id(row.id) is None
        assert (await other.put(letter(station_name, "c"), b"data")).id > row.id
        assert len(await other.ids(station_name)) == 1

    with_stores(work)
