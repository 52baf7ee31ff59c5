"""Connections: what is whole is answered in one step, and nobody can tell."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

import pytest

from memphis_sync.http.gateway.app import create_app
from memphis_sync.http.gateway.settings import GatewaySettings

LIMIT_S = 60.0


class Raw:
    """A connection on which bytes are sent as they are."""

    def __init__(self, gateway: Any, station: str) -> None:
        self._socket = socket.create_connection((gateway.host, gateway.port), LIMIT_S)
        self._file = self._socket.makefile("rb")
        self._line = f"POST /stations/{station}/produce/single HTTP/"
        self._rest = f"Host: x\r\nContent-Type: text/plain\r\nAuthorization: Bearer {gateway.token()}\r\n"

    def close(self) -> None:
        """Ends it."""
        self._file.close()
        self._socket.close()

    def request(self, body: bytes, *headers: str, version: str = "1.1") -> bytes:
        """One request."""
        more = "".join(f"{header}\r\n" for header in (*headers, f"Content-Length: {len(body)}"))
        return f"{self._line}{version}\r\n{self._rest}{more}\r\n".encode() + body

    def send(self, data: bytes) -> None:
        """Sends bytes."""
        self._socket.sendall(data)

    def answer(self) -> tuple[bytes, dict[bytes, bytes], bytes]:
        """The next answer: its first line, its headers, its body."""
        first, headers = self._file.readline().strip(), {}
        while line := self._file.readline().strip():
            name, _, value = line.partition(b": ")
            assert name not in headers, line
            headers[name.lower()] = value
        return first, headers, self._file.read(int(headers.get(b"content-length", b"0")))

    def is_closed(self) -> bool:
        """Whether the other side ends it, without a byte more."""
        return self._file.read(1) == b""


@pytest.fixture
def raw(gateway: Any, station_name: str) -> Any:
    with contextlib.closing(Raw(gateway, station_name)) as connection:
        yield connection


def test_requests_in_one_packet_are_answered_one_by_one(raw: Raw, memphis: Any, station_name: str) -> None:
    raw.send(b"".join(raw.request(b"%d" % number) for number in range(20)))
    answers = [raw.answer() for _ in range(20)]
    assert [first for first, _, _ in answers] == [b"HTTP/1.1 200 OK"] * 20
    assert [b'"seq":%d,' % number in body for number, (_, _, body) in enumerate(answers, 1)] == [True] * 20
    messages = memphis.consumer(station_name, "reader").read_all()
    assert [bytes(message.data) for message in messages] == [b"%d" % number for number in range(20)]


@pytest.mark.parametrize(
    ("headers", "version"),
    [
        (("Connection: close",), "1.1"),
        (("connection: keep-alive, CLOSE",), "1.1"),
        ((), "1.0"),
        (("Connection: keep-alive",), "1.0"),
    ],
)
def test_a_connection_that_ends_has_the_same_answer_and_ends(raw: Raw, headers: tuple[str, ...], version: str) -> None:
    raw.send(raw.request(b"first"))
    first, kept, _ = raw.answer()
    raw.send(raw.request(b"last", *headers, version=version))
    last, closed, body = raw.answer()
    assert raw.is_closed()
    assert closed.pop(b"connection") == b"close"
    for found in (kept, closed):
        assert found.pop(b"date").endswith(b"GMT")
    assert (last, closed) == (first, kept)
    assert b'"seq":2,' in body


@pytest.mark.parametrize("headers", [("Connection: upgrade", "Upgrade: h2c"), ("Expect: 100-continue",)])
def test_what_http_has_more_is_answered_as_before(raw: Raw, headers: tuple[str, ...]) -> None:
    for _ in range(2):
        raw.send(raw.request(b"x", *headers))  # with its body at once: nobody waits for leave
        assert raw.answer()[0] == b"HTTP/1.1 200 OK"


def test_a_body_in_pieces_and_one_in_chunks_are_taken_on_the_same_connection(
    raw: Raw, memphis: Any, station_name: str
) -> None:
    whole = raw.request(b"in pieces")
    for piece in (whole[:-9], whole[-9:-4], whole[-4:]):
        raw.send(piece)
    assert raw.answer()[0] == b"HTTP/1.1 200 OK"
    head = raw.request(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    raw.send(head + b"3\r\nin \r\n6\r\nchunks\r\n0\r\n\r\n" + raw.request(b"whole"))
    assert [raw.answer()[0] for _ in range(2)] == [b"HTTP/1.1 200 OK"] * 2
    messages = memphis.consumer(station_name, "reader").read_all()
    assert [bytes(message.data) for message in messages] == [b"in pieces", b"in chunks", b"whole"]


def test_nonsense_behind_an_answer_is_400_and_ends_the_connection(raw: Raw) -> None:
    raw.send(raw.request(b"x") + b"nonsense\r\n\r\n")
    assert [raw.answer()[0] for _ in range(2)] == [b"HTTP/1.1 200 OK", b"HTTP/1.1 400 Bad Request"]
    assert raw.is_closed()


def test_an_application_under_another_server_answers_the_same() -> None:
    """It has the interface of ASGI alone there."""
    sent = []

    async def ask() -> None:
        app = create_app(GatewaySettings(url="memphis://127.0.0.1:1"))
        scope = {"type": "http", "method": "GET", "path": "/Monitoring/STATUS/", "query_string": b"", "headers": []}

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b""}

        async def send(event: Any) -> None:
            sent.append(event)

        async with app.router.lifespan_context(app):
            await app(scope, receive, send)

    asyncio.run(ask())
    start, body = sent
    headers = dict(start["headers"])
    assert (start["status"], headers[b"access-control-allow-origin"]) == (200, b"*")
    assert headers[b"content-length"] == b"%d" % len(body["body"])
