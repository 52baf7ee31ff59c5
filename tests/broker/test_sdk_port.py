"""The port for official SDKs: their message ids find duplicates there, and everything else is as on the other port."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, Optional

import pytest
from control_client import ControlClient
from fix_memphis_py import MemphisPy

import memphis_sync
from memphis_sync.broker import BrokerError, BrokerOptions, BrokerProcess
from memphis_sync.errors import ConfigurationError

TOKEN = "s3cret"


class SdkPort:
    """A broker's port for SDKs as if it were a broker: what test helpers connect to."""

    def __init__(self, broker: BrokerProcess) -> None:
        self.host, self.port, self.token = broker.host, broker.sdk_port, broker.token
        self.username, self.password = broker.username, broker.password


@pytest.fixture(scope="module")
def two_ports() -> Iterator[BrokerProcess]:
    """A broker with a port for SDKs."""
    with BrokerProcess(BrokerOptions(port=0, ephemeral=True, sdk_port=0), timeout_s=30) as broker:
        yield broker


class Raw:
    """A socket that speaks NATS by hand; a context manager."""

    def __init__(self, broker: BrokerProcess, *, sdk_port: bool = True) -> None:
        self.socket = socket.create_connection((broker.host, broker.sdk_port if sdk_port else broker.port), 10)
        self.socket.settimeout(20)
        self.info = self.until(b"\r\n")
        self.rest = b""
        login = {"user": "root$1", "pass": broker.password, "name": "raw::root", "headers": True, "verbose": False}
        self.login = b"CONNECT %b\r\nPING\r\n" % json.dumps({**login, "no_responders": True}).encode()

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def connect(self) -> Raw:
        self.socket.sendall(self.login)
        assert self.until(b"\r\n") == b"PONG\r\n"
        return self

    def until(self, end: bytes) -> bytes:
        """Reads byte by byte to *end*; what came when the server closes."""
        found = b""
        while not found.endswith(end):
            byte = self.socket.recv(1)
            if not byte:
                break
            found += byte
        return found


def frame(subject: str, message_id: str, payload: bytes, reply: str = "_INBOX.raw.1") -> bytes:
    headers = b"NATS/1.0\r\nk: v\r\nmsg-id: %b\r\n\r\n" % message_id.encode()
    size = len(headers) + len(payload)
    return b"HPUB %b %b %d %d\r\n%b%b\r\n" % (
        subject.encode(), reply.encode(), len(headers), size, headers, payload
    )  # fmt: skip


def produce_with_memphis_py(sdk: MemphisPy, broker: BrokerProcess, station: str, *ids: Optional[str]) -> None:
    """One message for each id."""
    memphis = sdk.connect(SdkPort(broker))
    memphis.station(name=station)
    producer = memphis.producer(station_name=station, producer_name="p")
    for message_id in ids:
        producer.produce("text", msg_id=message_id)
    memphis.close()


def stored(broker: BrokerProcess, station: str) -> int:
    with ControlClient(broker) as control:
        count: int = control.jetstream(f"STREAM.INFO.{station}$1")["state"]["messages"]
        return count


def test_a_message_of_memphis_py_that_is_produced_twice_is_stored_once(
    memphis_py_process: MemphisPy, two_ports: BrokerProcess, station_name: str
) -> None:
    produce_with_memphis_py(memphis_py_process, two_ports, station_name, "id-1", "id-1", "id-2", None, None)
    assert stored(two_ports, station_name) == 4
    memphis = memphis_py_process.connect(SdkPort(two_ports))
    consumer = memphis.consumer(station_name=station_name, consumer_name="c")
    messages = consumer.fetch(batch_size=4)
    assert [message.get_headers().get("msg-id") for message in messages] == ["id-1", "id-2", None, None]
    memphis.close()


def test_the_other_port_is_the_server_itself(two_ports: BrokerProcess, station_name: str) -> None:
    """Nothing stands between it and our own clients, and an SDK's ids mean nothing there, as our page on it says."""
    with ControlClient(two_ports) as control:
        assert control.station(station_name) == ""
        with Raw(two_ports, sdk_port=False).connect() as raw:
            raw.socket.sendall(b"SUB _INBOX.raw.* 1\r\n" + frame(f"{station_name}$1.final", "same", b"x") * 2)
            raw.until(b'"seq":2}\r\n')
        assert control.jetstream(f"STREAM.INFO.{station_name}$1")["state"]["messages"] == 2


def test_our_own_client_works_there_too(two_ports: BrokerProcess, station_name: str) -> None:
    url = f"memphis://root:{two_ports.password}@{two_ports.host}:{two_ports.sdk_port}"
    with memphis_sync.connect(url) as client:
        producer = client.producer(station_name, "p")
        assert not producer.produce(b"1", msg_id="a").duplicate
        assert producer.produce(b"1", msg_id="a").duplicate
        deliveries = [producer.produce(b"x" * 1000, nonblocking=True) for _ in range(5000)]
        assert producer.flush(30) == 0
        assert {delivery.result().partition for delivery in deliveries} == {1}
        consumer = client.consumer(station_name, "c", batch_size=500)
        seen = 0
        while seen < 5001:
            messages = consumer.fetch(500, timeout_s=10)
            assert messages
            for message in messages:
                message.ack()
            seen += len(messages)


def test_split_at_every_byte(two_ports: BrokerProcess, station_name: str) -> None:
    with ControlClient(two_ports) as control:
        assert control.station(station_name) == ""
        subject = f"{station_name}$1.final"
        data = b"SUB _INBOX.raw.* 1\r\n" + frame(subject, "a", b"payload\r\nHPUB") + frame(subject, "a", b"again")
        with Raw(two_ports).connect() as raw:
            raw.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for at in range(len(data)):
                raw.socket.sendall(data[at : at + 1])
            acks = raw.until(b'"duplicate": true}\r\n')
        assert acks.count(b'"seq":1') == 2
        kept = control.jetstream(f"STREAM.MSG.GET.{station_name}$1", {"seq": 1})["message"]
        assert control.jetstream(f"STREAM.INFO.{station_name}$1")["state"]["messages"] == 1
        assert base64.b64decode(kept["data"]) == b"payload\r\nHPUB"
        assert base64.b64decode(kept["hdrs"]) == b"NATS/1.0\r\nk: v\r\nNats-Msg-Id: a\r\nmsg-id: a\r\n\r\n"


def test_payloads_of_megabytes_and_a_reader_that_is_slow(two_ports: BrokerProcess, station_name: str) -> None:
    """8 MB messages go through, and what a client does not read stays in the server and not in the relay."""
    payload = bytes(range(256)) * 31_000  # 7.9 MB
    with ControlClient(two_ports) as control:
        assert control.station(station_name, storage_type="memory") == ""
        with Raw(two_ports).connect() as raw:
            raw.socket.sendall(b"SUB _INBOX.raw.* 1\r\n")
            for number in range(4):
                raw.socket.sendall(frame(f"{station_name}$1.final", f"id-{number}", payload))
            raw.until(b'"seq":4}\r\n')
        assert json.loads(control.consumer(station_name))["error"] == ""
        before = rss_kb(two_ports.pid)
        with Raw(two_ports).connect() as slow:
            slow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            pull = b'{"batch":4,"expires":20000000000}'
            slow.socket.sendall(b"SUB in.1 1\r\n")
            slow.socket.sendall(b"PUB $JS.API.CONSUMER.MSG.NEXT.%b$1.c in.1 %d\r\n%b\r\n" % (
                station_name.encode(), len(pull), pull
            ))  # fmt: skip
            slow.until(b"\r\n")
            deadline = time.monotonic() + 2
            while time.monotonic() < deadline:  # the relay has every chance to read on
                assert rss_kb(two_ports.pid) - before < 8_000
                time.sleep(0.05)
            got = 0
            while got < 4 * len(payload):
                data = slow.socket.recv(1 << 20)
                assert data
                got += len(data)


def rss_kb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s*(\d+)", status)[1])  # type: ignore[index]


@pytest.mark.parametrize(
    "sent",
    [
        b"CONNECT {}\r\n",
        b"HPUB\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"LOGIN" + b"GET / HTTP/1.1\r\n\r\n",
        b"LOGIN" + b"HPUB x 99 1\r\n",
        b"LOGIN" + b"HPUB x 12 99999999\r\n",
        b"LOGIN" + b"PUB x -1\r\n",
        b"LOGIN" + b"SUB " + b"x" * 100_000 + b" 1\r\n",
        b"LOGIN" + b"PUB x 1\r\nabc\r\n",
        b"LOGIN" + b"\x00\xff" * 1000,
    ],
)
def test_what_is_refused_is_refused_by_the_server(two_ports: BrokerProcess, sent: bytes) -> None:
    """The same answer on both ports, and the end of the connection."""
    said = []
    for sdk_port in (False, True):
        with Raw(two_ports, sdk_port=sdk_port) as raw:
            raw.socket.sendall(sent.replace(b"LOGIN", raw.login))
            with contextlib.suppress(ConnectionResetError):
                said.append(raw.until(b"never"))
    assert said[0] == said[-1]


def test_a_client_that_goes_while_it_is_connected_leaves_nothing(two_ports: BrokerProcess) -> None:
    files = Path(f"/proc/{two_ports.pid}/fd")
    before = len(list(files.iterdir()))
    for at in range(60):
        with Raw(two_ports) as raw:
            if at % 2:
                raw.connect()
            if at % 3 == 0:
                raw.socket.sendall(b"HPUB half.a.line")
    deadline = time.monotonic() + 10
    while len(list(files.iterdir())) > before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(list(files.iterdir())) <= before


def test_a_killed_server_ends_its_connections_and_the_port_serves_the_next_one(
    memphis_py_process: MemphisPy, fresh_broker: Callable[..., BrokerProcess], station_name: str
) -> None:
    broker = fresh_broker(sdk_port=0)
    port = broker.sdk_port
    with Raw(broker).connect() as raw:
        broker.kill()
        assert raw.until(b"never") == b""
    broker.start()
    assert broker.sdk_port == port
    produce_with_memphis_py(memphis_py_process, broker, station_name, "1", "1")
    assert stored(broker, station_name) == 1


def test_it_serves_tls_as_the_other_port_does(broker_with: Any, authority: Any, station_name: str) -> None:
    mine = authority.issue("me@example.org")
    broker = broker_with(authority.issue("127.0.0.1"), tls_ca=Path(authority.file), sdk_port=0, token=TOKEN)
    files = {"ca_file": authority.file, "cert_file": str(mine.cert), "key_file": str(mine.key)}
    url = f"memphis+tls://{broker.host}:{broker.sdk_port}"
    with memphis_sync.connect(url, username="root", connection_token=TOKEN, **files) as client:
        producer = client.producer(station_name, "p")
        assert producer.produce(b"x" * 3_000_000, msg_id="a").sequence == 1
        assert producer.produce(b"1", msg_id="a").duplicate
    with pytest.raises(memphis_sync.MemphisError, match="the broker demands a client certificate"):
        memphis_sync.connect(url, username="root", connection_token=TOKEN, ca_file=authority.file)


def test_without_a_certificate_not_a_byte_reaches_the_server(
    broker_with: Any, authority: Any, other_authority: Any, station_name: str
) -> None:
    """Nor with one of another CA: what is sent with the last message of the handshake counts as little."""
    broker = broker_with(authority.issue("127.0.0.1"), tls_ca=Path(authority.file), sdk_port=0, token=TOKEN)
    foreign, mine = other_authority.issue("me@example.org"), authority.issue("me@example.org")
    hello = (
        b"CONNECT %b\r\nSUB r 1\r\n" % json.dumps({"auth_token": TOKEN, "name": "x::root", "verbose": False}).encode()
    )
    body = json.dumps({"name": station_name, "username": "root", "partitions_number": 1}).encode()
    create = hello + b"PUB $memphis_station_creations r %d\r\n%b\r\n" % (len(body), body)
    look = hello + b"PUB $JS.API.STREAM.INFO.%b$1 r 0\r\n\r\n" % station_name.encode()

    def send(certificate: Any, request: bytes, end: bytes) -> bytes:
        context = ssl.create_default_context(cafile=authority.file)
        if certificate is not None:
            context.load_cert_chain(certificate.cert, certificate.key)
        said = b""
        with socket.create_connection((broker.host, broker.sdk_port), 10) as plain:
            while plain.recv(1) != b"\n":
                pass
            try:
                with context.wrap_socket(plain, server_hostname="127.0.0.1") as secure:
                    secure.sendall(request)
                    while end not in said and (piece := secure.recv(10_000)):
                        said += piece
            except (ssl.SSLError, ConnectionError):
                return said  # what was said before is what counts
        return said

    for _ in range(5):
        assert send(None, create, b"MSG") in (b"-ERR 'the broker demands a client certificate'\r\n", b"")
        assert send(foreign, create, b"MSG") == b""
    assert b"stream not found" in send(mine, look, b"}")
    assert b"MSG r 1 0" in send(mine, create, b"MSG")
    assert b"stream not found" not in send(mine, look, b"}")


def test_an_existing_server_is_served_too(
    memphis_py_process: MemphisPy, fresh_broker: Callable[..., BrokerProcess], station_name: str
) -> None:
    first = fresh_broker()
    second = fresh_broker(
        nats=f"nats://root:{first.password}@{first.host}:{first.port}", data_dir=None, ephemeral=False, sdk_port=0
    )
    produce_with_memphis_py(memphis_py_process, second, station_name, "1", "1")
    assert stored(first, station_name) == 1


def test_options_are_checked(broker: BrokerProcess) -> None:
    with pytest.raises(ConfigurationError, match="sdk_port is 70000"):
        BrokerOptions(sdk_port=70_000)
    with pytest.raises(ConfigurationError, match="both 6666"):
        BrokerOptions(port=6666, sdk_port=6666)
    with pytest.raises(ConfigurationError, match="sdk_port is 1, and nats is a server with TLS"):
        BrokerOptions(nats="tls://x", sdk_port=1)
    with pytest.raises(BrokerError, match=f"the port for SDKs, {broker.port} on '127.0.0.1', cannot be used"):
        BrokerProcess(sdk_port=broker.port).start()
