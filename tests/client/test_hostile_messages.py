"""Messages that no broker sends, on subjects that every client listens to: the client goes on as if nothing were."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time

import pytest

from memphis_sync import ProduceError


def open_as_root(broker) -> socket.socket:
    """A connection whose frames are written by hand."""
    login = {"user": "root$1", "pass": broker.password, "name": "hostile::root", "headers": True, "verbose": False}
    sock = socket.create_connection((broker.host, broker.port), 10)
    sock.sendall(b"CONNECT %b\r\n" % json.dumps(login).encode())
    return sock


def read_until(sock: socket.socket, wanted: bytes) -> bytes:
    """What the server says up to some words of it, and a little more."""
    said = b""
    while wanted not in said:
        piece = sock.recv(4096)
        assert piece, said
        said += piece
    return said


def publish(broker, frame: bytes) -> None:
    """Sends a frame written by hand."""
    with open_as_root(broker) as sock:
        sock.sendall(b"%b\r\nPING\r\n" % frame)
        read_until(sock, b"PONG\r\n")


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


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":[\0',
        b'{"a":{"b":[[\0\0\0',
        b'{"error":{"a":[\0]}',
        b'{"seq":1,"a":[1,\0,2],"duplicate":[\0',
        b'{"a":\0}',
        b'{"a":"\\',
        b'{"a":' + b"[" * 500_000,
        b'{"a":"' + b'\\"' * 250_000,
        b"\0" * 1000,
        b"",
    ],
    ids=lambda body: repr(body[:24]),
)
@pytest.mark.parametrize("lane", [b"", b"e"], ids=["bulk", "express"])
def test_a_forged_answer_to_a_message_holds_nobody_up(broker, memphis, station_name, body, lane) -> None:
    """Whoever sees a message sees where its answer goes, and can send something else there."""
    producer = memphis.producer(station_name, "p")
    with open_as_root(broker) as sock:
        sock.sendall(b"SUB %b$1.final 7\r\nPING\r\n" % station_name.encode())
        read_until(sock, b"PONG\r\n")
        producer.produce(b"x")
        seen = re.search(rb" (_INBOX\.\w+\.)", read_until(sock, b"_INBOX."))
        assert seen is not None
        frames = [b"PUB %b%b%d %d\r\n%b\r\n" % (seen[1], lane, slot, len(body), body) for slot in range(2)]
        sock.sendall(b"".join(frames) + b"PING\r\n")
        read_until(sock, b"PONG\r\n")
    began = time.monotonic()
    bulk = producer.produce(b"y", nonblocking=True)
    with contextlib.suppress(ProduceError):  # the forged answer may be the first that it gets
        producer.produce(b"z")
    bulk.exception(10)
    producer.produce(b"end")
    assert time.monotonic() - began < 10
