"""produce/stream: a result for each line in order while the body is still coming, in memory that does not grow."""

from __future__ import annotations

import contextlib
import functools
import gzip
import http.client
import json
import socket
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, Optional

import brotli
import pytest
from programs import check_arrived

from memphis_sync.http.gateway.decoding import decoding_of
from memphis_sync.http.gateway.settings import GatewaySettings
from memphis_sync.http.gateway.streaming import Lines

LIMIT_S = 60.0
LINES = 20_000  # a million by hand: bench/http_throughput.py --lines
GROWTH_KIB = 100 * 1024


class Talk:
    """
    A request whose body is written, and whose answer is read, as a test likes.

    Args:
        gateway: Where to.
        station: Which station.
        headers: Instead of, and beside the usual ones.
        query: Of the path.
    """

    def __init__(self, gateway: Any, station: str, headers: Optional[dict[str, str]] = None, query: str = "") -> None:
        sent = {
            "Host": "gateway",
            "Authorization": f"Bearer {gateway.token()}",
            "Content-Type": "application/x-ndjson",
            "Transfer-Encoding": "chunked",
            **(headers or {}),
        }
        head = f"POST /stations/{station}/produce/stream{query} HTTP/1.1\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in sent.items())
        self.socket = socket.create_connection((gateway.host, gateway.port), LIMIT_S)
        self.socket.sendall(f"{head}\r\n".encode())
        self._answer: Optional[http.client.HTTPResponse] = None

    def send(self, data: bytes) -> None:
        """A part of the body; an empty one ends it."""
        self.socket.sendall(b"%x\r\n%b\r\n" % (len(data), data))

    @property
    def answer(self) -> http.client.HTTPResponse:
        """The answer, from its head on."""
        if self._answer is None:
            self._answer = http.client.HTTPResponse(self.socket, method="POST")
            self._answer.begin()
        return self._answer

    def result(self) -> Any:
        """The next line of the answer; None at its end."""
        line = self.answer.readline()
        return json.loads(line) if line else None

    def rest(self) -> list[Any]:
        """All lines that are left."""
        return [json.loads(line) for line in self.answer.read().splitlines()]

    def close(self) -> None:
        """Goes away."""
        if self._answer is not None:
            self._answer.close()
        self.socket.close()


@pytest.fixture
def talk(gateway: Any, station_name: str) -> Iterator[Callable[..., Talk]]:
    """``talk(headers, query)`` begins a stream to the test's station."""
    with contextlib.ExitStack() as stack:

        def begin(headers: Optional[dict[str, str]] = None, query: str = "", station: str = station_name) -> Talk:
            begun = Talk(gateway, station, headers, query)
            stack.callback(begun.close)
            return begun

        yield begin


def stored(line: int, sequence: int) -> dict[str, Any]:
    return {"duplicate": False, "error": None, "line": line, "partition": 1, "seq": sequence, "success": True}


def test_a_result_comes_while_the_body_is_still_being_sent(
    talk: Callable[..., Talk], memphis: Any, station_name: str
) -> None:
    stream = talk()
    stream.send(b'{"a": 1.0}\n{"b":')
    assert stream.result() == stored(1, 1)
    assert stream.answer.getheader("Content-Type") == "application/x-ndjson"
    stream.send(b' 9007199254740993 }\r\n\n   \n"')
    assert stream.result() == stored(2, 2)
    stream.send("grün".encode() + b'"')
    stream.send(b"")
    assert stream.rest() == [stored(5, 3)], "the last line needs no line end; empty ones have no result"
    check_arrived(memphis, station_name, [b'{"a": 1.0}', b'{"b": 9007199254740993 }', '"grün"'.encode()])


def test_a_bad_line_has_its_own_result_and_the_stream_goes_on(
    gateway_inside: Callable[..., Any], broker: Any, memphis: Any, station_name: str
) -> None:
    gateway = gateway_inside(broker.url, "--body-limit", "2000")
    bad = [b"{", b"nothing", b"NaN", b"\xff", b"[" * 1900, b'"' + b"x" * 3000 + b'"', b"1 2"]
    lines = [line for each in bad for line in (b"1", each)]
    stream = Talk(gateway, station_name)
    for line in lines:  # in parts that are no lines
        stream.send(line[:1500])
        stream.send(line[1500:] + b"\n")
    stream.send(b"")
    results = stream.rest()
    stream.close()
    assert [result["line"] for result in results] == list(range(1, 15))
    assert [result["success"] for result in results] == [True, False] * 7
    assert [result["status"] for result in results[1::2]] == [400] * 5 + [413, 400]
    assert {result["outcome"] for result in results[1::2]} == {"not_sent"}
    assert "not UTF-8 (byte 0)" in results[7]["error"]
    assert results[11]["error"] == "the line has more than 2000 bytes"
    check_arrived(memphis, station_name, [b"1"] * 7)


def test_lines_of_text_are_stored_as_they_are(talk: Callable[..., Talk], memphis: Any, station_name: str) -> None:
    stream = talk({"Content-Type": "text/plain; charset=utf-8", "X-Colour": "red"})
    stream.send(b"hello\n\xff\x00\n")
    stream.send(b"")
    assert [result["seq"] for result in stream.rest()] == [1, 2]
    (first, _) = memphis.consumer(station_name, "reader").read_all()
    assert (first.data, first.headers["X-Colour"], first.headers["Content-Type"]) == (b"hello", "red", "text/plain")
    assert "Authorization" not in first.headers


def test_a_stream_that_is_sent_again_with_its_key_stores_nothing_twice(
    talk: Callable[..., Talk], memphis: Any, station_name: str
) -> None:
    for is_again in (False, True):
        stream = talk({"Idempotency-Key": "load-7"})
        stream.send(b"1\n2\n2\n")
        stream.send(b"")
        assert [(result["success"], result["duplicate"]) for result in stream.rest()] == [(True, is_again)] * 3
    check_arrived(memphis, station_name, [b"1", b"2", b"2"])


def test_what_was_accepted_of_a_client_that_goes_away_is_stored(
    talk: Callable[..., Talk], memphis: Any, station_name: str, until: Callable[..., Any]
) -> None:
    stream = talk()
    stream.send(b"1\n2\n3\n4")  # the last line is not whole
    assert stream.result() == stored(1, 1)
    stream.close()
    consumer = memphis.consumer(station_name, "watch")
    found: list[bytes] = []
    until(lambda: found.extend(each.data for each in consumer.fetch(10, timeout_s=1)) or len(found) >= 3)
    assert sorted(found) == [b"1", b"2", b"3"]
    assert [message.data for message in consumer.fetch(10, timeout_s=0.2)] == []


def test_a_client_that_reads_nothing_before_it_has_sent_all_gets_all(
    gateway: Any, memphis: Any, station_name: str
) -> None:
    """As most libraries do: the results, several MB, wait in the gateway, in a file."""
    body = b"".join(b"%d\n" % number for number in range(LINES))
    before = memory_kib(gateway.program.pid)
    answer = gateway.post(f"/stations/{station_name}/produce/stream", body, "application/x-ndjson")
    results = answer.body.splitlines()
    assert (answer.status, len(results)) == (200, LINES)
    assert [json.loads(line)["line"] for line in results[:: LINES // 100]] == list(range(1, LINES + 1, LINES // 100))
    assert all(b'"success":true' in line for line in results)
    assert memory_kib(gateway.program.pid) - before < GROWTH_KIB
    check_arrived(memphis, station_name, body.split())


def memory_kib(pid: int) -> int:
    """What a process has in memory now."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1])


@pytest.mark.parametrize(
    ("headers", "status", "words"),
    [
        ({"Content-Type": "application/json"}, 415, "it must be application/x-ndjson"),
        ({"Content-Type": ""}, 415, "the content type is missing"),
        ({"Content-Encoding": "zstd"}, 415, "content encoding 'zstd' is not supported here"),
        ({"Content-Encoding": "gzip, br"}, 415, "content encoding 'gzip, br' is not supported here"),
        ({"Memphis-Ack": "none"}, 400, "it must be 'all' here"),
        ({"Memphis-Timeout-Ms": "-1"}, 400, "timeout_ms is '-1'"),
        ({"$memphis_x": "1"}, 400, "should not start with $memphis"),
    ],
)
def test_a_stream_that_cannot_begin_is_an_answer(
    talk: Callable[..., Talk], headers: dict[str, str], status: int, words: str
) -> None:
    stream = talk(headers)
    stream.send(b"1\n")
    stream.send(b"")
    answer = stream.answer
    found = json.loads(answer.readline())
    if status == 400 and answer.status == 200:
        status, found["error"] = found["status"], found["error"]
    else:
        assert answer.status == status
    assert words in found["error"]


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "identity": bytes,
    "gzip": gzip.compress,
    "X-GZip": gzip.compress,
    "deflate": zlib.compress,
    "br": functools.partial(brotli.compress, quality=1),
}


@pytest.mark.parametrize("encoding", PACKED)
def test_a_packed_body_is_decoded_as_it_comes(talk: Callable[..., Talk], encoding: str) -> None:
    stream = talk({"Content-Encoding": encoding})
    body = PACKED[encoding](b"".join(b'{"n":%d,"x":"%s"}\n' % (number, b"x" * 90) for number in range(3000)))
    for begin in range(0, len(body), 5000):
        stream.send(body[begin : begin + 5000])
    stream.send(b"")
    results = stream.rest()
    assert [result["line"] for result in results if result["success"]] == list(range(1, 3001))


@pytest.mark.parametrize("encoding", [name for name in PACKED if name != "identity"])
def test_a_packed_body_that_is_broken_ends_and_says_where(talk: Callable[..., Talk], encoding: str) -> None:
    for ending in (b"", b"\xff\xfe is none of these"):
        stream = talk({"Content-Encoding": encoding})
        whole = PACKED[encoding](b"".join(b"%d\n" % number for number in range(5000)))
        stream.send(whole[: len(whole) // 2] + ending)
        stream.send(b"")
        *stored, last = stream.rest()
        if not ending:
            assert [result["line"] for result in stored] == list(range(1, len(stored) + 1))
        assert (last["status"], last["success"]) == (400, False)
        assert f"not valid {encoding.lower()}" in last["error"]


@pytest.mark.parametrize("encoding", ["gzip", "br"])
def test_little_that_becomes_much_is_one_bad_line_in_bounded_memory(encoding: str) -> None:
    pieces = decoding_of([encoding]).feed(PACKED[encoding](bytes(20_000_000)))
    lines, most = Lines(1000), 0
    for piece in pieces:
        assert lines.feed(piece) == []
        most = max(most, len(piece))
    assert (most <= 2**17, lines.end()) == (True, [None])


def test_without_a_token_nothing_is_read(gateway: Any, station_name: str) -> None:
    answer = gateway.request(
        "POST", f"/stations/{station_name}/produce/stream", b"1\n", {"Content-Type": "application/x-ndjson"}
    )
    assert (answer.status, answer.json) == (401, {"message": "Unauthorized"})


def test_a_schema_violation_is_the_result_of_its_line(
    talk: Callable[..., Talk], memphis: Any, station_name: str
) -> None:
    memphis.station(station_name)
    schema = json.dumps({"type": "object", "required": ["id"]})
    memphis.create_schema(f"{station_name}-schema", "json", schema_content=schema)
    memphis.enforce_schema(f"{station_name}-schema", station_name)
    stream = talk()
    stream.send(b'{"id": 1}\n{"no": 1}\n{"id": 2}\n')
    stream.send(b"")
    results = stream.rest()
    assert [result["success"] for result in results] == [True, False, True]
    assert results[1]["status"] == 400
    assert results[1]["error"].startswith("Schema validation has failed: ")


def test_a_full_outbox_stops_the_reading_and_fails_nothing(
    broker: Any, gateway_inside: Callable[..., Any], memphis: Any, station_name: str
) -> None:
    gateway = gateway_inside(f"{broker.url}/?outbox_max_messages=16")
    body = b"".join(b"%d\n" % number for number in range(2000))
    answer = gateway.post(f"/stations/{station_name}/produce/stream", body, "application/x-ndjson")
    assert answer.body.count(b'"success":true') == 2000
    check_arrived(memphis, station_name, body.split())


def test_the_outbox_of_a_user_is_smaller_than_that_of_a_program() -> None:
    both = "outbox_max_bytes=16777216&outbox_max_messages=65536"
    for url, client_url in (
        ("memphis://h:1", f"memphis://h:1/?{both}"),
        ("memphis://h:1/", f"memphis://h:1/?{both}"),
        ("memphis://h:1/?wait_s=1", f"memphis://h:1/?wait_s=1&{both}"),
        ("memphis://h?outbox_max_bytes=65536", "memphis://h/?outbox_max_bytes=65536&outbox_max_messages=65536"),
    ):
        assert GatewaySettings(url).client_url == client_url
    assert "outbox_max_bytes=33554432" in GatewaySettings("memphis://h", body_limit=2**24).client_url


def test_a_station_that_is_destroyed_under_a_stream_is_said(
    talk: Callable[..., Talk], memphis: Any, station_name: str
) -> None:
    station = memphis.station(station_name)
    stream = talk()
    stream.send(b"1\n")
    assert stream.result() == stored(1, 1)
    station.destroy()
    stream.send(b"2\n")
    result = stream.result()
    assert (result["line"], result["success"]) == (2, False)
    assert result["status"] in (404, 500)
    stream.send(b"")
    assert stream.rest() == []
    again = talk()
    again.send(b"3\n")
    assert again.result()["success"] is True, "the next stream creates it, as a produce does"


def test_the_gateway_says_100_continue(talk: Callable[..., Talk]) -> None:
    stream = talk({"Expect": "100-continue"})
    assert stream.socket.recv(100, socket.MSG_PEEK).startswith(b"HTTP/1.1 100 ")
    stream.send(b"1\n")
    stream.send(b"")
    assert [result["line"] for result in stream.rest()] == [1]


@pytest.mark.parametrize("is_idle", [True, False])
def test_an_endless_stream_ends_with_the_gateway_and_says_where(
    fresh_gateway: Callable[..., Any], broker: Any, memphis: Any, station_name: str, *, is_idle: bool
) -> None:
    gateway = fresh_gateway(broker.url, "--end-s", "3000")
    stream = Talk(gateway, station_name)
    stream.send(b"1\n2\n3")
    assert [stream.result(), stream.result()] == [stored(1, 1), stored(2, 2)]
    gateway.program.terminate()
    if not is_idle:
        with contextlib.suppress(OSError):  # it has ended
            for _ in range(10_000):
                stream.send(b" ")
    *_, last = stream.rest()
    assert (last["line"], last["status"], last["success"]) == (2, 503, False)
    assert gateway.program.wait(LIMIT_S) == 0
    stream.close()
    check_arrived(memphis, station_name, [b"1", b"2"])
