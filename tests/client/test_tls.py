"""TLS on both links: who is trusted, who is refused and why, and that nothing goes out in the clear."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from fix_proxy import listen_at

import memphis_sync
from memphis_sync._nats.connecting import connect_first, run
from memphis_sync._nats.handshake import Login
from memphis_sync._protocol.info import connect_request
from memphis_sync.errors import AuthenticationError, ConfigurationError, ConnectError
from memphis_sync.types import Credentials, ServerAddress


def by_control_link(broker, **options):
    memphis_sync.connect(broker.url, **options).close()


def by_data_link(broker, ca_file=None, cert_file=None, key_file=None, tls=None):
    context = tls or ssl.create_default_context(cafile=ca_file)
    if cert_file:
        context.load_cert_chain(cert_file, key_file)
    log_in(broker, context)


def log_in(broker, context=None):
    request = connect_request(Credentials(broker.username, broker.password), "test")
    steps = connect_first(
        [ServerAddress(broker.host, broker.port)],
        Login(lambda *_: request, context),
        time.monotonic() + 5,
        lambda *_: None,
    )
    run(steps)[1].sock.close()


both_links = pytest.mark.parametrize("connect", [by_control_link, by_data_link])


def context_of(authority):
    return ssl.create_default_context(cafile=authority.file)


# ---- who may connect ------------------------------------------------------------------------------------------------


def produces_and_consumes(client, station_name):
    client.station(station_name)
    producer = client.producer(station_name, "p")
    assert producer.produce(b"one").sequence == 1
    producer.produce(b"two", nonblocking=True)
    assert producer.flush(5) == 0
    found = []
    with client.consumer(station_name, "g") as consumer:
        while len(found) < 2:
            for message in consumer.fetch(10, timeout_s=5):
                found.append(message.data)
                message.ack()
    assert found == [b"one", b"two"]


@pytest.mark.parametrize("scheme", ["memphis+tls", "tls"])
def test_a_ca_file_and_a_scheme(tls_broker, authority, station_name, scheme):
    assert tls_broker.url.startswith("memphis+tls://")
    url = tls_broker.url.replace("memphis+tls", scheme)
    with memphis_sync.connect(url, ca_file=authority.file) as client:
        produces_and_consumes(client, station_name)


def test_a_ca_file_alone_asks_for_tls(tls_broker, authority):
    options = {"password": tls_broker.password, "port": tls_broker.port, "ca_file": authority.file}
    with memphis_sync.connect("localhost", tls_broker.username, **options) as client:
        assert client.ping(5) > 0


def test_nobody_logs_the_end_of_a_connection(tls_broker, authority, caplog):
    memphis_sync.connect(tls_broker.url, ca_file=authority.file).close()
    assert caplog.records == []
    assert "eof_received" not in tls_broker.output()


def test_the_systems_cas(tls_broker, authority, monkeypatch, station_name):
    monkeypatch.setenv("SSL_CERT_FILE", authority.file)
    with memphis_sync.connect(tls_broker.url) as client:
        produces_and_consumes(client, station_name)


def test_a_context_of_the_users_own(tls_broker, authority, station_name):
    url = tls_broker.url.replace("memphis+tls", "memphis")
    with memphis_sync.connect(url, tls=context_of(authority)) as client:
        produces_and_consumes(client, station_name)


def test_an_older_version_of_tls(tls_broker, authority, station_name):
    context = context_of(authority)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with memphis_sync.connect(tls_broker.url, tls=context) as client:
        produces_and_consumes(client, station_name)


def test_a_context_may_do_without_the_host_check(broker_with, authority, station_name):
    broker = broker_with(authority.issue("elsewhere.example"))
    context = context_of(authority)
    context.check_hostname = False
    with memphis_sync.connect(broker.url, tls=context) as client:
        produces_and_consumes(client, station_name)


def test_a_client_certificate(broker_with, authority, other_authority, station_name):
    broker = broker_with(authority.issue("127.0.0.1"), tls_ca=Path(authority.file))
    mine, foreign = authority.issue("web@example.org"), other_authority.issue("web@example.org")
    files = {"ca_file": authority.file, "cert_file": str(mine.cert), "key_file": str(mine.key)}
    with memphis_sync.connect(broker.url, **files) as client:
        produces_and_consumes(client, station_name)
    for connect in (by_control_link, by_data_link):
        with pytest.raises(ConnectError, match="demands a client certificate: give cert_file and key_file"):
            connect(broker, ca_file=authority.file)
        files = {"ca_file": authority.file, "cert_file": str(foreign.cert), "key_file": str(foreign.key)}
        with pytest.raises(ConnectError, match="client certificate"):
            connect(broker, **files)


def test_a_missing_client_certificate_with_an_older_version_of_tls(broker_with, authority):
    broker = broker_with(authority.issue("127.0.0.1"), tls_ca=Path(authority.file))
    context = context_of(authority)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    for connect in (by_control_link, by_data_link):
        with pytest.raises(ConnectError, match="demands a client certificate"):
            connect(broker, tls=context)


def test_a_wrong_password_is_told_apart_from_a_wrong_certificate(tls_broker, authority):
    with pytest.raises(AuthenticationError):
        memphis_sync.connect("127.0.0.1", "root", password="wrong", port=tls_broker.port, tls=context_of(authority))


# ---- who may not ----------------------------------------------------------------------------------------------------


@both_links
def test_another_host(broker_with, authority, connect):
    broker = broker_with(authority.issue("elsewhere.example", "127.0.0.2"))
    with pytest.raises(ConnectError, match=rf"127.0.0.1:{broker.port}: .*is for another host \(IP address mismatch"):
        connect(broker, ca_file=authority.file)


@both_links
def test_an_expired_certificate(broker_with, authority, connect):
    broker = broker_with(authority.issue("127.0.0.1", is_expired=True))
    with pytest.raises(ConnectError, match=rf"127.0.0.1:{broker.port}: .*certificate has expired"):
        connect(broker, ca_file=authority.file)


@both_links
def test_an_unknown_ca(tls_broker, other_authority, connect):
    with pytest.raises(ConnectError, match=rf"{tls_broker.port}: .*not issued by a CA that is trusted here; give its"):
        connect(tls_broker, ca_file=other_authority.file)


def test_a_broker_that_demands_tls_from_a_client_without(tls_broker):
    with pytest.raises(ConnectError, match=rf"{tls_broker.port}: the broker demands TLS: connect with memphis\+tls://"):
        memphis_sync.connect(tls_broker.url.replace("memphis+tls", "memphis"))
    with pytest.raises(ConnectError, match="the broker demands TLS"):
        log_in(tls_broker)


def test_a_lost_broker_that_comes_back_without_tls_gets_no_credentials(broker_with, authority, until):
    """nats-py by itself would go on in the clear."""
    broker = broker_with(authority.issue("127.0.0.1"), root_password="canary")
    with memphis_sync.connect(broker.url, ca_file=authority.file, reconnect_interval_ms=20) as client:
        producer = client.producer("station", "p")
        producer.produce(b"before")
        broker.kill()
        with plain_server({"auth_required": True}, port=broker.port) as server:
            until(lambda: server.accepted >= 4)
            assert not client.is_connected()
            assert server.received == b""
        broker.start()
        assert producer.produce(b"after", ack_wait_sec=15).sequence >= 1
        until(client.is_connected)


@both_links
def test_a_broker_without_tls_gets_no_credentials(authority, connect):
    with plain_server({}) as server:
        with pytest.raises(ConnectError, match=rf"{server.port}: the broker does not demand TLS"):
            connect(server, tls=context_of(authority))
        assert b"canary" not in server.received


@both_links
def test_bytes_between_info_and_tls_are_not_taken_for_the_servers(authority, connect):
    with (
        plain_server({"tls_required": True}, behind=b"PING\r\n") as server,
        pytest.raises(ConnectError, match="more than its INFO before TLS"),
    ):
        connect(server, tls=context_of(authority))


@both_links
def test_what_answers_does_not_speak_tls(authority, connect):
    with (
        plain_server({"tls_required": True}, answer=b"-ERR 'what?'\r\n") as server,
        pytest.raises(ConnectError, match=rf"{server.port}: what answers there does not speak TLS"),
    ):
        connect(server, tls=context_of(authority))


def test_a_server_that_falls_silent_before_tls(authority):
    with plain_server({"tls_required": True}) as server:
        started = time.monotonic()
        with pytest.raises(ConnectError):
            memphis_sync.connect(server.url, tls=context_of(authority), timeout_ms=300)
        assert time.monotonic() - started < 10


# ---- the options ----------------------------------------------------------------------------------------------------


def test_options_that_make_no_context(authority, tmp_path):
    url = "memphis://root:memphis@127.0.0.1:1"
    for wrong in (True, "cert.pem", authority.file):
        with pytest.raises(ConfigurationError, match=r"tls is of type .*must be an ssl\.SSLContext"):
            memphis_sync.connect(url, tls=wrong)
    with pytest.raises(ConfigurationError, match="a context for servers"):
        memphis_sync.connect(url, tls=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    with pytest.raises(ConfigurationError, match="tls excludes ca_file"):
        memphis_sync.connect(url, tls=context_of(authority), ca_file=authority.file)


# ---- servers that are none ------------------------------------------------------------------------------------------


class Server:
    """Takes connections one after the other, and keeps what came in the clear."""

    username, password = "root", "canary"

    def __init__(self, port: int) -> None:
        self.received = b""
        self.accepted = 0
        self._listener = listen_at(port)
        self.host, self.port = self._listener.getsockname()
        self.url = f"memphis+tls://root:canary@127.0.0.1:{self.port}"

    def serve(self, talk):
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            with sock:
                sock.settimeout(1)  # nats-py may leave a refused connection open for a while
                try:
                    talk(sock)
                except OSError:  # the client went away, as it should
                    continue

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@contextmanager
def plain_server(info, behind=b"", answer=b"", port=0):
    """A server that greets with *info* and *behind*, and answers whatever comes with *answer* and its end."""
    server = Server(port)
    greeting = {"server_id": "x", "max_payload": 1024, **info}

    def talk(sock):
        sock.sendall(b"INFO " + json.dumps(greeting).encode() + b"\r\n" + behind)
        while data := sock.recv(65536):
            server.received += data
            if answer:
                sock.sendall(answer)
                sock.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=server.serve, args=(talk,))
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join(10)
