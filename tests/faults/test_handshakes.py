"""A storm of late, endless and odd handshakes while messages are produced: none lost or twice, no thread dead."""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING

import pytest
from fault_ledger import Ledger, Watch, read_station
from fix_door import INFO, comes_late, held_back, is_silent, keeps_saying, passes, refuses, says

import memphis_sync

if TYPE_CHECKING:
    from fix_door import Treatment, Visit

    from memphis_sync.broker import BrokerProcess

CUTS = 30
# A verdict comes so seldom that five without a success between are out of the question.
WEATHER: list[tuple[int, Treatment]] = [
    (40, passes),
    (6, comes_late(to_client_s=0.3)),
    (6, comes_late(to_server_s=0.3)),
    (6, held_back(0.3)),
    (2, comes_late(to_server_s=4.0)),  # the clients' patience ends before
    (6, is_silent),
    (6, says()),
    (6, says(INFO)),
    (4, says(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")),
    (4, says(b'INFO {"a":' + b"[" * 20_000 + b"\r\n")),
    (4, says(b'INFO {"max_payload":"x"}\r\n')),
    (4, says(b'INFO {"max_payload":-5}\r\n')),
    (4, says(b"INFO \xff\xfe\r\n")),
    (4, keeps_saying(INFO, b"PING\r\n")),
    (4, keeps_saying(INFO, b"+OK\r\n")),
    (4, keeps_saying(INFO, INFO, pause_s=0.001)),
    (4, keeps_saying(b"", b"x", pause_s=0.05)),
    (4, refuses("Authentication Timeout")),
    (4, refuses("maximum connections exceeded")),
    (1, refuses("Authorization Violation")),
]


@pytest.mark.slow
@pytest.mark.parametrize("partitions", [1, 3])
def test_a_storm_of_handshakes(broker: BrokerProcess, door_to, station_name: str, until, partitions: int) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    lock = threading.Lock()

    def weather(visit: Visit) -> bool:
        with lock:
            treatment = chance.choices([each for _, each in WEATHER], [weight for weight, _ in WEATHER])[0]
        return treatment(visit)

    door = door_to(broker.host, broker.port)
    with memphis_sync.connect(
        door.host, "root", password=broker.password, port=door.port, timeout_ms=3000, reconnect_interval_ms=50
    ) as client:
        client.station(station_name, partitions_number=partitions)
        producer = client.producer(station_name, "p")
        producer.produce(b"m 9 0")
        threads = list(client._session.data_link()._threads)
        door.usual = weather
        over = threading.Event()
        with Watch(client):
            ledger = Ledger(
                producer, threads=3, messages=500, blocking_each=97, pause_s=0.0005, until=over, ack_wait_s=120
            ).start()
            for _ in range(CUTS):
                time.sleep(chance.uniform(0.02, 0.3))
                before = client.stats().reconnects
                door.cut()
                until(lambda before=before: client.stats().reconnects > before, 60)
            door.usual = passes
            over.set()
            ledger.join(120)
        until(client.is_connected)
        assert client.ping(20) < 20
        client.station(f"{station_name}-2")
        assert all(thread.is_alive() for thread in threads)
        assert client.stats().reconnects >= CUTS
    counts = ledger.check([row for row in read_station(broker, station_name) if row[2] != b"m 9 0"])
    print(f"{len(ledger.accepted)} messages, {door.visits} connections")
    assert counts == {"delivered": len(ledger.accepted)}
