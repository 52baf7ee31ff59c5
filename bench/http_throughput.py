"""
How much does a gateway take and give over HTTP, compared with an endpoint that does nothing, and with the client?

1, 16 and 64 keep-alive connections, each with one request after the other: single messages, batches, a message a line,
and consuming. The endpoint that does nothing is starlette's on uvicorn, in the same run, with the parser that uvicorn
chooses: h11, the gateway's own, unless httptools is installed. Batches are compared with produce_many() of the client,
and the memory during a long stream of lines with that of a gateway that has just started. cpu_us is what one message
took of a processor in the server's process: that of busy machines can be compared, too.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import _common

HERE = Path(__file__).parent
READY_S = 60.0
LIMIT_S = 120.0
BLOCK = 500  # lines in a chunk of a stream
STORED = b'"success":true}'


class Run(NamedTuple):
    """
    One run of many requests.

    Attributes:
        per_s: Requests a second.
        p50_ms, p99_ms: How long one took.
        cpu_us: What one took of a processor, in the server's process with all its threads.
    """

    per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float

    def figures(self, each: int = 1) -> dict[str, float]:
        """For the report; *each* is how many messages a request has."""
        return {
            "msgs_per_s": round(self.per_s * each),
            "p50_ms": round(self.p50_ms, 3),
            "p99_ms": round(self.p99_ms, 3),
            "cpu_us": round(self.cpu_us / each, 1),
        }


class Place(NamedTuple):
    """Where a server listens, and its process."""

    host: str
    port: int
    pid: int


def request(path: str, body: bytes, kind: str, token: str) -> bytes:
    """A whole request."""
    head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Authorization: Bearer {token}\r\n\r\n".encode() + body


class Connection:
    """One keep-alive connection, and what of its answer has come."""

    def __init__(self, place: Place) -> None:
        self.socket = socket.create_connection((place.host, place.port), LIMIT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.began_at = 0.0
        self._parts = b""

    def begin(self, data: bytes) -> None:
        """Sends a request."""
        self.began_at = time.perf_counter()
        self.socket.sendall(data)

    def take(self) -> bytes:
        """Reads; the body of the answer when that is whole, else b""."""
        data = self.socket.recv(1 << 18)
        if not data:
            raise SystemExit("the server closed a connection")
        self._parts += data
        head, end, body = self._parts.partition(b"\r\n\r\n")
        if not end:
            return b""
        if not head.startswith(b"HTTP/1.1 200 "):
            raise SystemExit(f"an answer that is not a success: {self._parts[:500]!r}")
        at = head.find(b"content-length: ")
        whole = body.endswith(b"0\r\n\r\n") if at < 0 else len(body) >= int(head[at + 16 :].split(b"\r")[0])
        if not whole:
            return b""
        self._parts = b""
        return body


def load(place: Place, data: bytes, connections: int, count: int) -> Run:
    """So many requests over so many connections, each with one at a time."""
    took = []
    with contextlib.ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        every = [Connection(place) for _ in range(connections)]
        for each in every:
            stack.callback(each.socket.close)
            selector.register(each.socket, selectors.EVENT_READ, each)
        begun = min(connections, count)
        start, cpu_s = time.perf_counter(), processor_s(place.pid)
        for each in every[:begun]:
            each.begin(data)
        while len(took) < count:
            events = selector.select(LIMIT_S)
            if not events:
                raise SystemExit(f"no answer in {LIMIT_S:g} s")
            for key, _ in events:
                if key.data.take():
                    took.append(time.perf_counter() - key.data.began_at)
                    if begun < count:
                        begun += 1
                        key.data.begin(data)
        seconds, cpu_s = time.perf_counter() - start, processor_s(place.pid) - cpu_s
    took.sort()
    p50_s, p99_s = took[len(took) // 2], took[min(len(took) - 1, len(took) * 99 // 100)]
    return Run(count / seconds, p50_s * 1e3, p99_s * 1e3, cpu_s / count * 1e6)


def processor_s(pid: int) -> float:
    """How long a process has run on a processor, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mib(pid: int) -> float:
    """What a process has in memory now."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1024


class Chunks:
    """What is inside of an answer in chunks, as it comes."""

    def __init__(self) -> None:
        self._rest = b""
        self._left = -1  # of a chunk, with its line end; -1: its size comes next
        self._is_begun = self.is_whole = False

    def feed(self, data: bytes) -> bytes:
        """The next part of the body."""
        rest, found = self._rest + data, []
        if not self._is_begun:
            head, end, behind = rest.partition(b"\r\n\r\n")
            if end and not head.startswith(b"HTTP/1.1 200 "):
                raise SystemExit(f"an answer that is not a success: {rest!r}")
            self._is_begun, rest = bool(end), behind if end else rest
        while self._is_begun and rest and not self.is_whole:
            if self._left < 0:
                size, end, behind = rest.partition(b"\r\n")
                if not end:
                    break
                self._left, rest = int(size, 16) + 2, behind
                self.is_whole = self._left == 2
            else:
                found.append(rest[: min(max(self._left - 2, 0), len(rest))])
                used = min(self._left, len(rest))
                rest, self._left = rest[used:], self._left - used or -1
        self._rest = rest
        return b"".join(found)


def stream(place: Place, path: str, token: str, payload: bytes, lines: int) -> dict[str, float]:
    """A body of so many lines, sent while its results are read; how much memory the gateway takes more."""
    before = most = resident_mib(place.pid)
    block = b"".join(payload + b"\n" for _ in range(BLOCK))
    blocks = itertools.chain(itertools.repeat(b"%x\r\n%b\r\n" % (len(block), block), lines // BLOCK), [b"0\r\n\r\n"])
    head = (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n"
    )
    answer, stored, tail, sent, looks = Chunks(), 0, b"", memoryview(b""), itertools.count(1)
    start = time.perf_counter()
    with socket.create_connection((place.host, place.port)) as connection, selectors.DefaultSelector() as selector:
        connection.sendall(f"{head}Authorization: Bearer {token}\r\n\r\n".encode())
        connection.setblocking(False)
        selector.register(connection, selectors.EVENT_READ | selectors.EVENT_WRITE)
        while not answer.is_whole:
            events = selector.select(LIMIT_S)
            if not events:
                raise SystemExit(f"nothing happened for {LIMIT_S:g} s")
            if events[0][1] & selectors.EVENT_READ:
                data = connection.recv(1 << 18)
                if not data:
                    raise SystemExit(f"the stream broke after {stored} results")
                tail += answer.feed(data)
                stored += tail.count(STORED)
                tail = tail[-len(STORED) + 1 :]
                if next(looks) % 64 == 0:
                    most = max(most, resident_mib(place.pid))
            if events[0][1] & selectors.EVENT_WRITE:
                sent = sent or memoryview(next(blocks, b""))
                if not sent:
                    selector.modify(connection, selectors.EVENT_READ)
                with contextlib.suppress(BlockingIOError):
                    sent = sent[connection.send(sent) :]
    seconds = time.perf_counter() - start
    if stored != lines:
        raise SystemExit(f"{stored} of {lines} lines are stored")
    return {
        "lines": lines,
        "msgs_per_s": round(lines / seconds),
        "growth_mib": round(max(most, resident_mib(place.pid)) - before, 1),
    }


@contextlib.contextmanager
def servers(url: str) -> Iterator[tuple[Place, Place]]:
    """A gateway of the broker, and the endpoint that does nothing."""
    with tempfile.TemporaryDirectory(prefix="memphis-sync-bench-") as name, contextlib.ExitStack() as stack:
        ready, bare = Path(name) / "ready", Path(name) / "bare"
        gateway = [sys.executable, "-m", "memphis_sync.cli", "-q", "gateway", "--url", url, "--port", "0"]
        options = ["--ready-file", str(ready), "--no-access-log"]
        environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
        started = []
        for command in ([*gateway, *options], [sys.executable, str(HERE / "_bare_http.py"), str(bare)]):
            started.append(subprocess.Popen(command, env=environment))
            stack.callback(started[-1].wait)
            stack.callback(started[-1].terminate)
        deadline = time.monotonic() + READY_S
        while not (ready.exists() and bare.exists()):
            if time.monotonic() > deadline or any(process.poll() is not None for process in started):
                raise SystemExit("the gateway or the bare endpoint did not start")
            time.sleep(0.01)
        yield (
            Place("127.0.0.1", json.loads(ready.read_text())["port"], started[0].pid),
            Place("127.0.0.1", int(bare.read_text()), started[1].pid),
        )


def log_in(place: Place) -> str:
    """A token of the user root."""
    connection = http.client.HTTPConnection(place.host, place.port, timeout=LIMIT_S)
    body = json.dumps({"username": "root", "password": "memphis", "token_expiry_in_minutes": 600})
    connection.request("POST", "/auth/authenticate", body, {"Content-Type": "application/json"})
    answer = json.load(connection.getresponse())
    connection.close()
    token: str = answer["jwt"]
    return token


def main() -> None:
    """Runs all of it and prints the ratios."""
    parser = _common.parser(__doc__, count=100_000)
    parser.add_argument("--requests", type=int, default=4000, help="single requests in each run")
    parser.add_argument("--batch", type=int, default=1000, help="messages in a batch")
    parser.add_argument("--lines", type=int, default=1_000_000, help="lines in the stream whose memory is looked at")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64])
    args = parser.parse_args()
    with _common.bench(args) as run, servers(run.url) as (gateway, bare):
        figures = Measuring(run, gateway, bare).all()
        single, batch = figures["single_ratio"], figures["batch_ratio"]
        _common.report(
            "http_throughput",
            run,
            figures,
            f"single messages over {max(args.connections)} connections {single:.2f} of an endpoint that does nothing "
            f"({figures['single_cpu_ratio']:.2f} by processor time), "
            f"batches of {args.batch} {batch:.2f} of produce_many(), "
            f"{figures['stream']['lines']:,} lines in {figures['stream']['growth_mib']:.0f} MiB more",
        )


class Measuring:
    """The runs of one call."""

    def __init__(self, run: _common.Bench, gateway: Place, bare: Place) -> None:
        self._run, self._gateway, self._bare, self._args = run, gateway, bare, run.args
        self._token = log_in(gateway)
        # A line of JSON of the size: what is batched and streamed must be JSON.
        self._payload = json.dumps({"n": "x" * max(run.args.size - 9, 0)}).encode()
        self._stations: list[Any] = []

    def all(self) -> dict[str, Any]:
        """All figures."""
        figures: dict[str, Any] = {"nothing": {}, "single": {}, "batch": {}, "lines": {}, "consume": {}}
        station = self._station()
        figures["stream"] = stream(
            self._gateway, self._path("produce/stream"), self._token, self._payload, self._args.lines
        )
        station.destroy()
        for connections in self._args.connections:
            for name, found in self._of(connections).items():
                figures[name][str(connections)] = found
        most = str(max(self._args.connections))
        figures["single_ratio"] = round(
            figures["single"][most]["msgs_per_s"] / figures["nothing"][most]["msgs_per_s"], 3
        )
        figures["single_cpu_ratio"] = round(figures["nothing"][most]["cpu_us"] / figures["single"][most]["cpu_us"], 3)
        many, batches = self._batches_and_many()
        figures |= {"produce_many_msgs_per_s": round(many), "batch_msgs_per_s": round(batches)}
        figures["batch_ratio"] = round(batches / many, 3)
        return figures

    def _station(self) -> Any:
        self._stations.append(self._run.station())
        return self._stations[-1]

    def _path(self, what: str) -> str:
        return f"/stations/{self._stations[-1].name}/{what}"

    def _of(self, connections: int) -> dict[str, dict[str, float]]:
        """The rates of one number of connections; medians of runs in turn."""
        args = self._args
        station = self._station()
        single = request(self._path("produce/single"), self._payload, "application/json", self._token)
        batch = self._batch()
        lines = b"".join(self._payload + b"\n" for _ in range(args.batch))
        streamed = request(self._path("produce/stream"), lines, "application/x-ndjson", self._token)
        wanted = json.dumps({"consumer_name": "bench", "batch_size": args.batch, "ack_time_ms": 600_000}).encode()
        consumed = request(self._path("consume"), wanted, "application/json", self._token)
        batches = max(args.count // args.batch // 4, min(connections, 16))
        few = max(args.requests // 4 if connections == 1 else args.requests, connections)
        jobs = {
            "nothing": (self._bare, single, few, 1),
            "single": (self._gateway, single, few, 1),
            "batch": (self._gateway, batch, batches, args.batch),
            "lines": (self._gateway, streamed, batches, args.batch),
            "consume": (self._gateway, consumed, batches, args.batch),
        }
        runs: dict[str, list[Run]] = {name: [] for name in jobs}
        for turn in range(args.pairs):
            for name in list(jobs) if turn % 2 == 0 else ["single", "nothing", *list(jobs)[2:]]:
                place, data, count, _ = jobs[name]
                runs[name].append(load(place, data, connections, count))
        station.destroy()
        return {
            name: Run(*(statistics.median(column) for column in zip(*found))).figures(jobs[name][3])
            for name, found in runs.items()
        }

    def _batch(self) -> bytes:
        body = b"[" + b",".join([self._payload] * self._args.batch) + b"]"
        return request(self._path("produce/batch"), body, "application/json", self._token)

    def _batches_and_many(self) -> tuple[float, float]:
        """Messages a second of produce_many() and of batches over one connection, medians of runs in turn."""
        args, station = self._args, self._station()
        producer = self._run.client.producer(station.name, "bench")  # with message ids, as the gateway's
        batch = self._batch()

        def many() -> float:
            result = producer.produce_many(self._payload for _ in range(args.count))
            return float(args.count / result.seconds)

        def batches() -> float:
            return load(self._gateway, batch, 4, max(args.count // args.batch, 4)).per_s * args.batch

        ours, theirs = _common.in_turn(args.pairs, many, batches)
        station.destroy()
        return statistics.median(ours), statistics.median(theirs)


if __name__ == "__main__":
    main()
