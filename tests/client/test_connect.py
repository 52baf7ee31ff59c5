"""Opening and closing: what fails fails at once and says why; what was opened is gone after close()."""

from __future__ import annotations

import contextlib
import gc
import logging
import pickle
import re
import socket
import threading
import time
import warnings

import pytest

import memphis_sync
from memphis_sync import AuthenticationError, ClosedError, ConnectError, Memphis, UsageError

LOGIN = {"username": "root", "password": "canary-password"}


@contextlib.contextmanager
def server_that(answer):
    """A server on loopback that handles each connection with answer(sock)."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept():
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError):
                answer(sock)

    thread = threading.Thread(target=accept, name="test-server", daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def refused(kind, limit_s, *args, **given):
    start = time.monotonic()
    with pytest.raises(kind) as caught:
        memphis_sync.connect(*args, **given)
    assert time.monotonic() - start < limit_s
    assert "canary" not in str(caught.value)
    pickle.loads(pickle.dumps(caught.value))
    return str(caught.value)


def test_a_refused_port(refused_address):
    host, port = refused_address
    text = refused(ConnectError, 1.5, host, port=port, **LOGIN)
    assert f"{host}:{port}" in text
    assert "connection refused" in text


def test_an_unknown_host():
    text = refused(ConnectError, 5, "no-such-host.invalid", timeout_ms=4000, **LOGIN)
    assert "no-such-host.invalid:6666" in text
    assert "unknown host" in text


@pytest.mark.parametrize(
    "given",
    [
        {"username": "root", "password": "canary-wrong"},
        {"username": "nobody", "password": "canary-wrong"},
        {"username": "u" * 256, "password": "canary" + "p" * 1018},
        {"username": "\u00fc" * 42, "password": "canary" + "\u00fc" * 169},
    ],
    ids=["password", "user", "the longest", "the longest with escapes"],
)
def test_wrong_credentials(broker, given):
    text = refused(AuthenticationError, 1.5, "127.0.0.1", port=broker.port, **given)
    assert f"127.0.0.1:{broker.port}" in text
    assert "refused" in text


def test_wrong_token(broker):
    refused(AuthenticationError, 1.5, "127.0.0.1", port=broker.port, username="root", connection_token="canary-token")


@pytest.mark.parametrize(
    "greeting",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x00\xff" * 200 + b"\n",
        b"x" * 200_000,
        b"INFO not json\r\n",
        b"220 smtp.example ESMTP\r\n",
        b"",
    ],
    ids=["http", "garbage", "no line end", "bad info", "smtp", "closes"],
)
def test_a_server_that_is_not_a_broker(greeting):
    def answer(sock):
        with sock:
            sock.sendall(greeting)
            sock.settimeout(1)
            with contextlib.suppress(OSError):
                sock.recv(1024)  # or the close would be a reset that overtakes the greeting

    with server_that(answer) as port:
        text = refused(ConnectError, 3, "127.0.0.1", port=port, **LOGIN)
    assert f"127.0.0.1:{port}" in text
    assert ("this is not a Memphis broker" if greeting else "closed the connection during the handshake") in text


def test_a_server_that_closes_when_it_has_read_the_login():
    def answer(sock):
        with sock:
            sock.sendall(b'INFO {"server_id":"x","version":"2.11.0","max_payload":1048576,"headers":true}\r\n')
            sock.settimeout(1)
            sock.recv(4096)  # nothing, when the client has given up meanwhile
            sock.shutdown(socket.SHUT_WR)
            with contextlib.suppress(OSError):
                sock.recv(4096)

    with server_that(answer) as port:
        text = refused(ConnectError, 3, "127.0.0.1", port=port, **LOGIN)
    assert f"127.0.0.1:{port}" in text
    assert "closed the connection during the handshake" in text


def test_a_silent_server(deaf_address):
    host, port = deaf_address
    text = refused(ConnectError, 1.6, host, port=port, timeout_ms=500, **LOGIN)
    assert f"{host}:{port}" in text
    assert "0.5 s" in text


def test_each_address_once_and_all_reasons(refused_address, deaf_address):
    (host, refused_port), (_, deaf_port) = refused_address, deaf_address
    url = f"memphis://root:canary@{host}:{refused_port},{host}:{deaf_port}/?timeout_ms=600"
    text = refused(ConnectError, 2, url)
    assert f"{host}:{refused_port}: connection refused" in text
    assert f"{host}:{deaf_port}: no Memphis broker answered" in text


def test_the_first_address_that_works_is_taken(broker, refused_address, deaf_address):
    (host, refused_port), (_, deaf_port) = refused_address, deaf_address
    login = broker.url.split("@")[0]
    url = f"{login}@{host}:{refused_port},{host}:{deaf_port},127.0.0.1:{broker.port}/?timeout_ms=1500"
    with memphis_sync.connect(url) as client:
        assert client.ping() < 1
        assert f"127.0.0.1:{broker.port}" in repr(client)


def test_connect_from_the_environment(broker, monkeypatch):
    monkeypatch.setenv("MEMPHIS_URL", broker.url)
    with memphis_sync.connect(name="from-env") as client:
        assert client.is_connected()
        assert repr(client).startswith("<Memphis 'from-env' connected 127.0.0.1:")


def test_as_in_memphis_py(broker):
    _, _, rest = broker.url.partition("://")
    (user, _, password), port = rest.split("@")[0].partition(":"), broker.port
    client = Memphis()
    assert not client.is_connected()
    assert repr(client) == "<Memphis not connected>"
    client.connect("127.0.0.1", user, password=password, port=port)
    try:
        assert client.is_connected()
        assert repr(client).endswith(f"127.0.0.1:{port} user={user} queued=0 in_flight=0>")
        with pytest.raises(UsageError, match="connected before"):
            client.connect(broker.url)
    finally:
        client.close()
    assert not client.is_connected()


@pytest.mark.parametrize(
    "call",
    [
        lambda c: c.station("s"),
        lambda c: c.producer("s", "p"),
        lambda c: c.consumer("s", "c"),
        lambda c: c.produce("s", "p", b"x"),
        lambda c: c.fetch_messages("s", "c"),
        lambda c: c.create_schema("s", "json", __file__),
        lambda c: c.enforce_schema("s", "s"),
        lambda c: c.detach_schema("s"),
        lambda c: c.ping(),
    ],
)
def test_a_closed_client_says_so(broker, call):
    client = memphis_sync.connect(broker.url)
    client.close()
    with pytest.raises(ClosedError, match="closed"):
        call(client)
    with pytest.raises(UsageError, match="not connected"):
        call(Memphis())


def test_close_is_idempotent_and_leaves_no_thread(broker, station_name):
    before = set(threading.enumerate())
    client = memphis_sync.connect(broker.url)
    producer = client.producer(station_name, "p")
    producer.produce(b"x", nonblocking=True)
    client.consumer(station_name, "c").consume(lambda *_: None)
    names = {thread.name.rsplit("-", 1)[0] for thread in set(threading.enumerate()) - before}
    assert {"memphis-loop", "memphis-sender", "memphis-reader", "memphis-consume"} <= names
    client.close()
    client.close()
    assert {t for t in threading.enumerate() if t.name.startswith("memphis-")} <= before
    assert client.stats().delivered == 1
    assert "closed" in repr(client)


def test_close_from_many_threads(broker, in_threads):
    client = memphis_sync.connect(broker.url)
    in_threads(8, lambda _: client.close())
    assert not client.is_connected()


def test_close_sends_what_is_queued(broker, memphis, station_name, read_all):
    with memphis_sync.connect(broker.url) as client:
        producer = client.producer(station_name, "p")
        for number in range(5000):
            producer.produce(b"%d" % number, nonblocking=True)
    assert client.stats().delivered == 5000
    assert len(read_all(memphis.consumer(station_name, "c"), 5000)) == 5000


def test_close_warns_about_what_is_left(broker, proxy_to, station_name):
    proxy = proxy_to("127.0.0.1", broker.port)
    client = memphis_sync.connect(broker.url.replace(str(broker.port), str(proxy.port)), name="stalled")
    producer = client.producer(station_name, "p")
    proxy.stall()
    for _ in range(7):
        producer.produce(b"x", nonblocking=True)
    start = time.monotonic()
    text = "7 messages were not confirmed when 'stalled' was closed"
    with pytest.warns(memphis_sync.UndeliveredWarning, match=text) as seen:
        client.close(timeout_s=0.3)
    assert time.monotonic() - start < 6
    assert seen[0].message.count == 7
    assert client.stats().abandoned == 7


def test_a_forgotten_client_is_reported_and_still_sends(broker, memphis, station_name, read_all, until):
    memphis.station(station_name)

    def forget():
        client = memphis_sync.connect(broker.url, name="forgotten")
        producer = client.producer(station_name, "p")
        for number in range(500):
            producer.produce(b"%d" % number, nonblocking=True)
        del client, producer
        gc.collect()

    with pytest.warns(ResourceWarning, match="'forgotten'.*was never closed"):
        forget()
    assert len(read_all(memphis.consumer(station_name, "c"), 500)) == 500
    until(lambda: not [t for t in threading.enumerate() if t.name.startswith("memphis-retire")])


def test_a_closed_client_is_collected_quietly(broker):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        client = memphis_sync.connect(broker.url)
        client.close()
        del client
        gc.collect()


def test_ping_and_stats(memphis):
    assert 0 < memphis.ping() < 1
    assert memphis.stats() == memphis_sync.Stats()
    assert memphis.flush() == 0
    with pytest.raises(memphis_sync.ConfigurationError, match="timeout_s is 0"):
        memphis.ping(0)


def test_a_thousand_pings_open_no_connection(broker, proxy_to, station_name):
    proxy = proxy_to("127.0.0.1", broker.port)
    with memphis_sync.connect(broker.url.replace(str(broker.port), str(proxy.port))) as memphis:
        memphis.produce(station_name, "p", b"m")  # both links are open
        before = proxy.accepted
        assert before == 2
        assert all(memphis.ping(30) > 0 for _ in range(1000))
        assert proxy.accepted == before


# ---- outages
# -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def through_proxy(broker, proxy_to):
    """A proxy in front of the session's broker, and the URL through it."""
    proxy = proxy_to("127.0.0.1", broker.port)
    return proxy, broker.url.replace(str(broker.port), str(proxy.port))


def test_an_outage_is_two_lines(through_proxy, caplog, until, station_name):
    proxy, url = through_proxy
    caplog.set_level(logging.DEBUG, logger="memphis_sync.control")
    with memphis_sync.connect(f"{url}?name=web&reconnect_interval_ms=100") as client:
        proxy.down()
        until(lambda: not client.is_connected())
        assert "reconnecting" in repr(client)
        with pytest.raises(memphis_sync.ConnectionLostError):
            client.ping()
        time.sleep(0.5)
        proxy.up()
        until(client.is_connected)
        client.station(station_name)
    loud = [record for record in caplog.records if record.levelno >= logging.INFO]
    assert [record.levelname for record in loud] == ["INFO", "WARNING", "INFO"]
    assert re.match(r"'web' lost 127\.0\.0\.1:\d+ \(.+\); retrying$", loud[1].getMessage())
    assert "'web' reconnected to 127.0.0.1:" in loud[2].getMessage()
    assert loud[2].memphis_attempts >= 2
    assert loud[2].memphis_client == "web"
    assert 0 < loud[2].memphis_seconds < 300
    assert not [record for record in caplog.records if record.name.startswith("nats")]
    assert "root:" not in caplog.text


def test_a_request_during_an_outage_waits_for_its_end(through_proxy, until, station_name):
    proxy, url = through_proxy
    with memphis_sync.connect(f"{url}?reconnect_interval_ms=50") as client:
        proxy.down()
        until(lambda: not client.is_connected())
        timer = threading.Timer(0.4, proxy.up)
        timer.start()
        assert client.station(station_name).name == station_name
        timer.join()


def test_a_request_whose_reply_was_cut_off_is_asked_again(through_proxy, station_name):
    proxy, url = through_proxy
    with memphis_sync.connect(f"{url}?reconnect_interval_ms=50") as client:
        proxy.stall()

        def cut():
            proxy.cut()
            proxy.go_on()

        timer = threading.Timer(0.3, cut)
        timer.start()
        start = time.monotonic()
        client.station(station_name)
        assert time.monotonic() - start < 10, "the request's own limit is 20 s: the cut must end the wait"
        timer.join()


@pytest.mark.parametrize(
    ("option", "attempts"), [("reconnect=false", 0), ("max_reconnect=0", 0), ("max_reconnect=12", 12)]
)
def test_reconnecting_ends_where_it_was_told_to(through_proxy, until, caplog, option, attempts):
    """No cap at 9, as in the official clients."""
    proxy, url = through_proxy
    caplog.set_level(logging.DEBUG, logger="memphis_sync.control")
    with memphis_sync.connect(f"{url}?reconnect_interval_ms=20&{option}") as client:
        proxy.down()
        gave_up = until(lambda: [r for r in caplog.records if "gave up" in r.getMessage()])
        assert gave_up[0].levelname == "ERROR"
        assert gave_up[0].memphis_attempts == attempts
        start = time.monotonic()
        with pytest.raises(ClosedError):
            client.station("never")
        assert time.monotonic() - start < 5


def test_ctrl_c_in_a_request(through_proxy):
    import os
    import signal

    proxy, url = through_proxy
    with memphis_sync.connect(url) as client:
        proxy.stall()
        timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
        start = time.monotonic()
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            client.station("interrupted")
        assert time.monotonic() - start < 5
        proxy.go_on()
        assert client.ping(5) < 5
