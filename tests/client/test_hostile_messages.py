"""Messages that no broker sends, on subjects that every client listens to: the client goes on as if nothing were."""

from __future__ import annotations

import json
import socket
import time

import pytest


def publish(broker, frame: bytes) -> None:
    """Sends a frame written by hand."""
    login = {"user": "root$1", "pass": broker.password, "name": "hostile::root", "headers": True, "verbose": False}
    with socket.create_connection((broker.host, broker.port), 10) as sock:
        sock.sendall(b"CONNECT %b\r\n%b\r\nPING\r\n" % (json.dumps(login).encode(), frame))
        said = b""
        while b"PONG\r\n" not in said:
            piece = sock.recv(4096)
            assert piece, said
            said += piece


@pytest.mark.parametrize(
    "frame",
    [
        b"HPUB $memphis_sdk_clients_updates 1 3\r\nx{}",
        b"HPUB $memphis_sdk_clients_updates 8 10\r\nNATS/1.0{}",
        b"HPUB $memphis_sdk_clients_updates 19 21\r\nNATS/1.0 \xff\xff\xff 12\r\n\r\n{}",
        b"PUB $memphis_sdk_clients_updates a\xffb 2\r\n{}",
        b"PUB $memphis_sdk_clients_updates 3\r\n\xff[]",
    ],
)
def test_the_client_still_hears_the_broker(broker, memphis, station_name, frame) -> None:
    memphis.station(station_name)
    publish(broker, frame)
    began = time.monotonic()
    memphis.station(f"{station_name}-2")
    assert time.monotonic() - began < 10, "nats-py needs half a minute to find out that it is deaf"
    memphis.producer(station_name, "p").produce(b"x")
