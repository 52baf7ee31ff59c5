"""Logins that are late, broken or refused are an outage like any other; only a repeated verdict ends a client."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
import time
from typing import TYPE_CHECKING, Callable

import pytest
from fix_door import INFO, comes_late, held_back, is_silent, keeps_saying, passes, refuses, says
from fix_process import run_python

import memphis_sync
from memphis_sync import AuthenticationError, ClosedError, ConnectError
from memphis_sync._nats import HardenedClient
from memphis_sync._protocol.info import login_options
from memphis_sync._protocol.server_errors import REFUSALS
from memphis_sync.types import Credentials

if TYPE_CHECKING:
    from fix_door import Door, Treatment

    from memphis_sync import LinkEvent, Memphis

TRANSIENT = [
    "Authentication Timeout",
    "Stale Connection",
    "maximum connections exceeded",
    "maximum account active connections exceeded",
    "Server Shutdown",
    "Secure Connection - TLS Required",
    "something that no version says yet",
]
VERDICTS = [
    "Authorization Violation",
    "User Authentication Expired",
    "User Authentication Revoked",
    "Account Authentication Expired",
]
ODD: dict[str, Treatment] = {
    "late login": comes_late(to_server_s=3.0),
    "closes at once": says(),
    "closes after its greeting": says(INFO),
    "not a broker": says(b"HTTP/1.1 503 Service Unavailable\r\n\r\n"),
    "no line end": says(b"x" * 300_000),
    "greeting without JSON": says(b"INFO {\r\n"),
    "greeting that is a list": says(b"INFO []\r\n"),
    "deep greeting": says(b'INFO {"a":' + b"[" * 20_000 + b"\r\n"),
    "max_payload is a text": says(b'INFO {"max_payload":"x"}\r\n'),
    "max_payload is negative": says(b'INFO {"max_payload":-1}\r\n'),
    "max_payload is true": says(b'INFO {"max_payload":true}\r\n'),
    "max_payload is a list": says(b'INFO {"max_payload":[1]}\r\n'),
    "max_payload is null": says(b'INFO {"max_payload":null}\r\n'),
    "max_payload is huge": says(b'INFO {"max_payload":%d}\r\n' % 10**300),
    "max_payload is infinite": says(b'INFO {"max_payload":1e999}\r\n'),
    "tls_required is a text": says(b'INFO {"tls_required":"no"}\r\n'),
    "connect_urls is a number": says(b'INFO {"connect_urls":7}\r\n'),
    "connect_urls are not addresses": says(b'INFO {"connect_urls":["[::", 7, null]}\r\n'),
    "greeting that is not UTF-8": says(b"INFO \xff\xfe\r\n"),
    "PING for ever": keeps_saying(INFO, b"PING\r\n"),
    "+OK for ever": keeps_saying(INFO, b"+OK\r\n"),
    "INFO for ever": keeps_saying(INFO, INFO, pause_s=0.001),
    "a slow PING for ever": keeps_saying(INFO, b"PING\r\n", pause_s=0.05),
    "a byte at a time": keeps_saying(b"", b"x", pause_s=0.05),
}


@pytest.fixture
def reached(broker, door_to) -> tuple[Door, Callable[..., Memphis]]:
    """A door, and ``connect(**options)`` to the broker behind it."""
    door = door_to(broker.host, broker.port)
    return door, functools.partial(
        memphis_sync.connect, door.host, broker.username, password=broker.password, port=door.port
    )


def threads_of(client: Memphis) -> dict[str, bool]:
    link = client._session.data_link()
    return {thread.name: thread.is_alive() for thread in link._threads}


# ---- connect()
# ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", TRANSIENT)
def test_connecting_tries_again_what_is_not_a_verdict(reached, text: str, station_name: str) -> None:
    door, connect = reached
    door.treatments.extend([refuses(text), refuses(text)])
    with connect(timeout_ms=10_000) as client:
        door.treatments.append(refuses(text))  # for the data link
        assert client.produce(station_name, "p", b"x").sequence == 1
    assert door.visits == 5


@pytest.mark.parametrize("text", TRANSIENT)
def test_what_never_passes_is_not_called_a_refused_password(reached, text: str) -> None:
    door, connect = reached
    door.usual = refuses(text)
    start = time.monotonic()
    with pytest.raises(ConnectError, match=text) as caught:
        connect(timeout_ms=1000)
    assert time.monotonic() - start < 5
    assert not isinstance(caught.value, AuthenticationError)
    assert "password" not in str(caught.value)
    assert door.visits >= 2


@pytest.mark.parametrize("text", VERDICTS)
def test_a_verdict_is_an_error_at_once(reached, text: str) -> None:
    door, connect = reached
    door.usual = refuses(text)
    start = time.monotonic()
    with pytest.raises(AuthenticationError, match=text):
        connect(timeout_ms=20_000)
    assert time.monotonic() - start < 10
    assert door.visits == 1


def test_an_address_that_refuses_does_not_hide_one_that_accepts(broker, reached) -> None:
    door, _ = reached
    door.usual = refuses("Authorization Violation")
    login = broker.url.split("@")[0]
    with memphis_sync.connect(
        f"{login}@{door.host}:{door.port},{broker.host}:{broker.port}/?timeout_ms=9000"
    ) as client:
        assert client.ping(10) < 10


@pytest.mark.slow
@pytest.mark.parametrize("late", [held_back(3.0), comes_late(to_client_s=3.0), comes_late(to_server_s=3.0)])
def test_a_handshake_that_is_three_seconds_late(reached, late: Treatment, station_name: str) -> None:
    """Each time: the broker waits for a login longer than a nats-server would by itself."""
    door, connect = reached
    door.usual = late
    with connect(timeout_ms=20_000) as client:
        assert client.produce(station_name, "p", b"x").sequence == 1


def test_a_ping_before_the_pong(broker, reached) -> None:
    """Newer servers measure the round trip as soon as they can."""
    door, connect = reached

    def treat(visit) -> bool:
        visit.sock.sendall(INFO)
        visit.sock.settimeout(5)
        visit.sock.recv(65536)
        visit.sock.sendall(b"+OK\r\nPING\r\n" + INFO + b"PONG\r\n")
        visit.stay()
        return False

    door.treatments.append(treat)
    with connect(timeout_ms=5000) as client:
        assert client.is_connected()
    assert door.visits == 1


@pytest.mark.parametrize("kind", [kind for kind in ODD if kind != "late login"])
def test_connecting_ends_in_time_whatever_the_peer_does(reached, kind: str) -> None:
    door, connect = reached
    door.usual = ODD[kind]
    start = time.monotonic()
    with pytest.raises(ConnectError) as caught:
        connect(timeout_ms=1000)
    assert time.monotonic() - start < 4
    assert f"127.0.0.1:{door.port}" in str(caught.value)


@pytest.mark.parametrize("kind", [kind for kind in ODD if kind != "late login"])
def test_opening_the_data_link_ends_in_time_whatever_the_peer_does(reached, kind: str, station_name: str) -> None:
    door, connect = reached
    with connect(timeout_ms=1000) as client:
        client.station(station_name)
        door.usual = ODD[kind]
        start = time.monotonic()
        with pytest.raises(ConnectError):
            client._session.data_link()
        assert time.monotonic() - start < 4
        door.usual = passes
        assert client.produce(station_name, "p", b"x").sequence == 1


# ---- connecting again
# ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ODD)
def test_a_reconnection_survives_whatever_a_peer_does(reached, kind: str, station_name: str, until) -> None:
    door, connect = reached
    with connect(timeout_ms=1000, reconnect_interval_ms=50) as client:
        producer = client.producer(station_name, "p")
        assert producer.produce(b"1").sequence == 1
        seen = door.visits
        door.treatments.extend([ODD[kind]] * 4)
        door.cut()
        until(lambda: door.visits >= seen + 4)
        assert producer.produce(b"2", ack_wait_sec=40).sequence == 2
        until(client.is_connected)
        client.station(f"{station_name}-2")
        assert set(threads_of(client).values()) == {True}


@pytest.mark.parametrize("text", [*TRANSIENT, *VERDICTS])
def test_a_word_of_the_servers_during_a_reconnection_is_not_the_end(
    reached, text: str, station_name: str, until
) -> None:
    door, connect = reached
    with connect(reconnect_interval_ms=50) as client:
        producer = client.producer(station_name, "p")
        producer.produce(b"1")
        seen = door.visits
        door.treatments.extend([refuses(text)] * 4)
        door.cut()
        until(lambda: door.visits >= seen + 6)
        assert producer.produce(b"2", ack_wait_sec=30).sequence == 2
        until(client.is_connected)
        assert client.ping(10) < 10


@pytest.mark.parametrize("text", [*TRANSIENT, *VERDICTS, 'Permissions Violation for Subscription to "x"'])
def test_a_word_of_the_servers_on_a_running_connection_is_not_the_end(
    reached, text: str, station_name: str, until
) -> None:
    """Some close the connection, some don't: either way the client goes on."""
    door, connect = reached
    taken = []

    def treat(visit) -> bool:
        taken.append(visit.sock)
        return True

    door.usual = treat
    with connect(reconnect_interval_ms=50) as client:
        producer = client.producer(station_name, "p")
        producer.produce(b"1")
        for closes in (False, True):
            for sock in taken[:]:
                sock.sendall(b"-ERR '%s'\r\n" % text.encode())
            if closes:
                door.cut()
            assert producer.produce(b"2", ack_wait_sec=30).sequence > 1
            until(client.is_connected)
            client.station(f"{station_name}-2")


@pytest.mark.parametrize("text", VERDICTS)
def test_a_verdict_that_is_repeated_ends_the_client_as_a_whole(
    reached, text: str, station_name: str, until, caplog: pytest.LogCaptureFixture
) -> None:
    door, connect = reached
    caplog.set_level(logging.INFO, logger="memphis_sync")
    events: list[LinkEvent] = []
    client = connect(reconnect_interval_ms=20, name="refused", on_error=events.append)
    try:
        producer = client.producer(station_name, "p")
        producer.produce(b"1")
        seen = door.visits
        door.usual = refuses(text)
        door.cut()
        waiting = producer.produce(b"2", nonblocking=True)
        until(lambda: " closed " in repr(client))
        assert door.visits - seen >= REFUSALS
        assert door.visits - seen <= 2 * REFUSALS + 2
        assert not client.is_connected()
        until(lambda: client.stats().abandoned == 1)
        assert (client.stats().queued, client.stats().in_flight) == (0, 0)
        assert waiting.exception(5) is not None
        until(lambda: {event.link for event in events} == {"control", "data"})
        with pytest.raises(ClosedError, match=text):
            client.station(f"{station_name}-2")
        with pytest.raises(ClosedError):
            producer.produce(b"3")
        until(lambda: not any(threads_of(client).values()))
    finally:
        with pytest.warns(memphis_sync.UndeliveredWarning, match="1 messages were not confirmed"):
            client.close()
    (given_up,) = [record for record in caplog.records if "gave up" in record.getMessage()]
    assert given_up.levelname == "ERROR"
    assert text in given_up.getMessage()


def test_a_verdict_of_one_address_is_not_the_end_while_another_is_away(broker, door_to, station_name, until) -> None:
    first, second = door_to(broker.host, broker.port), door_to(broker.host, broker.port)
    login = broker.url.split("@")[0]
    url = f"{login}@{first.host}:{first.port},{second.host}:{second.port}/?reconnect_interval_ms=20"
    with memphis_sync.connect(url) as client:
        producer = client.producer(station_name, "p")
        producer.produce(b"1")
        first.usual = refuses("Authorization Violation")
        second.usual = says()  # as one that is starting
        first.cut()
        seen = first.visits
        until(lambda: first.visits > seen + 3 * REFUSALS)
        second.usual = passes
        assert producer.produce(b"2", ack_wait_sec=30).sequence == 2
        until(client.is_connected)


def test_one_outage_is_two_lines_whatever_it_hits(
    reached, station_name: str, until, caplog: pytest.LogCaptureFixture
) -> None:
    door, connect = reached
    caplog.set_level(logging.INFO, logger="memphis_sync")
    with connect(reconnect_interval_ms=100, name="web") as client:
        client.producer(station_name, "p").produce(b"1")
        caplog.clear()
        door.treatments.extend([says()] * 5)
        door.cut()
        until(lambda: [record for record in caplog.records if "reconnected" in record.getMessage()])
        until(client.is_connected)
        client.ping(10)
    words = [record.getMessage().split(" ")[1] for record in caplog.records]
    assert words == ["lost", "reconnected"]
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


# ---- how soon
# -----------------------------------------------------------------------------------------------------------


@pytest.mark.timing
def test_both_links_are_back_soon_after_a_long_outage(reached, station_name: str, until) -> None:
    """With the default interval, whatever the number of tries before."""
    door, connect = reached
    with connect() as client:
        producer = client.producer(station_name, "p")
        producer.produce(b"1")
        door.usual = says()
        door.cut()
        until(lambda: not client.is_connected())
        seen = door.visits
        until(lambda: door.visits >= seen + 12)
        door.usual = passes
        start = time.monotonic()
        until(client.is_connected)
        took_s = time.monotonic() - start
        print(f"back after {took_s:.3f} s")
        assert took_s < 2.5
        assert producer.produce(b"2", ack_wait_sec=5).sequence == 2


def test_both_links_are_back_soon_after_a_peer_that_swallowed_everything(reached, station_name: str, until) -> None:
    """A try that hangs does not keep the next one waiting for the whole of its time."""
    door, connect = reached
    with connect(timeout_ms=60_000) as client:
        producer = client.producer(station_name, "p")
        producer.produce(b"1")
        door.usual = is_silent
        door.cut()
        seen = door.visits
        until(lambda: door.visits >= seen + 6)
        door.usual = passes
        start = time.monotonic()
        until(client.is_connected)
        assert time.monotonic() - start < 10
        assert producer.produce(b"2", ack_wait_sec=5).sequence == 2


@pytest.mark.parametrize("others", ["silent", "silent, silent", "refused, silent", "silent when greeted, silent"])
def test_both_links_are_back_soon_beside_addresses_that_never_answer(
    broker, door_to, refused_address, deaf_address, others: str, station_name: str, until
) -> None:
    """An address that takes a connection and says nothing does not keep the next one waiting."""
    good, greets = door_to(broker.host, broker.port), door_to(broker.host, broker.port)
    greets.usual = keeps_saying(INFO, b"", pause_s=0.1)
    ports = {"refused": refused_address[1], "silent": deaf_address[1], "silent when greeted": greets.port}
    hosts = [good.port, *(ports[name] for name in others.split(", "))]
    url = f"memphis://root:memphis@{','.join(f'127.0.0.1:{port}' for port in hosts)}"
    with memphis_sync.connect(url, timeout_ms=60_000) as client:
        producer = client.producer(station_name, "p")
        producer.produce(b"1")
        good.usual = says()
        good.cut()
        seen = good.visits
        until(lambda: good.visits >= seen + 3)
        good.usual = passes
        start = time.monotonic()
        until(client.is_connected, 50)
        took_s = time.monotonic() - start
        print(f"back after {took_s:.3f} s")
        assert took_s < 10
        assert producer.produce(b"2", ack_wait_sec=5).sequence == 2


def test_a_link_that_gets_through_wakes_the_other_one(reached, station_name: str, until) -> None:
    door, connect = reached
    with connect(reconnect_interval_ms=300_000) as client:
        client._session.outages._interval_s = 300.0
        producer = client.producer(station_name, "p")
        producer.produce(b"1")
        client._session.outages.pause_s = lambda _l, tries, _d, _u: 0.0 if tries == 0 else 300.0
        door.treatments.extend([says(), says()])
        seen = door.visits
        door.cut()
        until(lambda: door.visits >= seen + 2)
        client._session.outages._wake["data"](str(door.port))
        until(client.is_connected, 20)
        assert producer.produce(b"2", ack_wait_sec=5).sequence == 2


def test_the_connection_state_is_that_of_both_links(broker, reached, station_name: str, until) -> None:
    door, connect = reached
    with connect() as client:
        assert client.is_connected()
        client.producer(station_name, "p").produce(b"1")
        assert 0 < client.ping(10) < 10
        door.usual = is_silent
        sock = client._session.data_link()._sock
        sock.shutdown(2)
        until(lambda: not client.is_connected())
        assert client._session.control.is_connected
        assert "reconnecting" in repr(client)
        with pytest.raises(memphis_sync.ConnectionLostError, match="data connection"):
            client.ping()
        door.usual = passes
        until(client.is_connected)
        assert "connected" in repr(client)


def test_a_thread_that_meets_the_unforeseen_goes_on(
    reached, station_name: str, until, caplog: pytest.LogCaptureFixture, monkeypatch
) -> None:
    door, connect = reached
    events: list[LinkEvent] = []
    with connect(reconnect_interval_ms=20, on_error=events.append) as client:
        producer = client.producer(station_name, "p")
        producer.produce(b"1")
        link = client._session.data_link()
        real, broken = link._connect_again, iter([True, True, True])

        def unforeseen(*args, **options):
            if next(broken, False):
                raise RuntimeError("nobody thought of this")
            return real(*args, **options)

        monkeypatch.setattr(link, "_connect_again", unforeseen)
        door.cut()
        assert producer.produce(b"2", ack_wait_sec=30).sequence == 2
        until(lambda: len([event for event in events if "nobody thought of this" in event.reason]) == 3)
        assert set(threads_of(client).values()) == {True}
    assert "nobody thought of this" in caplog.text


def test_a_broker_at_an_ipv6_address(broker, door_to, station_name: str, until) -> None:
    door = door_to(broker.host, broker.port, at="::1")
    with memphis_sync.connect("::1", "root", password=broker.password, port=door.port) as client:
        assert client.produce(station_name, "p", b"1").sequence == 1
    with memphis_sync.connect(f"memphis://root:{broker.password}@[::1]:{door.port}") as client:
        producer = client.producer(station_name, "p")
        assert producer.produce(b"2").sequence == 2
        assert f"[::1]:{door.port}" in repr(client)
        door.cut()
        assert producer.produce(b"3", ack_wait_sec=20).sequence == 3
        until(client.is_connected)


INTERRUPTED = """
import os, signal, socket, sys, threading, time
import memphis_sync

def fds():
    return len(os.listdir("/proc/self/fd"))

def threads():
    return sorted(t.name for t in threading.enumerate())

sock = socket.create_server(("127.0.0.1", 0))
options = dict(username="root", password="x", port=sock.getsockname()[1], timeout_ms=60_000, wait_s=60.0)
def attempt():
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        memphis_sync.connect("127.0.0.1", **options)
    except KeyboardInterrupt:
        timer.join()
        return
    raise SystemExit("no KeyboardInterrupt")
attempt()
before = fds(), threads()
for _ in range(5):
    attempt()
until = time.monotonic() + 20
while (fds(), threads()) != before and time.monotonic() < until:
    time.sleep(0.05)
print(before, (fds(), threads()))
sys.exit(0 if (fds(), threads()) == before else 1)
"""


def test_ctrl_c_while_connecting_leaves_no_thread_and_no_descriptor(tmp_path) -> None:
    program = tmp_path / "interrupted.py"
    program.write_text(INTERRUPTED)
    run_python("-W", "error", program, timeout_s=60)


def test_a_connect_that_fails_leaves_no_thread_also_when_it_had_something_to_log(
    reached, caplog: pytest.LogCaptureFixture
) -> None:
    door, connect = reached
    caplog.set_level(logging.DEBUG)
    before = {thread.name for thread in threading.enumerate() if thread.name.startswith("memphis-")}
    door.usual = is_silent
    with pytest.raises(ConnectError, match="no Memphis broker answered"):
        connect(timeout_ms=300)
    assert {thread.name for thread in threading.enumerate() if thread.name.startswith("memphis-")} == before


def test_a_connection_that_nobody_takes_any_more_is_closed(broker):
    """The one who asked for it was cancelled, as by close(), in the moment in which there was one."""
    credentials = Credentials("root", password=broker.password)

    async def run():
        client = HardenedClient(functools.partial(asyncio.sleep, 0))
        servers = [f"nats://{broker.host}:{broker.port}"]
        await client.open(time.monotonic() + 20, servers=servers, **login_options(credentials, "1"))
        try:
            outer = asyncio.ensure_future(client._ask(client._server_pool[0]))
            await asyncio.sleep(0)  # until it asks
            socks = []
            client._asking.add_done_callback(lambda asked: (socks.append(asked.result()[1].sock), outer.cancel()))
            with pytest.raises(asyncio.CancelledError):
                await outer
            return socks[0].fileno()
        finally:
            await client.close()

    assert asyncio.run(run()) == -1
