"""Bodies: encodings, limits in bytes and in time, headers; and what is never stored."""

from __future__ import annotations

import functools
import gzip
import json
import random
import select
import socket
import time
import zlib
from collections.abc import Sequence
from typing import Any, Optional

import brotli
import pytest
from starlette.requests import Request

from memphis_sync import HeaderError
from memphis_sync.http.gateway.bodies import decoded
from memphis_sync.http.gateway.errors import Problem
from memphis_sync.http.gateway.headers import message_headers

LIMIT = 4 * 2**20
gzipped = functools.partial(gzip.compress, mtime=0)  # the same in each process: it is in names of tests
TEXT = b"the message \xff\x00" * 99


def bare(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


# ---- encodings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encodings", "body"),
    [
        ([], TEXT),
        (["identity"], TEXT),
        (["gzip"], gzipped(TEXT)),
        (["x-gzip"], gzipped(TEXT)),
        ([" GZip "], gzipped(TEXT[:500]) + gzipped(TEXT[500:])),
        (["deflate"], zlib.compress(TEXT)),
        (["deflate"], bare(TEXT)),
        (["br"], brotli.compress(TEXT)),
        (["deflate, gzip"], gzipped(zlib.compress(TEXT))),
        (["gzip", "identity, br"], brotli.compress(gzipped(TEXT))),
    ],
)
def test_a_body_is_decoded(encodings: list[str], body: bytes) -> None:
    assert decoded(encodings, body, LIMIT) == TEXT


def test_a_body_of_many_streams_in_many_pieces_is_decoded() -> None:
    parts = [random.Random(seed).randbytes(70_000) for seed in range(8)] + [b"", b"x"] * 40
    assert decoded(["gzip"], b"".join(map(gzipped, parts)), LIMIT) == b"".join(parts)


@pytest.mark.parametrize("name", ["gzip", "deflate"])
def test_streams_without_end_cost_no_more_than_their_bytes(name: str) -> None:
    empty = {"gzip": gzipped(b""), "deflate": zlib.compress(b"")}[name]
    began = time.process_time()
    with pytest.raises(Problem) as caught:
        decoded([name], empty * (LIMIT // len(empty)), LIMIT)
    assert caught.value.status == 400
    assert "more than 1000" in caught.value.body["error"]
    assert time.process_time() - began < 5  # half a minute and more when each end copies the rest


@pytest.mark.parametrize("name", ["gzip", "deflate", "br"])
def test_an_empty_message_is_decoded(name: str) -> None:
    packed = {"gzip": gzipped(b""), "deflate": zlib.compress(b""), "br": brotli.compress(b"")}[name]
    assert decoded([name], packed, LIMIT) == b""


@pytest.mark.parametrize(
    ("encodings", "body", "status"),
    [
        (["gzip"], b"", 400),
        (["gzip"], TEXT, 400),
        (["gzip"], gzipped(TEXT)[:-1], 400),
        (["gzip"], gzipped(TEXT)[:-8] + b"\0" * 8, 400),
        (["gzip"], gzipped(TEXT) + b"more", 400),
        (["deflate"], zlib.compress(TEXT)[:-1], 400),
        (["deflate"], b"\x78\x9c", 400),
        (["br"], brotli.compress(TEXT)[:-3], 400),
        (["br"], TEXT, 400),
        (["br"], brotli.compress(TEXT) + b"more", 400),
        (["br"], b"", 400),
        (["gzip, br"], gzipped(TEXT), 400),
        (["zstd"], TEXT, 415),
        (["gzip, x"], TEXT, 415),
        (["gzip," * 5], TEXT, 415),
        (["gzip"], gzipped(b"") * 1001, 400),
        (["gzip"], gzipped(b"")[:-1], 400),
        (["gzip"], gzipped(b"\0" * (LIMIT + 1)), 413),
        (["gzip"], gzipped(b"\0" * LIMIT) + gzipped(b"\0"), 413),
        (["deflate"], zlib.compress(b"\0" * (100 * LIMIT)), 413),
        (["br"], brotli.compress(b"\0" * (100 * LIMIT), quality=5), 413),
        (["gzip, gzip"], gzipped(gzipped(b"\0" * (100 * LIMIT))), 413),
    ],
)
def test_a_body_that_is_broken_or_a_bomb_is_refused(encodings: list[str], body: bytes, status: int) -> None:
    assert len(body) < LIMIT
    with pytest.raises(Problem) as caught:
        decoded(encodings, body, LIMIT)
    assert (caught.value.status, caught.value.body["success"]) == (status, False)


def test_the_limit_itself_is_allowed() -> None:
    for name, pack in (("gzip", gzipped), ("deflate", zlib.compress), ("br", brotli.compress)):
        assert len(decoded([name], pack(b"\0" * LIMIT), LIMIT)) == LIMIT, name


def test_an_encoded_body_is_stored_decoded_and_a_broken_one_not_at_all(
    gateway: Any, memphis: Any, station_name: str
) -> None:
    path = f"/stations/{station_name}/produce/single"
    good = gateway.post(path, gzipped(TEXT), "text/plain", {"Content-Encoding": "gzip"})
    bad = gateway.post(path, gzipped(TEXT)[:40], "text/plain", {"Content-Encoding": "gzip"})
    assert (good.status, bad.status, bad.json["success"]) == (200, 400, False)
    (message,) = memphis.consumer(station_name, "reader").read_all()
    assert (bytes(message.data), "Content-Encoding" in message.headers) == (TEXT, False)
    message.ack()


# ---- headers --------------------------------------------------------------------------------------------------------


def headers_of(*raw: tuple[str, str]) -> dict[str, str]:
    pairs = [(name.lower().encode("latin-1"), value.encode()) for name, value in raw]
    return dict(message_headers(Request({"type": "http", "headers": pairs})))


def test_headers_become_the_message_s_with_canonical_names() -> None:
    assert headers_of(
        ("x-my-header", "1"), ("x_under", "2"), ("User-Agent", "u"), ("X-My-Header", "second"), ("content-type", "a/b")
    ) == {"X-My-Header": "1", "X_under": "2", "User-Agent": "u", "Content-Type": "a/b"}


def test_what_is_about_the_login_or_the_connection_is_not_the_message_s() -> None:
    assert (
        headers_of(
            *(
                (name, "secret")
                for name in ("Authorization", "Cookie", "Proxy-Authorization", "Host", "Content-Length")
            ),
            *((name, "x") for name in ("Connection", "Keep-Alive", "TE", "Trailer", "Transfer-Encoding", "Upgrade")),
            *(
                (name, "x")
                for name in ("Expect", "Content-Encoding", "Idempotency-Key", "Msg-Id", "Memphis-Timeout-Ms")
            ),
            ("Connection", "close, X-Hop"),
            ("X-Hop", "named by it"),
        )
        == {}
    )


@pytest.mark.parametrize("name", ["$memphis_producedBy", "Nats-Msg-Id", "Nats-Rollup", "X-Msg-Id"])
def test_a_header_of_the_broker_s_own_is_refused(gateway: Any, memphis: Any, station_name: str, name: str) -> None:
    with pytest.raises(HeaderError):
        headers_of((name, "x"))
    for path, body in (("single", b"{}"), ("batch", b"[{}]")):
        answer = gateway.post(f"/stations/{station_name}/produce/{path}", body, "application/json", {name: "x"})
        assert (answer.status, answer.json["success"]) == (400, False)
    assert list(memphis.consumer(station_name, "reader").read_all()) == []


# ---- ids, times, partitions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Idempotency-Key", "Msg-Id"])
def test_a_message_with_an_id_is_stored_once(gateway: Any, memphis: Any, station_name: str, name: str) -> None:
    memphis.station(station_name, partitions_number=3)
    answers = [
        gateway.post(f"/stations/{station_name}/produce/single", b"x", "text/plain", {name: "the id"}).json
        for _ in range(3)
    ]
    assert [answer["duplicate"] for answer in answers] == [False, True, True]
    assert len({(answer["stream"], answer["seq"]) for answer in answers}) == 1
    assert len(list(memphis.consumer(station_name, "reader").read_all())) == 1


def test_a_partition_may_be_chosen(gateway: Any, memphis: Any, station_name: str) -> None:
    memphis.station(station_name, partitions_number=4)
    path = f"/stations/{station_name}/produce/single"
    by_number = gateway.post(f"{path}?partition_number=3", b"x", "text/plain").json
    by_key = [gateway.post(path, b"x", "text/plain", {"Memphis-Partition-Key": "k"}).json for _ in range(4)]
    assert by_number["partition"] == 3
    assert len({answer["partition"] for answer in by_key}) == 1


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        *((f"timeout_ms={value}", {}) for value in ("0", "-1", "x", "1.5", "3600001", "9" * 30, "%C2%B2")),
        ("ack=maybe", {}),
        ("partition_number=0", {}),
        ("partition_number=7", {}),
        ("partition_number=1&partition_key=k", {}),
        ("", {"Idempotency-Key": "one", "Msg-Id": "other"}),
        ("", {"Idempotency-Key": ""}),
        ("", {"Memphis-Timeout-Ms": "soon"}),
    ],
)
def test_an_option_that_is_not_allowed_is_refused(
    gateway: Any, memphis: Any, station_name: str, query: str, headers: dict[str, str]
) -> None:
    memphis.station(station_name, partitions_number=2)
    for kind, body in (("single", b"x"), ("batch", b"[1]")):
        answer = gateway.post(f"/stations/{station_name}/produce/{kind}?{query}", body, "application/json", headers)
        assert (answer.status, answer.json["success"]) == (400, False), answer
    assert list(memphis.consumer(station_name, "reader").read_all()) == []


# ---- limits ---------------------------------------------------------------------------------------------------------


class Raw:
    """A connection on which a test writes what no HTTP library would."""

    def __init__(self, gateway: Any) -> None:
        self.socket = socket.create_connection((gateway.host, gateway.port), timeout=60)

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self) -> tuple[int, Any]:
        """Status and body of the next answer; the connection is closed after it, or has more of them."""
        reader = self.socket.makefile("rb")
        status = int(reader.readline().split()[1])
        length: Optional[int] = None
        while line := reader.readline().strip():
            name, _, value = line.decode().partition(":")
            if name.lower() == "content-length":
                length = int(value)
            assert name.lower() != "content-type" or value.strip() == "application/json"
        body = reader.read(length)
        return status, json.loads(body) if body else None

    def is_closed(self) -> bool:
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def head(gateway: Any, station: str, *lines: str, method: str = "POST") -> bytes:
    first = f"{method} /stations/{station}/produce/single HTTP/1.1"
    every = [first, "Host: x", f"Authorization: Bearer {gateway.token()}", "Content-Type: text/plain", *lines]
    return "\r\n".join(every).encode() + b"\r\n\r\n"


def test_a_body_of_the_limit_is_stored_and_one_byte_more_is_not(fresh_broker: Any, gateway_inside: Any) -> None:
    gateway = gateway_inside(fresh_broker(max_payload=2**20).url, "--body-limit", "65536")
    path = "/stations/limits/produce/single"
    assert gateway.post(path, b"x" * 65536, "text/plain").status == 200
    # On a connection that goes on: its body was read, so that the client sees the answer.
    connection = gateway.connection()
    for size, status in ((65537, 413), (5 * 2**20, 413), (10, 200)):
        headers = {"Content-Type": "text/plain", "Authorization": f"Bearer {gateway.token()}"}
        connection.request("POST", path, b"x" * size, headers)
        answer = connection.getresponse()
        body = json.loads(answer.read())
        assert (answer.status, body["success"]) == (status, status == 200)
    connection.close()
    # Without a length, and with leave asked for.
    with Raw(gateway) as raw:
        raw.send(head(gateway, "limits", "Transfer-Encoding: chunked") + b"10001\r\n" + b"x" * 65537 + b"\r\n0\r\n\r\n")
        assert raw.answer()[0] == 413
    with Raw(gateway) as raw:
        raw.send(head(gateway, "limits", "Content-Length: 5000000000", "Expect: 100-continue"))
        assert raw.answer()[0] == 413
        assert raw.is_closed()
    with Raw(gateway) as raw:
        raw.send(head(gateway, "limits", "Content-Length: 5000000000"))
        assert raw.answer()[0] == 413
        assert raw.is_closed()
    assert gateway.post("/stations/limits/produce/single", b"x", "text/plain").json["seq"] == 3


@pytest.mark.parametrize("pieces", [1, 10])
def test_headers_over_the_limit(gateway: Any, memphis: Any, station_name: str, pieces: int) -> None:
    """All at once, and so that they never end."""
    memphis.station(station_name)
    sent = head(gateway, station_name, *(f"X-{number}: {'y' * 1000}" for number in range(20)), "Content-Length: 0")
    with Raw(gateway) as raw:
        if pieces > 1:
            sent = sent[:-4]  # and the end does not come
        size = len(sent) // pieces + 1
        drip(raw, [sent[at : at + size] for at in range(0, len(sent), size)])
        assert raw.answer() == (431, {"error": "Request Header Fields Too Large", "success": False})
        assert raw.is_closed()
    assert list(memphis.consumer(station_name, "reader").read_all()) == []


@pytest.fixture(scope="module")
def hasty(broker: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A gateway that does not wait for long."""
    from fix_gateway import Gateway

    options = ("--read-timeout-s", "1.5", "--body-timeout-s", "3", "--max-connections", "20")
    started = Gateway(broker.url, tmp_path_factory.mktemp("hasty"), *options)
    yield started
    started.program.close()


def drip(raw: Raw, pieces: Sequence[bytes]) -> None:
    """A piece now and then, until there is an answer."""
    for piece in pieces:
        raw.send(piece)
        if select.select([raw.socket], [], [], 0.1)[0]:
            return


def test_slow_headers_and_slow_bodies_end(hasty: Any, memphis: Any, station_name: str, until: Any) -> None:
    memphis.station(station_name)
    whole = head(hasty, station_name, "Content-Length: 50")
    with (
        Raw(hasty) as says_nothing,
        Raw(hasty) as half,
        Raw(hasty) as stalls,
        Raw(hasty) as drips,
        Raw(hasty) as crawls,
    ):
        half.send(whole[:60])
        stalls.send(whole + b"half a body")
        drips.send(whole)
        drip(drips, [b"x"] * 49)
        drip(crawls, [bytes([byte]) for byte in whole[:49]])
        for raw in (says_nothing, half, stalls, drips, crawls):
            status, told = raw.answer()
            assert (status, told["success"]) == (408, False)
            assert raw.is_closed()
    with Raw(hasty) as goes_away:
        goes_away.send(whole + b"half a body")
    path = f"/stations/{station_name}/produce/single"
    answer = until(lambda: each if (each := hasty.post(path, b"whole", "text/plain")).status == 200 else None)
    assert answer.json["seq"] == 1


def test_more_connections_than_there_may_be(hasty: Any, until: Any) -> None:
    idle = [Raw(hasty) for _ in range(20)]
    try:
        with Raw(hasty) as one_more:
            status, told = one_more.answer()
            assert (status, told["success"]) == (503, False)
            assert one_more.is_closed()
    finally:
        for raw in idle:
            raw.socket.close()

    def goes_on() -> bool:
        try:
            return hasty.request("GET", "/monitoring/status").status == 200
        except ConnectionError:
            return False

    until(goes_on)


def test_a_station_of_one_partition_takes_any_number(gateway: Any, memphis: Any, station_name: str) -> None:
    memphis.station(station_name)
    path = f"/stations/{station_name}/produce/single"
    assert gateway.post(path, b"x", "text/plain", {"Memphis-Partition-Number": "99"}).json["partition"] == 1
    assert memphis.produce(station_name, "p", b"x", producer_partition_number=99).partition == 1


def test_an_id_that_comes_again_with_another_body_is_a_duplicate(gateway: Any, memphis: Any, station_name: str) -> None:
    memphis.station(station_name)
    path = f"/stations/{station_name}/produce/single"
    answers = [gateway.post(path, body, "text/plain", {"Idempotency-Key": "k"}).json for body in (b"one", b"two")]
    assert [answer["duplicate"] for answer in answers] == [False, True]
    assert [message.data for message in memphis.consumer(station_name, "reader").read_all()] == [b"one"]


# ---- what is not HTTP, and what smuggles ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40),  # TLS
        b"GET\r\n\r\n",
        b"GET / HTTP/x\r\n\r\n",
        b"\r\n\r\n\r\n\0\r\n\r\n",
        b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /monitoring/status HTTP/1.1\r\n\r\n",  # without a host
        b"GET /monitoring/status HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n",
        b"GET /monitoring/status HTTP/1.1\r\nHost: x\r\nX\r\n\r\n",
        b"GET /monitoring/status HTTP/1.1\r\nHost: x\r\n: empty\r\n\r\n",
        b"GET /monitoring/status HTTP/1.1\r\nHost: x\r\nContent-Length : 3\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1_0\r\n\r\n",
    ],
)
def test_what_is_not_http_is_400_in_json(gateway: Any, data: bytes) -> None:
    with Raw(gateway) as raw:
        raw.send(data)
        status, told = raw.answer()
        assert (status, told["success"]) == (400, False)
        assert raw.is_closed()


@pytest.mark.parametrize(
    "smuggled",
    [
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\nxyz\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\nffffffffffffffffffffffff\r\n\r\n",
    ],
)
def test_a_second_request_is_not_smuggled_in_the_first(
    gateway: Any, memphis: Any, station_name: str, smuggled: str
) -> None:
    memphis.station(station_name)
    first = head(gateway, f"{station_name}-first")[:-2] + smuggled.encode()
    with Raw(gateway) as raw:
        raw.send(first + head(gateway, station_name, "Content-Length: 6") + b"inside")
        status, told = raw.answer()
        assert (status, told["success"]) == (400, False)
        assert raw.is_closed()
    assert list(memphis.consumer(station_name, "reader").read_all()) == []


def _lines(text: bytes, lf_at: int) -> bytes:
    """A head whose line *lf_at* ends with LF alone."""
    lines = text.split(b"\r\n")
    return b"".join(line + (b"\n" if at == lf_at else b"\r\n") for at, line in enumerate(lines[:-1])) + lines[-1]


_FOLDED = {
    "folded with a blank": ("X-A: 1\r\n 2", "each must be on one line"),
    "folded with a tab": ("X-A: 1\r\n\t2", "each must be on one line"),
    "a folded length": ("Content-Length:\r\n 5", "each must be on one line"),
    "folded, a line of blanks": ("X-A: 1\r\n   ", "each must be on one line"),
}


@pytest.mark.parametrize("way", ["at once", "in pieces", "behind another request"])
@pytest.mark.parametrize(
    "kind", ["first line", "second line", "last line", "empty line", "all lines", "a large body", *_FOLDED]
)
def test_heads_with_two_readings_are_400(gateway: Any, memphis: Any, station_name: str, kind: str, way: str) -> None:
    memphis.station(station_name)
    body = b"inside" * (4_000 if kind == "a large body" else 1)
    more, told = _FOLDED.get(kind, ("X-A: 1", "it must be CR LF"))
    data = head(gateway, station_name, f"Content-Length: {len(body)}", more)
    count = data.count(b"\r\n")
    places = {"first line": 0, "second line": 1, "last line": count - 2, "empty line": count - 1, "a large body": 1}
    if kind == "all lines":
        data = data.replace(b"\r\n", b"\n")
    elif kind in places:
        data = _lines(data, places[kind])
    first = head(gateway, station_name, "Content-Length: 2") + b"\n\n" if way == "behind another request" else b""
    with Raw(gateway) as raw:
        if way == "in pieces":
            raw.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for at in range(0, len(data), 3):
                raw.send(data[at : at + 3])
        else:
            raw.send(first + data + body)
        answers = raw.socket.makefile("rb").read().split(b"HTTP/1.1 ")[1:]
    assert [answer[:3] for answer in answers] == ([b"200"] if first else []) + [b"400"]
    headers, _, text = answers[-1].partition(b"\r\n\r\n")
    assert b"\r\nConnection: close" in headers
    assert told in json.loads(text)["error"]
    stored = [message.data for message in memphis.consumer(station_name, "reader").read_all()]
    assert stored == ([b"\n\n"] if first else [])


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"1;" + b"x" * 50_000 + b"\r\na\r\n0\r\n\r\n", "extensions"),
        (b"1;" + b"x" * 5_000 + b"\r\na\r\n0\r\n\r\n", "extensions"),
        ((b"1;" + b"x" * 100 + b"\r\na\r\n") * 100 + b"0\r\n\r\n", "extensions"),
        (b"1\r\na\r\n0;" + b"x" * 5_000 + b"\r\n\r\n", "extensions"),
        (b"1\r\na\r\n0\r\n\n", "CR LF"),
        (b"1\r\na\r\n0\r\nX: y\n\r\n", "CR LF"),
        (b"1\r\na\r\n0\r\nX: y\r\n z\r\n\r\n", "one line"),
    ],
)
def test_chunks_with_two_readings_are_400(
    gateway: Any, memphis: Any, station_name: str, body: bytes, told: str
) -> None:
    memphis.station(station_name)
    with Raw(gateway) as raw:
        raw.send(head(gateway, station_name, "Transfer-Encoding: chunked") + body)
        status, answer = raw.answer()
        assert (status, answer["success"]) == (400, False)
        assert told in answer["error"] or answer["error"] == "Invalid HTTP request received."  # as it came in parts
        assert raw.is_closed()
    assert list(memphis.consumer(station_name, "reader").read_all()) == []


def test_bodies_may_hold_what_heads_must_not(gateway: Any, memphis: Any, station_name: str) -> None:
    station = memphis.station(station_name)
    odd = b"GET / HTTP/1.1\nHost: x\n folded\n\n\r\n\n"
    signed = b"%x;chunk-signature=" % len(odd) + b"f" * 64 + b"\r\n" + odd + b"\r\n0\r\nX-Trailer: y\r\n\r\n"
    with Raw(gateway) as raw:
        raw.send(
            head(gateway, station_name, f"Content-Length: {len(odd)}")
            + odd
            + head(gateway, station_name, "Transfer-Encoding: chunked")
            + signed
            + head(gateway, station_name, f"Content-Length: {len(odd)}", "Connection: close")
            + odd
        )
        reader = raw.socket.makefile("rb")
        assert reader.read().count(b"HTTP/1.1 200") == 3
    assert [message.data for message in memphis.consumer(station.name, "reader").read_all()] == [odd] * 3
