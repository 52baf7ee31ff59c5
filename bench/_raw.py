"""
The wire without a client: prebuilt NATS frames out, acknowledgements counted in. What these functions reach is the
limit.

Everything that a client has to do for each message is done before the clock starts, or not at all. The frames have
the very bytes that our client writes: `Template.record` takes one off a real connection, so the two cannot drift
apart. Standard library only, and nothing of memphis_sync.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import json
import re
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any, Callable

RECV = 1 << 20  # bytes; a whole window of acks fits
RUN = 512  # frames in one write: about 150 KB, well above what one system call costs
_MESSAGE = re.compile(rb"MSG \S+ 2 (\$JS\.ACK\.\S+)(?: \d+)? (\d+)\r\n")


class Wire:
    """A blocking NATS connection; INFO, CONNECT and PING are done when it exists."""

    def __init__(self, host: str, port: int, user: str, password: str) -> None:
        self.sock = socket.create_connection((host, port), timeout=60)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.info = json.loads(self.until(b"\r\n")[5:])
        hello = {
            "verbose": False, "pedantic": False, "headers": True, "no_responders": True, "protocol": 1, "lang": "raw",
            "version": "0", "name": f"11111111-1111-4111-8111-111111111111::{user.partition('$')[0]}", "user": user,
            "pass": password,
        }  # fmt: skip
        self.sock.sendall(b"CONNECT %s\r\nPING\r\n" % json.dumps(hello).encode())
        answer = self.until(b"PONG\r\n", b"-ERR")
        if b"-ERR" in answer:
            raise SystemExit(answer.decode())

    def until(self, *ends: bytes) -> bytes:
        """Reads until the data holds one of *ends*; for the slow parts only."""
        data = b""
        while not any(end in data for end in ends):
            piece = self.sock.recv(RECV)
            if not piece:
                raise SystemExit("the server closed the connection")
            data += piece
        return data

    def close(self) -> None:
        """Ends the connection."""
        self.sock.close()


@dataclasses.dataclass(frozen=True)
class Template:
    """
    One HPUB frame of our client, taken apart.

    Attributes:
        reply: The reply subject up to its last dot; a number follows.
        before: The header block up to the number in the message id; all of it when the producer sets no id.
        after: What follows the number; empty without an id.
    """

    reply: bytes
    before: bytes
    after: bytes

    @classmethod
    def of(cls, frame: bytes) -> Template:
        """Takes *frame* apart: ``HPUB <subject> <reply>.<n> <header length> <total length>`` and what follows."""
        line, _, rest = frame.partition(b"\r\n")
        _, _, reply, header_length, _ = line.split(b" ")
        block = rest[: int(header_length)]
        found = re.search(rb"(?i)\r\n(?:nats-)?msg-id: [^\r]*-(\d+)(?=\r\n)", block)
        if not found and b"msg-id: " in block.lower():
            raise SystemExit("the recorded message id has no number at its end, so the replay would be all duplicates")
        before, after = (block[: found.start(1)], block[found.end(1) :]) if found else (block, b"")
        return cls(reply.rpartition(b".")[0], before, after)

    @classmethod
    def record(cls, host: str, port: int, produce: Callable[[int], None]) -> Template:
        """Calls ``produce(port)``, which produces one message through that port; its frame becomes the template."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            seen = bytearray()
            accepting = threading.Thread(target=_tee, args=(listener, (host, port), seen), daemon=True)
            accepting.start()
            produce(listener.getsockname()[1])
        accepting.join(10)
        start = seen.index(b"HPUB ")
        head, _, _ = bytes(seen[start:]).partition(b"\r\n")
        return cls.of(bytes(seen[start : start + len(head) + 4 + int(head.rpartition(b" ")[2])]))

    def frame(self, subject: bytes, payload: bytes, number: int) -> bytes:
        """The frame for message *number*."""
        header = self.before + (b"%d" % number + self.after if self.after else b"")
        sizes = (len(header), len(header) + len(payload))
        return b"HPUB %s %s.%d %d %d\r\n%s%s\r\n" % (subject, self.reply, number, *sizes, header, payload)


def _tee(listener: socket.socket, target: tuple[str, int], seen: bytearray) -> None:
    """Forwards every connection to *target*, and keeps what the clients wrote; ends with the listener."""

    def pump(source: socket.socket, sink: socket.socket, keep: bool) -> None:
        try:
            while data := source.recv(RECV):
                if keep:
                    seen.extend(data)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:  # the other side has closed
            source.close()

    pumps = []
    listener.settimeout(0.2)
    while listener.fileno() >= 0:
        try:
            near, _ = listener.accept()
        except TimeoutError:
            continue
        except OSError:  # the listener was closed
            break
        near.setblocking(True)
        far = socket.create_connection(target)
        for pair in ((near, far, True), (far, near, False)):
            pumps.append(threading.Thread(target=pump, args=pair, daemon=True))
            pumps[-1].start()
    for thread in pumps:
        thread.join(5)


def produce(
    wire: Wire, template: Template, subjects: Sequence[bytes], payload: bytes, count: int, window: int
) -> float:
    """
    Sends *count* messages to *subjects* in turn, never more than *window* unacknowledged.

    Returns:
        Seconds from the first byte written to the last acknowledgement read.
    """
    frames = [template.frame(subjects[i % len(subjects)], payload, i) for i in range(count)]
    runs = [b"".join(frames[i : i + RUN]) for i in range(0, count, RUN)]
    sock = wire.sock
    sock.sendall(b"SUB %s.* 1\r\nPING\r\n" % template.reply)
    wire.until(b"PONG\r\n")
    needle = b"MSG %s." % template.reply
    room, acked = threading.Condition(), 0
    failed: list[bytes] = []

    def read() -> None:
        nonlocal acked
        seen, tail = 0, b""
        while seen < count:
            data = tail + sock.recv(RECV)
            cut = data.rfind(b"\n") + 1
            seen += data.count(needle, 0, cut)
            if data.find(b'"error"', 0, cut) >= 0 or data.find(b"NATS/1.0 503", 0, cut) >= 0:
                failed.append(data[:cut])
            if data.find(b"PING\r\n", 0, cut) >= 0:
                sock.sendall(b"PONG\r\n")
            tail = data[cut:]
            with room:
                acked = seen
                room.notify()

    reader = threading.Thread(target=read, daemon=True)
    start = time.perf_counter()
    reader.start()
    sent = 0
    for run in runs:
        with room:
            while sent - acked > window - RUN:
                room.wait()
        sock.sendall(run)
        sent += RUN
    reader.join()
    took = time.perf_counter() - start
    if failed:
        raise SystemExit(f"the broker refused messages of the raw replay: {failed[0][:300]!r}")
    return took


def rtt(wire: Wire, template: Template, subject: bytes, payload: bytes, count: int) -> list[float]:
    """One message and its acknowledgement at a time. Returns the seconds each took."""
    sock, clock = wire.sock, time.perf_counter
    frames = [template.frame(subject, payload, i) for i in range(count)]
    sock.sendall(b"SUB %s.* 1\r\nPING\r\n" % template.reply)
    wire.until(b"PONG\r\n")
    times = []
    for frame in frames:
        start = clock()
        sock.sendall(frame)
        answer = sock.recv(65536)
        took = clock() - start
        if b'"seq":' in answer:
            times.append(took)
        elif answer == b"PING\r\n":  # the server's own; the acknowledgement is still to come, and this turn not counted
            sock.sendall(b"PONG\r\n")
            sock.recv(65536)
        else:
            raise SystemExit(f"not an acknowledgement: {answer[:200]!r}")
    return times


def rate_of_threads(steps: Sequence[Callable[[], object]], seconds: float) -> float:
    """Calls each of *steps* again and again on a thread of its own. Returns calls a second, of all together."""
    start = threading.Barrier(len(steps) + 1)
    stop = threading.Event()

    def repeat(step: Callable[[], object]) -> int:
        start.wait()
        done = 0
        while not stop.is_set():
            step()
            done += 1
        return done

    with concurrent.futures.ThreadPoolExecutor(len(steps)) as pool:
        runs = [pool.submit(repeat, step) for step in steps]
        start.wait()
        begun = time.perf_counter()
        time.sleep(seconds)
        stop.set()
        done = sum(run.result() for run in runs)
        return done / (time.perf_counter() - begun)


def rtt_step(wire: Wire, template: Template, subject: bytes, payload: bytes, place: int) -> Callable[[], None]:
    """Sends one message and waits for its acknowledgement; *place* tells its messages from those of other wires."""
    sock = wire.sock
    mine = dataclasses.replace(template, reply=b"%s.%d" % (template.reply, place))
    numbers = itertools.count(place * 1_000_000_000)
    always = mine.frame(subject, payload, next(numbers))
    sock.sendall(b"SUB %s.* 1\r\nPING\r\n" % mine.reply)
    wire.until(b"PONG\r\n")

    def step() -> None:
        # Made in the loop only where no two may be the same: an id is not to be that of the last message.
        sock.sendall(mine.frame(subject, payload, next(numbers)) if mine.after else always)
        answer = sock.recv(65536)
        if b"PING\r\n" in answer:  # the server's own
            sock.sendall(b"PONG\r\n")
        if b'"seq":' not in answer and b'"seq":' not in sock.recv(65536):
            raise SystemExit(f"not an acknowledgement: {answer[:200]!r}")

    return step


def fetch(wire: Wire, bindings: Sequence[tuple[str, str]], count: int, batch: int) -> float:
    """
    Pulls *count* messages from *bindings* (stream, durable) in turn, in batches, and acknowledges each.

    Returns:
        Seconds from the first pull to the server's answer to a PING behind the last acknowledgement.
    """
    sock = wire.sock
    pulls = [_pull(stream, durable, batch) for stream, durable in bindings]
    sock.sendall(b"SUB _INBOX.rawfetch 2\r\nPING\r\n")
    wire.until(b"PONG\r\n")
    got, turn, start = 0, 0, time.perf_counter()
    while got < count:
        sock.sendall(pulls[turn % len(pulls)])
        turn += 1
        acks = _batch(sock, batch)
        sock.sendall(b"".join([b"PUB %s 0\r\n\r\n" % ack for ack in acks]))
        got += len(acks)
    sock.sendall(b"PING\r\n")
    wire.until(b"PONG\r\n")
    return time.perf_counter() - start


def _pull(stream: str, durable: str, batch: int) -> bytes:
    body = json.dumps({"batch": batch, "expires": 200_000_000}).encode()
    return b"PUB $JS.API.CONSUMER.MSG.NEXT.%s.%s _INBOX.rawfetch %d\r\n%s\r\n" % (
        stream.encode(), durable.encode(), len(body), body,
    )  # fmt: skip


def _batch(sock: socket.socket, batch: int) -> list[bytes]:
    """The ack subjects of one pull's messages: a whole batch, or less when the server says that there is no more."""
    data, seen, ended = bytearray(), 0, False
    while True:
        piece = sock.recv(RECV)
        if piece.startswith(b"PING\r\n"):
            sock.sendall(b"PONG\r\n")
        overlap = max(0, len(data) - len(b"$JS.ACK") + 1)
        data += piece
        seen += data.count(b"$JS.ACK", overlap)
        ended = ended or data.find(b"NATS/1.0 40", max(0, len(data) - len(piece) - 16)) >= 0
        if seen < batch and not ended:
            continue
        found = list(_MESSAGE.finditer(data))
        if ended or (len(found) == batch and len(data) >= found[-1].end() + int(found[-1][2]) + 2):
            return [match[1] for match in found]


def receive(wire: Wire, stream: str, durable: str, count: int, ready: Callable[[], None]) -> list[int]:
    """
    Waits for one message at a time and acknowledges it.

    Args:
        ready: Called when the pull for the next message is on its way.

    Returns:
        By ``time.perf_counter_ns()``, when each message was here.
    """
    sock, clock = wire.sock, time.perf_counter_ns
    body = json.dumps({"batch": 1, "expires": 60_000_000_000})
    pull = f"PUB $JS.API.CONSUMER.MSG.NEXT.{stream}.{durable} _INBOX.rawfetch {len(body)}\r\n{body}\r\n".encode()
    sock.sendall(b"SUB _INBOX.rawfetch 2\r\nPING\r\n")
    wire.until(b"PONG\r\n")
    times = []
    for _ in range(count):
        sock.sendall(pull)
        ready()
        data = b""
        while not ((found := _MESSAGE.search(data)) and len(data) >= found.end() + int(found[2]) + 2):
            data += sock.recv(65536)
            if data.startswith(b"PING\r\n"):
                sock.sendall(b"PONG\r\n")
                data = data[6:]
        times.append(clock())
        sock.sendall(b"PUB %s 0\r\n\r\n" % found[1])
    return times


def percentile(values: Sequence[float], share: float) -> Any:
    """The value below which *share* (0 to 1) of *values* lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
