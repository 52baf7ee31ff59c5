"""Answers that no broker gave: whoever sees a message sees where its answer goes, and can send there too."""

from __future__ import annotations

import json
import re
import socket
import threading

import pytest


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
@pytest.mark.parametrize("nonblocking", [True, False], ids=["bulk", "express"])
def test_a_forged_answer_to_a_message_holds_nobody_up(broker, memphis, station_name, body, nonblocking) -> None:
    """Whoever sees a message sees where its answer goes, and can send something else there, before the true one."""
    producer = memphis.producer(station_name, "p")
    stream = f"{station_name}$1".encode()
    told = []
    with open_as_root(broker) as sock:
        # Without its stream nobody answers a message but the test.
        sock.sendall(b"SUB %b.final 7\r\nSUB d 8\r\nPUB $JS.API.STREAM.DELETE.%b d 0\r\n\r\n" % (stream, stream))
        read_until(sock, b'"success":true')

        def produce() -> None:
            found = producer.produce(b"x", nonblocking=nonblocking, ack_wait_sec=60)
            told.append(found.result(60) if nonblocking else found)

        thread = threading.Thread(target=produce, name="test-produce")
        thread.start()
        seen = re.search(rb" (_INBOX\.\S+) \d+ \d+\r\n", read_until(sock, b"\r\n\r\nx\r\n"))
        assert seen is not None
        assert seen[1].rpartition(b".")[2].startswith(b"e") is not nonblocking
        answer = b'{"stream":"%b","seq":7}' % stream
        frames = [b"PUB %b %d\r\n%b\r\n" % (seen[1], len(each), each) for each in (body, answer)]
        sock.sendall(b"".join(frames) + b"PING\r\n")
        read_until(sock, b"PONG\r\n")
        thread.join(20)
    assert [ack.sequence for ack in told] == [7]
