"""A broker that serves TLS: what it says of itself, and that it goes on serving when its nats-server is replaced."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

import memphis_sync
from memphis_sync.broker import BrokerError


def test_it_prints_and_writes_a_url_with_tls(broker_with, authority, tmp_path: Path) -> None:
    broker = broker_with(authority.issue("127.0.0.1"))
    assert f"memphis+tls://root:memphis@127.0.0.1:{broker.port}\n" in broker.output()
    (ready,) = Path(broker._folder).glob("ready.json")
    assert json.loads(ready.read_text())["url"] == f"memphis+tls://127.0.0.1:{broker.port}"


@pytest.mark.parametrize("demands_certificates", [False, True])
def test_its_service_comes_back_with_its_server(
    broker_with, authority, station_name: str, demands_certificates: bool
) -> None:
    files = {}
    options = {}
    if demands_certificates:
        mine = authority.issue("me@example.org")
        files = {"cert_file": str(mine.cert), "key_file": str(mine.key)}
        options = {"tls_ca": Path(authority.file)}
    broker = broker_with(authority.issue("127.0.0.1"), **options)
    with memphis_sync.connect(broker.url, ca_file=authority.file, **files) as client:
        producer = client.producer(station_name, "p")
        assert producer.produce(b"one").sequence == 1
        first = broker.nats_pid
        os.kill(first, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while broker.nats_pid in {0, first} and time.monotonic() < deadline:
            time.sleep(0.01)
        assert producer.produce(b"two", ack_wait_sec=15).sequence == 2
        client.station(f"{station_name}-2")  # the service answers again


def test_a_key_of_another_certificate_is_told_at_once(broker_with, authority) -> None:
    made, other = authority.issue("127.0.0.1"), authority.issue("127.0.0.1")
    with pytest.raises(BrokerError, match="private key does not match"):
        broker_with(made._replace(key=other.key))
