"""
A server that answers as Memphis' own REST gateway 1.2.8 was observed to answer, with its defects.

The rows below were recorded from that gateway; it keeps what it accepts in memory, in place of a broker. What goes
wrong in a network is told to it beforehand: ``gateway.faults``.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
import ssl
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Optional
from urllib.parse import urlsplit

import pytest

MAX_BODY, MAX_HEADERS = 4 * 1024 * 1024, 4096
UNAUTHORIZED = (401, "application/json", b'{"message":"Unauthorized"}')
SERVER_ERROR = (500, "application/json", b'{"message":"Server error"}')
ACCEPTED = (200, "application/json", b'{"error":null,"success":true}')
NOT_VALID = (400, "application/json", b'{"message":"Some of your fields are not valid"}')
UNSUPPORTED_TYPE = (500, "text/plain; charset=utf-8", b"unsupported content type")
UNSUPPORTED_REQUEST = (500, "text/plain; charset=utf-8", b"unsupported request")
TOO_LARGE = (413, "text/plain; charset=utf-8", b"Request Entity Too Large")
HEADERS_TOO_LARGE = (431, "text/plain; charset=utf-8", b"Request Header Fields Too Large")
REFUSED = (500, "application/json", b'{"error":"memphis: station unreachable","success":false}')
SCHEMA_TEXT = "Schema validation has failed: (root): Must be object"


class Seen(NamedTuple):
    """A request: its path, its headers by the names that the gateway makes of them, its body."""

    path: str
    headers: dict[str, str]
    body: bytes
    target: str  # as it stands in the request line: a whole URL when the client takes this server for a proxy


class Stored(NamedTuple):
    """A message that was accepted."""

    data: bytes
    headers: dict[str, str]


class MemphisGateway:
    """
    The server.

    Attributes:
        seen: All requests, in their order.
        stations: What was accepted, by station; a list for each partition.
        faults: What is done with the next requests to a station instead of answering them as usual: ``"lose"`` (handle
            it, end the connection), ``"reset"`` (end the connection before anything is done), or a whole answer, which
            is given without doing anything.
        life_s: How long tokens are valid; None: as long as they ask for.
        skew_s: How far its clock is ahead.
        is_locked: Whether all passwords are wrong.
        schemas: Stations that accept JSON objects only.
        partitions: How many partitions new stations have.
        refuses_refresh: Whether no refresh token is accepted.
    """

    def __init__(self, context: Optional[ssl.SSLContext] = None) -> None:
        self.seen: list[Seen] = []
        self.stations: dict[str, list[list[Stored]]] = defaultdict(lambda: [[] for _ in range(self.partitions)])
        self.faults: deque[Any] = deque()
        self.life_s: Optional[float] = None
        self.skew_s = 0.0
        self.is_locked = False
        self.refuses_refresh = False
        self.schemas: set[str] = set()
        self.partitions = 1
        self.before_answer: Callable[[str], object] = lambda _path: None
        self._keys = {"access": b"access-key", "refresh": b"refresh-key"}
        self._lock = threading.Lock()  # guards what follows
        self._read: dict[tuple[str, str], list[int]] = {}
        self._turns: dict[str, int] = defaultdict(int)
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.gateway = self
        scheme = "http"
        if context is not None:
            scheme = "https"
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.host, self.port = "127.0.0.1", self._server.server_address[1]
        self.url = f"{scheme}://{self.host}:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="test-gateway")
        self._thread.start()

    def close(self) -> None:
        """Ends it with all its connections."""
        self._server.shutdown()
        self._thread.join()
        self._server.end()
        self._server.server_close()

    def paths(self) -> list[str]:
        """What was asked for."""
        return [each.path for each in self.seen]

    def messages(self, station: str) -> list[Stored]:
        """What was accepted for a station, all partitions together."""
        return [message for partition in self.stations[station] for message in partition]

    def expire_tokens(self) -> None:
        """All access tokens are refused from now on."""
        self._keys["access"] += b"x"

    # ---- the routes ---------------------------------------------------------------------------------------------

    def answer(self, seen: Seen) -> tuple[int, str, bytes]:
        """What is answered."""
        if len(seen.body) > MAX_BODY:
            return TOO_LARGE
        if sum(len(name) + len(value) + 4 for name, value in seen.headers.items()) > MAX_HEADERS:
            return HEADERS_TOO_LARGE
        if seen.path == "/auth/authenticate":
            return self._authenticate(seen)
        if seen.path == "/auth/refreshToken":
            return self._refresh(seen)
        words = seen.headers.get("Authorization", "").split(" ")
        if len(words) != 2 or self._claims(words[1], "access") is None:
            return UNAUTHORIZED
        _, _, station, *action = seen.path.split("/")
        if action == ["produce", "single"]:
            return self._single(station, seen)
        if action == ["produce", "batch"]:
            return self._batch(station, seen)
        if action == ["consume", "batch"]:
            return self._consume(station, seen)
        return 404, "text/plain", f"Cannot POST {seen.path}".encode()

    def _authenticate(self, seen: Seen) -> tuple[int, str, bytes]:
        fields = _json(seen)
        if not isinstance(fields, dict) or not isinstance(fields.get("account_id", 1), int):
            return NOT_VALID
        if not fields.get("username"):
            return 400, "application/json", b'{"message":[{"field":"Username","reason":"required"}]}'
        if self.is_locked or fields.get("password") != "memphis":
            return UNAUTHORIZED
        return self._tokens(fields, fields)

    def _refresh(self, seen: Seen) -> tuple[int, str, bytes]:
        fields = _json(seen)
        if not isinstance(fields, dict):
            return SERVER_ERROR
        claims = self._claims(fields.get("jwt_refresh_token", ""), "refresh")
        return UNAUTHORIZED if claims is None or self.refuses_refresh else self._tokens(fields, claims)

    def _tokens(self, fields: dict[str, Any], who: dict[str, Any]) -> tuple[int, str, bytes]:
        now = time.time() + self.skew_s
        life_s = 60 * (fields.get("token_expiry_in_minutes") or 15) if self.life_s is None else self.life_s
        claims = {"account_id": 1, "connection_token": "", "password": who["password"], "username": who["username"]}
        exp = int(now + life_s)
        refresh_exp = int(now + 60 * (fields.get("refresh_token_expiry_in_minutes") or 15))
        told = {
            "expires_in": exp * 60000,
            "jwt": self._sign({**claims, "exp": exp}, "access"),
            "jwt_refresh_token": self._sign({**claims, "exp": refresh_exp, "token_exp": exp}, "refresh"),
            "refresh_token_expires_in": exp * 60000,
        }
        return 200, "application/json", json.dumps(told, separators=(",", ":")).encode()

    def _sign(self, claims: dict[str, Any], kind: str) -> str:
        head = _b64(b'{"alg":"HS256","typ":"JWT"}') + "." + _b64(json.dumps(claims, separators=(",", ":")).encode())
        return f"{head}.{_b64(hmac.new(self._keys[kind], head.encode(), hashlib.sha256).digest())}"

    def _claims(self, token: str, kind: str) -> Optional[dict[str, Any]]:
        head, _, signature = token.rpartition(".")
        expected = _b64(hmac.new(self._keys[kind], head.encode(), hashlib.sha256).digest())
        if not head or not hmac.compare_digest(signature, expected):
            return None
        payload = head.partition(".")[2]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return claims if claims["exp"] > time.time() + self.skew_s else None

    def _store(self, station: str, message: Stored) -> None:
        with self._lock:
            partitions = self.stations[station]
            partitions[self._turns[station] % len(partitions)].append(message)
            self._turns[station] += 1

    def _single(self, station: str, seen: Seen) -> tuple[int, str, bytes]:
        kind = seen.headers.get("Content-Type", "")
        if "text" not in kind and "application/json" not in kind and kind != "application/x-protobuf":
            return UNSUPPORTED_TYPE
        if station in self.schemas and not isinstance(_json(seen), dict):
            return 400, "application/json", json.dumps({"error": SCHEMA_TEXT, "success": False}).encode()
        self._store(station, Stored(seen.body, seen.headers))  # all headers: the token among them
        return ACCEPTED

    def _batch(self, station: str, seen: Seen) -> tuple[int, str, bytes]:
        if seen.headers.get("Content-Type") != "application/json":
            return UNSUPPORTED_TYPE
        elements = _json(seen)
        if elements is not None and (
            not isinstance(elements, list) or not all(each is None or isinstance(each, dict) for each in elements)
        ):
            return UNSUPPORTED_REQUEST
        for each in elements or []:
            if station in self.schemas and "bad" in each:  # the first failure ends it, and nothing says which it was
                return 400, "application/json", json.dumps({"error": [SCHEMA_TEXT], "success": False}).encode()
            self._store(station, Stored(_go(each), seen.headers))
        return ACCEPTED

    def _consume(self, station: str, seen: Seen) -> tuple[int, str, bytes]:
        fields = _json(seen)
        if not isinstance(fields, dict):
            return 400, "application/json", b'{"error":"Invalid request body","success":false}'
        if not fields.get("consumer_name"):
            return 400, "application/json", b'{"error":"Consumer name is required","success":false}'
        size = fields.get("batch_size") or 10
        if not 1 <= size <= 5000:
            text = b"Batch size can not be greater than 5000 or less than 1"
            return 400, "application/json", b'{"error":"%s","success":false}' % text
        group = fields.get("consumer_group") or ""
        group = f"{group}-rest-gateway" if group else "rest-gateway"
        with self._lock:  # one partition a call, round robin
            partitions = self.stations[station]
            read = self._read.setdefault((station, group), [0] * len(partitions) + [-1])
            turn = read[-1] = (read[-1] + 1) % len(partitions)
            got = partitions[turn][read[turn] : read[turn] + size]
            read[turn] += len(got)
        told = [{"headers": each.headers, "message": each.data.decode("utf-8", "replace")} for each in got]
        return 200, "application/json", _go(told)


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _canonical(name: str) -> str:
    return "-".join(part[:1].upper() + part[1:].lower() for part in name.split("-"))


def _json(seen: Seen) -> Any:
    if not seen.headers.get("Content-Type", "").startswith("application/json"):
        return ...
    try:
        return json.loads(seen.body)
    except ValueError:
        return ...


def _go(value: Any) -> bytes:
    """As Go writes it again: sorted, compact, numbers through float64, some characters escaped."""

    def through_float(each: Any) -> Any:
        if isinstance(each, dict):
            return {name: through_float(inner) for name, inner in each.items()}
        if isinstance(each, list):
            return [through_float(inner) for inner in each]
        if isinstance(each, (int, float)) and not isinstance(each, bool):
            number = float(each)
            return int(number) if number.is_integer() else number
        return each

    text = json.dumps(through_float(value), ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text.encode()


class _Server(ThreadingHTTPServer):
    """Ends all its connections at once; those of http.server wait for the next request of each."""

    daemon_threads = False
    block_on_close = True
    gateway: MemphisGateway

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.open: set[socket.socket] = set()

    def handle_error(self, request: object, client_address: object) -> None:
        """A connection that was cut, by a test or by its client."""

    def end(self) -> None:
        for each in list(self.open):
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # it has ended by itself


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.open.add(self.connection)

    def finish(self) -> None:
        self.server.open.discard(self.connection)
        super().finish()

    def log_message(self, *_: object) -> None:
        pass

    def date_time_string(self, timestamp: Optional[float] = None) -> str:
        return super().date_time_string((time.time() if timestamp is None else timestamp) + self.server.gateway.skew_s)

    def do_POST(self) -> None:
        gateway = self.server.gateway
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        headers = {_canonical(name): self.headers[name].encode("latin-1").decode() for name in self.headers}
        seen = Seen(urlsplit(self.path).path, headers, body, self.path)
        gateway.seen.append(seen)
        fault = gateway.faults.popleft() if seen.path.startswith("/stations/") and gateway.faults else None
        if fault == "reset":
            self._hang_up()
            return
        more: dict[str, str] = {}
        if isinstance(fault, tuple):
            status, kind, body, *rest = fault
            more = rest[0] if rest else {}
        else:
            status, kind, body = gateway.answer(seen)
        gateway.before_answer(seen.path)
        if fault == "lose":
            self._hang_up()
            return
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Access-Control-Allow-Origin", "*")
        for name, value in more.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def memphis_gateway() -> Iterator[MemphisGateway]:
    """Memphis' own gateway, as it was recorded."""
    server = MemphisGateway()
    yield server
    server.close()


@pytest.fixture
def memphis_gateway_with() -> Iterator[Callable[..., MemphisGateway]]:
    """``memphis_gateway_with(context)`` serves HTTPS."""
    started: list[MemphisGateway] = []

    def start(context: ssl.SSLContext) -> MemphisGateway:
        started.append(MemphisGateway(context))
        return started[-1]

    yield start
    for each in started:
        each.close()
