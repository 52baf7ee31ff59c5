"""Produce while the server stops, dies and comes back: what was confirmed outlives it, and nothing is there twice."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from fault_ledger import Ledger, Watch, read_station

if TYPE_CHECKING:
    from collections.abc import Callable

    from fix_proxy import Proxy

    from memphis_sync import Memphis
    from memphis_sync.broker import BrokerProcess

WINDOW_MS = 600_000  # the station remembers ids for longer than any of these tests lasts


def kill_server(broker: BrokerProcess) -> None:
    """SIGKILL for nats-server alone; the broker starts another one on the same files."""
    pid = broker.nats_pid
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while broker.nats_pid in (pid, 0):
        assert time.monotonic() < deadline, "the broker did not replace its server"
        time.sleep(0.005)


@pytest.mark.slow
def test_a_stopped_server_that_goes_on(fresh_broker: Callable[..., BrokerProcess], through, station_name: str) -> None:
    broker = fresh_broker()
    client, _ = through(broker, both_links=True)
    producer = client.producer(station_name, "p")
    with Watch(client):
        ledger = Ledger(producer, threads=2, messages=4000, blocking_each=500, pause_s=0.0001).start()
        for _ in range(3):
            time.sleep(0.1)
            os.kill(broker.nats_pid, signal.SIGSTOP)
            time.sleep(0.3)
            os.kill(broker.nats_pid, signal.SIGCONT)
        ledger.join()
    assert ledger.check(read_station(broker, station_name)) == {"delivered": 8000}


@pytest.mark.parametrize("idempotent", [True, False], ids=["ids", "no-ids"])
def test_a_killed_server_on_files(
    fresh_broker: Callable[..., BrokerProcess],
    through,
    station_name: str,
    tmp_path: Any,
    until,
    idempotent: bool,
) -> None:
    broker = fresh_broker(data_dir=tmp_path / "data")
    client, _ = through(broker, both_links=True)
    client.station(station_name, partitions_number=2, idempotency_window_ms=WINDOW_MS)
    producer = client.producer(station_name, "p", idempotent=idempotent)
    with Watch(client):
        ledger = Ledger(producer, threads=2, messages=5000, blocking_each=250, pause_s=0.0001).start()
        for count in (1, 2):
            time.sleep(0.2)
            kill_server(broker)
            until(lambda count=count: client.stats().reconnects >= count)
        ledger.join(40)
    assert ledger.check(read_station(broker, station_name), duplicates=not idempotent) == {"delivered": 10_000}
    assert client.stats().reconnects >= 2


def _everything(
    broker: BrokerProcess,
    client: Memphis,
    proxy: Proxy,
    station: str,
    *,
    messages: int,
    cuts: int,
    stalls: int,
    kills: int,
) -> None:
    """
    Threads produce *messages*, or a few more, while cuts, stalls and kills come in random order, spread over the run.

    They go on until the last fault is over: each one hits a client that produces.
    """
    threads = 4
    over = threading.Event()
    client.station(station, partitions_number=3, idempotency_window_ms=WINDOW_MS)
    producer = client.producer(station, "p")
    chance = random.Random(messages)
    faults = ["cut"] * cuts + ["stall"] * stalls + ["kill"] * kills
    chance.shuffle(faults)
    ledger = Ledger(producer, threads=threads, messages=messages // threads, blocking_each=1000, until=over)
    with Watch(client) as watch:
        ledger.start()
        for number, fault in enumerate(faults, 1):
            share = messages * number // (len(faults) + 1)
            while ledger.is_producing and client.stats().delivered < share:
                time.sleep(0.001)
            assert ledger.is_producing, "no thread produces any more, though the faults are not over"
            if fault == "cut":
                proxy.cut()
            elif fault == "stall":
                proxy.stall()
                time.sleep(chance.uniform(0.05, 0.3))
                proxy.go_on()
            else:
                kill_server(broker)
        over.set()
        ledger.join(600)
    stats, produced = client.stats(), len(ledger.accepted)
    print(f"{produced} messages, {watch.samples} samples, {stats.reconnects} reconnects, {ledger.refused} times full")
    assert produced >= messages
    assert ledger.check(read_station(broker, station)) == {"delivered": produced}
    assert (stats.delivered, stats.failed, stats.abandoned, stats.queued, stats.in_flight) == (produced, 0, 0, 0, 0)
    assert stats.reconnects > 0


def test_everything_at_once(
    fresh_broker: Callable[..., BrokerProcess], through, station_name: str, tmp_path: Any
) -> None:
    broker = fresh_broker(data_dir=tmp_path / "data")
    client, proxy = through(broker, both_links=True, outbox_max_messages=2000)
    _everything(broker, client, proxy, station_name, messages=20_000, cuts=6, stalls=2, kills=1)


@pytest.mark.large
@pytest.mark.timeout(900)
def test_everything_at_once_at_full_size(
    fresh_broker: Callable[..., BrokerProcess], through, station_name: str, tmp_path: Any
) -> None:
    broker = fresh_broker(data_dir=tmp_path / "data")
    client, proxy = through(broker, both_links=True, outbox_max_messages=20_000)
    _everything(broker, client, proxy, station_name, messages=500_000, cuts=20, stalls=5, kills=3)
