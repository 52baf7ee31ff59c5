"""Messages that no broker sends, on subjects that every client listens to: the client goes on as if nothing were."""

from __future__ import annotations

import contextlib
import json
import random
import socket
from typing import TYPE_CHECKING

import pytest

import memphis_sync
from memphis_sync._protocol import subjects

if TYPE_CHECKING:
    from memphis_sync.types import LinkEvent

UPDATES = subjects.CLIENT_UPDATES.encode()
HEADERS = [
    b"x",
    b"\xff\xfe",
    b"NATS/1.0",
    b"NATS/1.0\r\n",
    b"NATS/1.0\r\n\r\n",
    b"NATS/1.0 \xff\xff\xff\r\n\r\n",
    b"NATS/1.0 \xff\xff\xff 12\r\n\r\n",
    b"NATS/1.0 503 \xff\r\n\r\n",
    b"NATS/1.0 100 Idle\r\n\r\n",
    b"NATS/1.0\r\n\xff: 1\r\n\r\n",
    b"NATS/1.0\r\n: \r\n\r\n",
    b"NATS/1.0\r\nnonsense\r\n\r\n",
    b"NATS/1.0\r\na: \xff\r\n\r\n",
]
REPLIES = [
    *(b"a\x0bb", b"a\x0cb", b"a\x85b", b"a\xc2\xa0b", b"a\x1cb", b"a\x1fb", b"a\xe2\x80\x83b", b"\0", b"a\0b"),
    *(b"a\xffb", b"\xff", b".", b"a..b", b">", b"*", b"_INBOX.*", b"x" * 900, b"$memphis_notifications"),
]
BODIES = [b"{}", b"", b"\xff[]", b"[" * 50_000, b"null", b'{"type":1e999}', b'{"type":"remove_station"}']


def frame_of(subject: bytes, reply: bytes, headers: bytes, body: bytes) -> bytes:
    """A frame written by hand; without headers a PUB."""
    reply = reply + b" " if reply else b""
    if not headers:
        return b"PUB %b %b%d\r\n%b\r\n" % (subject, reply, len(body), body)
    size = len(headers)
    return b"HPUB %b %b%d %d\r\n%b%b\r\n" % (subject, reply, size, size + len(body), headers, body)


def publish(broker, frames: bytes) -> None:
    """Sends them, and waits until the server has read them."""
    login = {"user": "root$1", "pass": broker.password, "name": "hostile::root", "headers": True, "verbose": False}
    with socket.create_connection((broker.host, broker.port), 10) as sock:
        sock.sendall(b"CONNECT %b\r\n%bPING\r\n" % (json.dumps(login).encode(), frames))
        said = b""
        while b"PONG\r\n" not in said:
            piece = sock.recv(4096)
            assert piece, said
            said += piece


@pytest.mark.parametrize(
    "frame",
    [
        *(frame_of(UPDATES, b"", headers, b"{}") for headers in HEADERS),
        *(frame_of(UPDATES, reply, b"", b"{}") for reply in REPLIES),
        *(frame_of(UPDATES, b"", b"", body) for body in BODIES),
        frame_of(UPDATES, b"\xff", b"x", b"\xff"),
    ],
)
def test_the_client_still_hears_the_broker(broker, station_name, frame) -> None:
    """Each of these stopped nats-py's reader for good, or made it connect again."""
    lost: list[LinkEvent] = []
    with memphis_sync.connect(broker.url, on_disconnect=lost.append) as client:
        client.station(station_name)
        publish(broker, frame)
        client.station(f"{station_name}-2")
        client.producer(station_name, "p").produce(b"x")
        assert client.ping(10) < 10
    assert lost == []


@pytest.mark.parametrize("reply", REPLIES)
def test_the_data_link_takes_any_reply_subject_that_a_server_delivers(broker, station_name, reply) -> None:
    """Whoever has seen where the acks go may publish there."""
    lost: list[LinkEvent] = []
    with memphis_sync.connect(broker.url, on_disconnect=lost.append) as client:
        producer = client.producer(station_name, "p")
        producer.produce(b"1")
        acks = b"_INBOX.%b.7" % client._session.data_link().core.token
        publish(broker, frame_of(acks, reply, b"", b"{}") + frame_of(acks, reply, HEADERS[-1], b"x"))
        assert producer.produce(b"2").sequence == 2
        assert client.ping(10) < 10
    assert lost == []


@pytest.mark.slow
def test_three_thousand_frames_on_all_that_a_client_listens_to(broker, station_name, until) -> None:
    """Drawn anew in each run from the parts above; the seed is in the output."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    lost: list[LinkEvent] = []
    with memphis_sync.connect(broker.url, on_disconnect=lost.append) as client:
        producer = client.producer(station_name, "p")
        client.consumer(station_name, "c")
        listened = [
            UPDATES,
            subjects.schema_updates(station_name).encode(),
            subjects.functions_updates(station_name).encode(),
            subjects.dls(station_name, "c").encode(),
        ]
        for _ in range(30):
            publish(
                broker,
                b"".join(
                    frame_of(
                        chance.choice(listened),
                        chance.choice([b"", *REPLIES]),
                        chance.choice([b"", *HEADERS]),
                        chance.choice([*BODIES, bytes(chance.randrange(256) for _ in range(20))]),
                    )
                    for _ in range(100)
                ),
            )
        assert client.ping(20) < 20
        client.station(f"{station_name}-2")
        with memphis_sync.connect(broker.url) as other:
            other.station(station_name).destroy()
        until(lambda: producer not in client._producers.values())
    assert lost == []


SAID = [
    *(b"PING\r\n", b"PONG\r\n", b"PONG\r\nPONG\r\n", b"+OK\r\n", b"-ERR 'x'\r\n", b"-ERR\r\n", b"-ERR \xff\r\n"),
    *(b"INFO {}\r\n", b"INFO []\r\n", b"INFO \xff\r\n", b'INFO {"connect_urls":["[::",7]}\r\n', b'INFO {"ldm":1}\r\n'),
    *(b"INFO " + b"[" * 20_000 + b"\r\n", b'INFO {"max_payload":-1}\r\n', b"x\r\n", b"\r\n", b"\0", b"M" * 70_000),
    *(b"MSG a 1 -1\r\n\r\n", b"MSG a x 0\r\n\r\n", b"MSG a 1 99999999999\r\n", b"HMSG a 1 9 2\r\nxx\r\n", b"MSG\r\n"),
    *(b"MSG a 18446744073709551615 0\r\n\r\n", b"MSG a\x0bb 1 a\x0cb 1\r\nx\r\n", b"msg  a\t1  2 \r\nxx\r\n"),
]


@pytest.mark.slow
def test_a_server_may_say_anything_on_both_links(broker, door_to, station_name, until) -> None:
    """Between what the broker says: the client takes it or connects again, and goes on. The seed is in the output."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    door = door_to(broker.host, broker.port)
    socks: list[socket.socket] = []

    def treat(visit) -> bool:
        socks.append(visit.sock)
        return True

    door.usual = treat
    with memphis_sync.connect(
        door.host, "root", password=broker.password, port=door.port, reconnect_interval_ms=20
    ) as client:
        producer = client.producer(station_name, "p")
        producer.produce(b"x")
        for words in [*([each] for each in SAID), *(chance.choices(SAID, k=5) for _ in range(30))]:
            for sock in socks[-2:]:
                with contextlib.suppress(OSError):  # it has just been given up
                    sock.sendall(b"".join(words))
            assert producer.produce(b"x", ack_wait_sec=60).sequence > 1
            until(client.is_connected)
        client.station(f"{station_name}-2")
        assert client.ping(20) < 20
        assert all(thread.is_alive() for thread in client._session.data_link()._threads)
