r"""
NATS frames as the client protocol page describes them.

    server to client                                              client to server
    INFO {json}\r\n                                               CONNECT {json}\r\n
    MSG <subject> <sid> [reply] <#bytes>\r\n<payload>\r\n         PUB <subject> [reply] <#bytes>\r\n<payload>\r\n
    HMSG <subject> <sid> [reply] <#header> <#total>\r\n           HPUB <subject> [reply] <#header> <#total>\r\n
        <header block><payload>\r\n                                   <header block><payload>\r\n
    PING\r\n  PONG\r\n  +OK\r\n  -ERR '<text>'\r\n                SUB <subject> [queue] <sid>\r\n
                                                                  UNSUB <sid> [max_msgs]\r\n

Names in any case; fields are separated by one or more blanks or tabs. A header block is
NATS/1.0[ <status>[ <description>]]\r\n, lines of <name>: <value>\r\n, and \r\n.
"""

from __future__ import annotations

import re
from typing import NamedTuple, Optional

BLANKS = b" \t"
INFO_LIMIT = 256 * 1024
SHOWN = 64


class Frame(NamedTuple):
    kind: str
    sid: int = 0
    subject: bytes = b""
    reply: bytes = b""
    headers: bytes = b""
    payload: bytes = b""


class BreachError(Exception):
    """The stream is no NATS; the text is the one that users see."""


class RefusedError(Exception):
    """This side asked for something that cannot be sent or read."""


class Parser:
    """Whole frames out of a stream; `feed` any bytes, in any pieces."""

    def __init__(self, max_payload: int, max_control_line: int = 4096) -> None:
        self.max_payload = max_payload
        self.max_control_line = max_control_line
        self.stream = b""

    def feed(self, data: bytes) -> tuple[list[Frame], Optional[BreachError]]:
        """The frames that are whole now, and the breach behind them if there is one."""
        self.stream += data
        frames = []
        while self.stream:
            try:
                found = self.first_frame()
            except BreachError as breach:
                return frames, breach
            if found is None:
                break
            frame, size = found
            frames.append(frame)
            self.stream = self.stream[size:]
        return frames, None

    def breach(self, what: str) -> BreachError:
        return BreachError(f"the server sent {what}: {self.stream[:SHOWN]!r}")

    def first_frame(self) -> Optional[tuple[Frame, int]]:
        line = self.control_line()
        if line is None:
            return None
        name = re.match(rb"(\+OK|-ERR|[A-Z]*)", line, re.IGNORECASE).group().upper()
        rest = line[len(name) :]
        size = len(line) + 2
        if name in (b"MSG", b"HMSG"):
            return self.message(name.decode(), rest, size)
        if rest and rest[:1] not in (b" ", b"\t"):
            raise self.breach("bytes that are no NATS frame")
        text = rest.strip(BLANKS)
        if name in (b"PING", b"PONG", b"+OK") and not text:
            return Frame(name.decode()), size
        if name == b"INFO" and text:
            return Frame("INFO", payload=text), size
        if name == b"-ERR":
            quoted = len(text) >= 2 and text.startswith(b"'") and text.endswith(b"'")
            return Frame("-ERR", payload=text[1:-1] if quoted else text), size
        raise self.breach("bytes that are no NATS frame")

    def control_line(self) -> Optional[bytes]:
        """The first line without its CRLF; None while it is not whole."""
        first = self.stream[:1].upper()
        if first not in (b"I", b"M", b"H", b"P", b"+", b"-"):
            raise self.breach("bytes that are no NATS frame")
        limit = max(INFO_LIMIT, self.max_control_line) if first in (b"I", b"-") else self.max_control_line
        line, line_feed, _ = self.stream.partition(b"\n")
        ends_well = line.endswith(b"\r")
        if ends_well:
            line = line[:-1]
        if len(line) > limit:
            raise self.breach("a control line longer than its limit")
        if not line_feed:
            return None
        if not ends_well:
            raise self.breach("bytes that are no NATS frame")
        return line

    def message(self, kind: str, rest: bytes, start: int) -> Optional[tuple[Frame, int]]:
        lengths = 2 if kind == "HMSG" else 1
        fields = [field for field in re.split(rb"[ \t]", rest) if field]
        well_formed = (
            rest[:1] in (b" ", b"\t")
            and len(fields) in (2 + lengths, 3 + lengths)
            and b"\r" not in rest
            and is_number(fields[1])
        )
        if not well_formed:
            raise self.breach("bytes that are no NATS frame")
        numbers = fields[-lengths:]
        if not is_number(numbers[-1]) or int(numbers[-1]) > self.max_payload or not is_number(numbers[0]):
            raise self.breach(f"a payload length that is no number or above {self.max_payload} bytes")
        total = int(numbers[-1])
        header = int(numbers[0]) if kind == "HMSG" else 0
        if header > total:
            raise self.breach("bytes that are no NATS frame")
        size = start + total + 2
        if len(self.stream) < size:
            return None
        body = self.stream[start:size]
        if body[total:] != b"\r\n":
            raise self.breach("bytes that are no NATS frame")
        reply = fields[2] if len(fields) == 3 + lengths else b""
        return Frame(kind, int(fields[1]), fields[0], reply, body[:header], body[header:total]), size


def is_number(field: bytes) -> bool:
    return re.fullmatch(rb"[0-9]+", field) is not None and int(field) < 2**64


# ---- what this side writes


def check_token(token: bytes) -> None:
    try:
        text = token.decode()
    except UnicodeDecodeError as exc:
        raise RefusedError from exc
    if not text or any(char <= " " or char == "\x7f" for char in text):
        raise RefusedError


def encode_connect(json: bytes) -> bytes:
    if not json or b"\r" in json or b"\n" in json:
        raise RefusedError
    return b"CONNECT %b\r\n" % json


def encode_sub(subject: bytes, sid: int, queue: bytes = b"") -> bytes:
    check_token(subject)
    if not queue:
        return b"SUB %b %d\r\n" % (subject, sid)
    check_token(queue)
    return b"SUB %b %b %d\r\n" % (subject, queue, sid)


def encode_unsub(sid: int, max_msgs: int = 0) -> bytes:
    return b"UNSUB %d %d\r\n" % (sid, max_msgs) if max_msgs else b"UNSUB %d\r\n" % sid


def encode_pub(subject: bytes, payload: bytes, reply: bytes = b"") -> bytes:
    check_token(subject)
    if reply:
        check_token(reply)
    target = b"%b %b" % (subject, reply) if reply else subject
    return b"PUB %b %d\r\n%b\r\n" % (target, len(payload), payload)


# ---- header blocks


def encode_header(name: bytes, value: bytes) -> bytes:
    if not re.fullmatch(rb"[!-9;-~]+", name) or re.search(rb"[\r\n\0]", value):
        raise RefusedError
    return b"%b: %b\r\n" % (name, value)


def encode_headers(pairs: list[tuple[bytes, bytes]]) -> bytes:
    return b"NATS/1.0\r\n" + b"".join(encode_header(name, value) for name, value in pairs) + b"\r\n"


def parse_headers(block: bytes) -> tuple[int, str, list[tuple[str, str]]]:
    if not block.endswith(b"\r\n\r\n"):
        raise RefusedError
    first, *lines = block[: -len(b"\r\n\r\n")].split(b"\r\n")
    if any(b"\r" in line or b"\n" in line for line in [first, *lines]):
        raise RefusedError
    status = re.fullmatch(rb"NATS/1\.0(?:[ \t]+([0-9]{3})(?:[ \t]+(.*?))?)?[ \t]*", first, re.DOTALL)
    if status is None:
        raise RefusedError
    headers = []
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or line[:1] in (b" ", b"\t") or not name.strip(BLANKS):
            raise RefusedError
        headers.append((as_text(name.strip(BLANKS)), as_text(value.strip(BLANKS))))
    return int(status[1] or 0), as_text((status[2] or b"").strip(BLANKS)), headers


def as_text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
